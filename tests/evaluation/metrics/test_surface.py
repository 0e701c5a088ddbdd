import resource
import sys
import time

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from scanseg.evaluation.metrics import MaskPair, hd95, nsd
from scanseg.evaluation.metrics import surface as module
from scanseg.evaluation.metrics.surface import (
    cell_codes,
    cell_sizes,
    cell_surface_distances,
    surface_voxels,
    voxel_surface_distances,
)


def test_surface_voxels_of_a_block_are_its_shell():
    mask = np.zeros((7, 8, 9), dtype=bool)
    mask[1:6, 1:7, 1:8] = True
    surface = surface_voxels(mask)
    assert surface.sum() == 5 * 6 * 7 - 3 * 4 * 5
    assert surface_voxels(np.ones((4, 4), dtype=bool)).sum() == 12  # the border of the image is a surface


def test_cell_codes_put_the_lowest_corner_into_the_highest_bit():
    mask = np.zeros((1, 1, 1), dtype=bool)
    mask[0, 0, 0] = True
    codes = cell_codes(mask)
    assert codes.shape == (2, 2, 2)
    # The voxel is the last corner of the first cell and the first corner of the last cell.
    assert codes[0, 0, 0] == 1
    assert codes[1, 1, 1] == 128


def test_sizes_agree_with_the_shape_of_a_cell():
    z, y, x = spacing = (3.0, 1.3, 0.7)
    sizes = cell_sizes(spacing)
    assert sizes.shape == (256,)
    assert sizes[0] == sizes[255] == 0
    assert np.all(sizes[1:255] > 0)
    assert np.allclose(sizes, sizes[::-1])  # swapping inside and outside keeps the surface
    assert sizes[0b11110000] == pytest.approx(y * x)
    assert sizes[0b11001100] == pytest.approx(z * x)
    assert sizes[0b10101010] == pytest.approx(z * y)
    corner = np.linalg.norm(np.array([y * x, z * x, z * y])) / 8
    assert sizes[0b10000000] == pytest.approx(corner)
    assert sizes[0b10000001] == pytest.approx(2 * corner)


def test_contour_lengths_agree_with_the_shape_of_a_square():
    y, x = spacing = (0.8, 1.7)
    sizes = cell_sizes(spacing)
    assert sizes.shape == (16,)
    assert sizes[0] == sizes[15] == 0
    assert sizes[0b1100] == sizes[0b0011] == x
    assert sizes[0b1010] == sizes[0b0101] == y
    assert sizes[0b1000] == sizes[0b0111] == pytest.approx(np.hypot(x, y) / 2)
    assert sizes[0b1001] == sizes[0b0110] == pytest.approx(np.hypot(x, y))


def test_area_of_a_box_is_that_of_the_formula():
    # The surface runs half a voxel outside the voxel centres; its edges and corners are cut.
    spacing, lengths = (3.0, 1.3, 0.7), (5, 7, 9)
    mask = np.ones(lengths, dtype=bool)
    z, y, x = spacing
    nz, ny, nx = (n - 1 for n in lengths)
    faces = 2 * (nz * ny * z * y + nz * nx * z * x + ny * nx * y * x)
    edges = 2 * (nz * z * np.hypot(y, x) + ny * y * np.hypot(z, x) + nx * x * np.hypot(z, y))
    corners = 8 * np.linalg.norm([y * x, z * x, z * y]) / 8
    found = cell_surface_distances(mask, mask, spacing)
    assert found.size_within(0) / 2 == pytest.approx(faces + edges + corners)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("distances", [voxel_surface_distances, cell_surface_distances])
def test_distances_are_those_of_brute_force_by_either_search(monkeypatch, dims, distances):
    spacing = (3.0, 1.3, 0.7)[-dims:]
    rng = np.random.default_rng(dims)
    first, second = (rng.random((9, 10, 11)[:dims]) < 0.1 for _ in range(2))
    if distances is voxel_surface_distances:
        points = [np.argwhere(surface_voxels(mask)) * spacing for mask in (first, second)]
    else:
        full = 2 ** (2**dims) - 1
        points = [
            np.argwhere((cell_codes(m) != 0) & (cell_codes(m) != full)) * spacing for m in (first, second)
        ]
    table = cdist(*points)
    for points_per_voxel in (0, 10**9):  # always the tree, always the transform
        monkeypatch.setattr(module, "_VOXELS_PER_TREE_POINT", points_per_voxel)
        found = distances(first, second, spacing)
        assert found.from_prediction == pytest.approx(table.min(axis=1), abs=1e-12)
        assert found.from_reference == pytest.approx(table.min(axis=0), abs=1e-12)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_a_large_mask_takes_seconds_and_little_memory():
    # CPU time, because other processes may share the core.
    shape, spacing = (160, 512, 512), (2.0, 0.7, 0.7)
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    masks = []
    for centre, radius in (((80, 256, 256), 140.0), ((80, 262, 250), 142.0)):
        square = sum(((g - c) * s) ** 2 for g, c, s in zip(grids, centre, spacing, strict=True))
        masks.append(square <= radius**2)
        del square
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    pair = MaskPair(*masks, spacing)
    assert 0 < hd95(*masks, spacing, pair=pair) < 15
    assert 0 < nsd(*masks, spacing, tolerance_mm=2.0, pair=pair) < 1
    assert time.process_time() - start < 12
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000
