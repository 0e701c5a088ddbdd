"""What can be measured on one mask: size, pieces, place."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.ndimage import center_of_mass, generate_binary_structure
from scipy.ndimage import label as label_components

from scanseg.evaluation.boxes import Box, label_boxes
from scanseg.types import Array, Geometry, Label


def mask_statistics(array: Array, labels: Sequence[Label], geometry: Geometry) -> dict[str, Any]:
    """Returns the size, components and place of every label of a mask, as plain JSON values.

    Args:
        array: Label values, (*spatial).
        labels: The classes, background first; the background is not measured.
        geometry: Of the array.

    Returns:
        `shape`, `spacing`, `unit`, and under `labels` one entry per label:

        - `value`, `name`, `voxels`;
        - `volume_ml` in 3D or `area_mm2` in 2D where the size of a voxel is known, `area_px` in 2D without;
        - `components` (touching by a face, edge or corner), `largest_component` in the same unit under
          `largest_ml`, `largest_mm2` or `largest_px`;
        - `centroid_mm` [x, y, z] in RAS+ space where there is an affine, else `centroid_px` in the order of
          the array's axes; None for an absent label;
        - `bounding_box` [[first, last + 1], ...] in voxels in the order of the array's axes, None if absent;
        - `touches_border`: Whether it reaches the edge of the image (axes of one voxel do not count), so that
          it may be cut off.
    """
    boxes = label_boxes(array, [label.value for label in foreground(labels)])
    return {
        "shape": [int(n) for n in geometry.shape],
        "spacing": [float(step) for step in geometry.spacing],
        "unit": geometry.unit,
        "labels": [
            {"value": label.value, "name": label.name, **_measure(array, label.value, geometry, boxes)}
            for label in foreground(labels)
        ],
    }


def foreground(labels: Sequence[Label]) -> list[Label]:
    """Returns the labels without the background, which has the value 0."""
    return [label for label in labels if label.value != 0]


def size_unit(geometry: Geometry) -> tuple[str, float]:
    """Returns the unit in which sizes are given (`ml`, `mm2` or `px`) and the size of one voxel in it."""
    if geometry.unit != "mm":
        return "px", 1.0
    voxel = math.prod(geometry.spacing)
    return ("ml", voxel / 1000) if geometry.spatial_dims == 3 else ("mm2", voxel)


def _measure(array: Array, value: int, geometry: Geometry, boxes: dict[int, Box]) -> dict[str, Any]:
    unit, voxel_size = size_unit(geometry)
    size_name = {"ml": "volume_ml", "mm2": "area_mm2"}.get(unit)
    if size_name is None and geometry.spatial_dims == 2:
        size_name = "area_px"
    place = "centroid_px" if geometry.affine is None else "centroid_mm"
    box = boxes.get(value)
    if box is None:
        sizes = (0, 0, 0)
        where: dict[str, Any] = {place: None, "bounding_box": None, "touches_border": False}
    else:
        mask = array[box] == value
        sizes = (int(np.count_nonzero(mask)), *_components(mask))
        where = {
            place: _centroid(mask, box, geometry),
            "bounding_box": [[part.start, part.stop] for part in box],
            "touches_border": _touches_border(box, array.shape),
        }
    voxels, components, largest = sizes
    sized = {} if size_name is None else {size_name: voxels * voxel_size}
    return {
        "voxels": voxels,
        **sized,
        "components": components,
        f"largest_{unit}": largest * voxel_size,
        **where,
    }


def _components(mask: Array) -> tuple[int, int]:
    """Returns the number of components and the voxels of the largest."""
    pieces, count = label_components(mask, structure=generate_binary_structure(mask.ndim, mask.ndim))
    return int(count), int(np.bincount(pieces.ravel())[1:].max())


def _centroid(mask: Array, box: Box, geometry: Geometry) -> list[float]:
    centre = [part.start + inside for part, inside in zip(box, center_of_mass(mask), strict=True)]
    if geometry.affine is None:
        return [float(c) for c in centre]
    x_first = [*centre[::-1], *[0.0] * (3 - len(centre)), 1.0]
    return [float(c) for c in (geometry.affine @ x_first)[:3]]


def _touches_border(box: Box, shape: tuple[int, ...]) -> bool:
    return any(
        (part.start == 0 or part.stop == length) and length > 1
        for part, length in zip(box, shape, strict=True)
    )
