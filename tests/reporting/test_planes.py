import itertools

import nibabel
import numpy as np
import pytest

from scanseg.reporting.planes import choose_planes, grey_window, make_scene
from scanseg.types import Geometry, Image

SHAPE_XYZ, SPACING_XYZ = (16, 20, 12), (0.5, 1.0, 3.0)


def patient():
    """A volume in RAS order (x, y, z) with a brighter left, front and top, and a mask there."""
    x, y, z = np.ogrid[tuple(slice(n) for n in SHAPE_XYZ)]
    array = (100 * (x < 5) + 10 * (y > 12) + 1 * (z > 8)).astype(np.float32)
    mask = np.zeros(SHAPE_XYZ, dtype=np.uint8)
    mask[2:5, 14:18, 9:11] = 1
    affine = np.diag([*SPACING_XYZ, 1.0])
    affine[:3, 3] = (-4.0, -7.0, 30.0)
    return array, mask, affine


def stored_as(codes):
    """The same patient with voxel axes that grow in other directions, as this package reads it."""
    array, mask, affine = patient()
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes)
    )
    turned = [nibabel.orientations.apply_orientation(a, turn).transpose(2, 1, 0) for a in (array, mask)]
    affine = affine @ nibabel.orientations.inv_ornt_aff(turn, SHAPE_XYZ)
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    return Image(turned[0][None], Geometry(turned[0].shape, spacing, affine=affine)), turned[1]


ORIENTATIONS = [
    "".join(letters[i] for i in order)
    for order in itertools.permutations(range(3))
    for letters in itertools.product("RL", "AP", "SI")
]


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_the_view_does_not_depend_on_how_the_file_is_stored(codes):
    expected, expected_mask = stored_as("RAS")
    image, mask = stored_as(codes)
    scene, standard = make_scene(image, [mask]), make_scene(expected, [expected_mask])
    assert np.array_equal(scene.image, standard.image)
    assert np.array_equal(scene.label_maps[0], standard.label_maps[0])
    assert [(p.title, p.letters, p.spacing) for p in choose_planes(scene)] == [
        (p.title, p.letters, p.spacing) for p in choose_planes(standard)
    ]


def test_radiological_convention():
    image, mask = stored_as("RAS")
    scene = make_scene(image, [mask])
    axial, coronal, sagittal = choose_planes(scene)
    assert [plane.letters for plane in (axial, coronal, sagittal)] == [
        ("A", "P", "R", "L"),
        ("S", "I", "R", "L"),
        ("S", "I", "A", "P"),
    ]
    left = scene.image[0] >= 100
    front = scene.image[0] % 100 >= 10
    top = scene.image[0] % 10 >= 1
    for plane, rows, columns in ((axial, front, left), (coronal, top, left), (sagittal, top, ~front)):
        first, last = plane.cut(rows)[0], plane.cut(rows)[-1]
        assert first.all()  # the top row of the picture
        assert not last.any()
        right = plane.cut(columns)
        assert right[:, -1].all()  # the right edge of the picture
        assert not right[:, 0].any()


def test_planes_run_through_the_structure_at_its_place_in_mm():
    image, mask = stored_as("LPS")
    planes = choose_planes(make_scene(image, [mask]))
    titles = [plane.title for plane in planes]
    # The mask spans z 9..10, y 14..17, x 2..4 in voxels; of equal slices the middle one is shown.
    assert titles[0] in ("axial\nz = 57 mm", "axial\nz = 60 mm")
    assert titles[1] in ("coronal\ny = 8 mm", "coronal\ny = 9 mm")
    assert titles[2] == "sagittal\nx = -2 mm"
    scene = make_scene(image, [mask])
    assert all(plane.cut(scene.label_maps[0]).any() for plane in planes)


