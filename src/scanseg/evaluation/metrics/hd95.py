"""95th percentile of the Hausdorff distance."""

import math

import numpy as np

from scanseg.evaluation.metrics.empty import value_at_empty
from scanseg.evaluation.metrics.masks import MaskPair
from scanseg.evaluation.metrics.metric import register_metric
from scanseg.types import Array, Spacing


@register_metric(
    title="HD95",
    unit="mm",
    high=math.inf,
    better="lower",
    summary="Distance that 95 % of a surface keeps from the other one at most; the larger of both ways.",
)
def hd95(prediction: Array, reference: Array, spacing_mm: Spacing, *, pair: MaskPair | None = None) -> float:
    """Returns the larger of both directed 95th percentile surface distances in mm.

    Distances run between the centres of surface voxels; percentiles are interpolated linearly. One empty mask
    gives the image's diagonal, two give NaN (not applicable).

    Args:
        prediction: Boolean, (z, y, x) or (y, x).
        reference: Boolean, same shape.
        spacing_mm: One number per axis.
        pair: The same masks, already prepared.

    Raises:
        UsageError: The masks or the spacing do not fit.

    Source:
        Huttenlocher et al. 1993 with the percentile of Taha and Hanbury 2015; equal to MONAI's
        `compute_hausdorff_distance(percentile=95)`, which takes the percentile of each direction, not of both
        together.

    Example:
        >>> import numpy as np
        >>> reference = np.zeros((1, 9), dtype=bool)
        >>> reference[0, 1] = True
        >>> hd95(np.roll(reference, 3, axis=1), reference, (1.0, 0.5))
        1.5
    """
    pair = pair or MaskPair(prediction, reference, spacing_mm)
    empty = value_at_empty("hd95", pair, worst=pair.diagonal_mm)
    if empty is not None:
        return empty
    distances = pair.voxel_distances
    return float(
        max(np.percentile(distances.from_prediction, 95), np.percentile(distances.from_reference, 95))
    )
