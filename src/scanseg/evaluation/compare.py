"""Runs against each other on the same cases: means, paired differences, tests, ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from scanseg.errors import UsageError
from scanseg.evaluation.align import Aligned, Judged, align
from scanseg.evaluation.bootstrap import CONFIDENCE, RESAMPLES, SEED, mean_intervals
from scanseg.evaluation.metrics import METRICS
from scanseg.evaluation.paired import holm, mean_ranks, wilcoxon_p, wins_ties_losses
from scanseg.types import Array

__all__ = ["Judged", "compare_scores"]

# Means over labels differ in the last digits for no reason but the order of additions.
_DIGITS = 12


def compare_scores(
    judged: Sequence[Judged],
    metrics: Sequence[str],
    *,
    baseline: str | None = None,
    common: bool = False,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """Returns the comparison of contenders that were measured on the same cases, as plain JSON values.

    Of a contender with several runs (seeds) the mean over its runs is taken for each case first; so a case
    counts once, and seeds do not pass for more patients.

    Args:
        judged: Two contenders or more with different names.
        metrics: Names in METRICS; every table has these columns.
        baseline: What the others are compared with; the first by default.
        common: Compare the cases and labels that all have, instead of refusing.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        `contenders` (names in order), `baseline`, `cases`, `left_out` (per contender), `labels`, `mean` and
        `by_label`. `mean[metric][contender]`: `n mean ci_low ci_high` over cases of the mean over labels,
        `rank` (mean over cases, 1 is best), `seeds` (`means std min max` over its runs; std None for one),
        and `difference`, None for the baseline: `mean ci_low ci_high median` of contender minus baseline,
        `p` (Wilcoxon), `p_holm`, `wins ties losses`, `n` pairs and `unpaired` cases, which have a value
        for one of both only (a structure absent from the reference that one of them invented). `by_label`:
        the same per label. `values[metric][contender][case]`: the mean over labels. `statistics`: how
        intervals and tests were made, with the size of each Holm family.

    Raises:
        UsageError: Fewer than two contenders, a name twice, or an unknown baseline.
        DataError: As `align.align`.

    Source:
        Percentile bootstrap as in `bootstrap.mean_intervals`; signed ranks, Holm and ranks as in `paired`;
        pairing by case after Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7
        (2006).
    """
    names = [one.name for one in judged]
    reference = _checked_baseline(names, baseline)
    aligned = align(judged, metrics, common=common)
    count = len(aligned.labels)
    options = {"resamples": resamples, "seed": seed}
    scopes = [_scope(aligned, names, metrics, place, reference, **options) for place in range(count + 1)]
    overall, by_label = scopes[-1], scopes[:-1]
    families = {"mean": _correct([overall]), "by_label": _correct(by_label)}
    return {
        "contenders": names,
        "baseline": reference,
        "cases": list(aligned.cases),
        "left_out": aligned.left_out,
        "labels": [{"value": label.value, "name": label.name} for label in aligned.labels],
        "mean": overall,
        "by_label": [
            {"value": label.value, "name": label.name, "metrics": scope}
            for label, scope in zip(aligned.labels, by_label, strict=True)
        ],
        "values": _case_values(aligned, names, metrics),
        "statistics": {
            "interval": "percentile bootstrap",
            "confidence": CONFIDENCE,
            **options,
            "resampled": "cases" if aligned.groups is None else "groups",
            "n_units": len(set(aligned.groups or aligned.cases)),
            "test": "Wilcoxon signed-rank, two-sided",
            "tested": "differences of cases" if aligned.groups is None else "mean differences of groups",
            "correction": "Holm",
            "tests": families,
        },
    }


def _checked_baseline(names: Sequence[str], baseline: str | None) -> str:
    if len(names) < 2:
        raise UsageError(
            f"A comparison needs two contenders at least, got {len(names)}.",
            code="E-COMPARE-COUNT",
            hint="Give several run folders; runs of one network count as one with --group.",
        )
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UsageError(
            f"Contenders need different names, but {', '.join(twice)} occurs twice.",
            code="E-COMPARE-NAMES",
            hint="Name them with --names.",
        )
    chosen = names[0] if baseline is None else baseline
    if chosen not in names:
        raise UsageError(
            f"The baseline {chosen!r} is none of the contenders.",
            code="E-COMPARE-BASELINE",
            hint=f"Contenders: {', '.join(names)}.",
        )
    return chosen


def _scope(
    aligned: Aligned,
    names: Sequence[str],
    metrics: Sequence[str],
    place: int,
    baseline: str,
    *,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns metric -> contender -> numbers for one label, or for the mean over labels (the last place)."""
    tables = [values[:, place] for values in aligned.values]
    reference = tables[names.index(baseline)]
    differences = [np.round(table - reference, _DIGITS) for table in tables]
    wide = np.concatenate([*tables, *differences], axis=1)
    # One call for all columns: every contender and difference sees the same draws.
    intervals = mean_intervals(wide, aligned.groups, resamples=resamples, seed=seed)
    width = len(metrics)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column, metric in enumerate(metrics):
        higher = METRICS[metric].better == "higher"
        ranks = mean_ranks(np.stack([table[:, column] for table in tables], 1), higher_is_better=higher)
        found[metric] = {}
        for number, name in enumerate(names):
            numbers = _mean_of(tables[number][:, column], intervals[number * width + column])
            numbers["rank"] = _plain(ranks[number])
            numbers["seeds"] = _spread(aligned.run_means[number][:, place, column])
            numbers["difference"] = None
            if name != baseline:
                numbers["difference"] = _difference(
                    differences[number][:, column],
                    intervals[(len(names) + number) * width + column],
                    aligned,
                    unpaired=_unpaired(tables[number][:, column], reference[:, column]),
                    higher_is_better=higher,
                )
            found[metric][name] = numbers
    return found


