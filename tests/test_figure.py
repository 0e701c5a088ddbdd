"""The command that prints figures of reliability."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def printed(*arguments: str) -> tuple[int, object]:
    command = [sys.executable, str(TESTS / "figure.py"), *arguments]
    answer = subprocess.run(command, capture_output=True, text=True)
    return answer.returncode, json.loads(answer.stdout) if answer.stdout else None


def test_every_figure_has_a_test_that_notes_it() -> None:
    for name, target in runpy.run_path(str(TESTS / "figure.py"))["FIGURES"].items():
        file, _, test = target.partition("::")
        text = (TESTS / file).read_text(encoding="utf-8")
        assert f"def {test}(" in text
        assert f'"{name}"' in text
        assert "faults" in text, f"{name}: `make faults` would not run it"


def test_a_figure_that_is_missing_or_broken_fails(tmp_path) -> None:
    status, found = printed("--print", str(tmp_path), "S3")
    assert (status, found["passed"]) == (1, False)
    for passed in (True, False):
        (tmp_path / "S3.json").write_text(json.dumps({"figure": "S3", "passed": passed, "lost": 0}))
        assert printed("--print", str(tmp_path), "S3") == (
            int(not passed), {"figure": "S3", "passed": passed, "lost": 0},
        )  # fmt: skip
    assert printed("--print", str(tmp_path))[0] == 1
    assert printed("S99")[0] == 2
