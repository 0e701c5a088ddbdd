"""Paired statistics of two sets of scores of the same cases: signed ranks, Holm's correction, mean ranks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from scanseg.types import Array


def wilcoxon_p(differences: Array, groups: Sequence[Hashable] | None = None) -> float:
    """Returns the two-sided p-value of Wilcoxon's signed-rank test that differences are symmetric about 0.

    With groups (patients) the mean difference of each group is tested, because the test takes its values to
    be independent and the cases of one patient are not.

    Args:
        differences: (cases,), NaN where a pair has no difference.
        groups: One per case; every case for itself without it.

    Returns:
        p in (0, 1]; 1 where every difference is 0; NaN without any difference.

    Source:
        Wilcoxon 1945, as `scipy.stats.wilcoxon` computes it with its defaults: differences of 0 are left out;
        exact for few pairs without ties.

    Example:
        >>> import numpy as np
        >>> wilcoxon_p(np.array([0.0, 0.0])), wilcoxon_p(np.array([1.0, 2.0, 3.0]))
        (1.0, 0.25)
    """
    from scipy.stats import wilcoxon

    values = np.asarray(differences, dtype=np.float64)
    found = np.isfinite(values)
    if groups is not None:
        members: dict[Hashable, list[float]] = {}
        for group, value, finite in zip(groups, values, found, strict=True):
            if finite:
                members.setdefault(group, []).append(float(value))
        values = np.array([np.mean(part) for part in members.values()], dtype=np.float64)
    else:
        values = values[found]
    if not values.size:
        return float("nan")
    if not values.any():
        return 1.0
    return float(wilcoxon(values).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values of a family of tests, corrected by Holm's step-down method; NaN stays NaN.

    A corrected value below a level means that the test holds at that level for the whole family. NaN
    counts as no test.

    Source:
        Holm S. A simple sequentially rejective multiple test procedure. Scand J Statist 6:65-70 (1979).

    Example:
        >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    values = np.asarray(p_values, dtype=np.float64)
    result = np.full(values.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    result[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1.0)
    return [float(value) for value in result]


def mean_ranks(table: Array, *, higher_is_better: bool) -> Array:
    """Returns the mean over cases of the rank of each column, 1 for the best; ties share their mean rank.

    Args:
        table: (cases, columns); cases with a NaN are left out.
        higher_is_better: Whether the largest value has rank 1.

    Returns:
        (columns,), NaN where no case is complete.
    """
    from scipy.stats import rankdata

    values = np.asarray(table, dtype=np.float64)
    complete = values[np.isfinite(values).all(axis=1)]
    if not len(complete):
        return np.full(values.shape[1], np.nan)
    ranks: Array = rankdata(-complete if higher_is_better else complete, axis=1).mean(axis=0)
    return ranks


def wins_ties_losses(differences: Array, *, higher_is_better: bool) -> tuple[int, int, int]:
    """Returns how many differences to a baseline are better, equal and worse; NaN counts nowhere."""
    values = np.asarray(differences, dtype=np.float64)
    values = values[np.isfinite(values)] * (1 if higher_is_better else -1)
    return int((values > 0).sum()), int((values == 0).sum()), int((values < 0).sum())
