"""The verbs `evaluate` and `report`."""

import shutil
from pathlib import Path

import pytest

from scanseg import pipeline
from scanseg.errors import ModelError
from scanseg.files import read_json


def test_references_against_themselves_are_perfect(demo_data: Path, tmp_path: Path) -> None:
    labels = demo_data / "hippocampus" / "labelsTs"
    evaluation, folder = pipeline.evaluate(
        labels, labels, output=tmp_path, dataset=demo_data / "hippocampus", metrics=["dice", "hd95"]
    )
    assert folder == tmp_path
    assert evaluation.summary["mean"]["dice"]["mean"] == 1
    assert evaluation.summary["mean"]["hd95"]["mean"] == 0
    assert [entry["name"] for entry in evaluation.summary["labels"]] == ["Anterior", "Posterior"]
    assert read_json(tmp_path / "summary.json") == evaluation.summary
    assert len((tmp_path / "cases.csv").read_text().splitlines()) == 1 + 6 * 2


def test_a_missing_mask_counts_as_missed(demo_data: Path, tmp_path: Path) -> None:
    labels = demo_data / "hippocampus" / "labelsTs"
    masks = shutil.copytree(labels, tmp_path / "masks")
    sorted(masks.iterdir())[0].unlink()
    evaluation, _ = pipeline.evaluate(masks, labels, output=tmp_path, metrics=["dice"])
    assert len(evaluation.summary["missing_predictions"]) == 1
    assert evaluation.summary["mean"]["dice"]["mean"] == pytest.approx(5 / 6)


def test_a_report_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a run folder"):
        pipeline.report(tmp_path)
