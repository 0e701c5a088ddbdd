"""The models that are served, as their run folders describe them. JSON only: no weights are read here."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanseg.errors import DataError, ModelError
from scanseg.evaluation.cases_file import read_cases
from scanseg.evaluation.pair import Row
from scanseg.evaluation.size_interval import SizeCalibration
from scanseg.files import read_json
from scanseg.reporting.palette import label_colours
from scanseg.types import Label

NOTICE = "Research software. Not a medical device."


@dataclass(frozen=True)
class ServedModel:
    """Facts of a run folder.

    Attributes:
        id: Name in URLs.
        version: First digits of the SHA-256 of the weights (of the first fold).
        labels: Without the background.
        cohort: Label value -> sizes of the training labels, sorted; empty if the run does not hold them.
        size_unit: `ml`, `mm2` or `px` of the cohort.
        validation: Label name -> mean Dice on held-out cases; empty without.
        calibration: Label value -> how far sizes were off in held-out cases.
    """

    id: str
    run: Path
    name: str
    version: str
    sha256: tuple[str, ...]
    spatial_dims: int
    channels: tuple[str, ...]
    labels: tuple[Label, ...]
    network: str
    licence: str
    citation: str
    modality: str
    cohort: dict[int, list[float]]
    size_unit: str
    validation: dict[str, float]
    validation_cases: int
    calibration: dict[int, SizeCalibration]
    spacing_range: dict[str, list[float]] | None
    folds: int

    @property
    def colours(self) -> dict[int, str]:
        """Colour of each label, as in the pictures."""
        return label_colours(self.labels)


def model_ids(runs: Sequence[Path]) -> dict[str, Path]:
    """Returns a short name for each run folder, made from the folder's name.

    Example:
        >>> list(model_ids([Path("runs/My Heart"), Path("old/my heart")]))
        ['my-heart', 'my-heart-2']
    """
    found: dict[str, Path] = {}
    for run in runs:
        base = re.sub(r"[^a-z0-9]+", "-", run.resolve().name.lower()).strip("-")[:40] or "model"
        name, number = base, 2
        while name in found:
            name, number = f"{base}-{number}", number + 1
        found[name] = run
    return found


def describe_model(model_id: str, run: Path) -> ServedModel:
    """Returns the facts of a run folder, or of a folder of folds.

    Raises:
        ModelError: It is no finished run.
    """
    folders = _members(run)
    try:
        configs = [read_json(folder / "config.json") for folder in folders]
        first = configs[0]
        network = first["network"]
        shas = tuple(str(config["weights_sha256"]) for config in configs)
        labels = tuple(Label(int(e["value"]), str(e["name"])) for e in first["labels"] if e["value"] != 0)
        dims, name = int(network["spatial_dims"]), str(network["name"])
        channels = tuple(str(channel) for channel in first["channel_names"])
    except (DataError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"The description of the model in {run} cannot be read.",
            code="E-MODEL-CONFIG",
            hint="Give the folder that `scanseg train -o` wrote.",
        ) from error
    dataset = _optional(folders[0] / "dataset.json")
    cohort, unit = _cohort(_optional(folders[0] / "check.json"), labels)
    held_out = _held_out(folders)
    return ServedModel(
        id=model_id,
        run=run,
        name=str(first.get("dataset_name") or model_id),
        version=shas[0][:12],
        sha256=shas,
        spatial_dims=dims,
        channels=channels,
        labels=labels,
        network=name,
        licence=str(dataset.get("licence") or dataset.get("license") or ""),
        citation=str(dataset.get("citation") or ""),
        modality=str(dataset.get("modality") or ""),
        cohort=cohort,
        size_unit=unit,
        validation=_mean_dice(held_out),
        validation_cases=len({row["case_id"] for row in held_out}),
        calibration={label.value: SizeCalibration.of(held_out, label.value) for label in labels},
        spacing_range=_spacings(_optional(folders[0] / "check.json")),
        folds=len(folders),
    )


def _members(run: Path) -> list[Path]:
    if (run / "model.safetensors").is_file():
        return [run]
    folds = sorted(path.parent for path in run.glob("fold_*/model.safetensors"))
    if not folds:
        raise ModelError(
            f"{run} is not a finished run: it holds no model.safetensors and no fold_*/model.safetensors.",
            code="E-MODEL-MISSING",
            hint="Give the folder that `scanseg train -o` wrote; continue a stopped run by the same command.",
        )
    return folds


def _optional(path: Path) -> dict[str, Any]:
    """Returns a JSON object that a run may lack or that may be damaged: then nothing is known."""
    try:
        found = read_json(path) if path.is_file() else {}
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


def _cohort(check: dict[str, Any], labels: Sequence[Label]) -> tuple[dict[int, list[float]], str]:
    """Returns the sizes of each label in the labelled training cases that hold it, in ml, mm2 or px."""
    found: dict[int, list[float]] = {label.value: [] for label in labels}
    units = set()
    for case in check.get("cases") or []:
        sizes = case.get("label_sizes") or {}
        if case.get("part") != "training" or not sizes:
            continue
        units.add(case.get("size_unit"))
        for label in labels:
            size = float(sizes.get(str(label.value), 0) or 0)
            if size > 0:
                found[label.value].append(size / 1000 if case.get("size_unit") == "mm3" else size)
    if len(units) != 1:
        return {}, ""
    unit = units.pop()
    names = {"mm3": "ml", "mm2": "mm2"}
    return {value: sorted(sizes) for value, sizes in found.items() if sizes}, names.get(str(unit), "px")


def _held_out(folders: Sequence[Path]) -> list[Row]:
    """Returns the scores of the held-out cases of all folds, none where a table is missing or damaged."""
    rows: list[Row] = []
    for folder in folders:
        with contextlib.suppress(DataError):
            rows += read_cases(folder / "validation" / "cases.csv")
    return rows


def _mean_dice(rows: Sequence[Row]) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for row in rows:
        if not math.isnan(dice := row.get("dice", math.nan)):
            scores.setdefault(row["name"], []).append(dice)
    return {name: round(sum(values) / len(values), 4) for name, values in scores.items()}


def _spacings(check: dict[str, Any]) -> dict[str, list[float]] | None:
    statistics = check.get("statistics") or {}
    spacing = statistics.get("spacing") or {}
    if statistics.get("spacing_unit") != "mm" or "min" not in spacing or "max" not in spacing:
        return None
    return {"low": [float(v) for v in spacing["min"]], "high": [float(v) for v in spacing["max"]]}
