"""Learning rates as functions of the fraction of training that is done."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from scanseg.errors import UsageError
from scanseg.registry import Registry, check_options

Schedule = Callable[[float], float]

SCHEDULES: Registry[Callable[..., Schedule]] = Registry("schedule")

_FACTS = ("learning_rate",)


@SCHEDULES.register("poly")
def poly(*, learning_rate: float, exponent: float = 0.9) -> Schedule:
    """Returns learning_rate * (1 - progress)^exponent, nnU-Net's schedule."""
    return lambda progress: learning_rate * (1.0 - progress) ** exponent


@SCHEDULES.register("cosine")
def cosine(*, learning_rate: float, minimum: float = 0.0, halves: int = 1) -> Schedule:
    """Returns half a cosine from `learning_rate` down to `minimum`, or `halves` of them: down, up, down ...

    Raises:
        UsageError: `halves` is not a whole number from 1 on.

    Source:
        Of several halves: CosineAnnealingLR of PyTorch in a training longer than its T_max, as in VM-UNet's.
    """
    if isinstance(halves, bool) or not isinstance(halves, int) or halves < 1:
        raise UsageError(
            f"The schedule's halves must be a whole number from 1 on, got {halves!r}.",
            code="E-SCHEDULE-VALUE",
        )
    span = (learning_rate - minimum) / 2
    return lambda progress: minimum + span * (1.0 + math.cos(math.pi * halves * progress))


@SCHEDULES.register("multi_step")
def multi_step(
    *, learning_rate: float, milestones: Sequence[float] = (0.5, 0.75), factor: float = 0.1
) -> Schedule:
    """Returns a rate that is multiplied by `factor` at each milestone.

    Args:
        learning_rate: The first rate.
        milestones: Fractions of the training, rising.
        factor: In (0, 1].

    Raises:
        UsageError: A milestone is not within the training, they do not rise, or the factor is out of range.
    """
    places = [0.0, *milestones, 1.0] if isinstance(milestones, list | tuple) else []
    numbers = [*places, factor]
    if not places or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise _wrong_steps(milestones, factor)
    if not (0 < factor <= 1 and all(a < b for a, b in itertools.pairwise(places))):
        raise _wrong_steps(milestones, factor)
    # Progress is a quotient; rounding must not move a milestone by a step.
    reached = [place - 1e-9 for place in places[1:-1]]
    return lambda progress: learning_rate * factor ** sum(progress >= place for place in reached)


def _wrong_steps(milestones: object, factor: object) -> UsageError:
    return UsageError(
        "The schedule multi_step takes rising milestones between 0 and 1 and a factor from above 0 to 1, "
        f"got {milestones!r} and {factor!r}.",
        code="E-SCHEDULE-VALUE",
        hint="Milestones are fractions of the training, for example [0.5, 0.75].",
    )


@SCHEDULES.register("constant")
def constant(*, learning_rate: float) -> Schedule:
    """Returns `learning_rate` always."""
    return lambda progress: learning_rate


def create_schedule(name: str, *, learning_rate: float, warmup: float = 0.0, **options: Any) -> Schedule:
    """Returns a function from progress in [0, 1) to the learning rate.

    Progress is the fraction of the training that is done, so a schedule fits any number of epochs or minutes.

    Args:
        name: An entry of `SCHEDULES`.
        learning_rate: The highest one.
        warmup: Fraction of the training, in [0, 1), in which the rate rises linearly from a hundredth of its
            first value; the schedule proper starts after it.
        options: Passed to the schedule, for example `exponent=0.9`.

    Raises:
        UsageError: The name or an option is unknown.

    Example:
        >>> rate = create_schedule("poly", learning_rate=0.01)
        >>> rate(0.0), round(rate(0.5), 6)
        (0.01, 0.005359)
    """
    build = SCHEDULES[name]
    check_options("schedule", name, build, options, reserved=_FACTS)
    schedule = build(learning_rate=learning_rate, **options)
    if warmup == 0:
        return schedule

    def warmed(progress: float) -> float:
        if progress < warmup:
            return schedule(0.0) * (0.01 + 0.99 * progress / warmup)
        return schedule((progress - warmup) / (1.0 - warmup))

    return warmed
