"""DICOM series: what is read is right to the voxel, everything else is refused by name."""

import gc
import logging
import shutil
import warnings
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff

from scanseg.data import Limits, read_geometry, read_image, reorient_image, same_geometry
from scanseg.data.dicom import open_dicom
from scanseg.errors import DataError, DatasetError, UsageError

pytest.importorskip("pydicom", reason="DICOM needs pip install 'scanseg[dicom]'")

Change = Callable[[int, Any], None]
EXPLICIT, IMPLICIT, DEFLATED, BIG = (
    *("1.2.840.10008.1.2.1", "1.2.840.10008.1.2"),
    *("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"),
)
LOSSLESS = {
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "RLE": "1.2.840.10008.1.2.5",
}


@pytest.fixture(scope="module")
def scan(demo_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """A real MR volume (z, y, x) of 12 slices, and its affine."""
    image = nibabel.load(sorted((demo_data / "hippocampus" / "imagesTs").iterdir())[0])
    voxels = np.asarray(image.dataobj).astype(np.int16)[2:30, 5:38, 3:15]
    affine = image.affine.copy()
    affine[:3, 3] = [10.5, -20.25, 7.0]
    return voxels.T, affine


def refusal(path: Path, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        read_image(path, **options)
    return caught.value


def codes(error: DataError) -> set[str]:
    return {f.code for f in error.findings} if isinstance(error, DatasetError) else {error.code}


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED, BIG])
def test_voxels_and_places_are_exact(tmp_path, scan, write_series, syntax):
    volume, affine = scan
    write_series(tmp_path / "case", volume, affine, syntax=syntax)
    image = read_image(tmp_path / "case")
    np.testing.assert_array_equal(image.array[0], volume)
    np.testing.assert_allclose(image.geometry.affine, affine, atol=1e-6)
    assert image.geometry.format == "dicom"
    geometry, channels = read_geometry(tmp_path / "case")
    assert channels == 1
    assert same_geometry(geometry, image.geometry) == []


@pytest.mark.parametrize("name", LOSSLESS)
def test_compressed_pixels_are_exact(tmp_path, scan, write_series, name):
    if name == "JPEG-LS":
        pytest.importorskip("jpeg_ls", reason="pyjpegls writes the JPEG-LS test images")
    volume, affine = scan
    write_series(tmp_path / "case", volume, affine, syntax=LOSSLESS[name])
    np.testing.assert_array_equal(read_image(tmp_path / "case").array[0], volume)


@pytest.mark.parametrize("name", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"])
@pytest.mark.parametrize("low", [0, -1000])
def test_slices_that_gdcm_compressed_are_exact(tmp_path, scan, write_series, name, low):
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm writes the JPEG test images")
    volume, affine = scan[0] + low, scan[1]
    for path in write_series(tmp_path / "case", volume, affine):
        reader, change = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    np.testing.assert_array_equal(read_image(tmp_path / "case").array[0], volume)


def test_a_zip_archive_is_its_folder(tmp_path, scan, write_series):
    write_series(tmp_path / "case" / "deep" / "er", *scan)
    archive = shutil.make_archive(str(tmp_path / "case"), "zip", tmp_path / "case")
    np.testing.assert_array_equal(read_image(Path(archive)).array, read_image(tmp_path / "case").array)


def test_all_48_orientations_are_the_same_anatomy(tmp_path, scan, write_series):
    volume, affine = scan[0][:5, 8:15, 9:18], scan[1]
    upright = read_image(write_series(tmp_path / "upright", volume, affine)[0].parent)
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        turn = np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
        turned = apply_orientation(volume.T, turn).T
        folder = tmp_path / "turned"
        write_series(folder, turned, affine @ inv_ornt_aff(turn, volume.T.shape))
        image = read_image(folder)
        same = reorient_image(image, "".join(nibabel.aff2axcodes(upright.geometry.affine)))
        np.testing.assert_array_equal(same.array, upright.array, err_msg=f"{order} {signs}")
        np.testing.assert_allclose(same.geometry.affine, upright.geometry.affine, atol=1e-5)
        shutil.rmtree(folder)


def test_oblique_slices_lie_where_simpleitk_says(tmp_path, scan, write_series):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is the second opinion")
    volume, _ = scan
    angle = np.radians(20)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    ) @ np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([0.7, 0.8, 2.5]), [-31.0, 12.5, 99.0]
    paths = write_series(tmp_path / "case", volume, affine)
    ours = read_image(tmp_path / "case")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "case")))
    theirs = reader.Execute()
    assert len(paths) == theirs.GetSize()[2]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs), ours.array[0])
    for corner in product(*((0, n - 1) for n in theirs.GetSize())):
        place = np.array(theirs.TransformIndexToPhysicalPoint(corner)) * [-1, -1, 1]
        np.testing.assert_allclose((ours.geometry.affine @ [*corner, 1])[:3], place, atol=1e-4)


