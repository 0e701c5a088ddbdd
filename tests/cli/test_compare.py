"""`scanseg compare`: tables, JSON, exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from scanseg.cli.app import app
from scanseg.data.image import write_label_map
from scanseg.evaluation import evaluate_folder
from scanseg.types import Geometry, Label


def scanseg(*arguments: str | Path) -> Result:
    return CliRunner(env={"NO_COLOR": "1"}).invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("masks")
    truth = np.zeros((12, 14), np.uint8)
    truth[3:8, 4:10] = 1
    geometry = Geometry(truth.shape, (1.0, 1.0))
    found = []
    for name, shifts in {"truth": [0] * 4, "first": [0, 1, 2, 1], "second": [1, 2, 2, 3]}.items():
        folder = root / name
        folder.mkdir()
        for case, shift in enumerate(shifts):
            write_label_map(folder / f"c{case}.nii.gz", np.roll(truth, shift, 1), geometry)
        if name != "truth":
            labels = [Label(0, "background"), Label(1, "organ")]
            evaluate_folder(folder, root / "truth", labels=labels).save(folder)
            found.append(folder)
    return found


def test_tables_for_people_and_files(folders: list[Path], tmp_path: Path) -> None:
    answer = scanseg("compare", *folders, "-o", tmp_path, "--latex")
    assert answer.exit_code == 0, answer.stderr
    assert "won/tied/lost" in answer.stdout
    assert "0/1/3" in answer.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"compare.json", "compare.md", "compare.png", "compare.tex"}


def test_json_is_one_document(folders: list[Path]) -> None:
    answer = scanseg("compare", *folders, "--metric", "dice", "--baseline", "second", "--json")
    document = json.loads(answer.stdout)
    assert document["baseline"] == "second"
    assert document["mean"]["dice"]["first"]["difference"]["wins"] == 3


def test_refusals_have_their_exit_codes(folders: list[Path], tmp_path: Path) -> None:
    assert scanseg("compare", folders[0]).exit_code == 2
    answer = scanseg("compare", folders[0], tmp_path)
    assert answer.exit_code == 3
    assert "E-COMPARE-SCORES" in answer.stderr
    assert "Traceback" not in answer.stderr
