"""Intersection over union (Jaccard index)."""

from scanseg.evaluation.metrics.empty import value_at_empty
from scanseg.evaluation.metrics.masks import MaskPair
from scanseg.evaluation.metrics.metric import register_metric
from scanseg.types import Array, Spacing


@register_metric(
    title="IoU", better="higher", summary="Overlap: common voxels over the voxels of either mask."
)
def iou(prediction: Array, reference: Array, spacing_mm: Spacing, *, pair: MaskPair | None = None) -> float:
    """Returns |P and R| / |P or R|, in [0, 1]; with Dice D it is D / (2 - D).

    One empty mask gives 0, two give NaN (not applicable). The spacing has no influence.

    Args:
        prediction: Boolean, (z, y, x) or (y, x).
        reference: Boolean, same shape.
        spacing_mm: One number per axis.
        pair: The same masks, already prepared.

    Raises:
        UsageError: The masks or the spacing do not fit.

    Source:
        Jaccard 1912.

    Example:
        >>> import numpy as np
        >>> mask = np.ones((2, 2), dtype=bool)
        >>> iou(mask, mask, (1.0, 1.0))
        1.0
    """
    pair = pair or MaskPair(prediction, reference, spacing_mm)
    empty = value_at_empty("iou", pair, worst=0.0)
    if empty is not None:
        return empty
    return pair.true_positive / (pair.true_positive + pair.false_positive + pair.false_negative)
