"""The fingerprint: spacings, sizes and foreground intensities of the training cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.errors import DataError
from scanseg.nnunet.cases import as_volume, read_case, training_cases
from scanseg.progress import Report, silent, track

if TYPE_CHECKING:
    from scanseg.data.dataset import Dataset
    from scanseg.types import Array, Case

STOCK_VOXELS = 100_000_000


def make_fingerprint(
    dataset: Dataset, *, orientation: str | None, report: Report = silent, voxels: int = 2_000_000
) -> dict[str, Any]:
    """Measures the labelled cases one after another with nnU-Net's own functions.

    Args:
        dataset: The dataset.
        orientation: Orientation that all cases are turned to; None in 2D.
        report: Told about each case.
        voxels: Foreground voxels drawn per channel over all cases, with replacement. nnU-Net draws
            `STOCK_VOXELS`, which takes several GB; the default agrees with it to within 1 %.

    Returns:
        nnU-Net's keys `spacings`, `shapes_after_crop`, `foreground_intensity_properties_per_channel`,
        `median_relative_size_after_cropping`, and `spatial_dims`; plain JSON values.

    Raises:
        DataError: A case cannot be read, has another number of channels or dimensions than the dataset, or
            no case has any foreground.
    """
    cases = training_cases(dataset)
    samples = max(1, int(voxels // len(cases)))
    facts = [
        _measure(case, dataset, orientation, samples)
        for case in track(cases, stage="fingerprint", report=report)
    ]
    dimensions = sorted({fact["dims"] for fact in facts})
    if len(dimensions) > 1:
        raise DataError("The dataset mixes 2D and 3D images.", code="E-DATASET-DIMENSIONS")
    channels = len(dataset.channel_names)
    return {
        "spacings": [fact["spacing"] for fact in facts],
        "shapes_after_crop": [fact["shape"] for fact in facts],
        "foreground_intensity_properties_per_channel": {
            str(channel): _statistics([fact["intensities"][channel] for fact in facts])
            for channel in range(channels)
        },
        "median_relative_size_after_cropping": float(np.median([fact["relative_size"] for fact in facts])),
        "spatial_dims": dimensions[0],
    }


def _measure(case: Case, dataset: Dataset, orientation: str | None, samples: int) -> dict[str, Any]:
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    image, indices = read_case(case, dataset.labels, orientation=orientation)
    if len(image.array) != len(dataset.channel_names):
        raise DataError(
            f"Case {case.case_id} has {len(image.array)} channels, the dataset names "
            f"{len(dataset.channel_names)} ({', '.join(dataset.channel_names)}).",
            code="E-CASE-CHANNELS",
            hint="Every case needs the same channels; name them all in dataset.json.",
        )
    data, spacing = as_volume(image.array, image.geometry.spacing)
    seg, _ = as_volume(indices[None], image.geometry.spacing)
    cropped, seg_cropped, _ = crop_to_nonzero(data, seg)
    intensities, _ = DatasetFingerprintExtractor.collect_foreground_intensities(
        seg_cropped, cropped, num_samples=samples
    )
    return {
        "dims": image.geometry.spatial_dims,
        "spacing": list(spacing),
        "shape": [int(size) for size in cropped.shape[1:]],
        "relative_size": float(np.prod(cropped.shape[1:]) / np.prod(data.shape[1:])),
        "intensities": intensities,
    }


def _statistics(samples: list[Array]) -> dict[str, float]:
    """Summarises one channel as `DatasetFingerprintExtractor.run` does, which cannot run without its pool."""
    values = np.concatenate(samples)
    if not values.size:
        raise DataError(
            "No training case has any foreground.",
            code="E-DATASET-BACKGROUND",
            hint="Check that the labels belong to these images and that their values are listed.",
        )
    low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
    return {
        "mean": float(np.mean(values)),
        "median": float(median),
        "std": float(np.std(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }
