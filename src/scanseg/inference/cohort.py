"""Many images, one after another: finished ones are skipped, failures are listed, nothing is lost."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scanseg.data.dicom_files import content_sha256
from scanseg.data.image import write_array
from scanseg.errors import Error, Finding, ModelError
from scanseg.files import read_json, sha256, write_json, write_text
from scanseg.inference.cases import ImageCase
from scanseg.inference.predict import Model, Prediction
from scanseg.inference.segmentation import save_segmentation
from scanseg.progress import Eta, Progress, Report, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictOptions:
    """How each image is predicted; a change makes finished cases be predicted again.

    Attributes:
        probabilities: Also write CASE_prob_LABEL for every label but background.
        mirror: Average over mirrored images.
        step_size: Step of the sliding window in patches, in (0, 1].
        nan_fill: Replaces NaN and infinite voxels; None refuses them.
        spacing: Voxel size for files that carry none.
    """

    probabilities: bool = False
    mirror: bool = False
    step_size: float = 0.5
    nan_fill: float | None = None
    spacing: tuple[float, ...] | None = None


@dataclass
class CohortResult:
    """What became of the images.

    Attributes:
        done: Cases predicted now.
        skipped: Cases whose valid mask was there already.
        failures: Cases that failed, with the reason.
        citation: Of the data the model was trained on.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: list[Finding] = field(default_factory=list)
    citation: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


def predict_cohort(
    model: Model,
    cases: Sequence[ImageCase],
    output: Path,
    *,
    options: PredictOptions | None = None,
    preview: bool = True,
    overwrite: bool = False,
    fail_fast: bool = False,
    stage: str = "predict",
    report: Report = silent,
) -> CohortResult:
    """Predicts cases into a folder: masks, stats.json, previews/, and failures.csv if any failed.

    A case is finished when its mask is there, unchanged, and was made from the same image bytes by the same
    weights with the same options.

    Args:
        model: The loaded model.
        cases: From `find_cases`.
        output: Folder for the masks.
        options: How each image is predicted.
        preview: Also write previews/CASE.png.
        overwrite: Predict finished cases again.
        fail_fast: Raise the first failure instead of listing it.
        stage: Name of the stage in progress reports.
        report: Told after each case.
    """
    options = options or PredictOptions()
    result = CohortResult()
    eta = Eta(len(cases))
    report(Progress(stage, 0, len(cases)))
    for count, case in enumerate(cases, start=1):
        try:
            if not overwrite and _is_finished(case, model, output, options):
                result.skipped.append(case.case_id)
            else:
                _predict_case(model, case, output, options, preview)
                result.done.append(case.case_id)
        except (Error, MemoryError, OSError) as error:
            if fail_fast:
                raise
            result.failures.append(_as_finding(case, error))
        report(Progress(stage, count, len(cases), eta(count), case.case_id))
    _write_summaries(output, cases, result)
    return result


def _predict_case(
    model: Model, case: ImageCase, output: Path, options: PredictOptions, preview: bool
) -> None:
    started_s = time.perf_counter()
    marker = _marker(output, case)
    marker.unlink(missing_ok=True)
    inputs = [content_sha256(path) for path in case.images]
    prediction = model.predict(
        case.images,
        probabilities=options.probabilities,
        mirror=options.mirror,
        step_size=options.step_size,
        nan_fill=options.nan_fill,
        spacing=options.spacing,
    )
    mask = output / case.mask_name
    _save_mask(prediction, case, mask, model)
    if options.probabilities:
        _save_probabilities(prediction, case, output)
    if preview:
        _save_preview(case, prediction, output / "previews" / f"{case.case_id}.png", options)
    write_json(
        marker,
        {
            **_key(case, model, options, inputs),
            "mask_sha256": sha256(mask),
            "statistics": prediction.statistics(),
            "notes": list(prediction.notes),
            "seconds": round(time.perf_counter() - started_s, 3),
        },
    )


def _save_mask(prediction: Prediction, case: ImageCase, path: Path, model: Model) -> None:
    if path.suffix == ".dcm":
        save_segmentation(path, prediction, case.images[0], model)
    else:
        prediction.save(path)


def _save_probabilities(prediction: Prediction, case: ImageCase, output: Path) -> None:
    chances = prediction.probabilities
    if chances is None:
        raise ModelError("The prediction carries no probabilities.", code="E-PREDICT-PROBABILITIES")
    suffix = ".nii.gz" if prediction.geometry.spatial_dims == 3 else ".tif"
    for index, label in enumerate(prediction.labels):
        if index > 0:
            name = f"{case.case_id}_prob-{label.value}{suffix}"
            write_array(output / "probabilities" / name, chances[index], prediction.geometry)


def _save_preview(case: ImageCase, prediction: Prediction, path: Path, options: PredictOptions) -> None:
    from scanseg.data.image import read_channels
    from scanseg.reporting.figures import preview

    image = read_channels(case.images, nan_fill=options.nan_fill, spacing=options.spacing)
    preview(image, prediction.mask, prediction.labels, path)


def _key(case: ImageCase, model: Model, options: PredictOptions, inputs: list[str]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "inputs_sha256": inputs,
        "weights_sha256": list(model.weights_sha256),
        "options": {**asdict(options), "spacing": options.spacing and list(options.spacing)},
        "mask": case.mask_name,
    }


def _is_finished(case: ImageCase, model: Model, output: Path, options: PredictOptions) -> bool:
    marker, mask = _marker(output, case), output / case.mask_name
    if not marker.is_file() or not mask.is_file():
        return False
    try:
        found = read_json(marker)
    except Error:
        return False
    inputs = [content_sha256(path) for path in case.images]
    wanted = _key(case, model, options, inputs)
    return {key: found.get(key) for key in wanted} == wanted and found.get("mask_sha256") == sha256(mask)


def _marker(output: Path, case: ImageCase) -> Path:
    return output / ".scanseg" / f"{case.case_id}.json"


def _as_finding(case: ImageCase, error: BaseException) -> Finding:
    if isinstance(error, Error):
        return Finding(error.code, "error", error.message, case.case_id, error.hint)
    if isinstance(error, MemoryError):
        hint = "Close other programs, or use a machine with more memory."
        return Finding("E-PREDICT-MEMORY", "error", "Not enough memory for this image.", case.case_id, hint)
    hint = "Check the disk and the permissions of the output folder, then run the command again."
    return Finding("E-PREDICT-IO", "error", f"Reading or writing failed: {error}.", case.case_id, hint)


def _write_summaries(output: Path, cases: Sequence[ImageCase], result: CohortResult) -> None:
    failed = {finding.case_id for finding in result.failures}
    statistics: dict[str, Any] = {}
    for case in cases:
        marker = _marker(output, case)
        if case.case_id not in failed and marker.is_file():
            found = read_json(marker)
            statistics[case.case_id] = {
                "mask": found["mask"],
                **found["statistics"],
                "notes": found["notes"],
                "seconds": found["seconds"],
            }
    previous = output / "stats.json"
    older = read_json(previous).get("cases", {}) if previous.is_file() else {}
    merged = {**{k: v for k, v in older.items() if k not in failed}, **statistics}
    write_json(
        previous,
        {"schema_version": 1, "notice": "Research software. Not a medical device.", "cases": merged},
    )
    table = output / "failures.csv"
    if not result.failures:
        table.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["case", "code", "text", "hint"])
    writer.writerows((f.case_id, f.code, f.text, f.hint) for f in result.failures)
    write_text(table, text.getvalue())
