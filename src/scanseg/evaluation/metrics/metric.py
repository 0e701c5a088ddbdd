"""The table of metrics."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from scanseg.registry import Registry

F = TypeVar("F", bound=Callable[..., float])


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: Its name in tables and options.
        function: `function(prediction, reference, spacing_mm, *, pair=None, **options) -> float` on boolean
            arrays of 2 or 3 axes; `pair` hands over what was already computed for these masks.
        unit: `mm`, or empty for a ratio.
        low: Smallest possible value.
        high: Largest possible value, infinite for distances (the image's diagonal bounds them).
        better: Which direction is better.
        title: What people call it in tables.
        summary: One sentence on what it measures.
        options: Names of the further keyword arguments.
    """

    name: str
    function: Callable[..., float]
    unit: str
    low: float
    high: float
    better: Literal["higher", "lower"]
    title: str
    summary: str
    options: tuple[str, ...] = ()

    def worst(self, diagonal_mm: float) -> float:
        """Returns the worst value in an image with this diagonal."""
        if self.better == "higher":
            return self.low
        return self.high if math.isfinite(self.high) else diagonal_mm


METRICS: Registry[Metric] = Registry("metric")


def register_metric(
    *,
    title: str,
    better: Literal["higher", "lower"],
    summary: str,
    unit: str = "",
    low: float = 0.0,
    high: float = 1.0,
    options: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Returns a decorator that files a function in METRICS under its own name."""

    def decorate(function: F) -> F:
        name = function.__name__
        METRICS.register(name)(Metric(name, function, unit, low, high, better, title, summary, options))
        return function

    return decorate