def test_each_slice_has_its_own_rescale(tmp_path, scan, write_series):
    def change(number: int, one: Any) -> None:
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1 + number / 4, -1000 - number, "HU"

    volume, affine = scan
    write_series(tmp_path / "case", volume, affine, change=change, modality="CT")
    number = np.arange(len(volume))[:, None, None]
    np.testing.assert_array_equal(
        read_image(tmp_path / "case").array[0], volume * (1 + number / 4) - 1000 - number
    )


@pytest.mark.parametrize(("stored", "signed"), [(12, False), (12, True), (16, True)])
def test_bits_above_those_stored_do_not_count(tmp_path, write_series, stored, signed):
    rng = np.random.default_rng(0)
    low = -(1 << stored - 1) if signed else 0
    truth = rng.integers(low, low + (1 << stored), (3, 6, 7))
    raw = truth & ((1 << stored) - 1)
    if stored < 16:
        raw = raw | rng.integers(0, 1 << (16 - stored), truth.shape) << stored  # an old overlay

    def change(number: int, one: Any) -> None:
        one.BitsStored, one.HighBit, one.PixelRepresentation = stored, stored - 1, int(signed)
        one.PixelData = raw[number].astype("<u2").tobytes()

    write_series(tmp_path / "case", np.zeros((3, 6, 7), np.int16), np.eye(4), change=change)
    np.testing.assert_array_equal(read_image(tmp_path / "case").array[0], truth)


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 1, 1)])
def test_eight_bits_with_and_without_a_padding_byte(tmp_path, write_series, shape):
    truth = np.random.default_rng(0).integers(0, 256, shape)

    def change(number: int, one: Any) -> None:
        one.BitsAllocated, one.BitsStored, one.HighBit = 8, 8, 7
        one.PixelData = truth[number].astype("u1").tobytes() + b"\0" * (truth[number].size % 2)
        one["PixelData"].VR = "OB"

    write_series(tmp_path / "case", np.zeros(shape, np.int16), np.eye(4), change=change)
    np.testing.assert_array_equal(read_image(tmp_path / "case").array[0], truth)


def test_one_slice_is_as_thick_as_it_says(tmp_path, scan, write_series):
    volume, affine = scan
    write_series(tmp_path / "case", volume[:1], np.diag([0.5, 0.6, 3.0, 1.0]))
    assert read_geometry(tmp_path / "case")[0].spacing == pytest.approx((3.0, 0.6, 0.5))
    write_series(tmp_path / "bare", volume[:1], affine, change=lambda _, one: one.pop("SliceThickness"))
    assert refusal(tmp_path / "bare").code == "E-DICOM-SPACING"


def only(number: int, change: Callable[[Any], object]) -> Change:
    return lambda n, one: change(one) if n == number else None


def always(change: Callable[[Any], object]) -> Change:
    return lambda _, one: change(one)


def set_(**values: Any) -> Callable[[Any], None]:
    return lambda one: [setattr(one, name, value) for name, value in values.items()] and None


def moved(one: Any, vector: tuple[float, float, float]) -> None:
    one.ImagePositionPatient = [float(p) + v for p, v in zip(one.ImagePositionPatient, vector, strict=True)]


def tilted(number: int, one: Any) -> None:
    moved(one, (0.0, 0.2 * number, 0.0))


def table_of_values(one: Any) -> None:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType, item.LUTData = [2, 0, 16], "US", b"\0\0\1\0"
    one.ModalityLUTSequence = [item]


