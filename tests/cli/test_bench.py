"""`scanseg bench` as users meet it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def scanseg(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
    command = [sys.executable, "-m", "scanseg", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=110)


@pytest.mark.parametrize("verb", ["scan", "orders", "growth", "network"])
def test_help(verb: str) -> None:
    answer = scanseg("bench", verb, "--help")
    assert answer.returncode == 0
    assert "--json" in answer.stdout
    assert "--minutes" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "near"),
    [
        (("scan", "--shapes", "blok"), "E-SHAPE-UNKNOWN", "block"),
        (("scan", "--peers", "mambapi"), "E-CONTENDER-UNKNOWN", "mambapy"),
        (("network", "umamba_end"), "E-NETWORK-UNKNOWN", "umamba_enc"),
    ],
)
def test_bad_names_list_near_ones(arguments: tuple[str, ...], code: str, near: str) -> None:
    answer = scanseg("bench", *arguments, "--json")
    assert answer.returncode == 2
    error = json.loads(answer.stdout)["error"]
    assert error["code"] == code
    assert near in error["hint"]


def test_a_result_as_json_and_as_files(tmp_path: Path) -> None:
    arguments = ("--smallest", "5", "--largest", "7", "--minutes", "0.01", "--json", "-o", tmp_path)
    answer = scanseg("bench", "growth", *arguments)
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    assert document == json.loads((tmp_path / "growth.json").read_text())
    assert document["complete"]
    assert [result["length"] for result in document["cases"][0]["results"]] == [32, 64, 128]
    assert (tmp_path / "growth.md").is_file()
    assert (tmp_path / "growth.png").is_file()
    events = [json.loads(line) for line in answer.stderr.splitlines() if line.startswith("{")]
    assert events[-1]["done"] == events[-1]["total"]
