"""Masks against references: per case and label, and summed up."""

from __future__ import annotations

import csv
import io
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scanseg.data.image import read_geometry, read_label_map, same_geometry
from scanseg.data.label_values import count_values
from scanseg.data.layouts.found import Source
from scanseg.data.layouts.metadata import read_metadata
from scanseg.data.wording import listed
from scanseg.errors import DataError, DatasetError, Finding
from scanseg.evaluation.pair import Row, checked_metrics, evaluate_pair, worst_rows
from scanseg.evaluation.pairing import Pair, match_files
from scanseg.evaluation.stats import foreground, size_unit
from scanseg.evaluation.summary import describe_metrics, summarise
from scanseg.files import read_json, write_json, write_text
from scanseg.progress import Report, silent, track
from scanseg.types import Array, Geometry, Label

__all__ = ["Evaluation", "evaluate_folder", "evaluate_pair"]

SCHEMA_VERSION = 1
_REFUSED_HINT = "Mend the files named above; predictions must lie on the grid of their reference."


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        cases: One row per case and label: `case_id`, `group`, `value` and `name` of the label, `state` (see
            `metrics.STATES`), voxels and size of both masks, and one value per metric, NaN where it does not
            apply.
        summary: What `summary.json` holds, plain values.
        findings: What a reader should know, for example predictions that are missing.
    """

    cases: list[Row]
    summary: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Writes cases.csv and summary.json to a folder, atomically; not applicable is an empty cell."""
        columns = list(dict.fromkeys(name for row in self.cases for name in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n", restval="")
        writer.writeheader()
        for row in self.cases:
            writer.writerow({name: "" if _is_nan(value) else value for name, value in row.items()})
        write_text(folder / "cases.csv", table.getvalue())
        write_json(folder / "summary.json", self.summary)


def evaluate_folder(
    predictions: Path,
    references: Path,
    *,
    labels: Sequence[Label] | None = None,
    metrics: Sequence[str] | None = None,
    nsd_tolerance_mm: float = 1.0,
    groups: Mapping[str, str] | None = None,
    report: Report = silent,
    workers: int = 0,
) -> Evaluation:
    """Evaluates every reference of a folder, with or without a prediction.

    Files are matched by name without the ending. A reference without a prediction gets the worst value of
    every metric: it is a failure, never an absent case. Predictions without a reference are listed.

    Args:
        predictions: Folder of label maps, or one file.
        references: Folder of label maps, or one file.
        labels: The classes; without them those of the `dataset.json` in the folder of the references or
            above it, else every value that occurs.
        metrics: Names in METRICS; all by default.
        nsd_tolerance_mm: Tolerance of the normalised surface Dice.
        groups: case -> patient, for intervals that know which cases belong together.
        report: Told about each case (stage `evaluate`).
        workers: Threads that work on cases; results do not depend on it.

    Raises:
        DataError: A path is missing, nothing matches, a file cannot be read, or the grids of a pair differ;
            every case at fault is named.
        UsageError: A metric or the tolerance makes no sense.
    """
    names = checked_metrics(metrics)
    matching = match_files(Path(predictions), Path(references))
    findings = list(matching.findings)
    units = _check_geometries(matching.pairs, findings)
    _raise_if_errors(findings)
    if labels is None:
        labels = _labels_of(Path(references)) or _values_of(matching.pairs, findings)
    job = partial(
        _evaluate_case, labels=labels, names=names, nsd_tolerance_mm=nsd_tolerance_mm, groups=groups
    )
    rows: list[Row] = []
    for case_rows, case_findings in track(
        _mapped(job, matching.pairs, workers), stage="evaluate", report=report, total=len(matching.pairs)
    ):
        rows += case_rows
        findings += case_findings
    _raise_if_errors(findings)
    missing = [pair.case_id for pair in matching.pairs if pair.prediction is None]
    findings += [_missing(case_id) for case_id in missing]
    findings += [_extra(case_id) for case_id in matching.extra_predictions]
    unit = units.pop() if len(units) == 1 else "mm or px"
    summary = {
        "schema_version": SCHEMA_VERSION,
        "versions": {
            "python": platform.python_version(),
            **{n: version(n) for n in ("scanseg", "numpy", "scipy")},
        },
        "n_cases": len(matching.pairs),
        "missing_predictions": missing,
        "extra_predictions": list(matching.extra_predictions),
        "unit": unit,
        "nsd_tolerance_mm": nsd_tolerance_mm,
        "metrics": describe_metrics(names, unit),
        **summarise(rows, foreground(labels), names, groups=groups),
        "findings": [finding.as_dict() for finding in findings],
    }
    return Evaluation(rows, summary, findings)


def _evaluate_case(
    pair: Pair,
    *,
    labels: Sequence[Label],
    names: Sequence[str],
    nsd_tolerance_mm: float,
    groups: Mapping[str, str] | None,
) -> tuple[list[Row], list[Finding]]:
    """Returns the rows of a case and what was found; unreadable files are findings, so that all are named."""
    try:
        reference = read_label_map(pair.reference)
        prediction = None if pair.prediction is None else read_label_map(pair.prediction)
    except DataError as error:
        return [], [Finding(error.code, "error", error.message, pair.case_id, error.hint)]
    geometry = _physical(reference.geometry, prediction.geometry if prediction else None)
    if prediction is None:
        rows = worst_rows(reference.array, geometry, labels, names)
        findings = []
    else:
        rows = evaluate_pair(
            prediction.array,
            reference.array,
            labels,
            geometry.spacing,
            metrics=names,
            nsd_tolerance_mm=nsd_tolerance_mm,
        )
        findings = _unknown_values(pair, prediction.array, reference.array, labels)
    about = {"case_id": pair.case_id, "group": (groups or {}).get(pair.case_id, "")}
    return [{**about, **_sized(row, geometry, names)} for row in rows], findings


def _sized(row: Row, geometry: Geometry, names: Sequence[str]) -> Row:
    """Returns the row with physical sizes in front of the metrics, where the size of a voxel is known."""
    unit, voxel = size_unit(geometry)
    sizes = {}
    if unit != "px":
        kind = "volume_ml" if unit == "ml" else "area_mm2"
        sizes = {f"{mask}_{kind}": row[f"{mask}_voxels"] * voxel for mask in ("reference", "prediction")}
    facts = {name: value for name, value in row.items() if name not in names}
    return {**facts, **sizes, **{name: row[name] for name in names}}


def _physical(reference: Geometry, prediction: Geometry | None) -> Geometry:
    """Returns the geometry that knows the size of a voxel: that of the reference, if either."""
    if reference.unit != "mm" and prediction is not None and prediction.unit == "mm":
        return prediction
    return reference


def _check_geometries(pairs: Sequence[Pair], findings: list[Finding]) -> set[str]:
    """Compares the grids of all pairs from their headers and returns the units in use."""
    units = set()
    for pair in pairs:
        try:
            reference, _ = read_geometry(pair.reference)
            prediction = None if pair.prediction is None else read_geometry(pair.prediction)[0]
        except DataError as error:
            findings.append(Finding(error.code, "error", error.message, pair.case_id, error.hint))
            continue
        units.add(_physical(reference, prediction).unit)
        differences = [] if prediction is None else same_geometry(reference, prediction)
        if differences:
            text = f"Reference and prediction lie on different grids: {'; '.join(differences)}."
            findings.append(Finding("E-EVALUATE-GEOMETRY", "error", text, pair.case_id))
    return units


def _labels_of(references: Path) -> tuple[Label, ...]:
    """Returns the labels that a `dataset.json` in the folder of the references, or above it, names."""
    folder = references if references.is_dir() else references.parent
    for place in (folder, folder.resolve().parent):
        path = place / "dataset.json"
        if path.is_file():
            document = read_json(path)
            if isinstance(document, dict) and "labels" in document:
                return read_metadata(Source(place, document, path)).labels
    return ()


def _values_of(pairs: Sequence[Pair], findings: list[Finding]) -> tuple[Label, ...]:
    values: set[int] = set()
    for pair in pairs:
        for path in (pair.reference, pair.prediction):
            if path is not None:
                try:
                    values.update(count_values(read_label_map(path).array))
                except DataError as error:
                    findings.append(Finding(error.code, "error", error.message, pair.case_id, error.hint))
    _raise_if_errors(findings)
    if not values - {0}:
        raise DataError(
            "Every label map holds background (0) only, so there is nothing to evaluate.",
            code="E-EVALUATE-BACKGROUND",
            hint="Name the labels with --dataset if empty masks are what you expect.",
        )
    return tuple(Label(value, f"label {value}") for value in sorted(values - {0}))


def _unknown_values(
    pair: Pair, prediction: Array, reference: Array, labels: Sequence[Label]
) -> list[Finding]:
    known = {0, *(label.value for label in labels)}
    findings = []
    for what, array in (("prediction", prediction), ("reference", reference)):
        unknown = sorted(set(count_values(array)) - known)
        if unknown:
            shown = listed([str(value) for value in unknown])
            text = f"The {what} holds values that are no label and were not scored: {shown}."
            findings.append(Finding("E-EVALUATE-VALUE", "warning", text, pair.case_id))
    return findings


def _missing(case_id: str) -> Finding:
    text = "There is no prediction for this reference; it counts as missed, with the worst value everywhere."
    return Finding("E-EVALUATE-MISSING", "warning", text, case_id, "Predict the case and evaluate again.")


def _extra(case_id: str) -> Finding:
    return Finding("E-EVALUATE-EXTRA", "info", "There is no reference for this prediction.", case_id)


def _raise_if_errors(findings: Sequence[Finding]) -> None:
    if any(finding.level == "error" for finding in findings):
        raise DatasetError(findings, what="Evaluation", code="E-EVALUATE-REFUSED", hint=_REFUSED_HINT)


def _mapped(job: Any, pairs: Sequence[Pair], workers: int) -> Iterator[Any]:
    """Yields the results in the order of the pairs."""
    if workers <= 1:
        yield from map(job, pairs)
        return
    # Threads: the heavy calls release the lock, nothing is pickled, and callers need no __main__ guard.
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(job, pairs)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
