"""A pair of masks, checked once, with everything several metrics need computed at most once."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from scanseg.errors import UsageError
from scanseg.evaluation.metrics.surface import (
    CellDistances,
    SurfaceDistances,
    cell_surface_distances,
    voxel_surface_distances,
)
from scanseg.types import Array, Shape, Spacing


class MaskPair:
    """Two boolean masks on one grid.

    Surfaces are found in the bounding box of both masks, so that a small structure in a large image is cheap.

    Args:
        prediction: Boolean, (z, y, x) or (y, x).
        reference: Boolean, same shape.
        spacing_mm: Distance of neighbouring voxels along each axis of the arrays.
        image_shape: Size of the whole image, where the arrays are only the part that holds both masks.

    Raises:
        UsageError: An array is not boolean, the shapes differ, there are not 2 or 3 axes, or the spacing does
            not fit. An image without voxels is refused too.
    """

    def __init__(
        self, prediction: Array, reference: Array, spacing_mm: Spacing, *, image_shape: Shape | None = None
    ) -> None:
        prediction, reference = np.asarray(prediction), np.asarray(reference)
        self.shape = prediction.shape if image_shape is None else tuple(image_shape)
        _check_masks(prediction, reference, self.shape)
        self.spacing_mm = _checked_spacing(spacing_mm, prediction.ndim)
        box = bounding_box(prediction | reference)
        self.prediction = prediction[box]
        self.reference = reference[box]

    @cached_property
    def true_positive(self) -> int:
        """Voxels in both masks."""
        return int(np.count_nonzero(self.prediction & self.reference))

    @cached_property
    def prediction_voxels(self) -> int:
        """Voxels of the prediction."""
        return int(np.count_nonzero(self.prediction))

    @cached_property
    def reference_voxels(self) -> int:
        """Voxels of the reference."""
        return int(np.count_nonzero(self.reference))

    @property
    def false_positive(self) -> int:
        """Voxels of the prediction only."""
        return self.prediction_voxels - self.true_positive

    @property
    def false_negative(self) -> int:
        """Voxels of the reference only."""
        return self.reference_voxels - self.true_positive

    @property
    def true_negative(self) -> int:
        """Voxels of the whole image in neither mask."""
        voxels = math.prod(self.shape)
        return voxels - self.true_positive - self.false_positive - self.false_negative

    @property
    def diagonal_mm(self) -> float:
        """Length of the image's diagonal: no two points of the image are further apart."""
        return math.hypot(*(n * step for n, step in zip(self.shape, self.spacing_mm, strict=True)))

    @cached_property
    def voxel_distances(self) -> SurfaceDistances:
        """Distances between the surface voxels of both masks; both must hold a voxel."""
        return voxel_surface_distances(self.prediction, self.reference, self.spacing_mm)

    def cell_distances(self) -> CellDistances:
        """Returns the distances between the surface cells of both masks; both must hold a voxel.

        Not kept, because dense surfaces have as many cells as the image has voxels.
        """
        return cell_surface_distances(self.prediction, self.reference, self.spacing_mm)


def bounding_box(mask: Array) -> tuple[slice, ...]:
    """Returns the smallest box that holds every voxel of a boolean mask; of no extent for an empty mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        used = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0))
    return tuple(box)


def _check_masks(prediction: Array, reference: Array, image_shape: Shape) -> None:
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if mask.dtype != np.bool_:
            raise UsageError(
                f"The {name} must be a boolean mask, got {mask.dtype}.",
                code="E-METRIC-DTYPE",
                hint="Compare a label map with the value of one label first: label_map == value.",
            )
    if prediction.shape != reference.shape:
        raise UsageError(
            f"Prediction {prediction.shape} and reference {reference.shape} must have the same shape.",
            code="E-METRIC-SHAPE",
            hint="Bring both masks to one grid.",
        )
    if prediction.ndim not in (2, 3) or len(image_shape) != prediction.ndim or 0 in image_shape:
        raise UsageError(
            f"Masks must be (y, x) or (z, y, x) with at least one voxel, got {image_shape}.",
            code="E-METRIC-SHAPE",
        )


def _checked_spacing(spacing_mm: Spacing, dims: int) -> Spacing:
    spacing = tuple(float(step) for step in spacing_mm)
    if len(spacing) != dims or not all(math.isfinite(step) and step > 0 for step in spacing):
        raise UsageError(
            f"spacing_mm must be {dims} positive numbers, one per axis, got {spacing}.",
            code="E-METRIC-SPACING",
            hint="Check the image header, or give 1 for each axis to measure in pixels.",
        )
    return spacing