def test_sizes_are_physical():
    image, mask = stored_as("RAS")
    axial, coronal, sagittal = choose_planes(make_scene(image, [mask]))
    assert axial.size == (20 * 1.0, 16 * 0.5)
    assert coronal.size == (12 * 3.0, 16 * 0.5)
    assert sagittal.size == (12 * 3.0, 20 * 1.0)


def test_zoom_keeps_the_structure_with_a_margin():
    array = np.zeros((1, 60, 60, 60), dtype=np.float32)
    mask = np.zeros((60, 60, 60), dtype=np.uint8)
    mask[28:32, 30:34, 20:28] = 1
    scene = make_scene(Image(array, Geometry(mask.shape, (1.0, 1.0, 1.0))), [mask])
    for plane in choose_planes(scene, zoom=True):
        part = plane.cut(mask)
        assert part.sum() == mask.take(plane.index, axis=plane.axis).sum() > 0
        assert max(part.shape) <= 20
        assert not part[0].any()
        assert not part[:, 0].any()


def test_without_an_affine_planes_are_shown_as_stored():
    rng = np.random.default_rng(0)
    array = rng.random((1, 5, 6, 7), dtype=np.float32)
    scene = make_scene(Image(array, Geometry((5, 6, 7), (1.0, 1.0, 1.0), unit="px")), [])
    planes = choose_planes(scene)
    assert [(p.title, p.letters) for p in planes] == [("z 3 of 5", ()), ("y 4 of 6", ()), ("x 4 of 7", ())]
    assert np.array_equal(planes[0].cut(array[0]), array[0, 2])
    assert np.array_equal(planes[2].cut(array[0]), array[0, :, :, 3])


@pytest.mark.parametrize(("shape", "count"), [((1, 9, 9), 1), ((9, 1, 9), 1), ((2, 9, 9), 3), ((1, 1, 9), 1)])
def test_planes_that_are_lines_are_left_out(shape, count):
    scene = make_scene(Image(np.zeros((1, *shape), np.float32), Geometry(shape, (1.0, 1.0, 1.0))), [])
    planes = choose_planes(scene)
    assert len(planes) == count
    for plane in planes:
        assert plane.cut(scene.image[0]).size > 0


def test_a_flat_image_is_its_own_plane():
    scene = make_scene(Image(np.zeros((3, 8, 9), np.float32), Geometry((8, 9), (0.5, 0.25))), [])
    (plane,) = choose_planes(scene)
    assert plane.size == (4.0, 2.25)
    assert plane.letters == ()


def test_every_label_pulls_the_slices():
    mask = np.zeros((20, 8, 8), dtype=np.uint8)
    mask[2:12, 1:7, 1:7] = 1  # a thick label ...
    mask[10:14, 3:5, 3:5] = 2  # ... and a thin one that overlaps in z 10 and 11
    scene = make_scene(
        Image(np.zeros((1, *mask.shape), np.float32), Geometry(mask.shape, (1.0,) * 3)), [mask]
    )
    assert 10 <= choose_planes(scene)[0].index <= 11


class TestWindow:
    def test_soft_tissue_is_not_flattened_by_air_and_bone(self):
        rng = np.random.default_rng(0)
        channel = np.full((20, 40, 40), -1000.0)
        channel[:, 5:35, 5:35] = 50 + 10 * rng.standard_normal((20, 30, 30))
        channel[:, 30:34, 5:35] = 1200
        mask = np.zeros(channel.shape, dtype=bool)
        mask[5:15, 10:20, 10:20] = True
        low, high = grey_window(channel, mask)
        assert -50 < low < 40 < 60 < high < 150

    def test_without_structures_the_whole_image_counts(self):
        channel = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
        low, high = grey_window(channel, np.zeros(channel.shape, dtype=bool))
        assert 0 < low < 10
        assert 990 < high < 1000

    @pytest.mark.parametrize("filled", [False, True])
    def test_a_constant_image_has_a_window_too(self, filled):
        low, high = grey_window(np.full((4, 5), 7.0), np.full((4, 5), filled))
        assert low < high
