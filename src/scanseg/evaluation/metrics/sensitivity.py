"""Sensitivity (recall, true positive rate)."""

from scanseg.evaluation.metrics.empty import value_at_empty
from scanseg.evaluation.metrics.masks import MaskPair
from scanseg.evaluation.metrics.metric import register_metric
from scanseg.types import Array, Spacing


@register_metric(
    title="Sensitivity", better="higher", summary="Part of the reference that the prediction found."
)
def sensitivity(
    prediction: Array, reference: Array, spacing_mm: Spacing, *, pair: MaskPair | None = None
) -> float:
    """Returns |P and R| / |R|, in [0, 1].

    A missed structure gives 0. Without a structure in the reference it is NaN (not applicable), also where
    one was invented. The spacing has no influence.

    Args:
        prediction: Boolean, (z, y, x) or (y, x).
        reference: Boolean, same shape.
        spacing_mm: One number per axis.
        pair: The same masks, already prepared.

    Raises:
        UsageError: The masks or the spacing do not fit.

    Source:
        Yerushalmy 1947.

    Example:
        >>> import numpy as np
        >>> reference = np.array([[1, 1, 1, 1]], dtype=bool)
        >>> prediction = np.array([[0, 1, 1, 1]], dtype=bool)
        >>> sensitivity(prediction, reference, (1.0, 1.0))
        0.75
    """
    pair = pair or MaskPair(prediction, reference, spacing_mm)
    empty = value_at_empty("sensitivity", pair, worst=0.0)
    if empty is not None:
        return empty
    return pair.true_positive / pair.reference_voxels
