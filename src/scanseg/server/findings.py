"""From what was measured to what is said: the result document of a prediction."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scanseg.evaluation.size_interval import COVERAGE, SizeCalibration
from scanseg.files import sha256
from scanseg.server.models import NOTICE, ServedModel
from scanseg.server.next_steps import Table, apply_tables, tables_for

_WINDOWS = {  # of CT, in Hounsfield units; offered where the intensities look like them
    "soft tissue": (-160.0, 240.0),
    "bone": (-450.0, 1050.0),
    "lung": (-1350.0, 150.0),
    "brain": (0.0, 80.0),
}

_ROUTES = {"preview": "preview.png", "segmentation": "dicom-seg"}


def make_result(job_id: str, found: dict[str, Any], model: ServedModel, folder: Path) -> dict[str, Any]:
    """Returns the result document.

    Args:
        job_id: Id of the prediction.
        found: From `pipeline.serving.serve_image`.
        model: The model that was used.
        folder: Result folder with the files written so far.
    """
    labels = [_label(entry, model) for entry in found["labels"]]
    tables = tables_for([label.name for label in model.labels], model.run)
    case, per_label = facts_of(found, labels, model)
    said = apply_tables(tables, case, per_label)
    base = f"/api/v1/predictions/{job_id}"
    return {
        "id": job_id,
        "disclaimer": NOTICE,
        "model": {
            "id": model.id, "name": model.name, "version": model.version, "network": model.network,
            "licence": model.licence, "citation": model.citation, "sha256": list(model.sha256),
        },
        "input": {
            **found["input"],
            "channels": list(model.channels),
            "modality": model.modality,
            "checks": [
                {"code": "W-PREDICT-NOTE", "level": "warning", "text": note} for note in found["notes"]
            ],
        },
        "labels": labels,
        "insights": [_shown(entry) for entry in said if entry["kind"] == "insight"],
        "next_steps": [_shown(entry) for entry in said if entry["kind"] == "next_step"],
        "information": _information(tables, found["labels"]),
        "rule_tables": [{"name": table.name, "version": table.version} for table in tables],
        "quality": {
            "status": "review" if any(entry["review"] for entry in said) else "ok",
            "flags": sorted({entry["code"] for entry in said if entry["review"]}),
            "expected_dice": None,
            "expected_dice_reason": "No model that estimates the Dice of a single case is served.",
            "validation_dice": model.validation,
            "validation_cases": model.validation_cases,
        },
        "view": view_facts(found, folder),
        "files": _files(folder, base),
        "timing_s": found["timing_s"],
    }  # fmt: skip


def _label(entry: dict[str, Any], model: ServedModel) -> dict[str, Any]:
    return {
        **entry,
        "colour": model.colours.get(entry["value"], "#E69F00"),
        "interval": _interval(_size(entry), model.calibration.get(entry["value"])),
        "training": _compared(_size(entry), model.cohort.get(entry["value"]), model.size_unit),
    }


def _interval(size: float, calibration: SizeCalibration | None) -> dict[str, Any] | None:
    """Returns between which sizes the true one lies, in the unit of the size; None where nobody knows."""
    found = calibration.interval(size) if calibration is not None and size else None
    if calibration is None or found is None:
        return None
    low, high = (float(f"{bound:.4g}") for bound in found)
    return {"low": low, "high": high, "coverage": COVERAGE, "patients": calibration.groups}


def _size(entry: dict[str, Any]) -> float:
    return float(entry.get("volume_ml", entry.get("area_mm2", entry.get("area_px", entry["voxels"]))))


def _compared(size: float, cohort: list[float] | None, unit: str) -> dict[str, Any] | None:
    """Returns where a size lies among the sizes of the training labels, None without them."""
    if not cohort:
        return None
    below, through = bisect.bisect_left(cohort, size), bisect.bisect_right(cohort, size)
    middle = len(cohort) // 2
    return {
        "unit": unit,
        "cases": len(cohort),
        "low": cohort[0],
        "median": cohort[middle] if len(cohort) % 2 else (cohort[middle - 1] + cohort[middle]) / 2,
        "high": cohort[-1],
        "values": [round(value, 4) for value in cohort],
        "percentile": round(100 * (below + through) / 2 / len(cohort), 1),
    }


def facts_of(
    found: dict[str, Any], labels: Sequence[dict[str, Any]], model: ServedModel
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the facts of the case and of each label that conditions may ask for."""
    spacing = found["input"]["spacing"] if found["input"]["unit"] == "mm" else None
    present = [label for label in labels if label["voxels"]]
    sure = [label["uncertainty"] for label in present if label["uncertainty"] is not None]
    volumes = [float(label["volume_ml"]) for label in labels if "volume_ml" in label]
    case = {
        "case.spatial_dims": found["input"]["spatial_dims"],
        "case.empty": not present,
        "case.labels_found": len(present),
        "case.labels_missing": len(labels) - len(present),
        "case.total_ml": sum(volumes) if len(volumes) == len(labels) else None,
        "case.notes": len(found["notes"]),
        "case.spacing_known": spacing is not None,
        "case.largest_spacing_mm": max(spacing) if spacing else None,
        "case.smallest_spacing_mm": min(spacing) if spacing else None,
        "case.spacing_ratio": max(spacing) / min(spacing) if spacing else None,
        "case.outside_spacing": any("outside the training range" in note for note in found["notes"]),
        "case.uncertainty": sum(sure) / len(sure) if sure else None,
        "case.components": sum(label["components"] for label in labels),
    }
    return case, [_facts_of_label(label, model) for label in labels]


