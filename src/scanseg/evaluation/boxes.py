"""Where the labels of a label map lie, found in one pass."""

from collections.abc import Iterable

import numpy as np
from scipy.ndimage import find_objects

from scanseg.types import Array

Box = tuple[slice, ...]
# find_objects makes one entry for each value up to the largest; beyond this, values are numbered first.
_MOST_VALUES = 4096


def label_boxes(label_map: Array, values: Iterable[int]) -> dict[int, Box]:
    """Returns the smallest box around each label value that occurs in a label map of non-negative integers.

    Args:
        label_map: (z, y, x) or (y, x).
        values: Values to look for, above 0.
    """
    wanted = sorted(set(values))
    if not wanted or label_map.size == 0:
        return {}
    numbers = range(1, len(wanted) + 1)
    if wanted[-1] < _MOST_VALUES and int(label_map.max()) < _MOST_VALUES:
        found, numbers = find_objects(label_map), wanted  # type: ignore[assignment]
    else:
        places = np.minimum(np.searchsorted(wanted, label_map), len(wanted) - 1)
        places = np.where(np.asarray(wanted)[places] == label_map, places + 1, 0)
        found = find_objects(places.astype(np.int32))
    boxes = {value: found[n - 1] for value, n in zip(wanted, numbers, strict=True) if n <= len(found)}
    return {value: box for value, box in boxes.items() if box is not None}


def joined(first: Box | None, second: Box | None) -> Box | None:
    """Returns the smallest box around two boxes, either of which may be missing."""
    if first is None or second is None:
        return first or second
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True)
    )
