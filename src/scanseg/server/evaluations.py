"""Evaluations as jobs: a mask against a reference, by the pipeline's own verb."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from scanseg.errors import DataError, DatasetError
from scanseg.files import write_json
from scanseg.progress import Progress, Report
from scanseg.server.jobs import Job
from scanseg.server.models import NOTICE, ServedModel
from scanseg.server.reading import confine

_LONGEST_S = 900.0


def evaluate_job(
    job: Job,
    model: ServedModel,
    folder_of: Callable[[Job], Path],
    scratch: Path,
    result: Path,
    report: Report,
) -> None:
    """Writes `result.json` of an evaluation, and `cases.csv` and `summary.json` as `scanseg evaluate` does.

    Raises:
        DataError: A file cannot be read, the grids differ, or the prediction has been erased.
    """
    report(Progress("evaluate", 0, 1))
    inputs = folder_of(job) / "inputs"
    reference = next(slot for slot in job.slots if slot.slot == "reference")
    mask = next((inputs / slot.file for slot in job.slots if slot.slot == "mask"), None)
    if mask is None:
        source = folder_of(job).parent / str(job.options["prediction"]) / "result"
        mask = next((path for path in sorted(source.glob("mask.*"))), None)
        if mask is None:
            raise DataError(
                "The prediction has been erased.", code="E-SERVE-UNKNOWN", hint="Predict the image again."
            )
    pair = scratch / "pair"
    _lay_out(pair, {"masks": mask, "references": inputs / reference.file}, model)
    try:
        cases, summary = _apart(str(pair), str(result))
    except DatasetError as error:
        first = next(finding for finding in error.findings if finding.level == "error")
        raise DataError(_without_paths(first.text, pair), code=first.code, hint=first.hint) from None
    except DataError as error:
        raise DataError(_without_paths(error.message, pair), code=error.code, hint=error.hint) from None
    names = {label.value: label.name for label in model.labels}
    rows = [{key: _plain(value) for key, value in row.items()} for row in cases]
    for row in rows:
        row["name"] = names.get(int(row["value"]), row["name"])
    document = {
        "id": job.id,
        "disclaimer": NOTICE,
        "prediction": job.options.get("prediction"),
        "cases": rows,
        "summary": summary,
    }
    write_json(result / "result.json", _finite(document))


def _lay_out(pair: Path, sides: dict[str, Path], model: ServedModel) -> None:
    """Makes two folders of one case each, and a dataset.json above them with the labels of the model."""
    for side, path in sides.items():
        (pair / side).mkdir(parents=True)
        # One stem, so that they are one case.
        _link(path, pair / side / f"case{path.name[path.name.index('.') :]}")
    # Labels that are in neither mask are measured too; other values are told and not scored.
    labels = {"background": 0, **{label.name: label.value for label in model.labels}}
    known = {"labels": labels, "channel_names": {"0": "image"}, "file_ending": ".nii.gz"}
    write_json(pair / "dataset.json", known)


def _without_paths(text: str, pair: Path) -> str:
    """Returns an error's text with words for the two files instead of their paths."""
    for side, word in (("masks", "The mask"), ("references", "The reference")):
        text = re.sub(re.escape(str(pair / side)) + r"(/case[.a-z]*)?", word, text)
    return text


def _apart(pair: str, result: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns what `_measure` does, from a confined process: the files come from outside."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin) as pool:
        try:
            return pool.submit(_measure, pair, result).result(timeout=_LONGEST_S)
        except (BrokenExecutor, TimeoutError):
            for process in list((pool._processes or {}).values()):
                process.kill()
            raise DataError(
                "The process that measured the masks died or took too long.",
                code="E-SERVE-READ-CRASH",
                hint="Open the files in another program and save them again.",
            ) from None


def _begin() -> None:
    logging.captureWarnings(True)
    logging.getLogger().addHandler(logging.NullHandler())
    confine()


def _measure(pair: str, result: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from scanseg import pipeline

    folder = Path(pair)
    evaluation, _ = pipeline.evaluate(folder / "masks", folder / "references", output=Path(result))
    return [dict(row) for row in evaluation.cases], evaluation.summary


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _finite(value: Any) -> Any:
    """Returns JSON values with null for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
