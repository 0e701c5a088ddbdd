"""The state of a run that is watched, and how far its training is.

Everything comes from the files of the run, which may be written, damaged or removed at any moment; no answer
holds a path.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from scanseg.errors import DataError, Finding
from scanseg.server.metrics_tail import MOST_BYTES, MetricsTail, open_regular, plain
from scanseg.server.run_folders import is_run, run_id
from scanseg.training.lock import Owner, read_owner
from scanseg.training.stopping import ask_to_stop

FINAL = ("finished", "stopped", "failed")
SAMPLES = "samples.png"
_LOOK_S = 0.4
_PACED_EPOCHS = 9
_MOST_PICTURE_BYTES = 8 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
_SIGNED = ("metrics.jsonl", ".lock", "config.json", "recipe.toml", "checkpoint/finished.json", SAMPLES)
_RECIPE = (
    "network", "loss", "optimizer", "learning_rate", "schedule", "epochs", "minutes", "early_stop",
    "iterations_per_epoch", "batch_size", "patch_size", "precision", "sam_rho", "seed",
)  # fmt: skip


class WatchedRun:
    """One run folder, read again whenever somebody asks, at most a few times a second.

    Args:
        path: Of the run.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.id = path, run_id(path)
        self.tail = MetricsTail(path / "metrics.jsonl")
        fold = path.name.removeprefix("fold_") if path.name.startswith("fold_") else ""
        self._name = plain(path.absolute().parent.name if fold else path.absolute().name, 100)
        self._fold = fold[:10] if fold.isdecimal() else None
        self._recipe = _Document(path / "recipe.toml", 256 << 10, tomllib.loads)
        self._config = _Document(path / "config.json", 16 << 20, json.loads)
        self._asked: tuple[int | None, str] | None = None
        self._looked_s, self._facts = -_LOOK_S, dict[str, Any]()
        self._kept: tuple[Any, ...] | None = None

    def look(self, *, curves: bool) -> dict[str, Any]:
        """Returns everything but the curves, as the API tells it.

        Args:
            curves: `tail` is wanted too, also after `forget_curves`.

        Raises:
            DataError: The folder is gone or cannot be read.
        """
        if time.monotonic() - self._looked_s >= _LOOK_S or (curves and self._kept is not None):
            with _reading(self.path):
                if curves or self._kept is None or self._kept != self._signature():
                    self._kept = None
                    self._facts = self._read()
            self._looked_s = time.monotonic()
        return self._facts

    def samples(self) -> bytes | None:
        """Returns the picture of patches after the newest epoch; None where there is none, or no PNG.

        Raises:
            DataError: The folder is gone or cannot be read.
        """
        with _reading(self.path):
            stream = open_regular(self.path / SAMPLES)
            if stream is None:
                return None
            with stream:
                content = stream.read(_MOST_PICTURE_BYTES + 1)
        # Another file that somebody linked here is not given away.
        is_picture = content.startswith(_PNG) and len(content) <= _MOST_PICTURE_BYTES
        return content if is_picture else None

    def stop(self) -> None:
        """Asks the process that trains to end, once: a second signal would end it without saving.

        Raises:
            TrainingError: It is not running, or cannot be reached from here.
            OSError: The lock cannot be read.
        """
        owner = read_owner(self.path)
        if owner is None or not owner.is_running or self._asked != (owner.pid, owner.since):
            ask_to_stop(self.path, owner)
            self._asked = None if owner is None else (owner.pid, owner.since)
        self._looked_s = -_LOOK_S

    def forget_curves(self) -> None:
        """Frees the memory of the curves; they are read again when somebody asks, or when a file changes."""
        if self._kept is None:
            self._kept = self._signature()
            self.tail = MetricsTail(self.tail.path)

    def _signature(self) -> tuple[Any, ...]:
        found: list[Any] = []
        for name in _SIGNED:
            try:
                facts = (self.path / name).stat()
            except OSError:
                found.append(None)
                continue
            found.append((facts.st_ino, facts.st_size, facts.st_mtime_ns))
        return tuple(found)

    def _read(self) -> dict[str, Any]:
        owner = read_owner(self.path)
        self.tail.read()
        recipe, config = self._recipe.read(), self._config.read()
        state = self._state(owner, config)
        last = self.tail.records[-1] if self.tail.records else None
        best = next((record for record in reversed(self.tail.records) if record["best"]), None)
        is_running = state == "running"
        asked = owner is not None and self._asked == (owner.pid, owner.since)
        times = _forecast(self.tail, recipe, _unix(owner.since) if owner else None, is_running=is_running)
        if state == "finished" and last is not None:
            times["epochs"] = last["epoch"]
        return {
            "id": self.id,
            "name": self._name,
            "fold": self._fold if self._fold is not None else _text(config.get("fold"), 10),
            "dataset": _text(config.get("dataset_name"), 200),
            "labels": _labels(config),
            "state": state,
            "stopping": is_running and asked,
            "epoch": 0 if last is None else last["epoch"],
            "step": 0 if last is None else last["step"] or 0,
            **times,
            "started": _stamp(_unix(owner.since)) if owner else None,
            "ended": _stamp(_unix(owner.ended)) if owner else None,
            "updated": _stamp(self.tail.modified_s),
            "recipe": {name: recipe[name] for name in _RECIPE if _is_plain(recipe.get(name))},
            "last": last,
            "best": best,
            "memory": _memory(self.tail.records),
            "problems": [_shown(finding) for finding in self._findings(state, owner)],
            "links": self._links(),
        }

    def _links(self) -> dict[str, str]:
        base = f"/api/v1/trainings/{self.id}"
        links = {"self": base, "events": f"{base}/events"}
        return links | ({"samples": f"{base}/{SAMPLES}"} if (self.path / SAMPLES).is_file() else {})

    def _state(self, owner: Owner | None, config: dict[str, Any]) -> str:
        if owner is not None and owner.is_running:
            return "running"
        if config.get("training") is not None or (self.path / "checkpoint" / "finished.json").is_file():
            return "finished"
        if owner is None:
            return "waiting"
        return owner.how if owner.how in FINAL else "failed"

    def _findings(self, state: str, owner: Owner | None) -> list[Finding]:
        found = []
        if state == "failed":
            found.append(_failure(owner))
        if self.tail.damaged:
            text = (
                f"Line {self.tail.first_damaged} of metrics.jsonl is no record of an epoch"
                f"{'' if self.tail.damaged == 1 else f', like {self.tail.damaged - 1} others'}; left out."
            )
            hint = "The curves have a gap; the training itself does not read this file."
            found.append(Finding(code="E-WATCH-METRICS", level="warning", text=text, hint=hint))
        if self.tail.is_cut:
            found.append(
                Finding(
                    code="E-WATCH-LONG",
                    level="warning",
                    text=f"metrics.jsonl is longer than {MOST_BYTES:,} bytes; the curves show its beginning.",
                )
            )
        for document in (self._recipe, self._config):
            if document.is_damaged:
                text = f"{document.path.name} of this run is damaged or too large; its facts are missing."
                hint = "Restore it from a copy, or run the same training command again."
                found.append(Finding(code="E-WATCH-FILE", level="warning", text=text, hint=hint))
        return found


