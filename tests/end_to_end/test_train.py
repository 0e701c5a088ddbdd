"""From a dataset to a run folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scanseg import pipeline
from scanseg.errors import DatasetError, UsageError
from scanseg.files import read_json, sha256

CHANGES_3D = {"network": "umamba_bot", "patch_size": (24, 32, 24)}
RUN_FILES = {
    "config.json",
    "model.safetensors",
    "best.safetensors",
    "recipe.toml",
    "plan.json",
    "dataset.json",
    "check.json",
    "fingerprint.json",
    "run.json",
    "metrics.jsonl",
    "report.html",
    "progress.png",
    "samples.png",
}


def test_a_run_folder_is_complete(run_3d: Path) -> None:
    assert {path.name for path in run_3d.iterdir()} >= RUN_FILES
    assert not list(run_3d.rglob("*.tmp*"))
    assert not list(run_3d.rglob("*.pkl")) + list(run_3d.rglob("*.pth"))


def test_held_out_cases_are_predicted_and_measured(run_3d: Path) -> None:
    split = read_json(run_3d / "config.json")["split"]
    assert not set(split["train"]) & set(split["validation"])
    masks = {path.name for path in (run_3d / "validation").glob("*.nii.gz")}
    assert masks == {f"{case_id}.nii.gz" for case_id in split["validation"]}
    summary = read_json(run_3d / "validation" / "summary.json")
    assert summary["n_cases"] == len(split["validation"])


def test_no_patient_is_on_both_sides(run_3d: Path, demo_data: Path) -> None:
    rows = (demo_data / "hippocampus" / "cases.csv").read_text().splitlines()[1:]
    group = {row.split(",")[0]: row.split(",")[1] for row in rows}
    split = read_json(run_3d / "config.json")["split"]
    assert not {group[c] for c in split["train"]} & {group[c] for c in split["validation"]}


def test_metrics_are_json_lines(run_3d: Path) -> None:
    lines = [json.loads(line) for line in (run_3d / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(line["train_loss"] is not None for line in lines)


def test_the_same_command_again_changes_nothing(run_3d: Path, train_small: Callable[..., Path]) -> None:
    before = sha256(run_3d / "model.safetensors")
    train_small("hippocampus", "hippocampus", changes=CHANGES_3D)
    assert sha256(run_3d / "model.safetensors") == before


def test_other_settings_are_refused_with_the_difference(
    run_3d: Path, train_small: Callable[..., Path]
) -> None:
    with pytest.raises(UsageError, match="learning_rate"):
        train_small("hippocampus", "hippocampus", changes={**CHANGES_3D, "learning_rate": 0.5})


def test_nothing_is_written_to_a_foreign_folder(tmp_path: Path, demo_data: Path) -> None:
    data = shutil.copytree(demo_data / "nuclei", tmp_path / "nuclei")
    before = sorted(data.rglob("*"))
    for restart in (False, True):
        with pytest.raises(UsageError, match="is not a run"):
            pipeline.train(data, data, restart=restart)
    assert sorted(data.rglob("*")) == before


def test_refused_data_list_every_fault(tmp_path: Path, demo_data: Path) -> None:
    data = shutil.copytree(demo_data / "hippocampus", tmp_path / "data")
    images = sorted((data / "imagesTr").iterdir())
    for path in images[:2]:
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DatasetError) as caught:
        pipeline.train(data, tmp_path / "run")
    named = {finding.case_id for finding in caught.value.findings if finding.level == "error"}
    assert {path.name.split("_0000")[0] for path in images[:2]} <= named
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_cross_validation_predicts_every_case_once(train_small: Callable[..., Path]) -> None:
    run = train_small(
        "nuclei",
        "cv",
        fold="cv",
        changes={"network": "nnunet_plain", "patch_size": (64, 64), "epochs": 1, "iterations_per_epoch": 1},
    )
    assert {path.name for path in run.glob("fold_*")} == {f"fold_{k}" for k in range(5)}
    assert read_json(run / "validation" / "summary.json")["n_cases"] == 18
    model = pipeline.predict(run / "fold_0" / "validation", run, run / "again", preview=False)
    assert len(model.done) == 4
