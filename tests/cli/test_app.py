"""The command as users meet it: a process with arguments, output and an exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

VERBS = [
    "demo",
    "train",
    "predict",
    "evaluate",
    "compare",
    "explain",
    "plan",
    "report",
    "doctor",
    "dataset check",
    "networks list",
    "networks show",
    "bench scan",
    "bench orders",
    "bench growth",
    "bench network",
    "serve",
    "dicom listen",
    "dicom sort",
    "dicom deidentify",
]


def scanseg(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scanseg", *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=100)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['scanseg', '--help']\n"
        "try:\n    runpy.run_module('scanseg', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'numba', 'monai', 'nnunetv2', 'numpy', 'pandas') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert answer.stdout.strip().splitlines()[-1] == "[]"


def test_help_is_fast() -> None:
    # Processor time: what a user waits for on an idle machine; here other tests run beside it.
    best_s = float("inf")
    for _ in range(5):
        before = os.times()
        assert scanseg("--help").returncode == 0
        after = os.times()
        user_s, system_s = (after[i] - before[i] for i in (2, 3))
        best_s = min(best_s, user_s + system_s)
    assert best_s < 0.3, f"scanseg --help took {best_s:.2f} s at best"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(verb: str) -> None:
    answer = scanseg(*verb.split(), "--help")
    assert answer.returncode == 0
    assert "--json" in answer.stdout


def test_version() -> None:
    import scanseg as package

    assert scanseg("--version").stdout.strip() == f"scanseg {package.__version__}"


def test_unknown_verb_is_wrong_usage() -> None:
    assert scanseg("segment").returncode == 2


def test_unknown_network_names_its_neighbours() -> None:
    answer = scanseg("networks", "show", "umamba_end")
    assert answer.returncode == 2
    assert "E-NETWORK-UNKNOWN" in answer.stderr
    assert "umamba_enc" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_network_for_images_is_shown_without_options() -> None:
    answer = scanseg("networks", "show", "mamba_unet", "--json")
    assert answer.returncode == 0
    assert json.loads(answer.stdout)["arguments"]["patch_size"] == [256, 256]


def test_errors_as_json() -> None:
    answer = scanseg("networks", "show", "umamba_end", "--json")
    assert answer.returncode == 2
    error = json.loads(answer.stdout)["error"]
    assert error["code"] == "E-NETWORK-UNKNOWN"
    assert "umamba_enc" in error["hint"]


def test_a_missing_dataset_is_refused(tmp_path: Path) -> None:
    answer = scanseg("dataset", "check", tmp_path / "absent")
    assert answer.returncode == 3
    assert "absent" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_check_of_the_demonstration_data(demo_data: Path) -> None:
    answer = scanseg("dataset", "check", demo_data / "nuclei", "--json")
    assert answer.returncode == 0
    json.loads(answer.stdout)
    events = [json.loads(line) for line in answer.stderr.splitlines() if line.startswith("{")]
    assert events[-1]["done"] == events[-1]["total"] == 24


def test_networks_list_as_json() -> None:
    names = [entry["name"] for entry in json.loads(scanseg("networks", "list", "--json").stdout)["networks"]]
    assert {"umamba_bot", "umamba_enc", "umamba_bot_v1", "umamba_enc_v1", "nnunet_plain"} <= set(names)


def test_doctor_names_the_backends() -> None:
    answer = scanseg("doctor", "--json")
    facts = json.loads(answer.stdout)
    assert {"reference", "cpu"} <= {row["name"] for row in facts["backends"]}
    assert all(row["reason"] for row in facts["backends"] if not row["available"])
    assert answer.returncode == (1 if facts["problems"] else 0)
