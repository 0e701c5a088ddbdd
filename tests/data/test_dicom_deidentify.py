"""De-identification: no planted mark survives anywhere in a file, and the images stay what they were."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scanseg.data.dicom_deidentify import NOTICE, deidentify
from scanseg.data.image import read_image
from scanseg.errors import DataError, UsageError

pydicom = pytest.importorskip("pydicom", reason="DICOM needs pip install 'scanseg[dicom]'")

MARK = "ZANZIBAR"
VOLUME = np.arange(4 * 6 * 5).reshape(4, 6, 5).astype(np.int16)
TEXT = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")


def planted(number: int, one: Any) -> None:
    """Puts the mark into every text element of the profile, nested, private, unknown and in the file meta."""
    from importlib.resources import files

    from pydicom.datadict import dictionary_VR
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag

    table = json.loads(files("scanseg.data").joinpath("dicom_profile.json").read_text())
    for action in ("remove", "empty", "replace"):
        for text in table[action]:
            tag = Tag(int(text, 16))
            try:
                kind = dictionary_VR(tag)
            except KeyError:
                continue
            if kind in TEXT and tag.group > 2 and tag not in (0x00200052,):
                one.add_new(tag, kind, MARK)
    one.PatientName, one.PatientID, one.OperatorsName = f"{MARK}^A", f"{MARK}-1", f"{MARK}^B"
    one.StudyDate, one.PatientBirthDate, one.AcquisitionDateTime = "20240229", "19510203", "20240229101112.5"
    one.StudyTime = "101112"
    inner = Dataset()
    inner.PatientName, inner.StudyInstanceUID, inner.InstitutionName = MARK, one.StudyInstanceUID, MARK
    outer = Dataset()
    outer.ReferencedStudySequence = [inner]
    outer.PersonName, outer.ReferencedSOPInstanceUID = MARK, one.SOPInstanceUID
    one.ReferencedImageSequence = [outer]
    one.add_new(0x00091001, "LO", MARK)
    one.private_block(0x0011, MARK, create=True).add_new(0x01, "LO", MARK)
    one.add_new(0x60000022, "LO", MARK)
    one.add_new(0x00089999, "UN", MARK.encode())
    one.VerifyingObserverName = MARK
    one.file_meta.SourceApplicationEntityTitle = MARK
    one.file_meta.ImplementationVersionName = MARK
    one.preamble = MARK.encode().ljust(128, b"\0")


@pytest.fixture
def series(tmp_path: Path, write_series) -> Path:
    return write_series(tmp_path / MARK, VOLUME, np.diag([1, 1, 2, 1.0]), change=planted)[0].parent


def read_all(folder: Path) -> list[Any]:
    return [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]


def test_no_mark_survives_and_the_image_stays(tmp_path, series):
    result = deidentify(series, tmp_path / "out")
    assert (result.files, result.series) == (4, 1)
    written = sorted((tmp_path / "out").rglob("*"))
    assert not [path for path in written if MARK in str(path.relative_to(tmp_path / "out"))]
    contents = [path.read_bytes() for path in written if path.is_file()]
    assert len(contents) == 4
    assert not [content for content in contents if MARK.encode() in content]
    assert not [content for content in contents if b"19510203" in content or b"20240229" in content]
    before, after = read_image(series), read_image(tmp_path / "out" / "series_001")
    np.testing.assert_array_equal(after.array, before.array)
    np.testing.assert_array_equal(after.geometry.affine, before.geometry.affine)


def test_uids_are_new_and_still_agree(tmp_path, series):
    old, _ = read_all(series), deidentify(series, tmp_path / "out")
    new = read_all(tmp_path / "out")
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({one[name].value for one in new}) == 1
        assert new[0][name].value != old[0][name].value
    assert len({one.SOPInstanceUID for one in new}) == 4
    assert not {one.SOPInstanceUID for one in new} & {one.SOPInstanceUID for one in old}
    assert all(one.SOPClassUID == old[0].SOPClassUID for one in new)
    assert all(one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID for one in new)
    assert all(one.ReferencedImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID for one in new)


def test_files_say_what_was_done(tmp_path, series):
    deidentify(series, tmp_path / "out")
    one = read_all(tmp_path / "out")[0]
    assert one.PatientIdentityRemoved == "YES"
    assert one.LongitudinalTemporalInformationModified == "REMOVED"
    assert [code.CodeValue for code in one.DeidentificationMethodCodeSequence] == ["113100"]
    assert re.fullmatch("ANON-[0-9A-F]{10}", str(one.PatientName))
    assert one.PatientID == str(one.PatientName)
    assert not [element for element in one.iterall() if element.tag.is_private]


def test_dates_move_together(tmp_path, series):
    deidentify(series, tmp_path / "out", shift_days=-60)
    one = read_all(tmp_path / "out")[0]
    assert (one.StudyDate, one.StudyTime) == ("20231231", "101112")
    assert one.AcquisitionDateTime == "20231231101112.5"
    assert one.LongitudinalTemporalInformationModified == "MODIFIED"
    assert "19510203" not in str(one)


def test_a_key_repeats_the_mapping(tmp_path, series):
    keys = [b"k" * 16, b"k" * 16, b"l" * 16, None, None]
    for number, key in enumerate(keys):
        deidentify(series, tmp_path / str(number), key=key)
    found = [
        (read_all(tmp_path / str(n))[0].SOPInstanceUID, str(read_all(tmp_path / str(n))[0].PatientID))
        for n in range(5)
    ]
    assert found[0] == found[1]
    assert len(set(found)) == 4
    with pytest.raises(UsageError, match="16 bytes"):
        deidentify(series, tmp_path / "x", key=b"short")


def test_two_patients_stay_two(tmp_path, write_series):
    for name in "ab":
        write_series(
            tmp_path / "in" / name, VOLUME, np.eye(4), seed=name,
            change=lambda _, one, name=name: setattr(one, "PatientID", f"{MARK}-{name}"),
        )  # fmt: skip
    result = deidentify(tmp_path / "in", tmp_path / "out")
    assert (result.files, result.series) == (8, 2)
    assert len({one.PatientID for one in read_all(tmp_path / "out")}) == 2


def test_what_is_left_out_or_needs_a_look_is_said(tmp_path, write_series):
    def change(_: int, one: Any) -> None:
        one.BurnedInAnnotation = "YES"

    write_series(tmp_path / "in", VOLUME, np.eye(4), change=change)
    (tmp_path / "in" / f"{MARK}_letter").write_text("no DICOM")
    result = deidentify(tmp_path / "in", tmp_path / "out")
    assert [finding.code for finding in result.findings] == ["W-DEID-SKIPPED", "W-DEID-BURNED-IN"]
    assert MARK not in str(result.as_dict())
    assert result.as_dict()["notice"] == NOTICE


def test_sources_are_never_touched(tmp_path, series):
    for output in (series, series / "out", tmp_path):
        with pytest.raises(UsageError, match="empty folder"):
            deidentify(series, output)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError):
        deidentify(tmp_path / "nothing", tmp_path / "out")


def test_from_the_command_line(tmp_path, series):
    command = [sys.executable, "-m", "scanseg", "dicom", "deidentify", series, "-o", tmp_path / "out"]
    answer = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert "4 files of 1 series" in answer.stdout
    assert "burned into the pixels is not covered" in answer.stdout


def test_real_files(test_data, tmp_path):
    result = deidentify(test_data / "odd_files" / "dicom" / "mr_hitachi_series", tmp_path / "out")
    assert (result.files, result.findings) == (4, ())
    before = read_image(test_data / "odd_files" / "dicom" / "mr_hitachi_series")
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "series_001").array, before.array)
