"""What a training has reached, as plain values."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from scanseg.training.timetable import Timetable

Stopped = Literal["", "finished", "early_stop"]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes:
        best_epoch: The epoch whose weights are in best.safetensors, counted from 1; None without validation.
        pseudo_dice: Its moving average of the pseudo Dice.
        epochs: Finished epochs.
        seconds: Time spent in training, over all sessions.
        stopped: `finished` or `early_stop`.
        skipped_steps: Steps skipped because of NaN or infinity.
    """

    best_epoch: int | None
    pseudo_dice: float | None
    epochs: int
    seconds: float
    stopped: str
    skipped_steps: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


class TrainingState(BaseModel):
    """Everything besides tensors that the loop needs to go on, changed by the loop as it goes.

    Attributes:
        timetable: How long the training is.
        epoch: Finished epochs.
        step_in_epoch: Finished training steps of the epoch at hand.
        losses: Training losses of the epoch at hand, without skipped steps.
        auxiliary_losses: The same of the auxiliary loss; empty without one.
        epoch_s: Seconds spent in the epoch at hand.
        elapsed_s: Seconds spent in all, over all sessions.
        skipped: Steps skipped because of NaN or infinity, in all.
        skipped_in_epoch: The same in the epoch at hand.
        skipped_in_row: The same since the last step that was made.
        ema: Moving average of the pseudo Dice, as in nnU-Net; None before the first finite one.
        best_ema: The highest of them.
        best_epoch: The epoch it belongs to, counted from 1.
        stopped: Why training ended, empty while it goes on.
        pretrained_sha256: Of the file the run began with; None without one.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    timetable: Timetable
    epoch: Count = 0
    step_in_epoch: Count = 0
    losses: list[float] = Field(default_factory=list)
    auxiliary_losses: list[float] = Field(default_factory=list)
    epoch_s: Seconds = 0.0
    elapsed_s: Seconds = 0.0
    skipped: Count = 0
    skipped_in_epoch: Count = 0
    skipped_in_row: Count = 0
    ema: float | None = None
    best_ema: float | None = None
    best_epoch: int | None = None
    stopped: Stopped = ""
    pretrained_sha256: str | None = None

    @property
    def step(self) -> int:
        """Finished training steps."""
        return self.epoch * self.timetable.iterations + self.step_in_epoch

    def note_made(self, loss: float, auxiliary: float | None) -> None:
        """Notes the losses of a step that was made."""
        self.losses.append(loss)
        if auxiliary is not None:
            self.auxiliary_losses.append(auxiliary)
        self.skipped_in_row = 0

    def note_skipped(self) -> None:
        """Counts a skipped step."""
        self.skipped += 1
        self.skipped_in_epoch += 1
        self.skipped_in_row += 1

    def finish_epoch(self, pseudo_dice: float) -> bool:
        """Counts an epoch as finished and returns whether its moving average is the best so far.

        The average is that of nnU-Net: the first value as it is, then nine tenths of the old and one of the
        new. NaN (no foreground in any validation patch) leaves it as it is and is never the best.
        """
        self.epoch += 1
        self.step_in_epoch, self.epoch_s, self.skipped_in_epoch = 0, 0.0, 0
        self.losses, self.auxiliary_losses = [], []
        if not math.isfinite(pseudo_dice):
            return False
        self.ema = pseudo_dice if self.ema is None else 0.9 * self.ema + 0.1 * pseudo_dice
        if self.best_ema is not None and self.ema <= self.best_ema:
            return False
        self.best_ema, self.best_epoch = self.ema, self.epoch
        return True

    def result(self) -> TrainingResult:
        """Returns the facts that a caller wants to know."""
        return TrainingResult(
            best_epoch=self.best_epoch,
            pseudo_dice=self.best_ema,
            epochs=self.epoch,
            seconds=round(self.elapsed_s, 1),
            stopped=self.stopped,
            skipped_steps=self.skipped,
        )
