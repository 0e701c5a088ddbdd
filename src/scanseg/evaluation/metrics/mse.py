"""Mean squared error."""

import math

from scanseg.evaluation.metrics.masks import MaskPair
from scanseg.evaluation.metrics.metric import register_metric
from scanseg.types import Array, Spacing


@register_metric(
    title="MSE",
    better="lower",
    summary="Mean squared difference of the masks over all voxels: the part on which they differ.",
)
def mse(prediction: Array, reference: Array, spacing_mm: Spacing, *, pair: MaskPair | None = None) -> float:
    """Returns the mean of (p - g)^2 over all voxels of the image, in [0, 1].

    p and g are 1 inside the mask of one label and 0 outside, so it is the part of all voxels on which the
    masks differ, 1 - accuracy. It is defined for empty masks too, and near 0 for a missed small structure, so
    read it beside Dice, never alone. The spacing has no influence.

    UU-Mamba prints it in percent. Its formula has the predicted probability for p, which a mask does not
    hold; it does not say how the classes enter, and no code for it was released. So compare values of this
    function with one another, not with its table.

    Args:
        prediction: Boolean, (z, y, x) or (y, x).
        reference: Boolean, same shape.
        spacing_mm: One number per axis.
        pair: The same masks, already prepared.

    Raises:
        UsageError: The masks or the spacing do not fit.

    Source:
        UU-Mamba (arXiv 2405.17496), eq. 10, for one label and p rounded to 0 or 1.

    Example:
        >>> import numpy as np
        >>> reference = np.array([[1, 1, 0, 0]], dtype=bool)
        >>> prediction = np.array([[0, 1, 0, 0]], dtype=bool)
        >>> mse(prediction, reference, (1.0, 1.0))
        0.25
    """
    pair = pair or MaskPair(prediction, reference, spacing_mm)
    return (pair.false_positive + pair.false_negative) / math.prod(pair.shape)
