"""Between the values of label files and the indices of classes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from scanseg.data.wording import listed
from scanseg.errors import DataError, UsageError
from scanseg.types import Array, Label

# bincount copies its argument to 64-bit integers: a chunk of this many voxels takes 8 MB.
CHUNK = 1 << 20
DENSE = 1 << 16


def label_map_to_indices(label_map: Array, labels: Sequence[Label]) -> Array:
    """Returns class indices for a label map of dataset values.

    Args:
        label_map: Integers or booleans, any shape.
        labels: The classes of the dataset; class i has the value `labels[i].value`.

    Returns:
        Same shape, uint8 for up to 256 classes, else int16.

    Raises:
        DataError: A value belongs to no class.

    Example:
        >>> import numpy as np
        >>> labels = [Label(0, "background"), Label(255, "nucleus")]
        >>> label_map_to_indices(np.array([0, 255, 255]), labels)
        array([0, 1, 1], dtype=uint8)
    """
    values = [label.value for label in labels]
    label_map = label_map.astype(np.uint8) if label_map.dtype == bool else label_map
    find = _find_dense if max(values) < DENSE else _find_sparse
    indices = find(label_map, values)
    if indices.size and indices.min() < 0:
        unknown = [str(value) for value in np.unique(label_map[indices < 0])]
        raise DataError(
            f"The label map holds values that belong to no class: {listed(unknown)};"
            f" known are {listed([str(value) for value in values], most=20)}.",
            code="E-DATA-LABEL-UNKNOWN",
            hint="Check it with `scanseg dataset check DATA`.",
        )
    return indices.astype(np.uint8) if len(values) <= 256 else indices


def _find_dense(label_map: Array, values: Sequence[int]) -> Array:
    """Returns the place in `values` of each element, int16, -1 where it has none; by a table."""
    table = np.full(max(values) + 1, -1, dtype=np.int16)
    table[list(values)] = np.arange(len(values))
    outside = (label_map < 0) | (label_map >= len(table))
    indices = np.asarray(table[np.where(outside, 0, label_map)])
    indices[outside] = -1
    return indices


def _find_sparse(label_map: Array, values: Sequence[int]) -> Array:
    """Does the same by search, for values too large for a table."""
    ordered, order = np.sort(values), np.argsort(values).astype(np.int16)
    places = np.minimum(np.searchsorted(ordered, label_map), len(values) - 1)
    return np.where(ordered[places] == label_map, order[places], np.int16(-1))


def count_values(label_map: Array) -> dict[int, int]:
    """Returns value -> number of voxels, by value, for a label map of non-negative integers of any shape."""
    counts = Counter[int]()
    flat = label_map.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK]
        if part.max() < DENSE:
            dense = np.bincount(part)
            counts.update({int(value): int(dense[value]) for value in np.flatnonzero(dense)})
        else:
            values, numbers = np.unique(part, return_counts=True)
            counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return dict(sorted(counts.items()))


def indices_to_values(indices: Array, labels: Sequence[Label]) -> Array:
    """Returns the dataset's values for class indices: the inverse of `label_map_to_indices`.

    Args:
        indices: Integers from 0 to the number of classes minus 1, any shape.
        labels: The classes of the dataset.

    Returns:
        Same shape, the smallest unsigned type that holds every value.

    Raises:
        UsageError: An index is outside the classes.
    """
    if indices.size and (indices.min() < 0 or indices.max() >= len(labels)):
        raise UsageError(
            f"class indices must be from 0 to {len(labels) - 1}, got {indices.min()} to {indices.max()}.",
            code="E-LABEL-INDEX",
        )
    values = [label.value for label in labels]
    return np.array(values, dtype=np.min_scalar_type(max(values)))[indices]
