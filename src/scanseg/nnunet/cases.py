"""Cases as nnU-Net's functions want them: (C, z, y, x) arrays and class indices, from our own readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scanseg.data.case_label import read_case_label
from scanseg.data.dataset import label_map_to_indices
from scanseg.data.image import read_channels
from scanseg.data.orientation import reorient_image
from scanseg.errors import DataError
from scanseg.types import Array, Case, Image, Label, Spacing

if TYPE_CHECKING:
    from scanseg.data.dataset import Dataset

# nnU-Net gives 2D images a first axis of one voxel with this spacing, so that it is always the coarsest.
FLAT_SPACING = 999.0


def read_case(case: Case, labels: Sequence[Label], *, orientation: str | None) -> tuple[Image, Array]:
    """Returns a labelled case turned to `orientation`: the image and its class indices (*spatial) int16.

    Raises:
        DataError: A file cannot be read, the label map has another size than the image, or the case has no
            label.
    """
    if case.label is None:
        raise DataError(f"Case {case.case_id} has no label.", code="E-CASE-UNLABELLED")
    image = read_channels(case.images)
    label_map = read_case_label(case.label, labels, image.geometry)
    if label_map.array.shape != image.array.shape[1:]:
        raise DataError(
            f"Case {case.case_id}: the label map has {label_map.array.shape} voxels, "
            f"the image {image.array.shape[1:]}.",
            code="E-CASE-SHAPE",
            hint="Run `scanseg dataset check`.",
        )
    indices = label_map_to_indices(label_map.array, labels).astype(np.int16)
    # The image's geometry turns both: the check has shown that they lie at the same place.
    turned = reorient_image(Image(indices[None], image.geometry), orientation)
    return reorient_image(image, orientation), turned.array[0]


def as_volume(array: Array, spacing: Spacing) -> tuple[Array, Spacing]:
    """Returns (C, *spatial) as (C, z, y, x) with three spacings; 2D becomes z = 1 as in nnU-Net.

    Example:
        >>> array, spacing = as_volume(np.zeros((3, 64, 48)), (1.0, 1.0))
        >>> array.shape, spacing
        ((3, 1, 64, 48), (999.0, 1.0, 1.0))
    """
    if array.ndim == 4:
        return array, tuple(float(value) for value in spacing)
    flat = max(FLAT_SPACING, 10 * max(spacing))
    return array[:, None], (flat, *(float(value) for value in spacing))


def training_cases(dataset: Dataset) -> list[Case]:
    """Returns the labelled cases in the order of their names.

    Raises:
        DataError: There is none.
    """
    cases = sorted((case for case in dataset.cases if case.label is not None), key=lambda case: case.case_id)
    if not cases:
        raise DataError(
            f"The dataset {dataset.name} holds no labelled case.",
            code="E-DATASET-EMPTY",
            hint="Training needs images with labels; `scanseg dataset check` shows what was found.",
        )
    return cases
