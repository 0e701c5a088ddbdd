"""Progress as values: long functions report, the caller decides how to show it."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """One step of a long job.

    Attributes:
        stage: What is being done: `check`, `fingerprint`, `preprocess`, `train`, `validate`, `predict`, ...
        done: Units finished.
        total: Units in all.
        eta_s: Estimated seconds until the stage is finished; None while unknown.
        message: Short text for people, for example the case at work.
        values: Numbers worth showing, for example loss and Dice.
    """

    stage: str
    done: int
    total: int
    eta_s: float | None = None
    message: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Reports nothing."""


class Eta:
    """Estimates the remaining time from the mean rate since it was made."""

    def __init__(self, total: int, done: int = 0) -> None:
        self._start_s, self._first, self._total = time.monotonic(), done, total

    def __call__(self, done: int) -> float | None:
        """Returns the seconds left after `done` units, or None before the first unit is finished."""
        finished = done - self._first
        if finished <= 0:
            return None
        return (time.monotonic() - self._start_s) / finished * (self._total - done)


def track(
    items: Sequence[T] | Iterable[T], *, stage: str, report: Report, total: int | None = None
) -> Iterator[T]:
    """Yields the items of a sequence and reports after each one, with an estimate of the time left."""
    count = len(items) if total is None else total  # type: ignore[arg-type]
    eta = Eta(count)
    report(Progress(stage, 0, count))
    for done, item in enumerate(items, start=1):
        yield item
        report(Progress(stage, done, count, eta(done)))
