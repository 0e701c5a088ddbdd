"""NIfTI: against nibabel for what is accepted, by code for what is refused."""

import gzip
import itertools
import struct
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scanseg.data.image import read_geometry, read_image, read_label_map, write_array, write_label_map
from scanseg.data.limits import MICROSCOPY
from scanseg.errors import DataError

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


def oblique(spacing=(0.8, 1.1, 3.3), angles=(0.1, -0.2, 0.3), origin=(-90.5, 33.25, 7.0)) -> np.ndarray:
    """An affine that is turned about all three axes."""
    affine = np.eye(4)
    affine[:3, :3] = nibabel.eulerangles.euler2mat(*angles) * spacing
    affine[:3, 3] = origin
    return affine


def save(
    path: Path, array: np.ndarray, affine=None, *, kind=nibabel.Nifti1Image, order="<", codes=(1, 1)
) -> Path:
    """Writes an array (x, y, z) with nibabel."""
    header = kind.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    affine = oblique() if affine is None else affine
    image = kind(array, affine, header)
    image.set_sform(affine, codes[1])
    image.set_qform(affine, codes[0])
    nibabel.save(image, path)
    return path


def edited(path: Path, **fields) -> Path:
    """Overwrites header fields of an uncompressed little-endian NIfTI-1 file."""
    places = {
        "dim": ("<8h", 40), "datatype": ("<h", 70), "bitpix": ("<h", 72), "pixdim": ("<8f", 76),
        "vox_offset": ("<f", 108), "slope": ("<2f", 112), "units": ("<B", 123), "codes": ("<2h", 252),
        "quatern": ("<6f", 256), "srow": ("<12f", 280), "magic": ("<4s", 344),
    }  # fmt: skip
    raw = bytearray(path.read_bytes())
    for name, values in fields.items():
        struct.pack_into(places[name][0], raw, places[name][1], *values)
    path.write_bytes(raw)
    return path


def code_of(path: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path, **options)
    assert str(path.name) in caught.value.message
    return caught.value.code


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "order", "ending"), [
    (nibabel.Nifti1Image, "<", ".nii"), (nibabel.Nifti1Image, ">", ".nii.gz"),
    (nibabel.Nifti2Image, ">", ".nii"), (nibabel.Nifti2Image, "<", ".nii.gz"),
])  # fmt: skip
def test_reads_what_nibabel_wrote(tmp_path, dtype, kind, order, ending):
    low, high = (-100, 100) if dtype[0] != "u" else (0, 200)
    array = np.random.default_rng(1).integers(low, high, (5, 6, 7)).astype(dtype)
    path = save(tmp_path / f"a{ending}", array, kind=kind, order=order)
    image = read_image(path)
    assert image.array.dtype == np.float32
    assert image.array.shape == (1, 7, 6, 5)
    np.testing.assert_array_equal(image.array[0], array.T.astype(np.float32))
    np.testing.assert_array_equal(image.geometry.affine, nibabel.load(path).affine)
    np.testing.assert_allclose(image.geometry.spacing, (3.3, 1.1, 0.8), rtol=1e-6)


def test_large_integers_of_a_label_map_stay_exact(tmp_path):
    array = np.zeros((3, 3, 3), np.int64)
    array[1, 1, 1], array[2, 2, 2] = 2**31 - 1, 2**24 + 1
    labels = read_label_map(save(tmp_path / "a.nii.gz", array))
    assert labels.array.dtype == np.int32
    np.testing.assert_array_equal(labels.array, array.T)


@pytest.mark.parametrize(("slope", "intercept"), [(2.0, -1000.0), (0.5, 0.0), (-3.0, 7.0)])
def test_slope_and_intercept_are_applied_to_images(tmp_path, slope, intercept):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = edited(save(tmp_path / "a.nii", array), slope=(slope, intercept))
    np.testing.assert_allclose(read_image(path).array[0], array.T * slope + intercept)


