"""From a volume to the planes a person looks at: turned the usual way, cut where the structures are.

Radiological convention: axial and coronal planes show the patient's right on the left of the picture,
sagittal planes show anterior on the left; superior is up. Images without an affine are shown as they
are stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation

from scanseg.data.orientation import reorient_image
from scanseg.evaluation.boxes import label_boxes
from scanseg.evaluation.metrics.masks import bounding_box
from scanseg.types import Array, Geometry, Image

# x grows to the left, y to the back, z down: rows and columns of every plane then run down and right.
_SHOWN = "LPI"
_NAMES = ("axial", "coronal", "sagittal")
_LETTERS = (("A", "P", "R", "L"), ("S", "I", "R", "L"), ("S", "I", "A", "P"))
_AXIS_LETTERS = ("z", "y", "x")
_SAMPLE_VOXELS = 1_000_000


@dataclass(frozen=True)
class Scene:
    """An image and its label maps, turned for the eye.

    Attributes:
        image: (channel, *spatial).
        label_maps: Each (*spatial).
        geometry: Of the turned arrays.
    """

    image: Array
    label_maps: tuple[Array, ...]
    geometry: Geometry


@dataclass(frozen=True)
class Plane:
    """One cut through a scene.

    Attributes:
        axis: Spatial axis that is cut, None for a 2D image.
        index: Where it is cut.
        rows: Part of the rows that is shown.
        columns: Part of the columns that is shown.
        spacing: Distance of rows and of columns.
        title: For example `axial` and `z = -12 mm` in two lines; empty for a 2D image.
        letters: Directions at the top, bottom, left and right; empty without an affine.
    """

    axis: int | None
    index: int
    rows: slice
    columns: slice
    spacing: tuple[float, float]
    title: str = ""
    letters: tuple[str, ...] = ()

    def cut(self, array: Array) -> Array:
        """Returns the plane (rows, columns) of an array (*spatial) of the scene."""
        plane = array if self.axis is None else array.take(self.index, axis=self.axis)
        return plane[self.rows, self.columns]

    @property
    def size(self) -> tuple[float, float]:
        """Height and width in the unit of the spacing."""
        rows, columns = (part.stop - part.start for part in (self.rows, self.columns))
        return rows * self.spacing[0], columns * self.spacing[1]


def make_scene(image: Image, label_maps: Sequence[Array]) -> Scene:
    """Returns an image and label maps on its grid, turned to the convention where it has an affine."""
    turned = reorient_image(image, _SHOWN)
    maps = tuple(
        reorient_image(Image(label_map[None], image.geometry), _SHOWN).array[0] for label_map in label_maps
    )
    return Scene(turned.array, maps, turned.geometry)


def choose_planes(scene: Scene, *, zoom: bool = False) -> list[Plane]:
    """Returns the image itself in 2D, three orthogonal planes in 3D (those that are more than a line).

    Planes are cut where the labels of all label maps show most: the sum over labels of the part of the
    label's largest cross-section. Without any label they are cut in the middle.

    Args:
        scene: From `make_scene`.
        zoom: Show the surroundings of the structures instead of the whole field of view.
    """
    shape = scene.geometry.shape
    box = _surroundings(scene) if zoom else tuple(slice(0, length) for length in shape)
    spacing = scene.geometry.spacing
    if len(shape) == 2:
        return [Plane(None, 0, box[0], box[1], (spacing[0], spacing[1]))]
    planes = []
    for axis, index in enumerate(_fullest_slices(scene)):
        first, second = (other for other in range(3) if other != axis)
        if min(shape[first], shape[second]) > 1:
            steps = (spacing[first], spacing[second])
            title, letters = _caption(scene.geometry, axis, index)
            planes.append(Plane(axis, index, box[first], box[second], steps, title, letters))
    return planes or [Plane(0, 0, slice(0, shape[1]), slice(0, shape[2]), (spacing[1], spacing[2]))]


def grey_window(channel: Array, label_map: Array) -> tuple[float, float]:
    """Returns the intensities shown as black and white, chosen by the structures and their surroundings.

    From the 5th to the 95th percentile near the structures, a third wider on both sides, so that soft tissue
    in CT is not flattened by air and bone. Without a structure from the 0.5th to the 99.5th of the image.

    Args:
        channel: (*spatial).
        label_map: (*spatial), 0 is background.
    """
    near = _near_structures(channel, label_map)
    if near.size and near.min() < near.max():
        low, high = np.percentile(near, [5, 95])
        wider = 0.35 * (high - low)
        least, most = float(channel.min()), float(channel.max())
        low, high = max(low - wider, least), min(high + wider, most)
    else:
        step = max(1, channel.size // _SAMPLE_VOXELS)
        low, high = np.percentile(channel.reshape(-1)[::step], [0.5, 99.5])
    return (float(low), float(high)) if low < high else (float(channel.min()), float(channel.max()) + 1.0)


def _near_structures(channel: Array, label_map: Array) -> Array:
    mask = label_map > 0
    box = bounding_box(mask)
    if not mask[box].size:
        return np.empty(0, dtype=channel.dtype)
    margins = [max(3, (part.stop - part.start) // 5) for part in box]
    wide = tuple(
        slice(max(0, part.start - margin), min(length, part.stop + margin))
        for part, margin, length in zip(box, margins, mask.shape, strict=True)
    )
    step = max(1, round((mask[wide].size / _SAMPLE_VOXELS) ** (1 / mask.ndim)))
    thin = (slice(None, None, step),) * mask.ndim
    inside = binary_dilation(mask[wide][thin], iterations=max(2, 6 // step))
    near: Array = channel[wide][thin][inside]
    return near


def _fullest_slices(scene: Scene) -> list[int]:
    scores = [np.zeros(length) for length in scene.geometry.shape]
    for label_map in scene.label_maps:
        top = int(label_map.max(initial=0))
        present = [int(value) for value in np.unique(label_map) if value] if top > 4096 else range(1, top + 1)
        for value, box in label_boxes(label_map, present).items():
            mask = label_map[box] == value
            for axis, score in enumerate(scores):
                areas = mask.sum(axis=tuple(other for other in range(3) if other != axis))
                score[box[axis]] += areas / areas.max()
    return [
        _middle_of_best(score) if score.any() else length // 2
        for score, length in zip(scores, scene.geometry.shape, strict=True)
    ]


def _middle_of_best(score: Array) -> int:
    best = np.flatnonzero(score >= score.max() * (1 - 1e-9))
    return int(best[len(best) // 2])


def _surroundings(scene: Scene) -> tuple[slice, ...]:
    """Returns the box of all structures with a margin of a third, at least 6 voxels."""
    shape = scene.geometry.shape
    mask = np.zeros(shape, dtype=bool)
    for label_map in scene.label_maps:
        mask |= label_map > 0
    if not mask.any():
        return tuple(slice(0, length) for length in shape)
    spacing = scene.geometry.spacing
    box = bounding_box(mask)
    extent = max((part.stop - part.start) * step for part, step in zip(box, spacing, strict=True))
    margins = [max(6, round(0.25 * extent / step)) for step in spacing]
    return tuple(
        slice(max(0, part.start - margin), min(length, part.stop + margin))
        for part, margin, length in zip(box, margins, shape, strict=True)
    )


def _caption(geometry: Geometry, axis: int, index: int) -> tuple[str, tuple[str, ...]]:
    letter, length = _AXIS_LETTERS[axis], geometry.shape[axis]
    if geometry.affine is None:
        return f"{letter} {index + 1} of {length}", ()
    centre = [(n - 1) / 2 for n in geometry.shape]
    centre[axis] = index
    place_mm = (geometry.affine @ [*centre[::-1], 1.0])[2 - axis]
    return f"{_NAMES[axis]}\n{letter} = {place_mm:.0f} mm".replace("= -0 ", "= 0 "), _LETTERS[axis]