def _facts_of_label(label: dict[str, Any], model: ServedModel) -> dict[str, Any]:
    size, training, cohort = _size(label), label["training"], model.cohort.get(label["value"], [])
    largest = next((label[key] for key in label if key.startswith("largest_")), None)
    most = max((len(sizes) for sizes in model.cohort.values()), default=0)
    volume = label.get("volume_ml")
    return {
        "label.name": label["name"],
        "label.value": label["value"],
        "label.present": bool(label["voxels"]),
        "label.voxels": label["voxels"],
        "label.volume_ml": volume,
        "label.area_mm2": label.get("area_mm2"),
        "label.components": label["components"],
        "label.largest_share": largest / size if size and largest is not None else None,
        "label.mean_component_ml": volume / label["components"] if volume and label["components"] else None,
        "label.touches_border": label["touches_border"],
        "label.left_share": label["left_share"],
        "label.score": label["score"],
        "label.uncertainty": label["uncertainty"],
        "label.training_known": training is not None,
        "label.training_cases": training and training["cases"],
        "label.training_low": training and training["low"],
        "label.training_high": training and training["high"],
        "label.training_median": training and training["median"],
        "label.size": size,
        "label.below_training": None if training is None else size < training["low"],
        "label.above_training": None if training is None else size > training["high"],
        "label.percentile": training and training["percentile"],
        "label.in_every_training_case": bool(cohort) and len(cohort) == most if model.cohort else None,
        "label.validation_dice": model.validation.get(label["name"]),
        "place": label.get("centroid_mm"),
    }


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    shown = {key: entry[key] for key in ("code", "text", "label", "reason", "source", "priority")}
    if entry["kind"] == "insight":
        return {**shown, "evidence": entry["because"]}
    return {**shown, "because": entry["because"], "where_mm": entry["where_mm"], "review": entry["review"]}


def _information(tables: Sequence[Table], labels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns what is known about labels that were found; it describes the label, not this image."""
    return [
        {"label": label["value"], "name": label["name"], **entry}
        for label in labels
        if label["voxels"]
        for table in tables
        for entry in table.information.get(str(label["name"]).lower(), [])
    ]


def view_facts(found: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns what a viewer of slices needs to know."""
    from scanseg.pipeline.serving import read_view
    from scanseg.server.slices import describe_view

    arrays, geometry = read_view(folder / "view")
    windows = {name: list(pair) for name, pair in found["windows"].items()}
    low, high = windows["full"]
    if low <= -500 and high >= 200:
        windows |= {name: list(pair) for name, pair in _WINDOWS.items()}
    return {**describe_view(arrays, geometry), "windows": windows}


def _files(folder: Path, base: str) -> dict[str, dict[str, Any]]:
    """Returns the files of a result with their sizes and hashes, by what they are."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).as_posix()
        if not path.is_file() or inside.startswith("view/"):
            continue
        stem = path.name.split(".")[0]
        key = f"probabilities/{stem}" if inside.startswith("probabilities/") else stem
        href = f"{base}/{_ROUTES.get(key, key)}"
        files[key] = {"href": href, "name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
    files["report"] = {"href": f"{base}/report.html", "name": "report.html"}
    files["report_pdf"] = {"href": f"{base}/report.pdf", "name": "report.pdf"}
    files["zip"] = {"href": f"{base}/all.zip", "name": "all.zip"}
    return files