FAULTS: dict[str, tuple[str, Change]] = {
    "uneven": ("E-DICOM-UNEVEN", only(5, lambda one: moved(one, (0, 0, 0.3)))),
    "not on a line": ("E-DICOM-UNEVEN", only(5, lambda one: moved(one, (2.0, 0, 0)))),
    "tilted": ("E-DICOM-TILT", tilted),
    "place twice": ("E-DICOM-DOUBLE", only(5, lambda one: moved(one, (0, 0, 1.0)))),
    "orientation": (
        "E-DICOM-ORIENTATION",
        only(5, set_(ImageOrientationPatient=[0.0, 1.0, 0.0, 0.0, 0.0, -1.0])),
    ),
    "sheared axes": ("E-DICOM-ORIENTATION", always(set_(ImageOrientationPatient=[1, 0, 0, 0.1, 0.995, 0]))),
    "long axes": ("E-DICOM-ORIENTATION", always(set_(ImageOrientationPatient=[2, 0, 0, 0, 1, 0]))),
    "pixel spacing": ("E-DICOM-SPACING", only(5, set_(PixelSpacing=[1.0, 1.1]))),
    "series": ("E-DICOM-SERIES", only(5, set_(SeriesInstanceUID="1.2.3"))),
    "study": ("E-DICOM-SERIES", only(5, set_(StudyInstanceUID="1.2.3"))),
    "patient": ("E-DICOM-PATIENT", only(5, set_(PatientID="another"))),
    "frame of reference": ("E-DICOM-REFERENCE", only(5, set_(FrameOfReferenceUID="1.2.3"))),
    "one rescaled slice": ("E-DICOM-RESCALE", only(5, set_(RescaleSlope=2, RescaleIntercept=0))),
    "half a rescale": ("E-DICOM-RESCALE", always(set_(RescaleSlope=2))),
    "slope 0": ("E-DICOM-RESCALE", always(set_(RescaleSlope=0, RescaleIntercept=0))),
    "table of values": ("E-DICOM-RESCALE", lambda _, one: table_of_values(one)),
    "inverted slice": ("E-DICOM-COLOUR", only(5, set_(PhotometricInterpretation="MONOCHROME1"))),
    "multi-frame": ("E-DICOM-FRAMES", always(set_(NumberOfFrames=2))),
    "mosaic": ("E-DICOM-FRAMES", always(set_(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]))),
    "enhanced colour": ("E-DICOM-KIND", always(set_(SOPClassUID="1.2.840.10008.5.1.4.1.1.4.3"))),
    "segmentation": ("E-DICOM-KIND", only(5, set_(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"))),
    "structured report": ("E-DICOM-KIND", only(5, set_(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22"))),
    "colour": ("E-DICOM-COLOUR", always(set_(SamplesPerPixel=3, PhotometricInterpretation="RGB"))),
    "palette": ("E-DICOM-COLOUR", always(set_(PhotometricInterpretation="PALETTE COLOR"))),
    "no pixels": ("E-DICOM-NO-PIXELS", only(5, lambda one: one.pop("PixelData"))),
    "no rows": ("E-DICOM-NO-PIXELS", only(5, lambda one: one.pop("Rows"))),
    "too few pixels": ("E-DICOM-LENGTH", only(5, lambda one: set_(PixelData=one.PixelData[:-2])(one))),
    "too many pixels": ("E-DICOM-LENGTH", only(5, lambda one: set_(PixelData=one.PixelData + b"ab")(one))),
    "other size": ("E-DICOM-LENGTH", only(5, lambda one: set_(Rows=one.Rows + 1)(one))),
    "bits": ("E-DICOM-BITS", always(set_(HighBit=14))),
    "position": ("E-DICOM-POSITION", only(5, lambda one: one.pop("ImagePositionPatient"))),
    "directions": ("E-DICOM-POSITION", lambda _, one: one.pop("ImageOrientationPatient")),
    "size of pixels": ("E-DICOM-POSITION", lambda _, one: one.pop("PixelSpacing")),
    "localizer": ("E-DICOM-LOCALIZER", only(5, set_(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))),
    "huge spacing": ("E-GEOMETRY-SPACING", always(set_(PixelSpacing=[5000.0, 1.0]))),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_by_name(tmp_path, scan, write_series, fault):
    code, change = FAULTS[fault]
    write_series(tmp_path / "case", *scan, change=change)
    error = refusal(tmp_path / "case")
    assert code in codes(error)
    assert str(error).startswith("case: ")
    assert "Traceback" not in str(error)
    assert error.__cause__ is None


def test_a_missing_slice_is_counted_and_placed(tmp_path, scan, write_series):
    paths = write_series(tmp_path / "case", *scan)
    paths[4].unlink()
    error = refusal(tmp_path / "case")
    assert error.code == "E-DICOM-MISSING"
    assert "1 slice missing" in error.message
    assert "behind slice 4" in error.message


def test_sizes_that_differ_are_counted(tmp_path, scan, write_series):
    volume, affine = scan
    paths = write_series(tmp_path / "case", volume, affine)
    write_series(tmp_path / "wide", np.zeros((3, 40, 41), np.int16), affine)
    shutil.copy(tmp_path / "wide" / "2.dcm", paths[1])
    assert "E-DICOM-SIZE" in codes(refusal(tmp_path / "case"))


def test_a_doubled_file_is_seen(tmp_path, scan, write_series):
    paths = write_series(tmp_path / "case", *scan)
    shutil.copy(paths[3], tmp_path / "case" / "copy.dcm")
    error = refusal(tmp_path / "case")
    assert (error.code, "1 slice" in error.message) == ("E-DICOM-DOUBLE", True)


def test_everything_is_found_at_once(tmp_path, scan, write_series):
    def change(number: int, one: Any) -> None:
        if number == 1:
            one.PixelData = one.PixelData[:-2]
        if number in (2, 3):
            one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
        if number == 7:
            one.FrameOfReferenceUID = "1.2.3"

    write_series(tmp_path / "case", *scan, change=change)
    (tmp_path / "case" / "9999").write_bytes(b"%PDF-1.4")
    error = refusal(tmp_path / "case")
    assert error.code == "E-DICOM-REFUSED"
    assert {"E-DICOM-LENGTH", "E-DICOM-KIND", "E-DICOM-REFERENCE", "E-DICOM-FORMAT"} <= codes(error)
    assert "file 3 of 13 is a segmentation, no image of one slice (and 1 more like it)" in error.message


def test_dicomdir_is_never_followed(tmp_path, scan, write_series):
    paths = write_series(tmp_path / "in" / "case", *scan)
    shutil.move(paths[-1], tmp_path / "in" / "other.dcm")
    head = bytes(128) + b"DICM" + b"../other.dcm" * 20
    (tmp_path / "in" / "case" / "DICOMDIR").write_bytes(head)
    (tmp_path / "in" / "case" / "README.TXT").write_text("from a CD")
    assert read_geometry(tmp_path / "in" / "case")[0].shape[0] == len(scan[0]) - 1


def test_folders_that_hold_no_series(tmp_path):
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").code == "E-DICOM-EMPTY"
    (tmp_path / "empty" / "scan").write_bytes(b"")
    assert refusal(tmp_path / "empty").code == "E-DICOM-FORMAT"
    (tmp_path / "empty" / "scan.tar.gz").write_bytes(b"\x1f\x8b")
    assert refusal(tmp_path / "empty").code == "E-DICOM-ARCHIVE"


def test_links_to_folders_are_refused(tmp_path, scan, write_series):
    write_series(tmp_path / "case", *scan)
    (tmp_path / "case" / "more").symlink_to(tmp_path)
    assert refusal(tmp_path / "case").code == "E-DICOM-LINK"


def test_limits_come_before_memory(tmp_path, scan, write_series):
    write_series(tmp_path / "case", *scan)
    assert refusal(tmp_path / "case", limits=Limits(voxels=1000)).code == "E-IMAGE-LIMIT"
    assert refusal(tmp_path / "case", limits=Limits(entries=5)).code == "E-DICOM-LIMIT"
    assert refusal(tmp_path / "case", limits=Limits(decompressed_bytes=9000)).code == "E-DICOM-LIMIT"
    write_series(tmp_path / "huge", scan[0], scan[1], change=always(set_(Rows=65535, Columns=65535)))
    gc.collect()
    assert refusal(tmp_path / "huge").code == "E-DICOM-LENGTH"


def test_a_deflate_bomb_is_not_inflated(tmp_path, scan, write_series, monkeypatch):
    import zlib

    path = write_series(tmp_path / "case", *scan, syntax=DEFLATED)[0]
    whole = path.read_bytes()
    start = 132 + 12 + int.from_bytes(whole[140:144], "little")  # behind the file meta group
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(80)]
    path.write_bytes(whole[:start] + b"".join([*parts, packer.flush()]))
    assert "E-DICOM-DAMAGED" in codes(refusal(tmp_path / "case"))


def test_a_compressed_image_that_lies_about_its_size_is_refused(tmp_path, scan, write_series):
    pytest.importorskip("jpeg_ls", reason="pyjpegls writes the JPEG-LS test images")

    def change(_: int, one: Any) -> None:
        one.Rows, one.Columns = one.Rows * 2, one.Columns // 2

    volume = np.ascontiguousarray(scan[0][:, :, :28])
    write_series(tmp_path / "case", volume, scan[1], syntax=LOSSLESS["JPEG-LS"], change=change)
    assert refusal(tmp_path / "case").code == "E-DICOM-DECODE"


def test_every_cut_is_refused(tmp_path, scan, write_series):
    volume, affine = scan
    paths = write_series(tmp_path / "case", volume[:2], affine)
    whole = paths[1].read_bytes()
    end = len(whole)
    for place in [*range(0, 1200, 7), *range(1200, end, 97), end - 1]:
        paths[1].write_bytes(whole[:place])
        with pytest.raises(DataError):
            open_dicom(tmp_path / "case", Limits())


MARKS = ("ZANZIBAR^QUENTIN", "PID-771-Q", "zanzibar_quentin")


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_what_names_the_patient_is_never_said(tmp_path, scan, write_series, caplog, capfd, fault):
    def change(number: int, one: Any) -> None:
        one.PatientName, one.PatientID, one.InstitutionName = MARKS[0], MARKS[1], MARKS[0]
        one.StudyDescription = one.SeriesDescription = one.RescaleType = MARKS[1]
        if fault is not None:
            FAULTS[fault][1](number, one)

    paths = write_series(tmp_path / "case", scan[0], scan[1], change=change)
    for path in paths:
        path.rename(path.with_name(f"{MARKS[2]}_{path.name}"))
    text = ""
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if fault is None:
            read_image(tmp_path / "case")
        else:
            error = refusal(tmp_path / "case")
            text = f"{error!r} {error.hint} {error.__cause__!r}"
    said = " ".join([text, caplog.text, *capfd.readouterr(), *(str(w.message) for w in warned)])
    assert not [mark for mark in MARKS if mark.lower() in said.lower()]


def test_values_that_break_rules_are_not_quoted(tmp_path, scan, write_series, caplog, capfd):
    """pydicom warns about them, and quotes them."""

    def change(_: int, one: Any) -> None:
        one.file_meta.add_new(0x00020010, "UI", EXPLICIT)
        for tag, kind in ((0x00080060, "CS"), (0x00281054, "LO"), (0x00080005, "CS"), (0x00200052, "UI")):
            one.add_new(tag, kind, "MR")
            one[tag]._value = MARKS[0].lower()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_series(tmp_path / "case", *scan, change=change)
    caplog.clear()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        read_image(tmp_path / "case")
    said = " ".join([caplog.text, *capfd.readouterr(), *(str(w.message) for w in warned)])
    assert MARKS[0].lower() not in said.lower()


def test_a_spacing_that_disagrees_is_refused(tmp_path, scan, write_series):
    write_series(tmp_path / "case", *scan)
    assert refusal(tmp_path / "case", spacing=(9.0, 1.0, 1.0)).code == "E-IMAGE-SPACING"


def test_a_single_file_asks_for_its_folder(tmp_path, scan, write_series):
    path = write_series(tmp_path / "case", *scan)[0]
    assert "folder" in refusal(path).hint


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ct_gantry_tilt", "E-DICOM-TILT"),
        ("mixed_orientation", "E-DICOM-ORIENTATION"),
        ("rgb_series", "E-DICOM-COLOUR"),
        ("siemens_mosaic_coronal", "E-DICOM-FRAMES"),
        ("ct_3slice_with_seg", "E-DICOM-KIND"),
    ],
)
def test_real_odd_series_are_refused(test_data, name, code):
    assert code in codes(refusal(test_data / "odd_files" / "dicom" / name))


@pytest.mark.parametrize(
    "name",
    *[["hippocampus_crop_study1", "jpegls_series", "mr_hitachi_series", "mr_siemens_series"]],
)
def test_real_series_agree_with_simpleitk(test_data, name):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is the second opinion")
    folder = test_data / "odd_files" / "dicom" / name
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs, ours = reader.Execute(), read_image(folder)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs), ours.array[0])
    for corner in product(*((0, n - 1) for n in theirs.GetSize())):
        place = np.array(theirs.TransformIndexToPhysicalPoint(corner)) * [-1, -1, 1]
        np.testing.assert_allclose((ours.geometry.affine @ [*corner, 1])[:3], place, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small.dcm", "MR_small_RLE.dcm"]
)
def test_real_single_slices_agree_with_pydicom(test_data, tmp_path, name):
    import pydicom

    source = test_data / "odd_files" / "dicom" / "pydicom" / name
    document = pydicom.dcmread(source)
    expected = pydicom.pixels.apply_rescale(document.pixel_array, document)
    (tmp_path / "case").mkdir()
    shutil.copy(source, tmp_path / "case")
    np.testing.assert_array_equal(read_image(tmp_path / "case").array[0, 0], expected)


def test_the_extra_is_named_where_pydicom_is_absent(tmp_path, monkeypatch):
    import scanseg.optional

    monkeypatch.setattr(scanseg.optional, "is_installed", lambda module: False)
    (tmp_path / "case").mkdir()
    with pytest.raises(UsageError, match=r"scanseg\[dicom\]"):
        read_image(tmp_path / "case")
