"""From logits to a label map on the image's own grid, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scanseg.nnunet import scratch
from scanseg.nnunet.plan import Configuration, Plan
from scanseg.nnunet.resample import Resampler
from scanseg.nnunet.windows import nonfinite_error
from scanseg.types import Array, Shape, Spacing


def logits_to_label_map(
    logits: Tensor | Array,
    properties: Mapping[str, Any],
    plan: Plan,
    configuration: str | Configuration,
    *,
    probabilities: bool = False,
    memory_bytes: int = scratch.MEMORY_BYTES,
    folder: Path | str | None = None,
) -> tuple[Array, Array | None]:
    """Resamples logits to the image's grid, takes the largest, and undoes cropping and transposition.

    Only a slab of one class is held in floating point at full size, however many classes there are.

    Args:
        logits: (K, z, y, x) from `predict_logits`.
        properties: From `preprocess_case`.
        plan: The plan.
        configuration: The configuration that made the logits.
        probabilities: Also return the probabilities of all classes, which takes 4 bytes a voxel and class.
        memory_bytes: Probabilities larger than this are returned as a memory map of a temporary file.
        folder: For the temporary file; see `scratch.zeros`. The file goes with the array.

    Returns:
        Class indices (*spatial), uint8 (uint16 from 255 classes on), and (K, *spatial) float32 or None.

    Raises:
        ModelError: A logit is NaN or infinite.
        Error: The temporary file does not fit on the disk, or the folder cannot be written.

    Source: `convert_predicted_logits_to_segmentation_with_correct_shape` of nnunetv2 2.8.
    """
    grid = _Grid.of(logits, properties, plan, plan.configuration(configuration))
    best = np.zeros(grid.resampler.shape, np.uint8 if len(logits) < 256 else np.uint16)
    for slab in grid.slabs():
        highest = grid.resampler.resample(grid.logits[0], slab)
        for index in range(1, len(grid.logits)):
            found = grid.resampler.resample(grid.logits[index], slab)
            best[slab][found > highest] = index
            np.maximum(highest, found, out=highest)
    label_map = grid.restore(best, outside=0)
    if not probabilities:
        return label_map, None
    shape = (len(grid.logits), *label_map.shape)
    chances: Array = scratch.zeros(shape, torch.float32, memory_bytes=memory_bytes, folder=folder).numpy()
    for index, chance in enumerate(logits_to_probabilities(logits, properties, plan, configuration)):
        chances[index] = chance
        scratch.release(chances)
    return label_map, chances


def logits_to_probabilities(
    logits: Tensor | Array, properties: Mapping[str, Any], plan: Plan, configuration: str | Configuration
) -> Iterator[Array]:
    """Yields the probability of each class on the image's grid, (*spatial) float32, one after the other.

    Args and errors are those of `logits_to_label_map`. Outside the cropped part the background has 1.
    """
    grid = _Grid.of(logits, properties, plan, plan.configuration(configuration))
    normaliser = np.empty(grid.resampler.shape, np.float32)
    for slab in grid.slabs():
        normaliser[slab] = _log_sum_exp(grid, slab)
    for index, part in enumerate(grid.logits):
        chance = np.empty(grid.resampler.shape, np.float32)
        for slab in grid.slabs():
            np.exp(grid.resampler.resample(part, slab) - normaliser[slab], out=chance[slab])
        yield grid.restore(chance, outside=float(index == 0))


def _log_sum_exp(grid: _Grid, slab: slice) -> Array:
    highest = grid.resampler.resample(grid.logits[0], slab)
    total = np.ones_like(highest)
    for part in grid.logits[1:]:
        found = grid.resampler.resample(part, slab)
        top = np.maximum(highest, found)
        total = total * np.exp(highest - top) + np.exp(found - top)
        highest = top
    return highest + np.log(total)


@dataclass(frozen=True)
class _Grid:
    """The image's grid, and the way there."""

    logits: Array
    resampler: Resampler
    box: tuple[slice, ...]
    full_shape: Shape
    transpose_backward: tuple[int, ...]
    spatial_dims: int

    @classmethod
    def of(
        cls, logits: Tensor | Array, properties: Mapping[str, Any], plan: Plan, configuration: Configuration
    ) -> _Grid:
        array = logits.detach().cpu().numpy() if isinstance(logits, Tensor) else logits
        for part in array:
            if not all(np.isfinite(plane).all() for plane in part):
                raise nonfinite_error()
            scratch.release(array)
        target: Spacing = tuple(properties["spacing"][axis] for axis in plan.transpose_forward)
        source = (*target[: 3 - configuration.spatial_dims], *configuration.spacing)
        shape = properties["shape_after_cropping_and_before_resampling"]
        return cls(
            array,
            Resampler(array.shape[1:], tuple(shape), source, target),
            tuple(slice(*edge) for edge in properties["bbox_used_for_cropping"]),
            tuple(properties["shape_before_cropping"]),
            plan.transpose_backward,
            plan.spatial_dims,
        )

    def slabs(self) -> Iterator[slice]:
        """Yields the slabs of the output; of logits in a file only those of one slab stay resident."""
        for slab in self.resampler.slabs():
            yield slab
            scratch.release(self.logits)

    def restore(self, cropped: Array, *, outside: float) -> Array:
        """Returns the (z, y, x) array in the uncropped image, axes in the image's own order."""
        full = np.full(self.full_shape, outside, cropped.dtype)
        full[self.box] = cropped
        turned = full.transpose(self.transpose_backward)
        return np.ascontiguousarray(turned[0] if self.spatial_dims == 2 else turned)
