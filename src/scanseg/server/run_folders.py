"""Which runs there are in folders that are watched."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from scanseg.errors import UsageError

MOST_RUNS = 200
_MOST_ENTRIES = 5000


def check_folders(folders: Sequence[Path]) -> None:
    """Makes sure that every folder is a run, holds runs, or is empty so far.

    Raises:
        UsageError: One is missing, or holds something else.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"The folder {folder} to watch does not exist.",
                code="E-WATCH-FOLDER",
                hint="Give a run folder of `scanseg train -o`, or the folder that holds such folders.",
            )
        if not is_run(folder) and not _runs_in(folder) and _visible(folder):
            raise UsageError(
                f"{folder} is no run folder and holds none.",
                code="E-WATCH-FOLDER",
                hint="Give a run folder of `scanseg train -o`, the folder that holds such folders, or an "
                "empty one where they will be.",
            )


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Returns the runs in folders, those changed last first, at most 200. Of folds, each is a run."""
    found = dict.fromkeys(run for folder in folders for run in _members(folder))
    return sorted(found, key=_changed_s, reverse=True)[:MOST_RUNS]


def _members(folder: Path) -> list[Path]:
    runs = [folder] if is_run(folder) else _runs_in(folder)
    return [part for run in runs for part in (_folds(run) or [run])]


def _runs_in(folder: Path) -> list[Path]:
    return [entry for entry in _visible(folder) if is_run(entry)]


def _folds(run: Path) -> list[Path]:
    return [entry for entry in _visible(run) if entry.name.startswith("fold_") and is_run(entry)]


def _visible(folder: Path) -> list[Path]:
    """Returns the entries that are not hidden; none where the folder cannot be read."""
    try:
        names = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
        return [entry for entry, _ in zip(names, range(_MOST_ENTRIES), strict=False)]
    except OSError:
        return []


def is_run(folder: Path) -> bool:
    """The command line writes run.json first; trainings begun in Python have the other two."""
    try:
        return (folder / "run.json").is_file() or (
            (folder / "recipe.toml").is_file() and (folder / "config.json").is_file()
        )
    except OSError:
        return False


def _changed_s(run: Path) -> float:
    times = [0.0]
    for name in ("metrics.jsonl", ".lock", "run.json"):
        try:
            times.append((run / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)


def run_id(run: Path) -> str:
    """Returns the id of a run: the same whenever the server starts, and nothing of the path is in it."""
    return "t_" + hashlib.sha256(b"scanseg training " + bytes(run.absolute())).hexdigest()[:32]
