"""Scores of several runs laid beside each other, case by case and label by label, or refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from scanseg.data.wording import listed
from scanseg.errors import DataError
from scanseg.evaluation.pair import Row
from scanseg.types import Array, Label


@dataclass(frozen=True)
class Judged:
    """The scores of one contender.

    Attributes:
        name: Of the contender.
        runs: Names of its runs, one per seed.
        tables: The rows of each run, as in cases.csv.
    """

    name: str
    runs: tuple[str, ...]
    tables: tuple[Sequence[Row], ...]


@dataclass(frozen=True)
class Aligned:
    """Scores of the same cases and labels.

    Attributes:
        cases: Case ids, sorted.
        labels: The labels, in the order of the first table.
        groups: One per case (a patient, or the case itself), None where no case names one.
        values: Per contender (cases, labels + 1, metrics): the mean over its runs; the last label is the
            mean over the labels of the case. NaN where nothing applies.
        run_means: Per contender (runs, labels + 1, metrics): the mean over the cases of each run.
        left_out: Per contender the cases that not all contenders have.
    """

    cases: tuple[str, ...]
    labels: tuple[Label, ...]
    groups: tuple[Hashable, ...] | None
    values: tuple[Array, ...]
    run_means: tuple[Array, ...]
    left_out: dict[str, list[str]]


def align(judged: Sequence[Judged], metrics: Sequence[str], *, common: bool = False) -> Aligned:
    """Returns the scores of all contenders on the same cases and labels.

    Args:
        judged: The contenders, each with one table at least.
        metrics: Columns to take.
        common: Compare what all of them have, instead of refusing contenders that judged different cases.

    Raises:
        DataError: Runs judged different cases or labels, or against different references; the message names
            what differs.
    """
    tables = [(run, table) for one in judged for run, table in zip(one.runs, one.tables, strict=True)]
    cases, left_out = _common_cases(judged, tables, common=common)
    labels = _common_labels(tables, common=common)
    keys = [(case, label.value) for case in cases for label in labels]
    by_key = [{(row["case_id"], row["value"]): row for row in table} for _, table in tables]
    _check_references([run for run, _ in tables], by_key, keys)
    shape = (len(cases), len(labels), len(metrics))
    arrays = [_array(rows, keys, metrics, shape) for rows in by_key]
    values, run_means, first = [], [], 0
    for one in judged:
        runs = np.stack(arrays[first : first + len(one.tables)])
        first += len(one.tables)
        values.append(_mean(runs, axis=0))
        run_means.append(_mean(runs, axis=1))
    group_of = {row["case_id"]: row.get("group", "") for row in tables[0][1]}
    # A case without a group is a unit of its own, even if its name is that of a group.
    groups = tuple(group_of[case] or (case,) for case in cases) if any(group_of.values()) else None
    return Aligned(tuple(cases), labels, groups, tuple(values), tuple(run_means), left_out)


def _common_cases(
    judged: Sequence[Judged], tables: Sequence[tuple[str, Sequence[Row]]], *, common: bool
) -> tuple[list[str], dict[str, list[str]]]:
    sets = [{row["case_id"] for row in table} for _, table in tables]
    shared, everything = set.intersection(*sets), set.union(*sets)
    if shared != everything and not common:
        lines = [
            f"{run} lacks {listed(sorted(everything - cases), most=5)}"
            for (run, _), cases in zip(tables, sets, strict=True)
            if cases != everything
        ]
        raise DataError(
            f"The runs were measured on different cases: {'; '.join(lines)}.",
            code="E-COMPARE-CASES",
            hint="Use the same fold for all, or --common to compare the cases that all have.",
        )
    if not shared:
        raise DataError(
            "The runs have no case in common.",
            code="E-COMPARE-CASES",
            hint="Compare runs on the same fold of the same dataset.",
        )
    left_out: dict[str, list[str]] = {}
    first = 0
    for one in judged:
        own = set.union(*sets[first : first + len(one.tables)])
        first += len(one.tables)
        left_out[one.name] = sorted(own - shared)
    return sorted(shared), left_out


def _common_labels(tables: Sequence[tuple[str, Sequence[Row]]], *, common: bool) -> tuple[Label, ...]:
    known = [{row["value"]: row["name"] for row in table} for _, table in tables]
    for (run, _), labels in zip(tables, known, strict=True):
        if labels != known[0] and not common:
            names = [", ".join(f"{v} {name}" for v, name in part.items()) for part in (known[0], labels)]
            raise DataError(
                f"The runs have different labels: {tables[0][0]} has {names[0]}; {run} has {names[1]}.",
                code="E-COMPARE-LABELS",
                hint="Use --common to compare the labels that all have.",
            )
    shared = [
        Label(value, name)
        for value, name in known[0].items()
        if all(labels.get(value) == name for labels in known)
    ]
    if not shared:
        raise DataError(
            "The runs have no label in common.",
            code="E-COMPARE-LABELS",
            hint="Compare runs on the same dataset.",
        )
    return tuple(shared)


def _check_references(
    runs: Sequence[str],
    by_key: Sequence[dict[tuple[str, int], Row]],
    keys: Sequence[tuple[str, int]],
) -> None:
    """Refuses runs whose references have different sizes: then they are not the same references."""
    for key in keys:
        rows = [table.get(key) for table in by_key]
        for run, row in zip(runs, rows, strict=True):
            if row is None:
                raise DataError(
                    f"{run} has no row for the label {key[1]} of the case {key[0]}.",
                    code="E-COMPARE-CASES",
                    hint="Measure it again with `scanseg evaluate`.",
                )
        sizes = {int(row["reference_voxels"]) for row in rows if row and "reference_voxels" in row}
        if len(sizes) > 1:
            raise DataError(
                f"The runs were measured against different references: the label {key[1]} of the case "
                f"{key[0]} has {' and '.join(map(str, sorted(sizes)))} voxels.",
                code="E-COMPARE-REFERENCES",
                hint="Measure all runs against the same label maps.",
            )


def _array(
    rows: dict[tuple[str, int], Row],
    keys: Sequence[tuple[str, int]],
    metrics: Sequence[str],
    shape: tuple[int, ...],
) -> Array:
    """Returns (cases, labels + 1, metrics), the last label being the mean over labels."""
    table = [[rows[key].get(name, math.nan) for name in metrics] for key in keys]
    values = np.array(table, dtype=np.float64).reshape(shape)
    return np.concatenate([values, _mean(values, axis=1)[:, None]], axis=1)


def _mean(values: Array, *, axis: int) -> Array:
    """Returns the mean without NaN; NaN where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis))
