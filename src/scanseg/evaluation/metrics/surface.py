"""Surfaces of masks, how large their elements are, and how far two surfaces lie apart.

Two definitions of a surface are in use, because the established metrics use them:

- Surface voxels: voxels of the mask with a face neighbour outside it. HD95 and ASSD measure between their
  centres.
- Surface cells: the cubes (squares) between 2x2x2 (2x2) neighbouring voxel centres that the mask fills in
  part. Each carries the area (length) of the surface inside it. NSD measures between their centres, weighted
  by area.

What lies outside the array is not in the mask, so a mask that touches the border has a surface there.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from scanseg.types import Array, Spacing

# Measured on one core: the tree takes about 1.2 us a surface point, the transform 0.24 us a voxel of the box.
_VOXELS_PER_TREE_POINT = 5


# Points of dense surfaces are handled this many voxels at a time.
_SLAB_VOXELS = 4_000_000


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance in mm from each surface element of one mask to the nearest element of the other.

    Attributes:
        from_prediction: (elements of the prediction,) float64.
        from_reference: (elements of the reference,) float64.
    """

    from_prediction: Array
    from_reference: Array


@dataclass(frozen=True)
class CellDistances(SurfaceDistances):
    """Distances between surface cells, and how much surface each cell holds.

    Attributes:
        prediction_codes: (elements of the prediction,) uint8, corner codes of the cells.
        reference_codes: (elements of the reference,) uint8.
        sizes: Size by corner code, see `cell_sizes`.
    """

    prediction_codes: Array
    reference_codes: Array
    sizes: Array

    def size_within(self, limit_mm: float) -> float:
        """Returns the size of both surfaces that lies within `limit_mm` of the other one, in mm2 or mm."""
        total = 0.0
        for distances, codes in (
            (self.from_prediction, self.prediction_codes),
            (self.from_reference, self.reference_codes),
        ):
            # Counting codes keeps sums exact and needs no array of areas.
            total += float(np.bincount(codes[distances <= limit_mm], minlength=len(self.sizes)) @ self.sizes)
        return total


def voxel_surface_distances(prediction: Array, reference: Array, spacing_mm: Spacing) -> SurfaceDistances:
    """Returns the distances between the surface voxels of two masks, neither of them empty."""
    ours, theirs = surface_voxels(prediction), surface_voxels(reference)
    return SurfaceDistances(*_mutual_distances(ours, theirs, spacing_mm))


def cell_surface_distances(prediction: Array, reference: Array, spacing_mm: Spacing) -> CellDistances:
    """Returns the distances between the surface cells of two masks, neither of them empty."""
    sizes = cell_sizes(spacing_mm)
    ours, our_codes = _surface_cells(prediction)
    theirs, their_codes = _surface_cells(reference)
    forward, backward = _mutual_distances(ours, theirs, spacing_mm)
    return CellDistances(forward, backward, our_codes, their_codes, sizes)


def surface_voxels(mask: Array) -> Array:
    """Returns the voxels of a boolean mask that have a face neighbour outside it, as a boolean array."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for offset in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(offset, offset + mask.shape[axis])
            inside &= padded[tuple(window)]
    return mask & ~inside


def _surface_cells(mask: Array) -> tuple[Array, Array]:
    """Returns which cells hold a piece of surface, and their codes in that order."""
    codes = cell_codes(mask)
    surface = (codes != 0) & (codes != 2 ** (2**mask.ndim) - 1)
    return surface, codes[surface]


def cell_codes(mask: Array) -> Array:
    """Returns which corners of each cell lie in a boolean mask, one bit a corner.

    Args:
        mask: (z, y, x) or (y, x).

    Returns:
        uint8, one longer than `mask` along each axis: cell i lies between voxels i - 1 and i. The corner with
        the lowest indices has the highest bit, the last axis runs fastest.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([n + 1 for n in mask.shape], dtype=np.uint8)
    corners = list(product((0, 1), repeat=mask.ndim))
    for bit, corner in enumerate(reversed(corners)):
        window = tuple(slice(i, i + n + 1) for i, n in zip(corner, mask.shape, strict=True))
        codes |= padded[window] << np.uint8(bit)
    return codes


