"""MetaImage: hand-made headers; what ITK writes is compared in test_nrrd.py."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from scanseg.data.image import read_geometry, read_image, write_label_map
from scanseg.errors import DataError

VOXELS = np.arange(120, dtype="<i2")
PACKED = zlib.compress(VOXELS)
HEADER = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False", "TransformMatrix": "0 1 0 -1 0 0 0 0 1", "Offset": "1 2 3",
    "ElementSpacing": "1 2 3", "DimSize": "6 5 4", "ElementType": "MET_SHORT", "ElementDataFile": "LOCAL",
}  # fmt: skip


def file(path: Path, *, data: bytes = VOXELS.tobytes(), **fields: str | None) -> Path:
    """Writes a MetaImage by hand; a field set to None is left out."""
    last = fields.pop("ElementDataFile", HEADER["ElementDataFile"])
    header = {**HEADER, **fields}
    header.pop("ElementDataFile")
    lines = [*(f"{k} = {v}" for k, v in header.items() if v is not None), f"ElementDataFile = {last}"]
    path.write_bytes("".join(line + "\n" for line in lines).encode() + data)
    return path


def test_the_file_made_by_hand_equals_itk(tmp_path):
    path = file(tmp_path / "a.mha")
    image = read_image(path)
    itk = SimpleITK.ReadImage(path)
    np.testing.assert_array_equal(image.array[0], SimpleITK.GetArrayFromImage(itk))
    for index in ((0, 0, 0), (5, 4, 3)):
        lps = itk.TransformIndexToPhysicalPoint(index)
        ras = image.geometry.affine @ [*index, 1]
        np.testing.assert_allclose(ras[:3], np.array(lps) * (-1, -1, 1), atol=1e-9)


def test_big_endian_voxels(tmp_path):
    path = file(tmp_path / "a.mha", BinaryDataByteOrderMSB="True", data=VOXELS.astype(">i2").tobytes())
    np.testing.assert_array_equal(read_image(path).array.ravel(), VOXELS)


def test_a_real_scan_equals_itk_and_its_mask_the_scan(test_data, tmp_path):
    path = test_data / "odd_files" / "other" / "mha.mha"
    image = read_image(path)
    itk = SimpleITK.ReadImage(path)
    np.testing.assert_array_equal(image.array[0], SimpleITK.GetArrayFromImage(itk))
    write_label_map(tmp_path / "mask.mha", (image.array[0] > 100).astype(int), image.geometry)
    mask = SimpleITK.ReadImage(tmp_path / "mask.mha")
    assert (mask.GetOrigin(), mask.GetSpacing(), mask.GetDirection()) == (
        itk.GetOrigin(), itk.GetSpacing(), itk.GetDirection(),
    )  # fmt: skip


def test_voxels_beside_the_header(tmp_path):
    (tmp_path / "voxels of a.raw").write_bytes(VOXELS.tobytes())
    path = file(tmp_path / "a.mhd", ElementDataFile="voxels of a.raw", data=b"")
    np.testing.assert_array_equal(read_image(path).array.ravel(), VOXELS)
    (tmp_path / "voxels of a.raw").write_bytes(VOXELS.tobytes()[:-1])
    with pytest.raises(DataError, match=r"voxels of a\.raw"):
        read_image(path)


@pytest.mark.parametrize(
    "name", ["../a.raw", "/etc/passwd", "sub/a.raw", "a\\b.raw", "LIST", "a%03d.raw 1 4 1", "..", ""]
)
def test_voxels_anywhere_else_are_refused(tmp_path, name):
    with pytest.raises(DataError) as caught:
        read_image(file(tmp_path / "a.mhd", ElementDataFile=name, data=b""))
    assert caught.value.code == "E-METAIMAGE-HEADER"


def test_no_spacing_at_all_is_pixels(tmp_path):
    path = file(tmp_path / "a.mha", ElementSpacing=None, TransformMatrix=None, Offset=None)
    assert read_geometry(path)[0].unit == "px"
    assert read_geometry(path, spacing=(3.0, 2.0, 1.0))[0].spacing == (3.0, 2.0, 1.0)


def test_a_spacing_without_a_matrix_has_no_orientation(tmp_path):
    geometry, _ = read_geometry(file(tmp_path / "a.mha", TransformMatrix=None))
    assert (geometry.spacing, geometry.affine) == ((3.0, 2.0, 1.0), None)


@pytest.mark.parametrize(("changes", "code"), [
    ({"data": VOXELS.tobytes()[:-1]}, "E-FILE-TRUNCATED"),
    ({"data": VOXELS.tobytes() + b"x"}, "E-FILE-TRAILING"),
    ({"CompressedData": "True"}, "E-FILE-DAMAGED"),
    ({"CompressedData": "True", "data": zlib.compress(VOXELS)[:-2]}, "E-FILE-TRUNCATED"),
    ({"CompressedData": "True", "data": zlib.compress(VOXELS) + b"x"}, "E-FILE-TRAILING"),
    ({"CompressedData": "True", "CompressedDataSize": "9", "data": PACKED}, "E-FILE-TRUNCATED"),
    ({"CompressedData": "maybe"}, "E-METAIMAGE-HEADER"),
    ({"BinaryData": "False"}, "E-METAIMAGE-HEADER"),
    ({"HeaderSize": "-1"}, "E-METAIMAGE-HEADER"),
    ({"NDims": "4", "DimSize": "6 5 2 2"}, "E-METAIMAGE-HEADER"),
    ({"NDims": None}, "E-METAIMAGE-HEADER"),
    ({"DimSize": "6 5"}, "E-METAIMAGE-HEADER"), ({"DimSize": "6 0 4"}, "E-METAIMAGE-HEADER"),
    ({"DimSize": "32767 32767 32767"}, "E-IMAGE-LIMIT"),
    ({"ElementNumberOfChannels": "0"}, "E-METAIMAGE-HEADER"),
    ({"ElementType": "MET_STRING"}, "E-METAIMAGE-HEADER"),
    ({"ElementDataFile": "a.raw"}, "E-METAIMAGE-HEADER"),
    ({"ElementSpacing": "1 2"}, "E-METAIMAGE-HEADER"), ({"ElementSpacing": "1 -2 3"}, "E-METAIMAGE-HEADER"),
    ({"ElementSpacing": "1 2 1e5"}, "E-GEOMETRY-SPACING"),
    ({"TransformMatrix": "1 0 0 0 1 0 0 0 x"}, "E-METAIMAGE-HEADER"),
    ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "E-GEOMETRY-SINGULAR"),
    ({"TransformMatrix": "1 0 0 0.1 1 0 0 0 1"}, "E-GEOMETRY-SHEARED"),
    ({"TransformMatrix": "1 0 0 0 2 0 0 0 1"}, "E-METAIMAGE-HEADER"),
    ({"Offset": "1 2 inf"}, "E-METAIMAGE-HEADER"),
], ids=str)  # fmt: skip
def test_headers_that_cannot_be_read_safely_are_refused(tmp_path, changes, code):
    with pytest.raises(DataError) as caught:
        read_image(file(tmp_path / "a.mha", **changes))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"a = b\n" * 10, b"ObjectType = Image\nNDims = 3\nBinary", b"\0" * 99]
)
def test_no_metaimage_at_all(tmp_path, content):
    (tmp_path / "a.mha").write_bytes(content)
    with pytest.raises(DataError):
        read_image(tmp_path / "a.mha")