@pytest.mark.parametrize("slope", [(0.0, 5.0), (np.nan, 5.0), (np.nan, np.nan), (1.0, 0.0)])
def test_slope_zero_and_nan_mean_unscaled(tmp_path, slope):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = edited(save(tmp_path / "a.nii", array), slope=slope)
    np.testing.assert_array_equal(read_image(path).array[0], array.T)


@pytest.mark.parametrize("slope", [(np.inf, 0.0), (2.0, np.nan), (2.0, -np.inf)])
def test_slopes_that_are_not_finite_are_refused(tmp_path, slope):
    path = edited(save(tmp_path / "a.nii", np.ones((3, 4, 5), np.int16)), slope=slope)
    assert code_of(path) == "E-NIFTI-SCALE"


def test_the_fourth_axis_is_the_channels(tmp_path):
    array = np.random.default_rng(2).normal(size=(3, 4, 5, 6)).astype(np.float32)
    path = save(tmp_path / "a.nii.gz", array)
    np.testing.assert_array_equal(read_image(path).array, array.T)
    geometry, channels = read_geometry(path)
    assert (geometry.shape, channels) == ((5, 4, 3), 6)


def test_rgb_voxels_are_three_channels(tmp_path):
    array = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours = np.random.default_rng(3).integers(0, 255, (3, 3, 4, 5))
    for name, values in zip("RGB", colours, strict=True):
        array[name] = values
    image = read_image(save(tmp_path / "a.nii", array))
    np.testing.assert_array_equal(image.array, colours.transpose(0, 3, 2, 1))


def test_two_dimensional_images_have_two_axes(tmp_path):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = read_image(save(tmp_path / "a.nii", array, np.diag([0.5, 0.7, 1, 1])))
    np.testing.assert_array_equal(image.array, array.T[None])
    np.testing.assert_allclose(image.geometry.spacing, (0.7, 0.5), rtol=1e-6)
    assert image.geometry.affine is None


def test_a_plain_file_must_have_its_length_already_for_its_header(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((3, 4, 5), np.int16))
    whole = path.read_bytes()
    for content, code in ((whole + b"x", "E-FILE-TRAILING"), (whole[:-1], "E-FILE-TRUNCATED")):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_geometry(path)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"datatype": (32,), "bitpix": (64,)}, "E-NIFTI-TYPE"),
        ({"datatype": (1536,), "bitpix": (128,)}, "E-NIFTI-TYPE"),
        ({"datatype": (2304,), "bitpix": (32,)}, "E-NIFTI-TYPE"),
        ({"datatype": (77,)}, "E-NIFTI-TYPE"),
        ({"bitpix": (8,)}, "E-NIFTI-TYPE"),
        ({"dim": (5, 3, 4, 1, 1, 5, 1, 1)}, "E-NIFTI-SHAPE"),
        ({"dim": (9, 3, 4, 5, 1, 1, 1, 1)}, "E-NIFTI-SHAPE"),
        ({"dim": (0, 3, 4, 5, 1, 1, 1, 1)}, "E-NIFTI-SHAPE"),
        ({"dim": (3, 3, -4, 5, 1, 1, 1, 1)}, "E-NIFTI-SHAPE"),
        ({"dim": (3, 3, 4, 0, 1, 1, 1, 1)}, "E-NIFTI-SHAPE"),
        ({"dim": (1, 60, 1, 1, 1, 1, 1, 1)}, "E-NIFTI-SHAPE"),
        ({"dim": (3, 30000, 30000, 30000, 1, 1, 1, 1)}, "E-IMAGE-LIMIT"),
        ({"dim": (3, 3, 4, 6, 1, 1, 1, 1)}, "E-FILE-TRUNCATED"),
        ({"dim": (3, 3, 4, 4, 1, 1, 1, 1)}, "E-FILE-TRAILING"),
        ({"vox_offset": (np.nan,)}, "E-NIFTI-OFFSET"),
        ({"vox_offset": (1e30,)}, "E-NIFTI-OFFSET"),
        ({"vox_offset": (0.0,)}, "E-NIFTI-OFFSET"),
        ({"vox_offset": (352.5,)}, "E-NIFTI-OFFSET"),
        ({"units": (5,)}, "E-NIFTI-UNITS"),
        ({"magic": (b"ni1\0",)}, "E-NIFTI-PAIR"),
        ({"magic": (b"\0\0\0\0",)}, "E-NIFTI-MAGIC"),
    ],
)
def test_headers_that_cannot_be_read_safely_are_refused(tmp_path, fields, code):
    path = edited(save(tmp_path / "a.nii", np.ones((3, 4, 5), np.int16)), **fields)
    assert code_of(path) == code


