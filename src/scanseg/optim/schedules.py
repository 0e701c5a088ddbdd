"""Learning rates as functions of the fraction of training that is done."""

import math
from collections.abc import Callable
from typing import Any

from scanseg.registry import Registry, check_options

Schedule = Callable[[float], float]

SCHEDULES: Registry[Callable[..., Schedule]] = Registry("schedule")

_FACTS = ("learning_rate",)


@SCHEDULES.register("poly")
def poly(*, learning_rate: float, exponent: float = 0.9) -> Schedule:
    """Returns learning_rate * (1 - progress)^exponent, nnU-Net's schedule."""
    return lambda progress: learning_rate * (1.0 - progress) ** exponent


@SCHEDULES.register("cosine")
def cosine(*, learning_rate: float, minimum: float = 0.0) -> Schedule:
    """Returns half a cosine from `learning_rate` down to `minimum`."""
    span = (learning_rate - minimum) / 2
    return lambda progress: minimum + span * (1.0 + math.cos(math.pi * progress))


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
