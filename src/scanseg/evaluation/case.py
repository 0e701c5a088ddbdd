"""One case of an evaluation: its two files, from header to rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scanseg.data.case_label import is_segmentation, read_case_label, read_values, segmentations_grid
from scanseg.data.collect import named_labels
from scanseg.data.image import read_geometry, same_geometry
from scanseg.data.label_values import count_values
from scanseg.data.wording import counted, listed
from scanseg.errors import DataError, DatasetError, Finding
from scanseg.evaluation.pair import Row, evaluate_pair, worst_rows
from scanseg.evaluation.pairing import Pair
from scanseg.evaluation.stats import size_unit
from scanseg.types import Array, Geometry, Label

_REFUSED_HINT = "Mend the files named above; predictions must lie on the grid of their reference."


def check_geometries(pairs: Sequence[Pair], findings: list[Finding]) -> set[str]:
    """Compares the grids of all pairs, from their headers, and returns the units; faults become findings.

    Segmentations are put on their grid when they are read, and refused then if they do not lie on it.
    """
    units = set()
    alone = 0
    for pair in pairs:
        try:
            if grid := _grid_of(pair):
                units.add(grid.unit)
                alone += _whole_of(pair) is None
                continue
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
    if alone:
        findings.append(_alone(alone))
    return units


def _grid_of(pair: Pair) -> Geometry | None:
    """Returns the grid that the segmentations of a pair are read on; None for label maps, which have one.

    It is that of the label map beside the segmentation, else of the image, else from the first to the last
    slice that a segmentation of the pair holds.
    """
    segmentations = [file for file in _files(pair) if is_segmentation(file)]
    if not segmentations:
        return None
    whole = _whole_of(pair)
    return segmentations_grid(segmentations) if whole is None else read_geometry(whole)[0]


def _whole_of(pair: Pair) -> Path | None:
    """Returns the file of a pair that has all slices: a label map, else the image."""
    return next((file for file in _files(pair) if not is_segmentation(file)), pair.image)


def _files(pair: Pair) -> list[Path]:
    return [pair.reference] if pair.prediction is None else [pair.reference, pair.prediction]


def _alone(count: int) -> Finding:
    return Finding(
        "E-EVALUATE-SLICES",
        "info",
        f"The segmentations of {counted(count, 'case')} were measured from the first to the last slice that "
        "they hold; accuracy, specificity, MSE and the worst distances depend on the size of the image.",
        hint="Name the dataset of the images with --dataset.",
    )


def labels_in(pairs: Sequence[Pair]) -> tuple[Label, ...]:
    """Returns a label for every value above 0 in the files, called like the segments of that number, or
    `label V`.

    Raises:
        DataError: A file cannot be read, segments are numbered or called differently from file to file, some
            files are label maps, whose values have no names, or all files hold background only.
    """
    if len({is_segmentation(file) for pair in pairs for file in _files(pair)}) > 1:
        raise DataError(
            "Segments are told by their names, and nothing names the values of the label maps beside them.",
            code="E-EVALUATE-LABELS",
            hint="Name the dataset with --dataset, or put its dataset.json beside the references.",
        )
    findings: list[Finding] = []
    names: dict[int, set[str]] = {}
    for pair in pairs:
        for path in _files(pair):
            try:
                for value, name in read_values(path).items():
                    names.setdefault(value, set()).update([name] if name else [])
            except DataError as error:
                findings.append(Finding(error.code, "error", error.message, pair.case_id, error.hint))
    labels = named_labels(names, findings)
    raise_if_errors(findings)
    if not labels:
        raise DataError(
            "Every label map holds background (0) only, so there is nothing to evaluate.",
            code="E-EVALUATE-BACKGROUND",
            hint="Name the labels with --dataset if empty masks are what you expect.",
        )
    return labels


def evaluate_case(
    pair: Pair,
    *,
    labels: Sequence[Label],
    names: Sequence[str],
    nsd_tolerance_mm: float,
    groups: Mapping[str, str] | None,
) -> tuple[list[Row], list[Finding]]:
    """Returns the rows of a case and what was found; unreadable files are findings, so that all are named."""
    try:
        grid = _grid_of(pair)
        reference = read_case_label(pair.reference, labels, grid)
        prediction = None if pair.prediction is None else read_case_label(pair.prediction, labels, grid)
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
        sizes = {
            f"{mask}_{kind}": round(row[f"{mask}_voxels"] * voxel, 9) for mask in ("reference", "prediction")
        }
    facts = {name: value for name, value in row.items() if name not in names}
    return {**facts, **sizes, **{name: row[name] for name in names}}


def _physical(reference: Geometry, prediction: Geometry | None) -> Geometry:
    """Returns the geometry that knows the size of a voxel: that of the reference, if either."""
    if reference.unit != "mm" and prediction is not None and prediction.unit == "mm":
        return prediction
    return reference


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


def raise_if_errors(findings: Sequence[Finding]) -> None:
    """Does nothing without errors.

    Raises:
        DatasetError: There are errors; it carries all findings.
    """
    if any(finding.level == "error" for finding in findings):
        raise DatasetError(findings, what="Evaluation", code="E-EVALUATE-REFUSED", hint=_REFUSED_HINT)
