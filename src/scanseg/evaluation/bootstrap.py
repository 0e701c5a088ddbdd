"""How far a mean could lie from the mean of more cases like these: percentile bootstrap."""

from collections.abc import Hashable, Sequence

import numpy as np

from scanseg.errors import UsageError
from scanseg.types import Array

RESAMPLES = 10_000
SEED = 12345
CONFIDENCE = 0.95
_WEIGHTS_AT_ONCE = 5_000_000


def mean_intervals(
    table: Array,
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    confidence: float = CONFIDENCE,
) -> Array:
    """Returns percentile bootstrap intervals of the column means of a table.

    Cases are drawn with replacement, the same draws for every column. With groups (patients) whole groups are
    drawn, because the cases of one patient resemble each other and would make the interval too narrow. NaN
    (not applicable) stays with its case and counts in no mean; draws without any value are left out.

    Args:
        table: (cases, columns), NaN where a value does not apply.
        groups: One per case; every case for itself without it.
        resamples: Number of draws.
        seed: Of the draws; the same seed gives the same intervals.
        confidence: Part of the draws inside the interval, in (0, 1).

    Returns:
        (columns, 2), lower and upper end. NaN for columns whose values come from fewer than two cases (or
        groups): they say nothing about variation.

    Raises:
        UsageError: The table is not two-dimensional, or the groups, resamples or confidence do not fit.

    Source:
        Efron and Tibshirani 1993, chapter 13 (percentile interval); resampling of whole clusters as in
        Davison and Hinkley 1997, section 3.8.

    Example:
        >>> import numpy as np
        >>> mean_intervals(np.array([[0.8], [0.9]])).tolist()
        [[0.8, 0.9]]
    """
    table = np.asarray(table, dtype=np.float64)
    units = _units(table, groups)
    if resamples < 1 or not 0 < confidence < 1:
        raise UsageError(
            f"Intervals need 1 resample or more and a confidence in (0, 1), got {resamples}, {confidence}.",
            code="E-BOOTSTRAP-OPTION",
        )
    count = int(units.max(initial=-1)) + 1
    applies = np.isfinite(table)
    sums, numbers = np.zeros((2, count, table.shape[1]))
    np.add.at(sums, units, np.where(applies, table, 0.0))
    np.add.at(numbers, units, applies)
    result = np.full((table.shape[1], 2), np.nan)
    varies = (numbers > 0).sum(axis=0) >= 2
    if varies.any():
        means = _resampled_means(sums[:, varies], numbers[:, varies], resamples, np.random.default_rng(seed))
        tail = 50 * (1 - confidence)
        result[varies] = np.nanpercentile(means, [tail, 100 - tail], axis=0).T
    return result


def _units(table: Array, groups: Sequence[Hashable] | None) -> Array:
    """Returns which unit of drawing each case belongs to, as 0, 1, ... in order of appearance."""
    if table.ndim != 2 or (groups is not None and len(groups) != len(table)):
        given = "no groups" if groups is None else f"{len(groups)} groups"
        raise UsageError(
            f"Intervals need a table (cases, columns) and one group per case, got {table.shape} and {given}.",
            code="E-BOOTSTRAP-SHAPE",
        )
    if groups is None:
        return np.arange(len(table))
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.intp)


def _resampled_means(sums: Array, numbers: Array, resamples: int, rng: np.random.Generator) -> Array:
    count = len(sums)
    means = np.empty((resamples, sums.shape[1]))
    rows = max(1, _WEIGHTS_AT_ONCE // count)
    for start in range(0, resamples, rows):
        part = min(rows, resamples - start)
        draws = rng.integers(0, count, (part, count))
        places = draws + count * np.arange(part)[:, None]
        weights = np.bincount(places.ravel(), minlength=part * count).reshape(part, count).astype(np.float64)
        with np.errstate(invalid="ignore"):
            means[start : start + part] = (weights @ sums) / (weights @ numbers)
    return means
