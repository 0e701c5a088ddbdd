"""Dice similarity coefficient."""

from scanseg.evaluation.metrics.empty import value_at_empty
from scanseg.evaluation.metrics.masks import MaskPair
from scanseg.evaluation.metrics.metric import register_metric
from scanseg.types import Array, Spacing


@register_metric(
    title="Dice", better="higher", summary="Overlap: twice the common voxels over the voxels of both masks."
)
def dice(prediction: Array, reference: Array, spacing_mm: Spacing, *, pair: MaskPair | None = None) -> float:
    """Returns 2 |P and R| / (|P| + |R|), in [0, 1].

    One empty mask gives 0, two give NaN (not applicable). The spacing has no influence.

    Args:
        prediction: Boolean, (z, y, x) or (y, x).
        reference: Boolean, same shape.
        spacing_mm: One number per axis.
        pair: The same masks, already prepared.

    Raises:
        UsageError: The masks or the spacing do not fit.

    Source:
        Dice 1945.

    Example:
        >>> import numpy as np
        >>> reference = np.array([[1, 1, 0, 0]], dtype=bool)
        >>> prediction = np.array([[0, 1, 1, 0]], dtype=bool)
        >>> dice(prediction, reference, (1.0, 1.0))
        0.5
    """
    pair = pair or MaskPair(prediction, reference, spacing_mm)
    empty = value_at_empty("dice", pair, worst=0.0)
    if empty is not None:
        return empty
    return 2 * pair.true_positive / (pair.prediction_voxels + pair.reference_voxels)
