"""From values per case and label to the numbers a reader wants, with intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scanseg.evaluation.bootstrap import CONFIDENCE, RESAMPLES, SEED, mean_intervals
from scanseg.evaluation.metrics import EMPTY_RULES, METRICS, STATES
from scanseg.evaluation.pair import Row
from scanseg.types import Array, Label

MISSED = ("missed", "no_prediction")


def case_means(rows: Sequence[Row], metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns the mean over the labels of each case, NaN where no label of the case applies."""
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_case.setdefault(row["case_id"], []).append(row)
    return {
        case_id: {name: _mean([row[name] for row in of_case]) for name in metrics}
        for case_id, of_case in by_case.items()
    }


def summarise(
    rows: Sequence[Row],
    labels: Sequence[Label],
    metrics: Sequence[str],
    *,
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Any]:
    """Returns the statistics of every label and of the mean over labels, as plain JSON values.

    Args:
        rows: One per case and label, as `evaluate_folder` makes them; every case has every label.
        labels: The labels of the rows.
        metrics: Columns to summarise.
        groups: case -> patient; whole patients are then resampled.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        `labels`: list of `value`, `name`, `states` (number of cases in each state) and `metrics`, which gives
        for each metric `n` (cases with a value), `n_not_applicable`, `n_missed` and `n_invented` (cases that
        got the worst value because a structure was missed or invented), `mean std median q25 q75 min max
        ci_low ci_high`; None where a number does not exist. `mean`: the same over the cases, of the mean over
        labels of each case. `cases`: that mean for every case. `bootstrap`: how the intervals were made.
    """
    means = case_means(rows, metrics)
    # A case without a group is a unit of its own, even if its name is that of a group.
    units = None if groups is None else [groups.get(case_id) or (case_id,) for case_id in means]
    tables = [
        [[row[name] for name in metrics] for row in rows if row["value"] == label.value] for label in labels
    ]
    tables.append([[values[name] for name in metrics] for values in means.values()])
    wide = np.array(tables, dtype=np.float64).transpose(1, 0, 2).reshape(len(means), -1)
    intervals = mean_intervals(wide, units, resamples=resamples, seed=seed)
    columns = [_describe(values, interval) for values, interval in zip(wide.T, intervals, strict=True)]
    summary: dict[str, Any] = {"labels": []}
    for place, label in enumerate(labels):
        states = [row["state"] for row in rows if row["value"] == label.value]
        summary["labels"].append(
            {
                "value": label.value,
                "name": label.name,
                "states": {state: states.count(state) for state in STATES},
                "metrics": _named(metrics, columns, place, states),
            }
        )
    case_states = [_case_state(rows, case_id) for case_id in means]
    summary["mean"] = _named(metrics, columns, len(labels), case_states)
    summary["cases"] = {
        case_id: {name: _plain(value) for name, value in values.items()} for case_id, values in means.items()
    }
    summary["bootstrap"] = {
        "interval": "percentile",
        "confidence": CONFIDENCE,
        "resamples": resamples,
        "seed": seed,
        "resampled": "cases" if units is None else "groups",
        "n_units": len(means) if units is None else len(set(units)),
    }
    return summary


def describe_metrics(metrics: Sequence[str], unit: str) -> dict[str, Any]:
    """Returns title, unit, direction and rules for empty masks of each metric, as plain JSON values."""
    facts = {}
    for name in metrics:
        metric = METRICS[name]
        facts[name] = {
            "title": metric.title,
            "unit": unit if metric.unit == "mm" else metric.unit,
            "low": metric.low,
            "high": metric.high if math.isfinite(metric.high) else None,
            "better": metric.better,
            "summary": metric.summary,
            "empty": dict(EMPTY_RULES[name]),
        }
    return facts


def _case_state(rows: Sequence[Row], case_id: str) -> str:
    """Returns the worst state of the labels of a case."""
    states = {row["state"] for row in rows if row["case_id"] == case_id}
    return next(
        state for state in ("no_prediction", "missed", "invented", "present", "both_empty") if state in states
    )


def _named(
    metrics: Sequence[str], columns: Sequence[dict[str, Any]], place: int, states: Sequence[str]
) -> dict[str, Any]:
    counts = {
        "n_missed": sum(state in MISSED for state in states),
        "n_invented": sum(state == "invented" for state in states),
    }
    first = place * len(metrics)
    return {name: {**columns[first + i], **counts} for i, name in enumerate(metrics)}


def _describe(values: Array, interval: Array) -> dict[str, Any]:
    found = values[np.isfinite(values)]
    facts: dict[str, Any] = {"n": len(found), "n_not_applicable": len(values) - len(found)}
    names = ("mean", "std", "median", "q25", "q75", "min", "max")
    if not len(found):
        return {**facts, **dict.fromkeys((*names, "ci_low", "ci_high"))}
    q25, median, q75 = np.percentile(found, [25, 50, 75])
    deviation = found.std(ddof=1) if len(found) > 1 else math.nan
    numbers = (found.mean(), deviation, median, q25, q75, found.min(), found.max())
    facts.update({name: _plain(number) for name, number in zip(names, numbers, strict=True)})
    return {**facts, "ci_low": _plain(interval[0]), "ci_high": _plain(interval[1])}


def _mean(values: Sequence[float]) -> float:
    found = [value for value in values if not math.isnan(value)]
    return sum(found) / len(found) if found else math.nan


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
