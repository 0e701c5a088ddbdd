"""Masks against references: per case and label, and summed up."""

from __future__ import annotations

import csv
import io
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scanseg.data.layouts.found import Source
from scanseg.data.layouts.metadata import read_metadata
from scanseg.errors import DataError, Finding
from scanseg.evaluation.case import check_geometries, evaluate_case, labels_in, raise_if_errors
from scanseg.evaluation.pair import Row, checked_metrics, evaluate_pair
from scanseg.evaluation.pairing import Pair, match_files
from scanseg.evaluation.stats import foreground
from scanseg.evaluation.summary import describe_metrics, summarise
from scanseg.files import read_json, write_json, write_text
from scanseg.progress import Report, silent, track
from scanseg.types import Label

__all__ = ["Evaluation", "evaluate_folder", "evaluate_pair", "evaluate_pairs"]

SCHEMA_VERSION = 1


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
    images: Mapping[str, Path] | None = None,
    report: Report = silent,
    workers: int = 0,
) -> Evaluation:
    """Evaluates every reference of a folder, with or without a prediction.

    Files are matched by name without the ending, see `pairing.match_files`. A reference without a prediction
    gets the worst value of every metric: it is a failure, never an absent case. Predictions without a
    reference are listed.

    Args:
        predictions: Folder of label maps and DICOM segmentations (CASE.dcm), or one file.
        references: The same.
        labels: The classes; without them those of the `dataset.json` in the folder of the references or
            above it, else every value or segment that occurs (not where label maps and segmentations meet).
        metrics: As in `evaluate_pairs`, and so are the others.
        nsd_tolerance_mm: Tolerance of the normalised surface Dice.
        groups: case -> patient.
        images: case -> image; see `Pair.image`.
        report: Told about each case.
        workers: Threads that work on cases.

    Raises:
        DataError: A path is missing, nothing matches, or as in `evaluate_pairs`.
        UsageError: A metric or the tolerance makes no sense.
    """
    matching = match_files(Path(predictions), Path(references))
    return evaluate_pairs(
        [replace(pair, image=(images or {}).get(pair.case_id)) for pair in matching.pairs],
        labels=labels or _labels_of(Path(references)) or None,
        metrics=metrics,
        nsd_tolerance_mm=nsd_tolerance_mm,
        groups=groups,
        report=report,
        workers=workers,
        extra_predictions=matching.extra_predictions,
        findings=matching.findings,
    )


def evaluate_pairs(
    pairs: Sequence[Pair],
    *,
    labels: Sequence[Label] | None = None,
    metrics: Sequence[str] | None = None,
    nsd_tolerance_mm: float = 1.0,
    groups: Mapping[str, str] | None = None,
    report: Report = silent,
    workers: int = 0,
    extra_predictions: Sequence[str] = (),
    findings: Sequence[Finding] = (),
) -> Evaluation:
    """Evaluates given pairs of files; one without a prediction gets the worst value of every metric.

    Args:
        pairs: At least one.
        labels: The classes, which tell segments by their names; without them every value that occurs.
        metrics: Names in METRICS; all by default.
        nsd_tolerance_mm: Tolerance of the normalised surface Dice.
        groups: case -> patient, for intervals that know which cases belong together.
        report: Told about each case (stage `evaluate`).
        workers: Threads that work on cases; results do not depend on it.
        extra_predictions: Cases to list as predicted without a reference.
        findings: What is known already; an error among it refuses the evaluation.

    Raises:
        DataError: There is no pair, a file cannot be read, the grids of a pair differ, or a segment is none
            of the labels; every case at fault is named.
        UsageError: A metric or the tolerance makes no sense.
    """
    names = checked_metrics(metrics)
    if not pairs:
        raise DataError("There is no reference to evaluate against.", code="E-EVALUATE-EMPTY")
    found = list(findings)
    units = check_geometries(pairs, found)
    raise_if_errors(found)
    if labels is None:
        labels = labels_in(pairs)
    job = partial(evaluate_case, labels=labels, names=names, nsd_tolerance_mm=nsd_tolerance_mm, groups=groups)
    rows: list[Row] = []
    results = track(_mapped(job, pairs, workers), stage="evaluate", report=report, total=len(pairs))
    for case_rows, case_findings in results:
        rows += case_rows
        found += case_findings
    raise_if_errors(found)
    missing = [pair.case_id for pair in pairs if pair.prediction is None]
    found += [_missing(case_id) for case_id in missing]
    found += [_extra(case_id) for case_id in extra_predictions]
    unit = units.pop() if len(units) == 1 else "mm or px"
    libraries = {name: version(name) for name in ("scanseg", "numpy", "scipy")}
    summary = {
        "schema_version": SCHEMA_VERSION,
        "versions": {"python": platform.python_version(), **libraries},
        "n_cases": len(pairs),
        "missing_predictions": missing,
        "extra_predictions": list(extra_predictions),
        "unit": unit,
        "nsd_tolerance_mm": nsd_tolerance_mm,
        "metrics": describe_metrics(names, unit),
        **summarise(rows, foreground(labels), names, groups=groups),
        "findings": [finding.as_dict() for finding in found],
    }
    return Evaluation(rows, summary, found)


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


def _missing(case_id: str) -> Finding:
    text = "There is no prediction for this reference; it counts as missed, with the worst value everywhere."
    return Finding("E-EVALUATE-MISSING", "warning", text, case_id, "Predict the case and evaluate again.")


def _extra(case_id: str) -> Finding:
    return Finding("E-EVALUATE-EXTRA", "info", "There is no reference for this prediction.", case_id)


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