def turned(angle: float) -> np.ndarray:
    return oblique(angles=(0.0, 0.0, angle))


SHEARED = oblique()
SHEARED[:3, 1] += 0.05 * SHEARED[:3, 0]
SINGULAR = oblique()
SINGULAR[:3, 1] = SINGULAR[:3, 0]
FLIPPED = oblique() @ np.diag([-1, 1, 1, 1])
BIGGER = oblique(spacing=(0.8, 1.2, 3.3))
FORMS = {
    "sform sheared": (None, SHEARED, "E-GEOMETRY-SHEARED"),
    "sform singular": (None, SINGULAR, "E-GEOMETRY-SINGULAR"),
    "sform singular, qform good": (oblique(), SINGULAR, "E-GEOMETRY-SINGULAR"),
    "sform NaN": (None, oblique() * [[1, 1, 1, np.nan]] * 4, "E-GEOMETRY-NONFINITE"),
    "sform zero": (None, np.zeros((4, 4)), "E-GEOMETRY-SPACING"),
    "sform too fine": (None, np.diag([1e-5, 1, 1, 1]), "E-GEOMETRY-SPACING"),
    "sform too coarse": (None, np.diag([1, 1, 2000, 1]), "E-GEOMETRY-SPACING"),
    "mirrored": (oblique(), FLIPPED, "E-GEOMETRY-CONFLICT"),
    "other spacing": (oblique(), BIGGER, "E-GEOMETRY-CONFLICT"),
    "turned by 60 degrees": (turned(0), turned(np.pi / 3), "E-GEOMETRY-CONFLICT"),
    "neither": (None, None, "E-GEOMETRY-MISSING"),
}  # fmt: skip


def with_forms(path: Path, qform, sform) -> Path:
    """A file whose header states exactly these forms."""
    save(path, np.arange(60, dtype=np.int16).reshape(3, 4, 5), oblique() if qform is None else qform)
    codes = (int(qform is not None), int(sform is not None))
    edited(path, codes=codes, srow=np.zeros(12) if sform is None else sform[:3].ravel())
    return path


@pytest.mark.parametrize("name", FORMS)
def test_geometries_that_cannot_be_trusted_are_refused(tmp_path, name):
    qform, sform, code = FORMS[name]
    assert code_of(with_forms(tmp_path / "a.nii", qform, sform)) == code


@pytest.mark.parametrize(("qform", "sform", "used"), [
    (turned(0.1), None, "qform"), (None, turned(0.1), "sform"), (turned(0.2), turned(0.1), "sform"),
])  # fmt: skip
def test_the_sform_counts_before_the_qform(tmp_path, qform, sform, used):
    geometry, _ = read_geometry(with_forms(tmp_path / "a.nii", qform, sform))
    expected = {"qform": qform, "sform": sform}[used]
    np.testing.assert_allclose(geometry.affine, expected, atol=1e-5)
    assert ("notes" in geometry.header) == (qform is not None and sform is not None)


