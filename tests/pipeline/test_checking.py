"""The verb `dataset check`."""

from pathlib import Path

import pytest

from scanseg import pipeline
from scanseg.data.dataset import Dataset
from scanseg.errors import DataError
from scanseg.files import read_json


def test_output_can_be_used_as_a_dataset(demo_data: Path, tmp_path: Path) -> None:
    found, result = pipeline.check(demo_data / "hippocampus", output=tmp_path)
    again = Dataset.from_json(tmp_path / "dataset.json")
    assert [case.case_id for case in again.cases] == [case.case_id for case in found.cases]
    assert again.labels == found.labels
    assert read_json(tmp_path / "check.json")["orientation"] == result.orientation == "RAS"


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        pipeline.check(tmp_path)
