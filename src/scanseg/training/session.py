"""One call of `train_network`: the training, the run folder it writes to, and whom it tells."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scanseg.errors import TrainingError
from scanseg.files import sha256, write_json
from scanseg.losses import UncertaintyAware
from scanseg.progress import Progress, Report
from scanseg.training.assemble import Training
from scanseg.training.checkpoint import Checkpoints
from scanseg.training.events import MetricsLog, Stopwatch, memory_used
from scanseg.training.interrupts import Interrupts
from scanseg.training.recipe import Recipe
from scanseg.training.run import WEIGHTS
from scanseg.training.samples import Show
from scanseg.training.state import TrainingResult, TrainingState
from scanseg.training.step import blame
from scanseg.training.validation import PatchScores
from scanseg.training.weights import first_nonfinite_name, save_tensors, weights_of


@dataclass(frozen=True)
class Session:
    """Everything around the loop that is not the loop.

    Attributes:
        training: Network, loss, optimiser, batches.
        folder: The run folder.
        labels: Names of the foreground classes.
        checkpoints: Of the run.
        identity: What must be the same to continue the run.
        environment: What must be the same for identical bits.
        log: metrics.jsonl.
        interrupts: Signals that have come.
        report: Told after each step.
        show: Shown samples of each validation.
        stopwatch: Measures the pace.
    """

    training: Training
    folder: Path
    labels: tuple[str, ...]
    checkpoints: Checkpoints
    identity: Mapping[str, Any]
    environment: Mapping[str, Any]
    log: MetricsLog
    interrupts: Interrupts
    report: Report
    show: Show | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def recipe(self) -> Recipe:
        """The training's recipe."""
        return self.training.recipe

    def spend(self, state: TrainingState, kind: str, started_s: float) -> None:
        """Books the time since `started_s` for a `step` or a `validation` batch."""
        seconds = time.perf_counter() - started_s
        state.epoch_s += seconds
        state.elapsed_s += seconds
        self.stopwatch.note(kind, seconds)

    def tell(self, state: TrainingState, *, validated: int = 0) -> None:
        """Reports the step reached and the time left, after `validated` batches of the validation."""
        times, eta_s = state.timetable, None
        pace = self.stopwatch.pace()
        if pace is not None:
            epochs = times.epochs - state.epoch
            validations = max(epochs * times.validation_iterations - validated, 0)
            steps = times.epochs * times.iterations - state.step
            eta_s = steps * pace.step_s + validations * pace.validation_s + epochs * pace.overhead_s
        values = {"loss": state.losses[-1]} if state.losses else {}
        if state.ema is not None:
            values["dice"] = state.ema
        message = f"epoch {state.epoch + 1}/{times.epochs}{', validating' if validated else ''}"
        total = times.epochs * times.iterations
        self.report(Progress("train", state.step, total, eta_s, message, values))

    def save(self, state: TrainingState) -> None:
        """Writes a checkpoint."""
        training = self.training
        self.checkpoints.save(
            training.network, training.loss, training.optimizer, state, self.identity, self.environment
        )

    def leave_if_asked(self, state: TrainingState) -> None:
        """Saves and ends, if a signal has come.

        Raises:
            KeyboardInterrupt: SIGINT has come.
            SystemExit: Another signal has come.
        """
        if self.interrupts.requested is not None:
            self.save(state)
            self.interrupts.leave()

    def skip(self, state: TrainingState, data: Tensor, target: Tensor | list[Tensor]) -> None:
        """Counts a step whose loss or gradient was not finite.

        Raises:
            TrainingError: It was one too many in a row; names where NaN or infinity appears first.
        """
        state.note_skipped()
        if state.skipped_in_row < self.recipe.nonfinite_limit:
            return
        training = self.training
        where = blame(
            training.network,
            training.loss,
            data,
            target,
            precision=self.recipe.precision,
            sam=self.recipe.create_sam(),
            auxiliary=self.recipe.create_auxiliary(),
        )
        raise TrainingError(
            f"{state.skipped_in_row} steps in a row, up to step {state.step}, were not finite; "
            f"NaN or infinity appears first in {where}.",
            code="E-TRAIN-NONFINITE",
            hint="Try a lower learning rate, or precision fp32. The last checkpoint is intact.",
        )

    def end_epoch(self, state: TrainingState, scores: PatchScores, *, waited_s: float) -> None:
        """Counts the epoch and writes what it leaves, the checkpoint last: before it, nothing of it counts.

        Raises:
            TrainingError: A weight is not finite; nothing of this epoch is saved.
        """
        started_s = time.perf_counter()
        weights = weights_of(self.training.network)
        learned = {f"loss.{name}": value for name, value in weights_of(self.training.loss).items()}
        if (name := first_nonfinite_name(weights | learned)) is not None:
            raise TrainingError(
                f"After epoch {state.epoch + 1} the weight {name} is not finite. The epoch is not saved.",
                code="E-TRAIN-NONFINITE",
                hint="Begin again with a lower learning rate.",
            )
        record = self._record(state, scores, waited_s)
        is_best = state.finish_epoch(scores.mean_dice)
        if is_best:
            save_tensors(self.folder / WEIGHTS["best"], weights, {"epoch": state.epoch})
        patience = self.recipe.early_stop
        if patience is not None and state.epoch - (state.best_epoch or 0) >= patience:
            state.stopped = "early_stop"
        self._keep_budget(state)
        if self.show is not None and scores.samples:
            self.show(state.epoch, scores.samples)
        self.log.write(record | {"ema_pseudo_dice": state.ema, "best": is_best})
        self.save(state)
        self.stopwatch.note("save", time.perf_counter() - started_s)

    def _record(self, state: TrainingState, scores: PatchScores, waited_s: float) -> dict[str, Any]:
        last = state.timetable.progress(state.step - 1, per=self.recipe.schedule_per)
        dice = scores.dice or (math.nan,) * len(self.labels)
        return {
            "epoch": state.epoch + 1,
            "step": state.step,
            "learning_rate": self.training.schedule(last),
            "train_loss": _mean(state.losses),
            "validation_loss": _finite(scores.loss),
            **({"auxiliary_loss": _mean(state.auxiliary_losses)} if self.recipe.auxiliary_loss else {}),
            "pseudo_dice": _finite(scores.mean_dice),
            "pseudo_dice_per_label": dict(zip(self.labels, map(_finite, dice), strict=True)),
            "seconds": round(state.epoch_s, 3),
            "data_seconds": round(waited_s, 3),
            "elapsed_seconds": round(state.elapsed_s, 3),
            "skipped_steps": state.skipped_in_epoch,
            **{f"sigma_{name}": value for name, value in _sigmas(self.training.loss).items()},
            **{f"alpha_{name}": value for name, value in _alphas(self.training.network).items()},
            **memory_used(self.training.device),
        }

    def _keep_budget(self, state: TrainingState) -> None:
        pace = self.stopwatch.pace()
        if self.recipe.minutes is None or pace is None:
            return
        epoch_s = pace.epoch_s(state.timetable.iterations, state.timetable.validation_iterations)
        left_s = 60 * self.recipe.minutes - state.elapsed_s
        state.timetable = state.timetable.adjusted(state.epoch, seconds_left=left_s, epoch_s=epoch_s)

    def finish(self, state: TrainingState, config: dict[str, Any]) -> TrainingResult:
        """Writes the final weights and the config that vouches for them, then drops the checkpoints."""
        weights, result = weights_of(self.training.network), state.result()
        for kind, name in WEIGHTS.items():
            if kind == "final" or state.best_epoch is None:
                save_tensors(self.folder / name, weights, {"epoch": state.epoch})
        config["weights_sha256"] = sha256(self.folder / WEIGHTS["final"])
        config["best_weights_sha256"] = sha256(self.folder / WEIGHTS["best"])
        config["training"] = {**result.as_dict(), "timetable": asdict(state.timetable)}
        write_json(self.folder / "config.json", config)
        self.checkpoints.mark_finished(state, self.identity)
        return result


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(values: list[float]) -> float | None:
    return _finite(sum(values) / len(values)) if values else None


def _sigmas(loss: nn.Module) -> dict[str, float]:
    """Returns the sigma of each component of an uncertainty-aware loss; nothing for other losses."""
    aware = [module for module in loss.modules() if isinstance(module, UncertaintyAware)]
    return {name: value for module in aware for name, value in module.sigmas().items()}


def _alphas(network: nn.Module) -> dict[str, float]:
    """Returns the weight of each scan, the mean over the blocks; nothing for networks without them."""
    if not (hasattr(network, "alphas") and hasattr(network, "scans")):
        return {}
    by_block = network.alphas()  # type: ignore[operator]
    if not len(by_block):
        return {}
    return dict(zip(network.scans, by_block.mean(0).tolist(), strict=True))  # type: ignore[arg-type]
