"""All 48 orientations: exact inverse, right spacing, every voxel keeps its place in mm."""

import itertools

import nibabel
import numpy as np
import pytest

from scanseg.data.image import read_image, write_label_map
from scanseg.data.orientation import orientation_of, reorient_array_back, reorient_image
from scanseg.errors import UsageError
from scanseg.types import Geometry, Image

ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*axes)
]
SHAPE = (4, 5, 6)


def scan() -> Image:
    """A scan of unequal sides and spacings, turned by a few degrees, two channels."""
    affine = np.eye(4)
    affine[:3, :3] = nibabel.eulerangles.euler2mat(0.1, -0.15, 0.2) * (0.7, 1.3, 2.9)
    affine[:3, 3] = (-33.0, 12.5, 4.25)
    array = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    return Image(array, Geometry(SHAPE, (2.9, 1.3, 0.7), affine=affine))


def places(image: Image) -> dict[float, tuple[float, ...]]:
    """The place in mm of each value of the first channel."""
    z, y, x = np.indices(image.geometry.shape)
    index = np.stack([x, y, z, np.ones_like(x)], -1).reshape(-1, 4)
    mm = index @ image.geometry.affine[:3].T
    return {float(v): tuple(p) for v, p in zip(image.array[0].ravel(), mm, strict=True)}


def test_there_are_48():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_voxel_keeps_its_value_and_its_place(orientation):
    image = scan()
    turned = reorient_image(image, orientation)
    assert orientation_of(turned.geometry) == orientation
    assert turned.array.shape[1:] == turned.geometry.shape
    before, after = places(image), places(turned)
    assert before.keys() == after.keys()
    np.testing.assert_allclose([after[v] for v in before], list(before.values()), atol=1e-9)
    np.testing.assert_allclose(
        turned.geometry.spacing, np.linalg.norm(turned.geometry.affine[:3, :3], axis=0)[::-1]
    )


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_way_back_is_exact(orientation):
    image = scan()
    turned = reorient_image(image, orientation)
    for there, here in ((turned.array, image.array), (turned.array[1], image.array[1])):
        back = reorient_array_back(there, image.geometry, orientation)
        np.testing.assert_array_equal(back, here)
        assert back.flags.c_contiguous
    again = reorient_image(turned, orientation_of(image.geometry))
    np.testing.assert_array_equal(again.array, image.array)
    np.testing.assert_allclose(again.geometry.affine, image.geometry.affine, atol=1e-9)


@pytest.mark.parametrize("start", ORIENTATIONS)
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_turned_mask_is_saved_with_the_place_of_its_image(tmp_path, start, ending):
    image = reorient_image(scan(), start)
    labels = (image.array[0] > 0).astype(np.uint8)
    write_label_map(tmp_path / f"image{ending}", labels, image.geometry)
    stored = read_image(tmp_path / f"image{ending}")
    turned = reorient_image(stored, "LPS")
    write_label_map(tmp_path / f"turned{ending}", turned.array[0].astype(int), turned.geometry)
    back = reorient_array_back(turned.array[0], stored.geometry, "LPS")
    write_label_map(tmp_path / f"back{ending}", back.astype(int), stored.geometry)
    last = read_image(tmp_path / f"back{ending}")
    np.testing.assert_array_equal(last.geometry.affine, stored.geometry.affine)
    np.testing.assert_array_equal(last.array[0], labels)
    seen = read_image(tmp_path / f"turned{ending}")
    assert orientation_of(seen.geometry) == "LPS"
    np.testing.assert_allclose(seen.geometry.affine, turned.geometry.affine, atol=1e-5)


def test_the_same_brain_in_four_orders_is_the_same(test_data):
    folder = test_data / "odd_files" / "nifti" / "orientation"
    arrays = []
    for name in ("RAS", "ASL", "PIR", "IPL"):
        image = read_image(folder / f"{name}.nii.gz")
        assert orientation_of(image.geometry) == name
        arrays.append(reorient_image(image, "RAS").array)
    for array in arrays[1:]:
        np.testing.assert_allclose(array, arrays[0], atol=1e-3)


def test_nothing_happens_without_an_orientation_or_an_affine():
    image = scan()
    assert reorient_image(image, None) is image
    assert reorient_image(image, orientation_of(image.geometry)) is image
    flat = Image(np.zeros((1, 4, 5), np.float32), Geometry((4, 5), (1.0, 1.0), "px"))
    assert reorient_image(flat, "RAS") is flat
    assert orientation_of(flat.geometry) is None
    assert reorient_array_back(flat.array, flat.geometry, "RAS") is flat.array


@pytest.mark.parametrize("name", ["RAA", "RA", "RASX", "XYZ", "", "ras"])
def test_names_that_are_no_orientation_are_refused(name):
    with pytest.raises(UsageError, match="three letters"):
        reorient_image(scan(), name)


def test_an_array_of_another_size_is_not_turned_back():
    with pytest.raises(UsageError, match="must end in the shape"):
        reorient_array_back(np.zeros((4, 5, 6)), scan().geometry, "ASR")
