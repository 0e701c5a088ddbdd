"""The verb `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scanseg.data.dataset import load_dataset
from scanseg.evaluation.evaluate import Evaluation, evaluate_folder
from scanseg.progress import Report, silent
from scanseg.types import Label


def evaluate(
    predictions: Path | str,
    references: Path | str,
    *,
    output: Path | str | None = None,
    dataset: Path | str | None = None,
    metrics: Sequence[str] | None = None,
    nsd_tolerance_mm: float = 1.0,
    workers: int = 0,
    report: Report = silent,
) -> tuple[Evaluation, Path]:
    """Measures masks against references and writes cases.csv and summary.json.

    Args:
        predictions: Folder of masks, or one mask: label maps, and DICOM segmentations (CASE.dcm).
        references: Folder of references with the same names (formats may differ), or one file.
        output: Folder to write to; the folder of the predictions by default.
        dataset: Names the labels, and the groups for the intervals; its images give segmentations the slices
            that they leave out. Without it labels are named by value, segments by themselves.
        metrics: Names of metrics; all by default.
        nsd_tolerance_mm: Tolerance of the normalised surface Dice.
        workers: Threads that work on cases.
        report: Told about each case.

    Raises:
        DataError: A file cannot be read, grids of a pair differ, or a segment is none of the labels.
    """
    labels: tuple[Label, ...] | None = None
    groups: dict[str, str] | None = None
    images: dict[str, Path] = {}
    if dataset is not None:
        known = load_dataset(dataset)
        labels = known.labels
        cases = (*known.cases, *known.unlabelled, *known.test_cases)
        groups = {case.case_id: case.group for case in cases if case.group}
        images = {case.case_id: case.images[0] for case in cases}
    evaluation = evaluate_folder(
        Path(predictions),
        Path(references),
        labels=labels,
        metrics=metrics,
        nsd_tolerance_mm=nsd_tolerance_mm,
        groups=groups or None,
        images=images,
        workers=workers,
        report=report,
    )
    beside = Path(predictions) if Path(predictions).is_dir() else Path(predictions).parent
    folder = Path(output) if output else beside
    evaluation.save(folder)
    return evaluation, folder
