"""Normalised surface Dice at a tolerance."""

import math

from scanseg.errors import UsageError
from scanseg.evaluation.metrics.empty import value_at_empty
from scanseg.evaluation.metrics.masks import MaskPair
from scanseg.evaluation.metrics.metric import register_metric
from scanseg.types import Array, Spacing

# Spacings such as 0.1 mm make 0.30000000000000004 of three steps; that is still within 0.3 mm.
_ROUNDING = 1e-6


@register_metric(
    title="NSD",
    better="higher",
    summary="Part of both surfaces that lies within a tolerance of the other surface.",
    options=("tolerance_mm",),
)
def nsd(
    prediction: Array,
    reference: Array,
    spacing_mm: Spacing,
    *,
    tolerance_mm: float = 1.0,
    pair: MaskPair | None = None,
) -> float:
    """Returns the part of both surfaces within `tolerance_mm` of the other one, in [0, 1].

    Surfaces are those of `surface.cell_surface_distances`: cells between voxel centres with the area of the
    marching cubes surface in 3D, with the length of the contour in 2D. Distances run between cells, so they
    are steps of the grid. One empty mask gives 0, two give NaN (not applicable).

    Args:
        prediction: Boolean, (z, y, x) or (y, x).
        reference: Boolean, same shape.
        spacing_mm: One number per axis.
        tolerance_mm: Distance that still counts as agreement; 0 asks for the same cells.
        pair: The same masks, already prepared.

    Raises:
        UsageError: The masks or the spacing do not fit, or the tolerance is negative or not finite.

    Source:
        Nikolov et al. 2021 (arXiv:1809.04430), equation 1, with the sub-voxel surface of their released code;
        equal to MONAI's `compute_surface_dice(use_subvoxels=True)`.

    Example:
        >>> import numpy as np
        >>> reference = np.zeros((6, 6), dtype=bool)
        >>> reference[2:4, 2:4] = True
        >>> nsd(np.roll(reference, 1, axis=1), reference, (1.0, 1.0), tolerance_mm=1.0)
        1.0
    """
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise UsageError(
            f"The tolerance must be a number of mm, 0 or more, got {tolerance_mm}.",
            code="E-METRIC-TOLERANCE",
        )
    pair = pair or MaskPair(prediction, reference, spacing_mm)
    empty = value_at_empty("nsd", pair, worst=0.0)
    if empty is not None:
        return empty
    surfaces = pair.cell_distances()
    return surfaces.size_within(tolerance_mm * (1 + _ROUNDING)) / surfaces.size_within(math.inf)
