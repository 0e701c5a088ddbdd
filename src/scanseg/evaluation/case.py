"""One case of an evaluation: its two files, from header to rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scanseg.data.image import read_geometry, read_label_map, same_geometry
from scanseg.data.label_values import count_values
from scanseg.data.wording import listed
from scanseg.errors import DataError, DatasetError, Finding
from scanseg.evaluation.pair import Row, evaluate_pair, worst_rows
from scanseg.evaluation.pairing import Pair
from scanseg.evaluation.stats import size_unit
from scanseg.types import Array, Geometry, Label

_REFUSED_HINT = "Mend the files named above; predictions must lie on the grid of their reference."


def check_geometries(pairs: Sequence[Pair], findings: list[Finding]) -> set[str]:
    """Compares the grids of all pairs, from their headers, and returns the units; faults become findings."""
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


def labels_in(pairs: Sequence[Pair]) -> tuple[Label, ...]:
    """Returns a label `label V` for every value above 0 in the files.

    Raises:
        DataError: A file cannot be read, or all hold background only.
    """
    findings: list[Finding] = []
    values: set[int] = set()
    for pair in pairs:
        for path in (pair.reference, pair.prediction):
            if path is not None:
                try:
                    values.update(count_values(read_label_map(path).array))
                except DataError as error:
                    findings.append(Finding(error.code, "error", error.message, pair.case_id, error.hint))
    raise_if_errors(findings)
    if not values - {0}:
        raise DataError(
            "Every label map holds background (0) only, so there is nothing to evaluate.",
            code="E-EVALUATE-BACKGROUND",
            hint="Name the labels with --dataset if empty masks are what you expect.",
        )
    return tuple(Label(value, f"label {value}") for value in sorted(values - {0}))


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
