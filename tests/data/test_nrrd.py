"""NRRD: against SimpleITK for what is accepted, by code for what is refused."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from scanseg.data.image import read_geometry, read_image, read_label_map, write_array, write_label_map
from scanseg.errors import DataError

RANDOM = np.random.default_rng(0)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def turned() -> np.ndarray:
    return nibabel.eulerangles.euler2mat(0.1, -0.2, 0.3)


def itk_image(array: np.ndarray, **options) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(array, **options)
    image.SetSpacing((0.7, 1 / 3, 2.9))
    image.SetOrigin((1 / 7, -20.5, 5e-5))
    image.SetDirection(turned().ravel())
    return image


def affine_of(image: SimpleITK.Image) -> np.ndarray:
    """The RAS affine of an ITK image."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
def test_reads_what_itk_wrote(tmp_path, dtype, packed, ending):
    array = RANDOM.integers(0, 100, (4, 5, 6)).astype(dtype)
    written = itk_image(array)
    SimpleITK.WriteImage(written, tmp_path / f"a{ending}", useCompression=packed)
    image = read_image(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(image.array[0], array.astype(np.float32))
    np.testing.assert_allclose(image.geometry.affine, affine_of(written), atol=1e-12)
    np.testing.assert_allclose(image.geometry.spacing, (2.9, 1 / 3, 0.7), rtol=1e-12)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_vectors_are_channels(tmp_path, ending):
    array = RANDOM.normal(size=(4, 5, 6, 3)).astype(np.float32)
    SimpleITK.WriteImage(itk_image(array, isVector=True), tmp_path / f"a{ending}")
    image = read_image(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(image.array, np.moveaxis(array, -1, 0))
    assert read_geometry(tmp_path / f"a{ending}")[1] == 3


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_two_dimensional_images_have_spacing_but_no_place(tmp_path, ending):
    written = SimpleITK.GetImageFromArray(RANDOM.integers(0, 9, (5, 6)).astype(np.uint8))
    written.SetSpacing((0.5, 0.25))
    SimpleITK.WriteImage(written, tmp_path / f"a{ending}")
    image = read_image(tmp_path / f"a{ending}")
    assert (image.geometry.spacing, image.geometry.affine) == ((0.25, 0.5), None)
    write_label_map(tmp_path / f"b{ending}", image.array[0].astype(int), image.geometry)
    again = SimpleITK.ReadImage(tmp_path / f"b{ending}")
    assert again.GetSpacing() == written.GetSpacing()
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(again), image.array[0])


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_masks_have_the_geometry_of_their_image_exactly(tmp_path, ending):
    written = itk_image(RANDOM.integers(0, 3, (4, 5, 6)).astype(np.int16))
    SimpleITK.WriteImage(written, tmp_path / f"a{ending}")
    image = read_image(tmp_path / f"a{ending}")
    write_label_map(tmp_path / f"b{ending}", image.array[0].astype(int), image.geometry)
    mask = SimpleITK.ReadImage(tmp_path / f"b{ending}")
    original = SimpleITK.ReadImage(tmp_path / f"a{ending}")
    assert mask.GetPixelIDValue() == SimpleITK.sitkUInt8
    assert mask.GetOrigin() == original.GetOrigin()
    assert mask.GetSpacing() == original.GetSpacing()
    assert mask.GetDirection() == original.GetDirection()
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask), image.array[0])


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("channels", [0, 1, 3])
def test_images_of_other_formats_are_written_for_itk(tmp_path, ending, channels):
    affine = LPS @ affine_of(itk_image(np.zeros((4, 5, 6), np.uint8)))
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4), np.uint8), affine), tmp_path / "a.nii")
    geometry, _ = read_geometry(tmp_path / "a.nii")
    array = RANDOM.normal(size=(channels, 4, 5, 6) if channels else (4, 5, 6)).astype(np.float32)
    write_array(tmp_path / f"b{ending}", array, geometry)
    image = read_image(tmp_path / f"b{ending}")
    np.testing.assert_array_equal(image.array, array if channels else array[None])
    np.testing.assert_allclose(image.geometry.affine, geometry.affine, atol=1e-9)
    if ending == ".mha" or channels == 0:
        itk = SimpleITK.ReadImage(tmp_path / f"b{ending}")
        np.testing.assert_allclose(affine_of(itk), geometry.affine, atol=1e-9)


