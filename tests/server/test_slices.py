"""Slices and surfaces of arrays whose content says where it lies."""

import io
import struct
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as PilImage

from scanseg.errors import UsageError
from scanseg.pipeline.serving import _write_view, read_view
from scanseg.server.slices import describe_view, png, slice_png, surface, turned, view_affine
from scanseg.types import Geometry, Image

PLAIN = {
    "window": (0.0, 255.0),
    "channel": 0,
    "overlay": 0.0,
    "labels": None,
    "colours": {},
    "uncertainty": False,
}


def store(folder: Path, array: np.ndarray, mask: np.ndarray, geometry: Geometry, entropy=None) -> Path:
    _write_view(Image(array.astype(np.float32), geometry), mask.astype(np.uint8), entropy, folder / "view")
    return folder / "view"


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(PilImage.open(io.BytesIO(content)))


def affines():
    """All 48 axis orders and directions, with a shift and spacing."""
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = 0
        for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
            affine[row, column] = sign * (0.5, 1.0, 2.0)[column]
        affine[:3, 3] = 10, -20, 30
        yield affine


def test_every_orientation_shows_right_on_the_left_and_up_above() -> None:
    """World coordinates are the content: along each slice axis they must fall as the convention says."""
    shape = (3, 4, 5)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    for affine in affines():
        geometry = Geometry(shape, (2.0, 1.0, 0.5), affine=affine)
        world = np.einsum("ij,j...->i...", affine[:3, :3], index[::-1]) + affine[:3, 3, None, None, None]
        shown = turned(world, geometry)
        for axis, (coordinate, grows) in enumerate([(2, -1), (1, -1), (0, -1)]):
            steps = np.diff(shown[coordinate], axis=axis)
            assert (np.sign(steps) == grows).all()
        matrix = view_affine(geometry)
        z, y, x = (n - 1 for n in shown.shape[1:])
        assert matrix @ [x, y, z, 1] == pytest.approx([*shown[:, z, y, x], 1])
        assert matrix @ [0, 0, 0, 1] == pytest.approx([*shown[:, 0, 0, 0], 1])


def test_right_of_the_patient_is_on_the_left_of_the_picture(tmp_path) -> None:
    array = np.zeros((1, 2, 3, 4))
    array[0, :, :, 3] = 255  # the largest x, the patient's right in RAS
    geometry = Geometry((2, 3, 4), (1, 1, 1), affine=np.eye(4))
    view = store(tmp_path, array, array[0] > 0, geometry)
    picture = pixels(slice_png(view, "axial", 0, **PLAIN))
    assert (picture[:, 0] == 255).all()
    assert (picture[:, 1:] == 0).all()


def test_colours_windows_labels_and_uncertainty(tmp_path) -> None:
    array = np.full((2, 2, 2, 3), 100.0)
    mask = np.zeros((2, 2, 3))
    mask[0, 0, :2] = 1, 2
    entropy = np.zeros((2, 2, 3))
    entropy[0, 1, 1] = 1
    view = store(tmp_path, array, mask, Geometry((2, 2, 3), (1, 1, 1)), entropy)
    colours = {1: "#FF0000", 2: "#0000FF"}
    both = pixels(slice_png(view, "axial", 0, **{**PLAIN, "overlay": 1.0, "colours": colours}))
    assert both[0].tolist() == [[255, 0, 0], [0, 0, 255], [100, 100, 100]]
    one = pixels(slice_png(view, "axial", 0, **{**PLAIN, "overlay": 1.0, "colours": colours, "labels": [2]}))
    assert one[0, 0].tolist() == [100, 100, 100]
    dark = pixels(slice_png(view, "axial", 0, **{**PLAIN, "window": (100.0, 300.0)}))
    assert (dark == 0).all()
    unsure = pixels(slice_png(view, "axial", 0, **{**PLAIN, "uncertainty": True}))
    assert unsure[1, 1, 0] > 200 > unsure[1, 1, 2]


def test_flat_colour_images(tmp_path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 4, 5))
    view = store(tmp_path, array, array[0] > 300, Geometry((4, 5), (1, 1), "px"))
    assert np.array_equal(pixels(slice_png(view, "plane", 0, **PLAIN)), np.moveaxis(array, 0, -1))
    arrays, geometry = read_view(view)
    facts = describe_view(arrays, geometry)
    assert (facts["kind"], facts["colour"], facts["affine"]) == ("plane", True, None)
    with pytest.raises(UsageError):
        slice_png(view, "axial", 0, **PLAIN)
    with pytest.raises(UsageError, match="no surface"):
        surface(view, 1, "stl", "#FFFFFF")


@pytest.mark.parametrize("change", [{"channel": 2}, {"channel": -1}])
def test_what_is_not_there(tmp_path, change) -> None:
    view = store(tmp_path, np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 2)), Geometry((2, 2, 2), (1, 1, 1)))
    for axis, index in (("axial", 2), ("axial", -1), ("up", 0), ("plane", 0)):
        with pytest.raises(UsageError):
            slice_png(view, axis, index, **PLAIN)
    with pytest.raises(UsageError):
        slice_png(view, "axial", 0, **{**PLAIN, **change})


def test_png_is_what_other_readers_read() -> None:
    array = np.random.default_rng(1).integers(0, 256, (7, 13, 3)).astype(np.uint8)
    assert np.array_equal(pixels(png(array)), array)


def test_the_surface_of_a_ball_encloses_it_in_every_orientation(tmp_path) -> None:
    """A ball of radius 8 voxels; marching cubes cuts it half a voxel inside its corners."""
    shape = (20, 20, 20)
    distance = np.linalg.norm(np.indices(shape) - 9.5, axis=0)
    mask = distance < 8
    for number, affine in enumerate(list(affines())[::7]):
        spacing = nibabel.affines.voxel_sizes(affine)[::-1]
        geometry = Geometry(shape, tuple(float(s) for s in spacing), affine=affine)
        (tmp_path / str(number)).mkdir()
        view = store(tmp_path / str(number), mask[None], mask, geometry)
        body = surface(view, 1, "stl", "#FFFFFF")
        count = struct.unpack("<I", body[80:84])[0]
        faces = np.frombuffer(body[84:], np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("r", "<u2")]))
        corners = faces["v"].astype(float)
        volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
        expected = mask.sum() * abs(np.linalg.det(affine))
        assert len(faces) == count
        assert volume == pytest.approx(expected, rel=0.08)
        middle = nibabel.affines.apply_affine(affine, [9.5, 9.5, 9.5])
        assert corners.reshape(-1, 3).mean(0) == pytest.approx(middle, abs=0.3)
        # Normals look away from the middle.
        outward = np.einsum("ij,ij->i", faces["n"], corners.mean(1) - middle)
        assert (outward > 0).all()
