"""The door to all image files: names, labels, channels, writing, and every real file at hand."""

import csv
import os
import unicodedata
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scanseg.data.image import (
    SUFFIXES,
    file_stem,
    image_suffix,
    read_channels,
    read_geometry,
    read_image,
    read_label_map,
    same_geometry,
    write_array,
    write_label_map,
)
from scanseg.data.limits import Limits, shown
from scanseg.errors import DataError, Error, UsageError
from scanseg.types import Geometry

AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.6, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])
SCAN = Geometry((4, 5, 6), (2.5, 0.6, 0.5), affine=AFFINE)
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".tiff")


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Writes an array (z, y, x) as NIfTI with nibabel."""
    nibabel.save(nibabel.Nifti1Image(array.T, affine, dtype=array.dtype), path)
    return path


def code_of(path: Path, read=read_image, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    return caught.value.code


@pytest.mark.parametrize(("name", "stem", "suffix"), [
    ("case.nii.gz", "case", ".nii.gz"), ("a.b.NII.GZ", "a.b", ".nii.gz"), ("x.Nii", "x", ".nii"),
    ("a.nii.png", "a.nii", ".png"), ("photo.JPEG", "photo", ".jpeg"), ("..tif", ".", ".tif"),
])  # fmt: skip
def test_endings(name, stem, suffix):
    assert (file_stem(Path("folder") / name), image_suffix(Path(name))) == (stem, suffix)
    assert suffix in SUFFIXES


@pytest.mark.parametrize(
    "name", ["case", "case.gz", "case.dcm", ".nii.gz", ".png", "case.nii.gz.part", "a.hdr", "a.svs"]
)
def test_other_endings_are_refused_with_a_way_out(name):
    with pytest.raises(DataError) as caught:
        image_suffix(Path(name))
    assert caught.value.code == "E-IMAGE-SUFFIX"
    assert caught.value.hint


def test_files_that_are_none(tmp_path):
    assert code_of(tmp_path / "a.nii.gz") == "E-FILE-MISSING"
    (tmp_path / "b.nii.gz").mkdir()
    assert code_of(tmp_path / "b.nii.gz") == "E-FILE-IRREGULAR"
    os.mkfifo(tmp_path / "c.png")
    assert code_of(tmp_path / "c.png") == "E-FILE-IRREGULAR"
    assert code_of(tmp_path / "a\0b.png") == "E-FILE-UNREADABLE"
    assert code_of(tmp_path / ("a" * 300 + ".png")) == "E-FILE-UNREADABLE"
    if os.geteuid():
        save(tmp_path / "d.nii", np.ones((2, 2, 2), np.uint8)).chmod(0)
        assert code_of(tmp_path / "d.nii") == "E-FILE-UNREADABLE"


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, 30, 120])
def test_values_that_are_not_finite_are_counted_or_filled(tmp_path, fault, count):
    array = np.ones((4, 5, 6), np.float32)
    array.reshape(-1)[:count] = fault
    path = save(tmp_path / "a.nii.gz", array)
    with pytest.raises(DataError, match=f" {count} of 120 ") as caught:
        read_image(path)
    assert caught.value.code == "E-IMAGE-NONFINITE"
    filled = read_image(path, nan_fill=-7.0).array
    np.testing.assert_array_equal(filled[0], np.where(np.isfinite(array), 1, -7))


def test_values_beyond_float32_are_refused_and_tiny_ones_kept(tmp_path):
    array = np.ones((4, 5, 6))
    array[0, 0, 0], array[1, 1, 1] = 1e-40, 1e38
    assert read_image(save(tmp_path / "a.nii.gz", array)).array.max() == np.float32(1e38)
    array[2, 2, 2] = 1e39
    assert code_of(save(tmp_path / "a.nii.gz", array)) == "E-IMAGE-RANGE"
    assert code_of(tmp_path / "a.nii.gz", nan_fill=0.0) == "E-IMAGE-RANGE"


@pytest.mark.parametrize("fill", [float("nan"), float("inf")])
def test_a_fill_must_be_a_number(tmp_path, fill):
    with pytest.raises(UsageError, match="nan_fill"):
        read_image(save(tmp_path / "a.nii", np.ones((2, 2, 2), np.uint8)), nan_fill=fill)


@pytest.mark.parametrize(("value", "code"), [
    (0.9999, "E-LABEL-NOT-INTEGER"), (1e-7, "E-LABEL-NOT-INTEGER"), (np.nan, "E-LABEL-NOT-INTEGER"),
    (np.inf, "E-LABEL-NOT-INTEGER"), (-1.0, "E-LABEL-NEGATIVE"), (2.0**31, "E-LABEL-RANGE"),
    (1e300, "E-LABEL-RANGE"),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_label_values_must_be_exact_integers(tmp_path, value, code, dtype):
    array = np.zeros((4, 5, 6), dtype)
    with np.errstate(over="ignore"):
        array[1, 2, 3] = array[3, 4, 5] = value
    with pytest.raises(DataError, match=r" 2 of 120 .*(\d|nan|inf)") as caught:
        read_label_map(save(tmp_path / "a.nii.gz", array))
    # 1e300 is infinite in 32 bits
    assert caught.value.code == (code if np.isfinite(array).all() else "E-LABEL-NOT-INTEGER")


@pytest.mark.parametrize(("dtype", "value", "code"), [
    ("i1", -1, "E-LABEL-NEGATIVE"), ("i8", -(2**40), "E-LABEL-NEGATIVE"), ("u4", 2**31, "E-LABEL-RANGE"),
    ("i8", 2**31, "E-LABEL-RANGE"), ("u8", 2**63, "E-LABEL-RANGE"),
])  # fmt: skip
def test_integers_outside_the_range_are_refused(tmp_path, dtype, value, code):
    array = np.zeros((4, 5, 6), dtype)
    array[1, 2, 3] = value
    assert code_of(save(tmp_path / "a.nii.gz", array), read_label_map) == code


@pytest.mark.parametrize(
    ("slope", "code"), [(2.0, None), (0.5, "E-LABEL-NOT-INTEGER"), (0.1, "E-LABEL-NOT-INTEGER")]
)
def test_scaled_labels_count_only_where_the_result_is_whole(tmp_path, slope, code):
    import struct

    path = save(tmp_path / "a.nii", np.full((4, 5, 6), 5, np.uint8))
    raw = bytearray(path.read_bytes())
    struct.pack_into("<2f", raw, 112, slope, 0.0)
    path.write_bytes(raw)
    if code:
        assert code_of(path, read_label_map) == code
    else:
        assert set(np.unique(read_label_map(path).array)) == {10}


def test_a_label_map_has_one_channel(tmp_path):
    assert (
        code_of(save(tmp_path / "a.nii", np.ones((2, 4, 5, 6), np.uint8)), read_label_map)
        == "E-LABEL-CHANNELS"
    )
    assert read_label_map(save(tmp_path / "b.nii", np.ones((1, 4, 5, 6), np.uint8))).array.shape == (4, 5, 6)


def test_channels_of_several_files(tmp_path):
    arrays = [np.random.default_rng(i).integers(0, 99, (4, 5, 6)).astype(np.int16) for i in range(3)]
    paths = [save(tmp_path / f"{i}.nii.gz", array) for i, array in enumerate(arrays)]
    image = read_channels(paths)
    np.testing.assert_array_equal(image.array, np.stack(arrays))
    assert image.path == paths[0]
    moved = AFFINE + np.eye(4, k=3) * 5
    save(paths[1], arrays[1], moved)
    with pytest.raises(DataError, match="origins lie 5") as caught:
        read_channels(paths)
    assert caught.value.code == "E-IMAGE-CHANNELS"
    with pytest.raises(UsageError):
        read_channels([])


@pytest.mark.parametrize("limits", [Limits(voxels=119), Limits(decompressed_bytes=239)])
@pytest.mark.parametrize("ending", WRITABLE)
def test_limits_hold_for_every_format(tmp_path, limits, ending):
    labels = np.full(SCAN.shape, 300)
    write_label_map(tmp_path / f"a{ending}", labels, SCAN)
    assert code_of(tmp_path / f"a{ending}", limits=limits) == "E-IMAGE-LIMIT"
    assert code_of(tmp_path / f"a{ending}", read_geometry, limits=limits) == "E-IMAGE-LIMIT"


@pytest.mark.parametrize(("top", "dtype"), [(0, "u1"), (255, "u1"), (256, "u2"), (300, "u2"), (65_536, "u4")])
@pytest.mark.parametrize("ending", WRITABLE)
def test_masks_use_the_smallest_type_and_lose_nothing(tmp_path, top, dtype, ending):
    labels = np.zeros(SCAN.shape, np.int64)
    labels[1, 2, 3] = top
    write_label_map(tmp_path / f"a{ending}", labels, SCAN)
    copy = read_label_map(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(copy.array, labels)
    if ending not in (".tif", ".tiff"):
        np.testing.assert_allclose(copy.geometry.affine, AFFINE, atol=1e-6)
    if ending == ".nii":
        assert nibabel.load(tmp_path / "a.nii").get_data_dtype() == np.dtype(dtype)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".tif", ".png"])
@pytest.mark.parametrize("unit", ["px", "mm"])
def test_pictures_are_written_in_any_format(tmp_path, ending, unit):
    geometry = Geometry((7, 9), (1.0, 1.0) if unit == "px" else (0.5, 0.25), unit)
    labels = np.random.default_rng(0).integers(0, 5, (7, 9))
    write_label_map(tmp_path / f"a{ending}", labels, geometry)
    copy = read_label_map(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(copy.array, labels)
    if ending not in (".tif", ".png"):
        assert copy.geometry.spacing == geometry.spacing


def test_a_stack_without_a_place_gets_an_affine_from_its_spacing(tmp_path):
    geometry = Geometry((4, 5, 6), (3.0, 0.5, 0.25), "mm", None, "tiff")
    write_label_map(tmp_path / "a.nii.gz", np.ones((4, 5, 6), bool), geometry)
    np.testing.assert_array_equal(
        nibabel.load(tmp_path / "a.nii.gz").affine.diagonal(), (0.25, 0.5, 3.0, 1.0)
    )


@pytest.mark.parametrize("array", [
    np.ones((4, 5, 6)), np.ones((4, 5, 6), complex), np.ones((4, 5, 7), int), np.ones((1, 4, 5, 6), int),
    np.full((4, 5, 6), -1), np.full((4, 5, 6), 2**31),
], ids=["float", "complex", "shape", "channel", "negative", "large"])  # fmt: skip
def test_what_is_no_label_map_is_not_written(tmp_path, array):
    with pytest.raises(UsageError):
        write_label_map(tmp_path / "a.nii.gz", array, SCAN)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "array", [np.full((4, 5, 6), np.nan), np.ones((5, 6)), np.ones((1, 2, 4, 5, 6))], ids=["nan", "2d", "5d"]
)
def test_values_that_cannot_be_stored_are_not_written(tmp_path, array):
    with pytest.raises(UsageError):
        write_array(tmp_path / "a.nii.gz", array, SCAN)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".jpg", ".mhd"])
def test_formats_that_are_not_written(tmp_path, ending):
    with pytest.raises(UsageError) as caught:
        write_label_map(tmp_path / f"a{ending}", np.ones((4, 5, 6), int), SCAN)
    assert caught.value.code == "E-WRITE-FORMAT"


def test_a_file_that_reads_back_differently_never_takes_its_name(tmp_path, monkeypatch):
    import scanseg.data.nifti as nifti

    path = tmp_path / "a.nii.gz"
    write_label_map(path, np.ones((4, 5, 6), int), SCAN)
    before, write = path.read_bytes(), nifti.write_nifti

    def failing_disk(path, array, geometry):
        damaged = array.copy()
        damaged[3, 4, 5] ^= 1
        write(path, damaged, geometry)

    monkeypatch.setattr(nifti, "write_nifti", failing_disk)
    labels = np.full((4, 5, 6), 2)
    with pytest.raises(DataError) as caught:
        write_label_map(path, labels, SCAN)
    assert caught.value.code == "E-WRITE-VERIFY"
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


NAMES = [
    "with space", "quote'\"", "line\nbreak", "-rf", "--help", "smile 🫀", "a" * 200, "x." + "b" * 240, "~",
    "$HOME", "*", "%s%n", "tab\t", "\u202emirror", "con", unicodedata.normalize("NFC", "Müller"),
    unicodedata.normalize("NFD", "Müller"), os.fsdecode(b"latin-\xfc"),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("ending", [".nii.gz", ".png", ".tif", ".nrrd", ".mha"])
def test_any_name_works(tmp_path, name, ending):
    geometry = Geometry((7, 9), (1.0, 1.0), "px")
    labels = np.random.default_rng(0).integers(0, 5, (7, 9))
    path = tmp_path / (name[: 255 - len(ending)] + ending)
    write_label_map(path, labels, geometry)
    assert os.listdir(tmp_path) == [path.name]
    assert file_stem(path) == path.name[: -len(ending)]
    np.testing.assert_array_equal(read_label_map(path).array, labels)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert caught.value.message.isprintable()
    assert "\n" not in shown(path)


def test_both_forms_of_an_accent_are_two_files(tmp_path):
    for form, value in (("NFC", 1), ("NFD", 2)):
        name = unicodedata.normalize(form, "Müller.nii.gz")
        write_label_map(tmp_path / name, np.full((4, 5, 6), value), SCAN)
    assert read_label_map(tmp_path / unicodedata.normalize("NFC", "Müller.nii.gz")).array.max() == 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 9), (7, 1, 9), (3, 5, 1), (2, 3, 997), (1, 10_000, 10)])
@pytest.mark.parametrize("ending", WRITABLE)
def test_any_shape_comes_back(tmp_path, shape, ending):
    geometry = Geometry(shape, (2.5, 0.6, 0.5), affine=AFFINE)
    labels = np.random.default_rng(0).integers(0, 5, shape)
    write_label_map(tmp_path / f"a{ending}", labels, geometry)
    array = read_label_map(tmp_path / f"a{ending}").array
    # a TIFF of one page is a picture
    np.testing.assert_array_equal(array.reshape(shape), labels)


def test_same_geometry_says_what_differs():
    from dataclasses import replace

    assert same_geometry(SCAN, SCAN) == []
    assert "sizes" in same_geometry(SCAN, replace(SCAN, shape=(4, 5, 7)))[0]
    wider = AFFINE @ np.diag([1.01, 1, 1, 1])
    assert "spacings" in same_geometry(SCAN, replace(SCAN, affine=wider, spacing=(2.5, 0.6, 0.505)))[0]
    flipped = AFFINE @ np.diag([-1, 1, 1, 1])
    assert "directions" in same_geometry(SCAN, replace(SCAN, affine=flipped))[0]
    assert "origins" in same_geometry(SCAN, replace(SCAN, affine=AFFINE + np.eye(4, k=3) * 50))[0]
    assert same_geometry(SCAN, replace(SCAN, affine=AFFINE + np.eye(4, k=3) * 1e-4)) == []
    assert same_geometry(SCAN, Geometry((4, 5, 6), (1.0, 1.0, 1.0), "px")) == []


def test_every_real_image_of_every_dataset_reads(test_data):
    files = [
        path
        for folder in sorted(test_data.iterdir())
        for path in sorted(folder.glob("*Tr/*"))
        if path.name.lower().endswith(SUFFIXES)
    ]
    assert files
    for path in files:
        geometry, channels = read_geometry(path)
        image = read_image(path)
        assert image.array.shape == (channels, *geometry.shape)
        assert np.isfinite(image.array).all()
        if path.parent.name != "imagesTr":
            labels = read_label_map(path)
            assert labels.array.shape == geometry.shape
            if channels == 1:
                np.testing.assert_array_equal(labels.array, image.array[0])


ODD = {
    "nifti/complex.nii.gz": "E-NIFTI-TYPE", "nifti/minimal.nii.gz": "E-GEOMETRY-MISSING",
    "nifti/tensor_rgb.nii.gz": "E-NIFTI-SHAPE", "nifti/ras.hdr": "E-IMAGE-SUFFIX",
    "nifti/ras.img": "E-IMAGE-SUFFIX", "nifti/nifti1.hdr": "E-IMAGE-SUFFIX",
    "wsi/small_HE.svs": "E-IMAGE-SUFFIX", "wsi/unreadable.svs": "E-IMAGE-SUFFIX",
    "wsi/boxes.tiff": "E-TIFF-PAGES", "tiff/test_orient3.tif": "E-TIFF-PAGES",
    "tiff/pillow/multipage.tiff": "E-TIFF-PAGES", "tiff/pillow/multipage_out_of_order.tiff": "E-TIFF-PAGES",
    "tiff/pillow/tiff_wrong_bits_per_sample.tiff": "E-FILE-TRUNCATED",
    "tiff/pillow/crash-0c7e0e8e11ce787078f00b5b0ca409a167f070e0.tif": "E-FILE-TRUNCATED",
    "tiff/pillow/crash-2020-10-test.tif": "E-TIFF-DAMAGED", "other/notanimage.txt": "E-IMAGE-SUFFIX",
    "other/wm.mgz": "E-IMAGE-SUFFIX", "other/minc2_4d.mnc": "E-IMAGE-SUFFIX",
    "other/phantom_EPI_asc_CLEAR_2_1.PAR": "E-IMAGE-SUFFIX",
    "other/phantom_EPI_asc_CLEAR_2_1.REC": "E-IMAGE-SUFFIX",
}  # fmt: skip


def test_every_odd_file_reads_or_gets_the_error_that_fits(test_data):
    folder = test_data / "odd_files"
    with open(folder / "MANIFEST.csv", newline="") as stream:
        names = [row["file"] for row in csv.DictReader(stream)]
    seen = {}
    for name in names:
        if name.startswith("dicom/") and not name.endswith(".nrrd"):
            continue
        try:
            assert np.isfinite(read_image(folder / name).array).all()
        except Error as error:
            seen[name] = error.code
    assert seen == {name: code for name, code in ODD.items() if name in names}
