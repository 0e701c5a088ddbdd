"""Sorting mixed DICOM files: every file goes to its series unchanged."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scanseg.data.dicom_sort import sort_series
from scanseg.data.image import read_image
from scanseg.errors import DataError, UsageError

pytest.importorskip("pydicom", reason="DICOM needs pip install 'scanseg[dicom]'")
VOLUME = np.arange(5 * 6 * 7).reshape(5, 6, 7).astype(np.int16)


@pytest.fixture
def disc(tmp_path: Path, write_series) -> Path:
    """Two whole series and one with a gap, mixed in one folder and its folders; a letter."""
    for number, name in enumerate(("a", "b", "c")):
        paths = write_series(tmp_path / name, VOLUME + number, np.eye(4), seed=name)
        for path in paths:
            target = tmp_path / "disc" / ("sub" if path.stem == "2" else ".") / f"{path.stem}{name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    (tmp_path / "disc" / "3c").unlink()
    (tmp_path / "disc" / "letter").write_text("To whom it may concern")
    return tmp_path / "disc"


def test_series_are_told_apart(tmp_path, disc):
    before = sorted(path.read_bytes() for path in disc.rglob("*") if path.is_file())
    found, left_out = sort_series(disc, tmp_path / "out")
    assert [(one.files, one.shape, one.reason) for one in found] == [
        (5, (5, 6, 7), ""),
        (5, (5, 6, 7), ""),
        (4, None, "E-DICOM-MISSING"),
    ]
    assert [finding.code for finding in left_out] == ["W-DICOM-SKIPPED"]
    after = sorted(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert after == [content for content in before if not content.startswith(b"To whom")]
    for number, one in enumerate(found[:2]):
        np.testing.assert_array_equal(read_image(one.folder).array[0], VOLUME + number)


def test_what_cannot_be_sorted(tmp_path, disc):
    for output in (disc, disc / "out"):
        with pytest.raises(UsageError, match="empty folder"):
            sort_series(disc, output)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "letter").write_text("nothing")
    with pytest.raises(DataError) as caught:
        sort_series(tmp_path / "none", tmp_path / "out")
    assert caught.value.code == "E-DICOM-EMPTY"


def test_from_the_command_line(tmp_path, disc):
    command = [sys.executable, "-m", "scanseg", "dicom", "sort", disc, "-o", tmp_path / "out"]
    answer = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert "series_001" in answer.stdout
    assert "E-DICOM-MISSING" in answer.stdout