@pytest.mark.parametrize("name", ["prostate_phantom_subvolume", "prostate_phantom_subvolume-label"])
def test_real_scans_equal_itk(test_data, name):
    path = test_data / "odd_files" / "nrrd" / f"{name}.nrrd"
    image = read_image(path)
    itk = SimpleITK.ReadImage(path)
    np.testing.assert_array_equal(image.array[0], SimpleITK.GetArrayFromImage(itk))
    np.testing.assert_allclose(image.geometry.affine, affine_of(itk), atol=1e-9)


HEADER = {
    "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "6 5 4",
    "space directions": "(1,0,0) (0,2,0) (0,0,3)", "kinds": "domain domain domain", "endian": "little",
    "encoding": "raw", "space origin": "(1,2,3)",
}  # fmt: skip
VOXELS = np.arange(120, dtype="<i2")


def file(path: Path, *, data: bytes = VOXELS.tobytes(), end: str = "\n", **fields: str | None) -> Path:
    """Writes an NRRD by hand; a field set to None is left out, `_` in names stands for a space."""
    header = {**HEADER, **{name.replace("_", " "): value for name, value in fields.items()}}
    lines = [
        "NRRD0005",
        "# a comment",
        *(f"{k}: {v}" for k, v in header.items() if v is not None),
        "key:=value",
    ]
    path.write_bytes((end.join(lines) + end + end).encode() + data)
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_file_made_by_hand_is_sound(tmp_path, end):
    image = read_image(file(tmp_path / "a.nrrd", end=end))
    np.testing.assert_array_equal(image.array[0], np.arange(120).reshape(4, 5, 6))
    np.testing.assert_array_equal(
        image.geometry.affine, LPS @ [[1, 0, 0, 1], [0, 2, 0, 2], [0, 0, 3, 3], [0, 0, 0, 1]]
    )


@pytest.mark.parametrize(("space", "signs"), [
    ("right-anterior-superior", (1, 1)), ("RAS", (1, 1)), ("LAS", (-1, 1)),
    ("left-posterior-superior", (-1, -1)),
])  # fmt: skip
def test_spaces_are_turned_to_ras(tmp_path, space, signs):
    affine = read_image(file(tmp_path / "a.nrrd", space=space)).geometry.affine
    np.testing.assert_array_equal(affine.diagonal(), (signs[0], signs[1] * 2, 3, 1))


def test_a_mask_says_its_place_in_the_words_of_its_image(tmp_path):
    image = read_image(
        file(tmp_path / "a.nrrd", space="right-anterior-superior", space_origin="(1.50, 2, 3e0)")
    )
    write_label_map(tmp_path / "b.nrrd", image.array[0].astype(int), image.geometry)
    text = (tmp_path / "b.nrrd").read_bytes()
    assert b"\nspace: right-anterior-superior\n" in text
    assert b"\nspace origin: (1.50, 2, 3e0)\n" in text
    np.testing.assert_array_equal(read_image(tmp_path / "b.nrrd").geometry.affine, image.geometry.affine)


def test_spacings_without_a_space_have_no_orientation(tmp_path):
    fields = {"space": None, "space_directions": None, "space_origin": None, "spacings": "0.5 0.6 0.7"}
    image = read_image(file(tmp_path / "a.nrrd", **fields))
    assert (image.geometry.spacing, image.geometry.affine) == ((0.7, 0.6, 0.5), None)
    write_label_map(tmp_path / "b.nrrd", image.array[0].astype(int), image.geometry)
    assert b"spacings: 0.5 0.6 0.7\n" in (tmp_path / "b.nrrd").read_bytes()


def test_nothing_about_size_is_pixels_unless_a_spacing_is_given(tmp_path):
    path = file(tmp_path / "a.nrrd", space=None, space_directions=None, space_origin=None)
    assert read_geometry(path)[0].unit == "px"
    geometry, _ = read_geometry(path, spacing=(3.0, 2.0, 1.0))
    assert (geometry.unit, geometry.spacing) == ("mm", (3.0, 2.0, 1.0))