@pytest.mark.parametrize("pixdim", [(1, 0, 1, 1), (1, 1, np.nan, 1), (1, 1, 1, -2), (1, np.inf, 1, 1)])
def test_voxel_sizes_that_are_not_positive_are_refused(tmp_path, pixdim):
    path = save(tmp_path / "a.nii", np.ones((3, 4, 5), np.int16))
    assert code_of(edited(path, pixdim=(*pixdim, 1, 1, 1, 1))) == "E-GEOMETRY-SPACING"


@pytest.mark.parametrize(("unit", "factor"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001)])
def test_units_of_length_are_converted_to_mm(tmp_path, unit, factor):
    affine = oblique(spacing=(0.9, 0.9, 0.9) if unit == 1 else (5.0, 6.0, 7.0))
    path = edited(save(tmp_path / "a.nii", np.ones((3, 4, 5), np.uint8), affine), units=(unit | 8,))
    image = read_image(path)
    expected = affine.copy()
    expected[:3] *= factor
    np.testing.assert_allclose(image.geometry.affine, expected, rtol=1e-5, atol=1e-6)
    write_label_map(tmp_path / "b.nii", image.array[0].astype(int), image.geometry)
    assert (tmp_path / "b.nii").read_bytes()[123] == unit | 8
    np.testing.assert_array_equal(nibabel.load(tmp_path / "b.nii").affine, nibabel.load(path).affine)


def test_microscopy_limits_accept_a_fraction_of_a_micron(tmp_path):
    path = edited(
        save(tmp_path / "a.nii", np.ones((3, 4, 5), np.uint8), np.diag([0.2, 0.2, 0.5, 1])), units=(3,)
    )
    assert code_of(path) == "E-GEOMETRY-SPACING"
    np.testing.assert_allclose(
        read_geometry(path, limits=MICROSCOPY)[0].spacing, (5e-4, 2e-4, 2e-4), rtol=1e-6
    )


def test_a_given_spacing_serves_where_the_header_names_no_place(tmp_path):
    path = with_forms(tmp_path / "a.nii", None, None)
    image = read_image(path, spacing=(2.0, 1.0, 0.5))
    assert image.geometry.spacing == (2.0, 1.0, 0.5)
    assert image.geometry.affine is None
    write_label_map(tmp_path / "b.nii", image.array[0].astype(int), image.geometry)
    header = nibabel.load(tmp_path / "b.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)
    np.testing.assert_array_equal(header["pixdim"][1:4], (0.5, 1.0, 2.0))


def test_a_given_spacing_must_agree_with_the_header(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((3, 4, 5), np.uint8))
    assert code_of(path, spacing=(3.3, 1.1, 1.0)) == "E-IMAGE-SPACING"
    assert read_image(path, spacing=(3.3, 1.1, 0.8)).array.shape == (1, 5, 4, 3)


def test_qforms_equal_nibabels_for_all_turns(tmp_path):
    random = np.random.default_rng(4)
    for index, flip in itertools.product(range(25), (1, -1)):
        affine = oblique(spacing=random.uniform(0.3, 5, 3), angles=random.uniform(-3.14, 3.14, 3))
        affine[:, 2] *= flip
        path = save(tmp_path / f"{index}{flip}.nii", np.ones((2, 3, 4), np.uint8), affine, codes=(1, 0))
        geometry, _ = read_geometry(path)
        np.testing.assert_allclose(geometry.affine, nibabel.load(path).get_qform(), atol=1e-5)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 4), (1, 3)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_mask_gets_the_geometry_of_its_image_bit_for_bit(tmp_path, kind, codes, ending):
    array = np.random.default_rng(5).integers(0, 3, (4, 5, 6)).astype(np.int16)
    path = save(tmp_path / "image.nii", array, kind=kind, order=">", codes=codes)
    image = read_image(path)
    write_label_map(tmp_path / f"mask{ending}", image.array[0].astype(np.int64), image.geometry)
    mask, original = nibabel.load(tmp_path / f"mask{ending}"), nibabel.load(path)
    assert type(mask) is type(original)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(mask.dataobj), array)
    for field in ("qform_code", "sform_code", "xyzt_units"):
        assert mask.header[field] == original.header[field]
    if codes[0]:
        np.testing.assert_array_equal(mask.header["pixdim"][:4], original.header["pixdim"][:4])
        for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
            assert mask.header[field] == original.header[field]
    if codes[1]:
        np.testing.assert_array_equal(mask.get_sform(), original.get_sform())