def _mean_of(values: Array, interval: Array) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if known.size else None
    return {"n": int(known.size), "mean": mean, "ci_low": _plain(interval[0]), "ci_high": _plain(interval[1])}


def _difference(
    values: Array, interval: Array, aligned: Aligned, *, unpaired: int, higher_is_better: bool
) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    wins, ties, losses = wins_ties_losses(values, higher_is_better=higher_is_better)
    return {
        **_mean_of(values, interval),
        "median": float(np.median(known)) if known.size else None,
        "p": _plain(wilcoxon_p(values, aligned.groups)),
        "p_holm": None,
        "wins": wins,
        "ties": ties,
        "losses": losses,
        "unpaired": unpaired,
    }


def _unpaired(ours: Array, theirs: Array) -> int:
    return int((np.isfinite(ours) != np.isfinite(theirs)).sum())


def _spread(means: Array) -> dict[str, Any]:
    known = means[np.isfinite(means)]
    several = known.size > 1
    return {
        "means": [_plain(value) for value in means],
        "std": float(known.std(ddof=1)) if several else None,
        "min": float(known.min()) if known.size else None,
        "max": float(known.max()) if known.size else None,
    }


def _correct(scopes: Sequence[dict[str, dict[str, dict[str, Any]]]]) -> int:
    """Fills in `p_holm` of all tests in the scopes, as one family; returns how many tests it has."""
    tests = [
        numbers["difference"]
        for scope in scopes
        for of_metric in scope.values()
        for numbers in of_metric.values()
        if numbers["difference"] is not None
    ]
    corrected = holm([math.nan if test["p"] is None else test["p"] for test in tests])
    for test, p in zip(tests, corrected, strict=True):
        test["p_holm"] = _plain(p)
    return sum(math.isfinite(p) for p in corrected)


def _case_values(
    aligned: Aligned, names: Sequence[str], metrics: Sequence[str]
) -> dict[str, dict[str, dict[str, float | None]]]:
    return {
        metric: {
            name: {
                case: _plain(value)
                for case, value in zip(aligned.cases, aligned.values[number][:, -1, column], strict=True)
            }
            for number, name in enumerate(names)
        }
        for column, metric in enumerate(metrics)
    }


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
