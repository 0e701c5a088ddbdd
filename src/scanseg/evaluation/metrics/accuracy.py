"""Voxel accuracy."""

import math

from scanseg.evaluation.metrics.masks import MaskPair
from scanseg.evaluation.metrics.metric import register_metric
from scanseg.types import Array, Spacing


@register_metric(
    title="Accuracy",
    better="higher",
    summary="Part of all voxels on which both masks agree; near 1 for small structures.",
)
def accuracy(
    prediction: Array, reference: Array, spacing_mm: Spacing, *, pair: MaskPair | None = None
) -> float:
    """Returns the part of all voxels on which both masks agree, in [0, 1].

    It is defined for empty masks too, and high for a missed small structure, so read it beside Dice, never
    alone. The spacing has no influence.

    Args:
        prediction: Boolean, (z, y, x) or (y, x).
        reference: Boolean, same shape.
        spacing_mm: One number per axis.
        pair: The same masks, already prepared.

    Raises:
        UsageError: The masks or the spacing do not fit.

    Source:
        Taha and Hanbury 2015 (doi:10.1186/s12880-015-0068-x), section 3.

    Example:
        >>> import numpy as np
        >>> reference = np.array([[1, 1, 0, 0]], dtype=bool)
        >>> prediction = np.array([[0, 1, 0, 0]], dtype=bool)
        >>> accuracy(prediction, reference, (1.0, 1.0))
        0.75
    """
    pair = pair or MaskPair(prediction, reference, spacing_mm)
    return (pair.true_positive + pair.true_negative) / math.prod(pair.shape)