def test_a_changed_affine_is_written_instead_of_the_old_header(tmp_path):
    from dataclasses import replace

    image = read_image(save(tmp_path / "a.nii", np.ones((3, 4, 5), np.uint8)))
    moved = replace(image.geometry, affine=image.geometry.affine + np.eye(4, k=3) * 10)
    write_array(tmp_path / "b.nii.gz", image.array, moved)
    np.testing.assert_allclose(nibabel.load(tmp_path / "b.nii.gz").affine, moved.affine, atol=1e-5)


def test_channels_are_written_as_the_fourth_axis(tmp_path):
    image = read_image(save(tmp_path / "a.nii", np.ones((3, 4, 5), np.uint8)))
    array = np.random.default_rng(6).normal(size=(2, 5, 4, 3)).astype(np.float32)
    write_array(tmp_path / "b.nii.gz", array, image.geometry)
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii.gz").array, array)
    assert nibabel.load(tmp_path / "b.nii.gz").shape == (3, 4, 5, 2)


def test_axes_longer_than_nifti1_can_count_are_written_as_nifti2(tmp_path):
    from scanseg.types import Geometry

    geometry = Geometry((1, 2, 40_000), (1.0, 1.0, 1.0), affine=np.eye(4))
    write_label_map(tmp_path / "a.nii.gz", np.ones(geometry.shape, np.uint8), geometry)
    assert isinstance(nibabel.load(tmp_path / "a.nii.gz"), nibabel.Nifti2Image)


def test_written_files_hold_neither_a_name_nor_the_time(tmp_path):
    image = read_image(save(tmp_path / "a.nii", np.ones((3, 4, 5), np.uint8)))
    for name in ("patient-one.nii.gz", "patient-two.nii.gz"):
        write_label_map(tmp_path / name, image.array[0].astype(int), image.geometry)
    one, two = ((tmp_path / f"patient-{n}.nii.gz").read_bytes() for n in ("one", "two"))
    assert one == two
    assert one[3] == 0  # no name field
    assert one[4:8] == bytes(4)  # no time


def test_nii_and_nii_gz_side_by_side_are_read_each_for_itself(tmp_path):
    for name, value in (("x.nii", 111), ("x.nii.gz", 222)):
        save(tmp_path / name, np.full((3, 4, 5), value, np.uint8))
    assert read_image(tmp_path / "x.nii").array.max() == 111
    assert read_image(tmp_path / "x.nii.gz").array.max() == 222


def test_packed_and_plain_files_must_be_named_so(tmp_path):
    plain = save(tmp_path / "a.nii", np.ones((3, 4, 5), np.uint8)).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(plain)
    (tmp_path / "c.nii").write_bytes(gzip.compress(plain))
    assert code_of(tmp_path / "b.nii.gz") == code_of(tmp_path / "c.nii") == "E-NIFTI-NAME"


def test_extensions_between_header_and_voxels_are_passed_over(tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    image = nibabel.Nifti1Image(array, oblique())
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"hello" * 100))
    nibabel.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").array[0], array.T)


MEASURE = """
import sys
from pathlib import Path
import scanseg.data.image as door
image = door.read_image(Path(sys.argv[1]))
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize(("dtype", "ending"), [("u1", ".nii.gz"), ("i2", ".nii"), ("f8", ".nii")])
def test_reading_needs_at_most_four_times_the_voxels(tmp_path, dtype, ending):
    voxels = np.zeros((256, 256, 1024), dtype)
    path = save(tmp_path / f"a{ending}", voxels, np.eye(4))
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) * 1024 <= 4 * voxels.nbytes + 150e6
