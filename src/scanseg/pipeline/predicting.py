"""The verb `predict`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scanseg.data.dicom_files import is_series_path
from scanseg.errors import DataError, UsageError
from scanseg.inference.cases import ImageCase, find_cases
from scanseg.inference.cohort import CohortResult, PredictOptions, predict_cohort
from scanseg.inference.predict import Model
from scanseg.progress import Report, silent

FORMATS = ("nii.gz", "nii", "nrrd", "mha", "png", "tif", "dicom-seg")


def predict(
    images: Path | str | Sequence[Path | str],
    model: Path | str | Sequence[Path | str] | Model,
    output: Path | str,
    *,
    format: str | None = None,
    weights: str = "final",
    preview: bool = True,
    overwrite: bool = False,
    fail_fast: bool = False,
    device: str = "auto",
    threads: int | None = None,
    report: Report = silent,
    **options: Any,
) -> CohortResult:
    """Segments images into a folder: one mask per case, previews/, stats.json, failures.csv if any failed.

    Args:
        images: Image files, folders of images, and folders or zip archives of DICOM series.
        model: Run folders (several make an ensemble), or a loaded `Model`.
        output: Folder for the masks; named CASE with the ending of the input.
        format: Form of the masks instead of that of the input: nii.gz, nii, nrrd, mha, png, tif, or for DICOM
            series dicom-seg (they are NIfTI otherwise).
        weights: `final` or `best`.
        preview: Also write a picture of every mask.
        overwrite: Predict finished cases again.
        fail_fast: Raise the first failure.
        device: As in `Model`; so is `threads`.
        report: Told after each case.
        **options: Fields of `PredictOptions`.

    Raises:
        UsageError: A path or option is wrong, or masks would overwrite the images.
        ModelError: The model cannot be loaded.
    """
    if format is not None and format.lstrip(".") not in FORMATS:
        raise UsageError(
            f"Unknown mask format {format!r}.", code="E-PREDICT-FORMAT", hint=f"Use {', '.join(FORMATS)}."
        )
    known = [field.name for field in dataclasses.fields(PredictOptions)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(
            f"Unknown option {unknown[0]!r}.", code="E-PREDICT-OPTION", hint=f"Known: {', '.join(known)}."
        )
    folder = Path(output)
    loaded = (
        model if isinstance(model, Model) else Model(model, device=device, threads=threads, weights=weights)
    )
    inputs = [Path(images)] if isinstance(images, str | Path) else [Path(item) for item in images]
    suffix = None if format is None else ".dcm" if format == "dicom-seg" else f".{format.lstrip('.')}"
    cases = find_cases(inputs, channels=len(loaded.channel_names), suffix=suffix)
    _refuse_overwriting_images(cases, folder)
    _refuse_segmentations_of_others(cases)
    require_writable(folder)
    result = predict_cohort(
        loaded,
        cases,
        folder,
        options=PredictOptions(**options),
        preview=preview,
        overwrite=overwrite,
        fail_fast=fail_fast,
        report=report,
    )
    return dataclasses.replace(result, citation=loaded.citation)


def _refuse_overwriting_images(cases: Sequence[ImageCase], output: Path) -> None:
    sources = {path.resolve() for case in cases for path in case.images}
    for case in cases:
        target = (output / case.mask_name).resolve()
        if not sources.isdisjoint((target, *target.parents)):
            raise UsageError(
                f"The mask of {case.case_id} would overwrite the image {target} or lie in its folder.",
                code="E-PREDICT-OVERWRITE",
                hint="Choose another folder with -o.",
            )


def _refuse_segmentations_of_others(cases: Sequence[ImageCase]) -> None:
    for case in cases:
        if case.mask_name.endswith(".dcm") and not is_series_path(case.images[0]):
            raise UsageError(
                f"{case.case_id} is no DICOM series, so its mask cannot be a DICOM segmentation.",
                code="E-PREDICT-FORMAT",
                hint="Leave out --format, or choose nii.gz.",
            )


def require_writable(folder: Path) -> None:
    """Makes `folder` and proves that a file can be written to it.

    Raises:
        DataError: It cannot be made or written to.
    """
    probe = folder / f".write-probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"scanseg")
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot be written to ({error.strerror or error}).",
            code="E-OUTPUT-FOLDER",
            hint="Choose another folder with -o, or mend its permissions and free space.",
        ) from error
