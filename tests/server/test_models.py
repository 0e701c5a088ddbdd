"""What a run folder says about its model, and what sizes follow from it."""

import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service needs pip install 'scanseg[serve]'")

from scanseg.errors import ModelError
from scanseg.server.findings import _label
from scanseg.server.models import ServedModel, describe_model

CONFIG = {
    "network": {"name": "umamba_bot", "spatial_dims": 3},
    "weights_sha256": "0123456789abcdef",
    "labels": [
        {"value": 0, "name": "background"},
        {"value": 1, "name": "organ"},
        {"value": 2, "name": "spot"},
    ],
    "channel_names": ["MRI"],
}
HEAD = "case_id,group,value,name,state,reference_voxels,prediction_voxels,dice"


def run(folder: Path, lines: list[str]) -> Path:
    (folder / "validation").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "validation" / "cases.csv").write_text("\n".join([HEAD, *lines]) + "\n")
    return folder


def held_out(first: int, count: int) -> list[str]:
    """Cases whose reference holds 900, 910, ... voxels where 1000 were predicted; five with a spot."""
    return [
        line
        for i in range(first, first + count)
        for line in [f"c{i},p{i},1,organ,present,{900 + 10 * i},1000,0.{60 + i}"]
        + [f"c{i},p{i},2,spot,present,100,100,1.0"] * (i < 5)
    ]


def test_sizes_have_an_interval_where_enough_patients_were_held_out(tmp_path: Path) -> None:
    model = describe_model("m", run(tmp_path / "run", held_out(0, 19)))
    assert model.validation_cases == 19
    assert model.validation == {"organ": pytest.approx(0.69), "spot": 1.0}
    organ, spot = (
        _label({"value": value, "name": "", "voxels": 2000, "volume_ml": 2.0}, model) for value in (1, 2)
    )
    assert organ["interval"] == {"low": 1.8, "high": 2.16, "coverage": 0.9, "patients": 19}
    assert spot["interval"] is None
    assert _label({"value": 1, "name": "", "voxels": 0, "volume_ml": 0.0}, model)["interval"] is None


def test_the_folds_count_together(tmp_path: Path) -> None:
    run(tmp_path / "fold_0", held_out(0, 10))
    run(tmp_path / "fold_1", held_out(10, 9))
    model = describe_model("m", tmp_path)
    assert (model.folds, model.validation_cases, model.calibration[1].groups) == (2, 19, 19)


@pytest.mark.parametrize("line", ["c0,p,1,organ,present,many,1000,0.9", "c0,p,1,organ,odd,1,1000,0.9", ""])
def test_a_damaged_table_says_nothing(tmp_path: Path, line: str) -> None:
    lines = [*held_out(1, 19), line] if line else []
    model: ServedModel = describe_model("m", run(tmp_path / "run", lines))
    assert (model.validation, model.validation_cases, model.calibration[1].groups) == ({}, 0, 0)


def test_a_folder_without_weights_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a finished run"):
        describe_model("m", tmp_path)