@contextmanager
def _reading(run: Path) -> Iterator[None]:
    """Tells what goes wrong in a run's folder without its path.

    Raises:
        DataError: The folder is gone or cannot be read.
    """
    try:
        if not is_run(run):
            raise _gone()
        yield
    except FileNotFoundError:
        raise _gone() from None
    except OSError as error:
        raise DataError(
            f"The files of this training cannot be read ({error.strerror or 'input or output'}).",
            code="E-WATCH-READ",
            hint="Ask the operator to look at the folder's permissions and disk.",
        ) from error


class _Document:
    """A JSON or TOML file of a run, parsed again only when it has changed.

    Attributes:
        is_damaged: It is there and cannot be used.
    """

    def __init__(self, path: Path, most_bytes: int, parse: Callable[[str], Any]) -> None:
        self.path, self.is_damaged = path, False
        self._most_bytes, self._parse = most_bytes, parse
        self._known: tuple[int, int, int] | None = None
        self._content: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """Returns the content, empty if there is none that can be used."""
        try:
            facts = self.path.stat()
        except FileNotFoundError:
            self._known, self._content, self.is_damaged = None, {}, False
            return self._content
        known = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if known != self._known:
            self._known, self._content = known, self._parsed()
        return self._content

    def _parsed(self) -> dict[str, Any]:
        stream = open_regular(self.path)
        self.is_damaged = True
        if stream is None:
            return {}
        with stream:
            content = stream.read(self._most_bytes + 1)
        try:
            found = self._parse(content.decode()) if len(content) <= self._most_bytes else None
        except (ValueError, RecursionError):
            return {}
        self.is_damaged = not isinstance(found, dict)
        return found if isinstance(found, dict) else {}


