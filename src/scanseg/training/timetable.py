"""How long a training is, and how far it is: a pure function of the step, also under a time budget.

With `epochs` the timetable follows from the recipe alone. With `minutes` the speed of a few throw-away steps
is measured first; from it follow the steps per epoch and the number of epochs, and from there on everything
is a function of the step, as if these numbers had been in the recipe. The timetable is stored in every
checkpoint, so a continued run ends like the run that was not stopped. Only when the machine turns out faster
or slower than measured (by a tenth of what remains) is the number of epochs changed, between two epochs;
progress then goes on from where it is, without a jump, and the new timetable is stored with the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scanseg.training.recipe import Recipe

EPOCHS_IN_BUDGET = 20


@dataclass(frozen=True)
class Pace:
    """Measured seconds of one training step, one validation batch, and the rest of an epoch."""

    step_s: float
    validation_s: float
    overhead_s: float = 0.0

    def epoch_s(self, iterations: int, validation_iterations: int) -> float:
        """Returns the seconds of a whole epoch."""
        return iterations * self.step_s + validation_iterations * self.validation_s + self.overhead_s


@dataclass(frozen=True)
class Timetable:
    """The number of epochs and steps.

    Attributes:
        epochs: Epochs in all.
        iterations: Training steps per epoch.
        validation_iterations: Validation batches per epoch.
        anchor_epoch: Epoch at which the number of epochs was last changed.
        anchor_progress: Progress at that epoch.
    """

    epochs: int
    iterations: int
    validation_iterations: int
    anchor_epoch: int = 0
    anchor_progress: float = 0.0

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Timetable:
        """Returns the timetable of a recipe without a time budget."""
        return cls(recipe.epochs, recipe.iterations_per_epoch, recipe.validation_iterations)

    @classmethod
    def of_budget(cls, recipe: Recipe, pace: Pace, *, seconds: float) -> Timetable:
        """Returns the timetable that fills `seconds` at the measured pace.

        An epoch has the recipe's steps, or fewer, so that 20 epochs fit; validation shrinks in proportion.
        There is at least one epoch of one step, even if it takes longer.
        """
        share = recipe.validation_iterations / recipe.iterations_per_epoch
        per_step_s = pace.step_s + share * pace.validation_s
        fitting = int(max(seconds / EPOCHS_IN_BUDGET - pace.overhead_s, 0) / per_step_s)
        iterations = max(1, min(recipe.iterations_per_epoch, fitting))
        validation = min(recipe.validation_iterations, max(1, round(share * iterations)))
        epochs = max(1, round(seconds / pace.epoch_s(iterations, validation)))
        return cls(epochs, iterations, validation)

    def progress(self, step: int, *, per: str) -> float:
        """Returns the fraction of the training before `step`, in [0, 1); per `epoch` or per `step`."""
        epoch = step // self.iterations if per == "epoch" else step / self.iterations
        done = (epoch - self.anchor_epoch) / (self.epochs - self.anchor_epoch)
        return self.anchor_progress + (1.0 - self.anchor_progress) * done

    def adjusted(self, epoch: int, *, seconds_left: float, epoch_s: float) -> Timetable:
        """Returns the timetable after `epoch` finished epochs, with more or fewer to come if time demands it.

        Args:
            epoch: Finished epochs.
            seconds_left: Of the budget.
            epoch_s: Seconds of an epoch, as lately measured.
        """
        if epoch >= self.epochs:
            return self
        left = max(0, round(seconds_left / epoch_s))
        planned = self.epochs - epoch
        if abs(left - planned) <= max(1, planned // 10):
            return self
        progress = self.progress(epoch * self.iterations, per="epoch")
        return replace(self, epochs=epoch + left, anchor_epoch=epoch, anchor_progress=progress)
