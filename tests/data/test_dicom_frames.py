"""Enhanced images: many slices in a file are read as the same slices in files of their own."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from scanseg.data import read_geometry, read_image
from scanseg.data.dicom import read_headers
from scanseg.data.limits import Limits
from scanseg.errors import DataError, DatasetError

pytest.importorskip("pydicom", reason="DICOM needs pip install 'scanseg[dicom]'")

Change = Callable[[Any], None]
EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"


@pytest.fixture(scope="module")
def scan(demo_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """A real MR volume (z, y, x) of 12 slices, and its affine."""
    image = nibabel.load(sorted((demo_data / "hippocampus" / "imagesTs").iterdir())[0])
    voxels = np.asarray(image.dataobj).astype(np.int16)[2:30, 5:38, 3:15]
    affine = image.affine @ np.diag([-0.9, -0.8, 2.5, 1.0])
    affine[:3, 3] = [10.5, -20.25, 7.0]
    return voxels.T, affine


def refusal(path: Path) -> tuple[set[str], str]:
    with pytest.raises(DataError) as caught:
        read_image(path)
    error = caught.value
    return {f.code for f in error.findings} if isinstance(error, DatasetError) else {error.code}, str(error)


@pytest.mark.parametrize(
    ("syntax", "shared"),
    [
        (EXPLICIT, True),
        (EXPLICIT, False),
        (DEFLATED, True),
        ("1.2.840.10008.1.2", True),
        ("1.2.840.10008.1.2.5", True),
        ("1.2.840.10008.1.2.4.80", True),
    ],
    ids=["shared", "own", "deflated", "implicit", "RLE", "JPEG-LS"],
)
def test_an_enhanced_image_is_its_series(tmp_path, scan, write_enhanced, write_series, syntax, shared):
    volume, affine = scan
    order = np.random.default_rng(0).permutation(len(volume)).tolist()
    write_series(tmp_path / "classic", volume, affine)
    write_enhanced(tmp_path / "case" / "1", volume, affine, order=order, syntax=syntax, shared=shared)
    expected, found = read_image(tmp_path / "classic"), read_image(tmp_path / "case")
    np.testing.assert_array_equal(found.array, expected.array)
    np.testing.assert_allclose(found.geometry.affine, expected.geometry.affine, atol=1e-6)
    assert found.geometry.shape == expected.geometry.shape


@pytest.mark.parametrize(
    ("name", "modality"), [("OrgansCT_TotalSegmentator", "CT"), ("OrgansMR_TotalSegmentator", "MR")]
)
def test_real_scans_of_the_body(test_data, tmp_path, write_series, name, modality, write_enhanced):
    (path,) = (test_data / name / "imagesTr").iterdir()
    image = nibabel.load(path)
    volume = np.asarray(image.dataobj)[20:60, 20:60, :16].astype(np.int16).T
    write_series(tmp_path / "classic", volume, image.affine, modality=modality)
    write_enhanced(tmp_path / "case" / "1", volume, image.affine, modality=modality)
    expected, found = read_image(tmp_path / "classic"), read_image(tmp_path / "case")
    np.testing.assert_array_equal(found.array, expected.array)
    np.testing.assert_allclose(found.geometry.affine, expected.geometry.affine, atol=1e-5)


def test_an_archive_and_parts_in_several_files(tmp_path, scan, write_enhanced):
    volume, affine = scan
    write_enhanced(tmp_path / "case" / "1", volume, affine, order=range(0, 12, 2))
    write_enhanced(tmp_path / "case" / "2", volume, affine, order=range(1, 12, 2))
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "case")
    for path in (tmp_path / "case", tmp_path / "packed.zip"):
        np.testing.assert_array_equal(read_image(path).array[0], volume)


def test_each_frame_has_its_own_rescale(tmp_path, scan, write_enhanced):
    volume, affine = scan

    def change(one: Any) -> None:
        for number, own in enumerate(one.PerFrameFunctionalGroupsSequence):
            values = own.PixelValueTransformationSequence[0]
            values.RescaleSlope, values.RescaleIntercept = number + 0.5, -10 * number

    write_enhanced(tmp_path / "case" / "1", volume, affine, change=change)
    numbers = np.arange(len(volume))[:, None, None]
    expected = (volume * (numbers + 0.5) - 10 * numbers).astype(np.float32)
    np.testing.assert_array_equal(read_image(tmp_path / "case").array[0], expected)


def own(number: int) -> Callable[[Any], Any]:
    return lambda one: one.PerFrameFunctionalGroupsSequence[number]


def set_position(one: Any) -> None:
    position = own(5)(one).PlanePositionSequence[0]
    position.ImagePositionPatient = [
        *position.ImagePositionPatient[:2],
        position.ImagePositionPatient[2] + 0.8,
    ]


def second_stack(one: Any) -> None:
    for number in range(6, 12):
        own(number)(one).FrameContentSequence[0].StackID = "2"


def second_time(one: Any) -> None:
    for number in range(12):
        frame = own(number)(one)
        frame.FrameContentSequence[0].TemporalPositionIndex = number % 2 + 1
        frame.PlanePositionSequence[0].ImagePositionPatient = list(
            own(number - number % 2)(one).PlanePositionSequence[0].ImagePositionPatient
        )


def turned(one: Any) -> None:
    plane = deepcopy(one.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence)
    plane[0].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    own(3)(one).PlaneOrientationSequence = plane


def pop(name: str) -> Change:
    return lambda one: own(5)(one).pop(name) and None


FAULTS: dict[str, tuple[str, Change]] = {
    "uneven": ("E-DICOM-UNEVEN", set_position),
    "two stacks": ("E-DICOM-VOLUMES", second_stack),
    "two points in time": ("E-DICOM-VOLUMES", second_time),
    "orientation": ("E-DICOM-ORIENTATION", turned),
    "one without rescale": ("E-DICOM-RESCALE", pop("PixelValueTransformationSequence")),
    "one without a place": ("E-DICOM-POSITION", pop("PlanePositionSequence")),
    "a frame not described": (
        "E-DICOM-FRAMES",
        lambda one: one.PerFrameFunctionalGroupsSequence.pop(3) and None,
    ),
    "no frame described": (
        "E-DICOM-FRAMES",
        lambda one: one.pop("PerFrameFunctionalGroupsSequence") and None,
    ),
    "no pixels of the last": ("E-DICOM-LENGTH", lambda one: setattr(one, "PixelData", one.PixelData[:-1848])),
    "too many announced": ("E-DICOM-FRAMES", lambda one: setattr(one, "NumberOfFrames", 13)),
    "colour": ("E-DICOM-COLOUR", lambda one: setattr(one, "PhotometricInterpretation", "RGB")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_by_name(tmp_path, scan, write_enhanced, fault):
    code, change = FAULTS[fault]
    write_enhanced(tmp_path / "case" / "1", *scan, change=change)
    found, text = refusal(tmp_path / "case")
    assert found == {code}, text
    assert text.startswith("case: ")


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ([0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11], "E-DICOM-MISSING"),
        ([0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11], "E-DICOM-DOUBLE"),
    ],
)
def test_missing_and_doubled_frames(tmp_path, scan, write_enhanced, order, code):
    write_enhanced(tmp_path / "case" / "1", *scan, order=order)
    found, text = refusal(tmp_path / "case")
    assert found == {code}, text


def test_volumes_are_counted(tmp_path, scan, write_enhanced):
    write_enhanced(tmp_path / "case" / "1", *scan, change=second_stack)
    assert (
        "the frames make 2 volumes of 2 stacks, 1 point in time; one is accepted"
        in refusal(tmp_path / "case")[1]
    )


def test_every_cut_is_refused(tmp_path, scan, write_enhanced):
    write_enhanced(tmp_path / "whole" / "1", *scan)
    content = (tmp_path / "whole" / "1").read_bytes()
    (tmp_path / "case").mkdir()
    for cut in np.random.default_rng(1).integers(0, len(content), 60):
        (tmp_path / "case" / "1").write_bytes(content[:cut])
        assert refusal(tmp_path / "case")[0] <= {
            "E-DICOM-FORMAT", "E-DICOM-SYNTAX", "E-DICOM-DAMAGED", "E-DICOM-NO-PIXELS", "E-DICOM-LENGTH",
            "E-DICOM-FRAMES",
        }  # fmt: skip


def test_a_header_without_end_is_not_read(tmp_path, scan, write_enhanced, monkeypatch):
    monkeypatch.setattr("scanseg.data.dicom_frames._MOST_HEADER_BYTES", 2000)
    write_enhanced(tmp_path / "case" / "1", *scan)
    assert refusal(tmp_path / "case")[0] == {"E-DICOM-DAMAGED"}


def test_headers_tell_the_frame_of_each_slice(tmp_path, scan, write_enhanced):
    order = np.random.default_rng(2).permutation(12).tolist()
    write_enhanced(tmp_path / "case" / "1", *scan, order=order)
    assert read_geometry(tmp_path / "case")[0].header["enhanced_files"] == 1
    headers = read_headers(tmp_path / "case", Limits())
    (document,) = headers.documents
    assert (document.NumberOfFrames, "PixelData" in document) == (12, False)
    assert [order[frame] for frame in headers.frames] in (list(range(12)), list(range(12))[::-1])


def test_headers_of_frames_in_several_files_are_refused(tmp_path, scan, write_enhanced):
    write_enhanced(tmp_path / "case" / "1", *scan, order=range(5))
    write_enhanced(tmp_path / "case" / "2", *scan, order=range(5, 12))
    assert read_geometry(tmp_path / "case")[0].header["enhanced_files"] == 2
    with pytest.raises(DataError, match="its frames lie in 2 files") as caught:
        read_headers(tmp_path / "case", Limits())
    assert caught.value.code == "E-SEG-ENHANCED"


def test_damaged_headers_are_refused_or_harmless(tmp_path, scan, write_enhanced):
    volume, affine = scan
    write_enhanced(tmp_path / "whole" / "1", volume, affine)
    content = (tmp_path / "whole" / "1").read_bytes()
    end = len(content) - volume.nbytes
    (tmp_path / "case").mkdir()
    random = np.random.default_rng(3)
    accepted = 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(132, end, random.integers(1, 6)):
            damaged[place] = random.integers(256)
        (tmp_path / "case" / "1").write_bytes(damaged)
        try:
            found = read_image(tmp_path / "case")
        except DataError:
            continue
        accepted += 1
        assert found.array.size == volume.size  # a name, a number or a place changed, not how much there is
    assert 0 < accepted < 300
