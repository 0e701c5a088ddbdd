"""The files of a run folder, read so that a missing or damaged one becomes a note and not an error.

What the report takes from them, all of it optional:

- config.json: `dataset_name network.name network.options configuration fold split channel_names
  weights_sha256 scanseg_version training.epochs training.seconds`
- plan.json: `default_configuration configurations orientation reasons warnings`
- dataset.json: `name modality licence citation channel_names numTraining`
- check.json: `statistics findings cases`, as `CheckResult.as_dict` makes them
- run.json: `command versions platform device threads seconds`
- recipe.toml: every field; metrics.jsonl: see `curves.progress_figure`
- validation/ and unseen/: `summary.json cases.csv` of `Evaluation.save`, `failures.csv`, previews/CASE.png
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scanseg.errors import Error
from scanseg.files import read_json
from scanseg.reporting.curves import read_metrics

_JSON = {
    "config": ("config.json", "what was trained"),
    "plan": ("plan.json", "the plan"),
    "dataset": ("dataset.json", "the dataset"),
    "check": ("check.json", "the check of the dataset"),
    "run": ("run.json", "the command, versions and machine"),
}
SCORE_FOLDERS = {
    "unseen": "Test cases, never seen in training",
    "validation": "Validation cases, held out from training",
}
_COLOUR_TYPES = (2, 6)  # of a PNG's header: RGB and RGBA; masks are grey or have a palette
_MOST_PICTURE_BYTES = 8_000_000


@dataclass
class Scores:
    """The measured cases of one folder of a run.

    Attributes:
        title: What cases these are.
        folder: Where they lie.
        summary: summary.json.
        rows: cases.csv, one dictionary per case and label.
        failures: failures.csv of the prediction.
    """

    title: str
    folder: Path
    summary: dict[str, Any]
    rows: list[dict[str, str]]
    failures: list[dict[str, str]] = field(default_factory=list)


@dataclass
class RunFiles:
    """What a run folder holds; empty where a file is missing, with a note for the reader.

    Attributes:
        folder: The run folder.
        parts: The folder itself, or one folder per fold of a cross-validation.
        config: config.json (of the first fold), like the following ones.
        plan: plan.json.
        dataset: dataset.json.
        check: check.json.
        run: run.json.
        recipe: recipe.toml.
        metrics: metrics.jsonl of each part that has one.
        scores: Of the test cases and the validation cases, where there are any.
        notes: What is missing or damaged, in sentences.
    """

    folder: Path
    parts: list[Path]
    config: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    check: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Path] = field(default_factory=dict)
    scores: list[Scores] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_run(folder: Path) -> RunFiles:
    """Returns the files of a run folder, or of a folder of folds.

    Args:
        folder: Holds config.json plan.json recipe.toml dataset.json check.json run.json metrics.jsonl and
            validation/ and unseen/ with cases.csv summary.json failures.csv; or these in fold_0, fold_1, ...
    """
    folder = Path(folder)
    folds = sorted(path for path in folder.glob("fold_*") if path.is_dir())
    run = RunFiles(folder, folds or [folder])
    for name, (file, what) in _JSON.items():
        setattr(run, name, _read(run, file, what, read_json))
    run.recipe = _read(run, "recipe.toml", "the recipe", _read_toml)
    for part in run.parts:
        path = part / "metrics.jsonl"
        if not path.is_file():
            run.notes.append(f"{_place(run, path)} is missing, so there are no training curves.")
        elif _checked(run, path, read_metrics) is not None:
            run.metrics["" if part == folder else part.name.replace("_", " ")] = path
    run.scores = list(_read_scores(run))
    return run


def find_picture(run: RunFiles, scores: Scores, case_id: str) -> Path | None:
    """Returns the picture of a case: previews/CASE.png, else a colour image CASE.png; None without one.

    Names that lead out of the run folder are refused.
    """
    folders = [scores.folder, *(part / scores.folder.name for part in run.parts)]
    for folder in folders:
        for path in (folder / "previews" / f"{case_id}.png", folder / f"{case_id}.png"):
            if path.is_file() and path.resolve().is_relative_to(run.folder.resolve()) and _is_picture(path):
                return path
    return None


def _is_picture(path: Path) -> bool:
    with open(path, "rb") as stream:
        head = stream.read(26)
    is_colour = len(head) == 26 and head.startswith(b"\x89PNG\r\n\x1a\n") and head[25] in _COLOUR_TYPES
    return is_colour and path.stat().st_size <= _MOST_PICTURE_BYTES


def _read(run: RunFiles, name: str, what: str, reader: Callable[[Path], Any]) -> dict[str, Any]:
    """Returns the first file of that name in the run folder or its folds, as a dictionary."""
    for folder in (run.folder, *run.parts):
        path = folder / name
        if path.is_file():
            content = _checked(run, path, reader)
            if isinstance(content, dict):
                return content
            if content is not None:
                run.notes.append(f"{_place(run, path)} does not hold what it should.")
            return {}
    run.notes.append(f"{name} is missing, so {what} cannot be shown.")
    return {}


def _read_scores(run: RunFiles) -> Iterator[Scores]:
    for name, title in SCORE_FOLDERS.items():
        folder = run.folder / name
        if not (folder / "summary.json").is_file():
            continue
        summary = _checked(run, folder / "summary.json", read_json)
        rows = _checked(run, folder / "cases.csv", _read_csv) if (folder / "cases.csv").is_file() else []
        failures = folder / "failures.csv"
        if isinstance(summary, dict):
            failed = _checked(run, failures, _read_csv) if failures.is_file() else []
            yield Scores(title, folder, summary, rows or [], failed or [])
    if not any((run.folder / name / "summary.json").is_file() for name in SCORE_FOLDERS):
        run.notes.append(
            "No case was measured yet, so there are no scores (validation/summary.json is missing)."
        )


def _checked(run: RunFiles, path: Path, reader: Callable[[Path], Any]) -> Any:
    """Returns what a reader makes of a file, None with a note where it is damaged."""
    try:
        return reader(path)
    except Error as error:
        run.notes.append(f"{_place(run, path)} is damaged: {error.message}")
    except (OSError, UnicodeDecodeError, csv.Error, tomllib.TOMLDecodeError) as error:
        run.notes.append(f"{_place(run, path)} cannot be read: {error}.")
    return None


def _place(run: RunFiles, path: Path) -> str:
    return path.relative_to(run.folder).as_posix()


def _read_toml(path: Path) -> Any:
    return tomllib.loads(path.read_text("utf-8"))


def _read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return [{str(key): value or "" for key, value in row.items()} for row in csv.DictReader(stream)]