def _forecast(
    tail: MetricsTail, recipe: dict[str, Any], since_s: float | None, *, is_running: bool
) -> dict[str, Any]:
    """Returns how long the training is and will take.

    An epoch is taken to last as the median of the last nine; what has passed since the last line counts.
    With a budget of minutes the number of epochs follows from what is left of it.
    """
    records = tail.records
    seconds = [record["seconds"] for record in records[-_PACED_EPOCHS:] if record["seconds"] is not None]
    epoch_s = median(seconds) if seconds else None
    elapsed_s = records[-1]["elapsed_seconds"] if records else None
    done = records[-1]["epoch"] if records else 0
    begun_s = max(since_s or 0.0, tail.modified_s or 0.0)
    passed_s = max(0.0, time.time() - begun_s) if is_running and begun_s else 0.0
    minutes, steps = _positive(recipe.get("minutes")), _positive(recipe.get("iterations_per_epoch"))
    epochs = None if minutes else _positive(recipe.get("epochs"))
    left, eta_s = None, None
    if epochs is not None:
        left = max(0, int(epochs) - done)
        if epoch_s is not None:
            eta_s = max(0, left - 1) * epoch_s + (max(0.0, epoch_s - passed_s) if left else 0.0)
    elif minutes is not None and epoch_s:
        eta_s = max(0.0, 60 * minutes - (elapsed_s or 0.0) - passed_s)
        left = round(eta_s / epoch_s)
    return {
        "epochs": None if epochs is None else int(epochs),
        "epochs_left": left if is_running else None,
        "steps": None if epochs is None or steps is None else int(epochs) * int(steps),
        "epoch_s": epoch_s,
        "elapsed_s": elapsed_s,
        "eta_s": None if eta_s is None or not is_running else round(eta_s, 1),
        "expected_end": None if eta_s is None or not is_running else _stamp(time.time() + eta_s),
    }


def _memory(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the most that any session used: each process begins to count anew."""
    told = [record for record in records if record["peak_memory_bytes"]]
    if not told:
        return None
    most = max(told, key=lambda record: record["peak_memory_bytes"])
    return {
        "peak_bytes": most["peak_memory_bytes"],
        "total_bytes": most["total_memory_bytes"],
        "kind": most["memory_kind"],
    }


def _failure(owner: Owner | None) -> Finding:
    if owner is None or not owner.how:
        return Finding(
            code="E-WATCH-KILLED",
            level="error",
            text="The training ended without a word: it was killed, or its machine went down.",
            hint="Run the same command again; it continues after the last finished epoch.",
        )
    named = f" with {owner.code}" if owner.code else ""
    return Finding(
        code="E-WATCH-FAILED",
        level="error",
        text=f"The training failed{named}.",
        hint="What it printed tells why; the same command continues after the last finished epoch.",
    )


def _gone() -> DataError:
    return DataError(
        "The folder of this training is gone or is no run any more.",
        code="E-WATCH-GONE",
        hint="List the trainings again.",
    )


def _shown(finding: Finding) -> dict[str, str]:
    facts = asdict(finding)
    return {"code": facts["code"], "level": facts["level"], "detail": facts["text"], "hint": facts["hint"]}


def _labels(config: dict[str, Any]) -> list[str]:
    labels = config.get("labels")
    found = [one for one in labels if isinstance(one, dict)] if isinstance(labels, list) else []
    return [plain(str(one.get("name", "")), 100) for one in found if one.get("value") != 0][:64]


def _text(value: Any, most: int) -> str | None:
    return plain(str(value), most) if isinstance(value, str | int) else None


def _is_plain(value: Any) -> bool:
    """Tells whether a value of a recipe may be shown: numbers, lists of a few, and short words, no paths."""
    if isinstance(value, list):
        return len(value) <= 3 and all(isinstance(one, int) for one in value)
    if isinstance(value, str):
        return len(value) <= 60 and value.replace("_", "").isalnum()
    return isinstance(value, int | float) and abs(value) < 1e300


def _positive(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and 0 < value < 1e12 else None


def _unix(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _stamp(seconds: float | None) -> str | None:
    try:
        found = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None if found is None else found.isoformat(timespec="seconds").replace("+00:00", "Z")