def test_a_list_of_volumes_is_channels_and_its_mask_has_none(tmp_path):
    path = file(
        tmp_path / "a.nrrd", dimension="4", sizes="6 5 2 2", kinds="domain domain domain list",
        space_directions="(1,0,0) (0,2,0) (0,0,3) none",
    )  # fmt: skip
    image = read_image(path)
    np.testing.assert_array_equal(image.array, np.arange(120).reshape(2, 2, 5, 6))
    write_label_map(tmp_path / "b.nrrd", image.array[0].astype(int), image.geometry)
    assert SimpleITK.ReadImage(tmp_path / "b.nrrd").GetSize() == (6, 5, 2)


@pytest.mark.parametrize(
    ("unit", "spacing"), [('"mm" "mm" "mm"', 3.0), ('"um" "um" "um"', 0.003), ('"cm" "cm" "cm"', 30.0)]
)
def test_units_are_converted(tmp_path, unit, spacing):
    geometry, _ = read_geometry(file(tmp_path / "a.nrrd", space_units=unit))
    assert geometry.spacing[0] == pytest.approx(spacing)


@pytest.mark.parametrize(("changes", "code"), [
    ({"data": VOXELS.tobytes()[:-1]}, "E-FILE-TRUNCATED"),
    ({"data": VOXELS.tobytes() + b"x"}, "E-FILE-TRAILING"),
    ({"encoding": "gzip"}, "E-FILE-DAMAGED"),
    ({"encoding": "gzip", "data": gzip.compress(VOXELS.tobytes(), mtime=0)[:-3]}, "E-FILE-TRUNCATED"),
    ({"encoding": "gzip", "data": gzip.compress(VOXELS.tobytes()[:-2], mtime=0)}, "E-FILE-TRUNCATED"),
    ({"encoding": "gzip", "data": gzip.compress(VOXELS.tobytes(), mtime=0) + b"x"}, "E-FILE-TRAILING"),
    ({"encoding": "bzip2"}, "E-NRRD-HEADER"), ({"encoding": "ascii"}, "E-NRRD-HEADER"),
    ({"type": "block"}, "E-NRRD-HEADER"), ({"type": None}, "E-NRRD-HEADER"),
    ({"endian": None}, "E-NRRD-HEADER"), ({"endian": "middle"}, "E-NRRD-HEADER"),
    ({"sizes": "6 5"}, "E-NRRD-HEADER"), ({"sizes": "6 -5 4"}, "E-NRRD-HEADER"),
    ({"sizes": None}, "E-NRRD-HEADER"),
    ({"sizes": "6 0 4"}, "E-NRRD-HEADER"), ({"sizes": "30000 30000 30000"}, "E-IMAGE-LIMIT"),
    ({"dimension": "9"}, "E-NRRD-HEADER"), ({"byte_skip": "-1"}, "E-NRRD-HEADER"),
    ({"data_file": "../secret.raw"}, "E-NRRD-HEADER"),
    ({"space_directions": "(1,0,0) (0,2,0)"}, "E-NRRD-HEADER"),
    ({"space_directions": "(1,0,0) (0,2,0) (0,0,nan)"}, "E-NRRD-HEADER"),
    ({"space_directions": "(1,0,0) none (0,0,3)"}, "E-NRRD-HEADER"),
    ({"space_directions": "(1,0,0) (0,0,0) (0,0,3)"}, "E-GEOMETRY-SPACING"),
    ({"space_directions": "(1,0,0) (2,0,0) (0,0,3)"}, "E-GEOMETRY-SINGULAR"),
    ({"space_directions": "(1,0,0) (0.1,2,0) (0,0,3)"}, "E-GEOMETRY-SHEARED"),
    ({"space_origin": "(1,2)"}, "E-NRRD-HEADER"), ({"space": "warped"}, "E-NRRD-HEADER"),
    ({"space_units": '"mm" "um" "mm"'}, "E-NRRD-HEADER"), ({"space_units": '"furlong"'}, "E-NRRD-HEADER"),
], ids=str)  # fmt: skip
def test_headers_that_cannot_be_read_safely_are_refused(tmp_path, changes, code):
    with pytest.raises(DataError) as caught:
        read_image(file(tmp_path / "a.nrrd", **changes))
    assert caught.value.code == code


def test_no_nrrd_at_all(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"\x89PNG and so on")
    with pytest.raises(DataError, match="looks like a PNG"):
        read_label_map(tmp_path / "a.nrrd")