def cell_sizes(spacing_mm: Spacing) -> Array:
    """Returns the size of the surface in a cell for each corner code.

    In 3D this is the area of the classical marching cubes surface through the midpoints of the cell's edges,
    wrapped around the rarer phase; in 2D the length of the contour through the midpoints of its sides, where
    opposite corners are separate pieces.

    Returns:
        float64, (256,) in mm2 for three spacings, (16,) in mm for two.

    Source:
        Nikolov et al. 2021 (arXiv:1809.04430), the surface of their reference implementation; the triangles
        are those of Lorensen and Cline 1987, made here by scikit-image.
    """
    if len(spacing_mm) == 2:
        return _contour_lengths(spacing_mm)
    z, y, x = spacing_mm
    areas: Array = np.linalg.norm(_cell_triangles() * (y * x, z * x, z * y), axis=-1)
    sizes: Array = areas.sum(axis=-1)
    return sizes


def _contour_lengths(spacing_mm: Spacing) -> Array:
    lengths = np.zeros(16)
    y, x = spacing_mm
    corner = 0.5 * np.hypot(y, x)
    for code in range(1, 15):
        top, bottom = divmod(code, 4)
        if code.bit_count() in (1, 3):
            lengths[code] = corner
        elif top == bottom:  # left or right half: the contour runs along y
            lengths[code] = y
        elif top in (0, 3):  # upper or lower half
            lengths[code] = x
        else:
            lengths[code] = 2 * corner
    return lengths


@lru_cache(maxsize=1)
def _cell_triangles() -> Array:
    """Returns area vectors of the triangles in a unit cell, (256 codes, 4 triangles, 3 axes)."""
    from skimage.measure import marching_cubes

    table = np.zeros((256, 4, 3))
    for code in range(1, 255):
        rarer = code if code.bit_count() <= 4 else 255 - code
        corners = np.array([rarer >> bit & 1 for bit in range(7, -1, -1)], dtype=np.float32).reshape(2, 2, 2)
        vertices, faces, _, _ = marching_cubes(corners, 0.5, method="lorensen")
        first, second, third = np.moveaxis(vertices[faces].astype(np.float64), 1, 0)
        table[code, : len(faces)] = np.cross(second - first, third - first) / 2
    table.flags.writeable = False
    return table


def _mutual_distances(ours: Array, theirs: Array, spacing_mm: Spacing) -> tuple[Array, Array]:
    steps = np.asarray(spacing_mm)
    points = np.count_nonzero(ours) + np.count_nonzero(theirs)
    if points * _VOXELS_PER_TREE_POINT < ours.size:
        our_points, their_points = np.argwhere(ours), np.argwhere(theirs)
        return (
            _tree_distances(our_points, their_points, steps),
            _tree_distances(their_points, our_points, steps),
        )
    return _transform_distances(ours, theirs, steps), _transform_distances(theirs, ours, steps)


def _tree_distances(points: Array, targets: Array, steps: Array) -> Array:
    """Exact nearest distances, cheap where surfaces fill little of the box."""
    tree = cKDTree(targets * steps, leafsize=32, balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(points * steps)
    distances: Array = np.linalg.norm((points - targets[nearest]) * steps, axis=1)
    return distances


def _transform_distances(surface: Array, targets: Array, steps: Array) -> Array:
    """Exact nearest distances from one distance transform; its cost does not grow with the surface."""
    # Indices only: the transform's own distances would take 24 more bytes a voxel.
    nearest = distance_transform_edt(~targets, sampling=steps, return_distances=False, return_indices=True)
    distances = np.empty(np.count_nonzero(surface))
    rows = max(1, _SLAB_VOXELS * surface.shape[0] // surface.size)
    filled = 0
    for start in range(0, surface.shape[0], rows):
        part = surface[start : start + rows]
        square = np.zeros(np.count_nonzero(part))
        for axis, own in enumerate(np.nonzero(part)):
            offset = start if axis == 0 else 0
            square += ((nearest[axis, start : start + rows][part] - own - offset) * steps[axis]) ** 2
        distances[filled : filled + len(square)] = np.sqrt(square)
        filled += len(square)
    return distances
