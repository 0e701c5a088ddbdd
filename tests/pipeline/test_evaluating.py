"""The verbs `evaluate` and `report`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from scanseg import pipeline
from scanseg.data.image import read_image, write_label_map
from scanseg.errors import DataError, DatasetError, ModelError
from scanseg.files import read_json
from scanseg.types import Label

LABELS = (Label(0, "background"), Label(1, "Anterior"), Label(200, "Posterior"))


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


def write_seg(path: Path, label: np.ndarray, series: Path, labels: tuple[Label, ...] = LABELS) -> None:
    from scanseg.data.dicom_seg import Algorithm, write_segmentation

    path.parent.mkdir(exist_ok=True)
    write_segmentation(path, label, labels, read_image(series).geometry, series, Algorithm("unet", "1"))


@pytest.fixture(scope="module")
def built(demo_data: Path, tmp_path_factory: pytest.TempPathFactory, write_series) -> Path:
    """A dataset of three real series with label maps; the labels also as segmentations, and masks as both."""
    pytest.importorskip("highdicom", reason="DICOM needs pip install 'scanseg[dicom]'")
    root = tmp_path_factory.mktemp("built")
    for place, path in enumerate(sorted((demo_data / "hippocampus" / "labelsTr").iterdir())[:3]):
        name = path.name.partition(".")[0]
        image = nibabel.load(path)
        label = np.asarray(image.dataobj).astype(np.int32).T
        label[label == 2] = 200
        series = root / "images" / name
        write_series(series, label.astype(np.int16), image.affine, seed=name)
        geometry = read_image(series).geometry
        moved = np.roll(label, (-1 if place else 1, 1), axis=(0, 1))  # masks begin or end beyond their label
        for form, values in (("labels", label), ("masks", moved)):
            (root / form).mkdir(exist_ok=True)
            write_label_map(root / form / f"{name}.nii.gz", values, geometry)
            write_seg(root / f"{form}_seg" / f"{name}.dcm", values, series)
    facts = {"channel_names": {"0": "MRI"}, "labels": {label.name: label.value for label in LABELS}}
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


@pytest.fixture
def cohort(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "set")


def scores(root: Path, masks: str, labels: str, **options: Any) -> tuple[list[list[float]], Any]:
    evaluation, _ = pipeline.evaluate(root / masks, root / labels, output=root / "out", **options)
    facts = ("case_id", "group", "name", "state", "value")
    return [[v for k, v in row.items() if k not in facts] for row in evaluation.cases], evaluation


def refusals(root: Path, masks: str, labels: str, **options: Any) -> set[tuple[str, str]]:
    with pytest.raises(DatasetError) as caught:
        pipeline.evaluate(root / masks, root / labels, output=root / "out", **options)
    return {(finding.code, finding.case_id) for finding in caught.value.findings if finding.level == "error"}


@pytest.mark.parametrize(
    ("masks", "labels"), [("masks_seg", "labels"), ("masks", "labels_seg"), ("masks_seg", "labels_seg")]
)
def test_segmentations_score_as_the_same_label_maps(cohort: Path, masks: str, labels: str) -> None:
    expected, _ = scores(cohort, "masks", "labels", dataset=cohort)
    found, evaluation = scores(cohort, masks, labels, dataset=cohort)
    assert len(found) == 3 * 2
    for own, other in zip(found, expected, strict=True):
        assert own == pytest.approx(other, rel=1e-5, nan_ok=True)
    assert 0 < evaluation.summary["mean"]["dice"]["mean"] < 1
    assert evaluation.summary["findings"] == []


def test_segmentations_alone_are_measured_where_they_are(cohort: Path) -> None:
    (cohort / "dataset.json").unlink()
    metrics = ["dice", "iou", "sensitivity", "nsd", "hd95", "assd"]
    expected, _ = scores(cohort, "masks", "labels", metrics=metrics)
    found, evaluation = scores(cohort, "masks_seg", "labels_seg", metrics=metrics)
    for own, other in zip(found, expected, strict=True):
        assert own == pytest.approx(other, rel=1e-5)
    assert [(entry["value"], entry["name"]) for entry in evaluation.summary["labels"]] == [
        (1, "Anterior"),
        (2, "Posterior"),
    ]
    assert [finding["code"] for finding in evaluation.summary["findings"]] == ["E-EVALUATE-SLICES"]


def test_a_missing_segmentation_counts_as_missed(cohort: Path) -> None:
    sorted((cohort / "masks_seg").iterdir())[0].unlink()
    expected, _ = scores(cohort, "masks_seg", "labels", dataset=cohort)
    found, evaluation = scores(cohort, "masks_seg", "labels_seg", dataset=cohort)
    assert len(evaluation.summary["missing_predictions"]) == 1
    assert [row["state"] for row in evaluation.cases[:2]] == ["no_prediction"] * 2
    for own, other in zip(found, expected, strict=True):
        assert own == pytest.approx(other, rel=1e-5, nan_ok=True)


def test_segmentations_that_cannot_be_are_named_by_case(cohort: Path) -> None:
    paths = sorted((cohort / "masks_seg").iterdir())
    names = [path.stem for path in paths]
    shutil.copy(cohort / "images" / names[0] / "1.dcm", paths[0])
    shutil.copy(paths[2], paths[1])
    paths[2].write_bytes(paths[2].read_bytes()[:900])
    kinds = {("E-SEG-KIND", names[0]), ("E-SEG-GEOMETRY", names[1]), ("E-SEG-DAMAGED", names[2])}
    assert refusals(cohort, "masks_seg", "labels", dataset=cohort) == kinds


def test_segments_without_a_label_and_numbers_that_differ_are_refused(cohort: Path) -> None:
    name = sorted((cohort / "labels").iterdir())[0].name.partition(".")[0]
    series = cohort / "images" / name
    label = np.where(read_image(series).array[0] > 0, 1, 0).astype(np.int32)
    write_seg(cohort / "masks_seg" / f"{name}.dcm", label, series, (LABELS[0], Label(1, "Tail")))
    assert refusals(cohort, "masks_seg", "labels", dataset=cohort) == {("E-SEG-LABEL", name)}
    (cohort / "dataset.json").unlink()
    assert refusals(cohort, "masks_seg", "labels_seg") == {("E-DATA-SEGMENT-NAMES", "")}
    with pytest.raises(DataError) as caught:  # which segment the value 200 is, nothing tells
        scores(cohort, "masks", "labels_seg")
    assert caught.value.code == "E-EVALUATE-LABELS"


def test_two_segmentations_on_the_command_line(built: Path, tmp_path: Path) -> None:
    mask, label = (sorted((built / form).iterdir())[0] for form in ("masks_seg", "labels_seg"))
    command = [sys.executable, "-m", "scanseg", "evaluate", mask, label, "-o", tmp_path, "--json"]
    answer = subprocess.run([str(item) for item in command], capture_output=True, text=True, timeout=100)
    assert answer.returncode == 0, answer.stderr
    expected, _ = pipeline.evaluate(mask, label, output=tmp_path / "again", dataset=built)
    found = json.loads(answer.stdout)
    assert found["n_cases"] == 1
    assert found["mean"]["dice"]["mean"] == pytest.approx(expected.summary["mean"]["dice"]["mean"])
