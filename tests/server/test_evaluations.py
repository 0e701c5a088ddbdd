"""Evaluations of files from outside, in a process of their own."""

import shutil
from pathlib import Path

import pytest

from scanseg import pipeline
from scanseg.errors import DataError
from scanseg.files import read_json
from scanseg.server.evaluations import evaluate_job
from scanseg.server.jobs import Job, Slot
from scanseg.server.models import describe_model

pytestmark = pytest.mark.timeout(300)  # the first test waits for the model to be trained


@pytest.fixture
def evaluate(run_3d: Path, demo_data: Path, tmp_path: Path):
    """Evaluates two label maps as a worker does."""

    def run(mask: bytes, reference: bytes) -> dict:
        slots = (Slot("reference", "r.nii.gz", ".nii.gz"), Slot("mask", "m.nii.gz", ".nii.gz"))
        job = Job(
            1,
            "e_1",
            "evaluation",
            "m",
            "me",
            "running",
            "r",
            {},
            slots,
            0.0,
            0.0,
            None,
            0.0,
            1,
            None,
            None,
            None,
        )
        inputs = tmp_path / "e_1" / "inputs"
        inputs.mkdir(parents=True)
        (inputs / slots[0].file).write_bytes(reference)
        (inputs / slots[1].file).write_bytes(mask)
        for name in ("scratch", "result"):
            (tmp_path / name).mkdir()
        model = describe_model("m", run_3d)
        evaluate_job(
            job,
            model,
            lambda job: tmp_path / job.id,
            tmp_path / "scratch",
            tmp_path / "result",
            lambda _: None,
        )
        return read_json(tmp_path / "result" / "result.json")

    return run


def labels(demo_data: Path) -> list[Path]:
    return sorted((demo_data / "hippocampus" / "labelsTr").iterdir())


def test_the_numbers_are_those_of_the_verb(evaluate, demo_data, tmp_path) -> None:
    import nibabel
    import numpy as np

    reference = labels(demo_data)[0]
    image = nibabel.load(reference)
    moved = np.roll(np.asarray(image.dataobj), 1, axis=0)
    nibabel.save(nibabel.Nifti1Image(moved, image.affine, image.header), tmp_path / "moved.nii.gz")
    (tmp_path / "a").mkdir()
    shutil.copy(reference, tmp_path / "a" / "moved.nii.gz")
    expected, _ = pipeline.evaluate(
        tmp_path / "moved.nii.gz", tmp_path / "a" / "moved.nii.gz", output=tmp_path / "b"
    )
    found = evaluate((tmp_path / "moved.nii.gz").read_bytes(), reference.read_bytes())
    assert [row["dice"] for row in found["cases"]] == [row["dice"] for row in expected.cases]
    assert [row["hd95"] for row in found["cases"]] == [row["hd95"] for row in expected.cases]
    assert [row["name"] for row in found["cases"]] == ["Anterior", "Posterior"]
    assert (tmp_path / "result" / "cases.csv").is_file()


def test_labels_are_those_of_the_model(evaluate, demo_data, tmp_path) -> None:
    """Also one that is in neither mask, which has no overlap; a value that is no label is told."""
    import nibabel
    import numpy as np

    image = nibabel.load(labels(demo_data)[0])
    values = np.asarray(image.dataobj)
    for name, table in (("reference", (0, 1, 7)), ("mask", (0, 0, 0))):
        part = np.array(table, np.uint8)[values]
        nibabel.save(nibabel.Nifti1Image(part, image.affine), tmp_path / f"{name}.nii.gz")
    found = evaluate((tmp_path / "mask.nii.gz").read_bytes(), (tmp_path / "reference.nii.gz").read_bytes())
    assert [(row["name"], row["state"], row["dice"]) for row in found["cases"]] == [
        ("Anterior", "missed", 0),
        ("Posterior", "both_empty", None),
    ]
    texts = [one["text"] for one in found["summary"]["findings"]]
    assert texts == ["The reference holds values that are no label and were not scored: 7."]


def test_damage_is_named(evaluate, demo_data) -> None:
    sound = labels(demo_data)[0].read_bytes()
    with pytest.raises(DataError) as caught:
        evaluate(sound, sound[:-30])
    assert caught.value.code == "E-FILE-TRUNCATED"
    assert caught.value.message.startswith("The reference: ")
    assert "/" not in caught.value.message
