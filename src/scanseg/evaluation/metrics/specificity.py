"""Specificity (true negative rate)."""

from scanseg.evaluation.metrics.masks import MaskPair
from scanseg.evaluation.metrics.metric import register_metric
from scanseg.types import Array, Spacing


@register_metric(
    title="Specificity",
    better="higher",
    summary="Part of the image outside the reference that the prediction left out; near 1 for small ones.",
)
def specificity(
    prediction: Array, reference: Array, spacing_mm: Spacing, *, pair: MaskPair | None = None
) -> float:
    """Returns the part of the voxels outside R that are outside P too, in [0, 1].

    By this definition an empty prediction is perfect, so read it beside sensitivity, never alone. NaN (not
    applicable) where the reference fills the image. The spacing has no influence.

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
        >>> reference = np.array([[1, 0, 0, 0, 0]], dtype=bool)
        >>> prediction = np.array([[1, 1, 0, 0, 0]], dtype=bool)
        >>> specificity(prediction, reference, (1.0, 1.0))
        0.75
    """
    pair = pair or MaskPair(prediction, reference, spacing_mm)
    outside = pair.true_negative + pair.false_positive
    return pair.true_negative / outside if outside else float("nan")
