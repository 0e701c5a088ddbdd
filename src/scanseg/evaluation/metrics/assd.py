"""Average symmetric surface distance."""

import math

from scanseg.evaluation.metrics.empty import value_at_empty
from scanseg.evaluation.metrics.masks import MaskPair
from scanseg.evaluation.metrics.metric import register_metric
from scanseg.types import Array, Spacing


@register_metric(
    title="ASSD",
    unit="mm",
    high=math.inf,
    better="lower",
    summary="Mean distance of the surface voxels of both masks to the other surface.",
)
def assd(prediction: Array, reference: Array, spacing_mm: Spacing, *, pair: MaskPair | None = None) -> float:
    """Returns the mean distance in mm over the surface voxels of both masks to the other surface.

    One empty mask gives the image's diagonal, two give NaN (not applicable).

    Args:
        prediction: Boolean, (z, y, x) or (y, x).
        reference: Boolean, same shape.
        spacing_mm: One number per axis.
        pair: The same masks, already prepared.

    Raises:
        UsageError: The masks or the spacing do not fit.

    Source:
        Heimann et al. 2009 (doi:10.1109/TMI.2009.2013851), section II-C; equal to MONAI's
        `compute_average_surface_distance(symmetric=True)`.

    Example:
        >>> import numpy as np
        >>> reference = np.zeros((1, 9), dtype=bool)
        >>> reference[0, 1] = True
        >>> assd(np.roll(reference, 3, axis=1), reference, (1.0, 0.5))
        1.5
    """
    pair = pair or MaskPair(prediction, reference, spacing_mm)
    empty = value_at_empty("assd", pair, worst=pair.diagonal_mm)
    if empty is not None:
        return empty
    distances = pair.voxel_distances
    total = distances.from_prediction.sum() + distances.from_reference.sum()
    return float(total / (len(distances.from_prediction) + len(distances.from_reference)))
