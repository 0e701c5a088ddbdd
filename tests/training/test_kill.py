"""Killed at any moment, a training continues and ends with the same bits."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scanseg.errors import TrainingError
from scanseg.files import sha256
from scanseg.training.loop import train_network

KILLS = 1000 if os.environ.get("SCANSEG_FAULTS") == "full" else 6
pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300 + 5 * KILLS)]


def outcome(run: Path) -> tuple[str, str, int]:
    """Returns the hashes of both weights and the number of metrics lines."""
    count = len((run / "metrics.jsonl").read_text().splitlines())
    return sha256(run / "model.safetensors"), sha256(run / "best.safetensors"), count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "changes", [{}, {"loss": "uncertainty_aware", "sam_rho": 0.05}], ids=["plain", "sam and sigmas"]
)
def test_random_kills(prepared, tmp_path, changes):
    short = {"epochs": 4, "iterations_per_epoch": 2, "validation_iterations": 1}
    prepared.recipe.changed(**short, **changes).save(tmp_path / "recipe.toml")
    prepared.plan.save(tmp_path / "plan.json")
    order = {
        "plan": str(tmp_path / "plan.json"),
        "configuration": prepared.configuration,
        "store": str(prepared.store),
        "folder": str(tmp_path),
        "split": {"train": prepared.split.train, "validation": prepared.split.validation},
        "recipe": str(tmp_path / "recipe.toml"),
        "kills": KILLS,
        "seed": 1,
    }
    finished = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killer.py")), json.dumps(order)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    codes = json.loads(finished.stdout)
    assert [run[-1] for run in codes] == [0] * len(codes), finished.stderr
    assert sum(len(run) - 1 for run in codes) >= KILLS
    expected = outcome(tmp_path / "run0")
    assert [outcome(tmp_path / f"run{number}") for number in range(len(codes))] == [expected] * len(codes)


class Snapshots:
    """Copies a folder before every operation on its files: what a kill at that moment would leave."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.run, self.folder, self.count = run, folder, 0
        self.seen: set[tuple] = set()

    def __call__(self, operation: str) -> None:
        content = tuple(
            sorted(
                (str(path.relative_to(self.run)), sha256(path))
                for path in self.run.rglob("*")
                if path.is_file() and not path.name.startswith(".")
            )
        )
        if content not in self.seen:
            self.seen.add(content)
            shutil.copytree(self.run, self.folder / f"{len(self.seen):03d}", symlinks=True)
        self.count += 1


def test_a_kill_before_every_file_operation(prepared, tmp_path, file_steps):
    """Enumerated, not random: every state that a kill can leave between two file operations is continued."""
    changes = {"epochs": 2, "iterations_per_epoch": 2, "validation_iterations": 1}
    snapshots = Snapshots(tmp_path / "run", tmp_path / "states")
    with file_steps(snapshots):
        train_network(**prepared.arguments(run_folder=tmp_path / "run", **changes))
    states = sorted((tmp_path / "states").iterdir())
    assert snapshots.count > 40
    assert len(states) > 10
    for state in states:
        (state / "checkpoint").mkdir(exist_ok=True)
        (state / "checkpoint" / ".tmpHalf").write_bytes(b"half a file")
        train_network(**prepared.arguments(run_folder=state, **changes))
        assert outcome(state) == outcome(tmp_path / "run"), state.name
        assert not list(state.rglob(".tmp*"))


class FullDisk:
    """Fails every file operation from a number on."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, operation: str) -> None:
        self.left -= 1
        if self.left < 0 and operation != "unlink":
            raise OSError(28, os.strerror(28))


def test_a_full_disk_is_named_and_the_run_goes_on_afterwards(prepared, tmp_path, file_steps):
    changes = {"epochs": 2, "iterations_per_epoch": 1, "validation_iterations": 1}
    train_network(**prepared.arguments(run_folder=tmp_path / "undisturbed", **changes))
    failures = []
    for number in range(0, 200, 6):
        try:
            with file_steps(FullDisk(number)):
                train_network(**prepared.arguments(run_folder=tmp_path / "run", **changes))
            break
        except TrainingError as error:
            failures.append((error.code, "No space left on device" in error.message))
    assert len(failures) > 5
    assert set(failures) == {("E-RUN-FILE", True)}
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")
