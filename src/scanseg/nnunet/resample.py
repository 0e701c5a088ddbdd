"""Logits on the original grid, a few slices of one class at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scanseg.types import Array, Shape, Spacing

# Bytes of one slab of one class in float64.
_SLAB_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class _Axis:
    """Along one axis, each output voxel is low * (1 - weight) + high * weight."""

    low: Array
    high: Array
    weight: Array


class Resampler:
    """Brings an array from one grid to another, slab by slab along z, as nnU-Net resamples logits.

    Linear interpolation between voxel centres, clamped at the border; where one grid is more than 3 times
    coarser along one axis, that axis takes the nearest voxel instead.

    Args:
        old_shape: (z, y, x) of the input.
        new_shape: (z, y, x) of the output.
        old_spacing: Of the input.
        new_spacing: Of the output.

    Source: `resample_data_or_seg` of nnunetv2 2.8 with order=1, order_z=0, is_seg=False.

    Example:
        >>> ramp = np.arange(4.0).reshape(4, 1, 1)
        >>> made = Resampler((4, 1, 1), (8, 1, 1), (2.0, 1.0, 1.0), (1.0, 1.0, 1.0))
        >>> [float(value) for value in made.resample(ramp, slice(0, 8)).ravel()]
        [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
    """

    def __init__(
        self, old_shape: Shape, new_shape: Shape, old_spacing: Spacing, new_spacing: Spacing
    ) -> None:
        from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

        separate, coarse = determine_do_sep_z_and_axis(None, old_spacing, new_spacing)
        self.shape = tuple(int(size) for size in new_shape)
        self._old = tuple(int(size) for size in old_shape)
        self._axes = [
            _axis(old, new, nearest=bool(separate) and axis == coarse)
            for axis, (old, new) in enumerate(zip(old_shape, self.shape, strict=True))
        ]

    def slabs(self) -> Iterator[slice]:
        """Yields the slabs of the output along z, which together cover it."""
        plane = 8 * max(self._old[1], self.shape[1]) * max(self._old[2], self.shape[2])
        height = max(1, _SLAB_BYTES // max(plane, 1))
        for start in range(0, self.shape[0], height):
            yield slice(start, min(start + height, self.shape[0]))

    def resample(self, array: Array, slab: slice) -> Array:
        """Returns a slab of the resampled (z, y, x) array, float32, computed in float64."""
        if self._old == self.shape:
            return np.array(array[slab], np.float32)
        z, y, x = self._axes
        rows = _Axis(z.low[slab], z.high[slab], z.weight[slab])
        return _along(_along(_along(array, rows, 0), y, 1), x, 2).astype(np.float32)


def _axis(old: int, new: int, *, nearest: bool) -> _Axis:
    place = np.clip(old / new * (np.arange(new) + 0.5) - 0.5, 0, old - 1)
    if nearest:
        index = np.minimum(np.floor(place + 0.5).astype(np.int64), old - 1)
        return _Axis(index, index, np.zeros(new))
    low = np.floor(place).astype(np.int64)
    return _Axis(low, np.minimum(low + 1, old - 1), place - low)


def _along(array: Array, axis: _Axis, dim: int) -> Array:
    low = array.take(axis.low, dim).astype(np.float64, copy=False)
    if not axis.weight.any():
        return low
    weight = axis.weight.reshape([-1 if part == dim else 1 for part in range(3)])
    high = array.take(axis.high, dim).astype(np.float64, copy=False)
    # low + (high - low) * weight, in place
    high -= low
    high *= weight
    low += high
    return low
