"""Numbers on a map over an image: how its values are spread, and how much of it lies where labels meet."""

from __future__ import annotations

from typing import Any

import numpy as np

from scanseg.errors import UsageError
from scanseg.types import Array

_QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}


def entropy_map(probabilities: Array) -> Array:
    """Returns the entropy of the classes at each place, from 0 (certain) to 1 (all alike), float32.

    Args:
        probabilities: (class, *spatial), non-negative, each place summing to 1.

    Example:
        >>> import numpy as np
        >>> entropy_map(np.array([[1.0, 0.5], [0.0, 0.5]])).tolist()
        [0.0, 1.0]
    """
    values = np.asarray(probabilities)
    total = np.zeros(values.shape[1:], np.float32)
    # Class by class: the maps of many classes at once may not fit into memory.
    for part in values:
        positive = part > 0
        total[positive] -= (part[positive] * np.log(part[positive])).astype(np.float32)
    return total / np.float32(np.log(max(len(values), 2)))


def border_mask(label_map: Array) -> Array:
    """Returns which places have another label than a neighbour along an axis, on both sides of the border.

    Example:
        >>> import numpy as np
        >>> border_mask(np.array([[0, 0, 1, 1]])).tolist()
        [[False, True, True, False]]
    """
    labels = np.asarray(label_map)
    border = np.zeros(labels.shape, dtype=bool)
    for axis in range(labels.ndim):
        before = (slice(None),) * axis + (slice(None, -1),)
        behind = (slice(None),) * axis + (slice(1, None),)
        differs = labels[before] != labels[behind]
        border[before] |= differs
        border[behind] |= differs
    return border


def coarsened(mask: Array, shape: tuple[int, ...]) -> Array:
    """Returns which cells of a coarser grid hold a place of the mask.

    Args:
        mask: Boolean, (*spatial).
        shape: Of the coarser grid; each side divides that of the mask.

    Raises:
        UsageError: A side does not divide.
    """
    array = np.asarray(mask, dtype=bool)
    if len(shape) != array.ndim or any(edge % n for edge, n in zip(array.shape, shape, strict=True)):
        raise UsageError(
            f"A map of {array.shape} cannot be divided into cells of a grid of {shape}.", code="E-MAP-SHAPE"
        )
    split = [part for edge, n in zip(array.shape, shape, strict=True) for part in (n, edge // n)]
    return np.asarray(array.reshape(split).any(axis=tuple(range(1, 2 * array.ndim, 2))))


def map_statistics(values: Array, border: Array) -> dict[str, Any]:
    """Returns quantiles of a map and its share at borders, as plain JSON values.

    Args:
        values: (*spatial), non-negative.
        border: Boolean, same shape.

    Returns:
        `mean max` and `quantiles`; `share_at_borders` of the sum of the map, `share_of_places` that are
        border, and their ratio `concentration` (1: borders are like everything else); None where there is
        no border, or nothing to share.
    """
    total, places = float(values.sum(dtype=np.float64)), float(border.mean()) if border.size else 0.0
    share = float(values[border].sum(dtype=np.float64)) / total if total > 0 and places > 0 else None
    levels = np.quantile(values, list(_QUANTILES.values()))
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "max": float(values.max()),
        "quantiles": {name: float(level) for name, level in zip(_QUANTILES, levels, strict=True)},
        "share_at_borders": share,
        "share_of_places": places,
        "concentration": None if share is None else share / places,
    }
