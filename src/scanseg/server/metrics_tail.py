"""metrics.jsonl of a run while it is written: only what was added is read, within bounds."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import IO, Any

MOST_BYTES = 32 << 20
MOST_LINE_BYTES = 256 << 10
MOST_LABELS = 64
_PART_BYTES = 1 << 20
_HEAD_BYTES = 256
_NUMBERS = (
    "learning_rate", "train_loss", "validation_loss", "auxiliary_loss", "pseudo_dice", "ema_pseudo_dice",
    "seconds", "elapsed_seconds",
)  # fmt: skip
_COUNTS = ("step", "skipped_steps", "peak_memory_bytes", "total_memory_bytes")
_MEMORY_KINDS = ("gpu", "process")


class MetricsTail:
    """What metrics.jsonl of a run held when it was last read.

    Lines are taken whole: the half of one at the end is waited for. A line that is no record is counted and
    left out. Where an epoch comes again (a run that was continued), the later line holds.

    Args:
        path: The file; it need not exist yet.

    Attributes:
        records: One an epoch, with the fields that `train_network` names; numbers are finite or None.
        generation: Grows whenever records went away: the file was replaced, or an epoch came again.
        damaged: Lines that are no records.
        first_damaged: Number of the first of them, from 1; 0 without one.
        is_cut: The file is longer than what is read of it.
        modified_s: When it was written last, Unix time; None while there is no file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = -1
        self._forget()

    def _forget(self) -> None:
        self.generation += 1
        self.records: list[dict[str, Any]] = []
        self.damaged = self.first_damaged = 0
        self.is_cut = False
        self.modified_s: float | None = None
        self._offset = self._lines = self._inode = 0
        self._head = self._rest = b""
        self._is_skipping = False

    def read(self) -> None:
        """Reads what was added since the last call, at most 32 MiB in all.

        Raises:
            OSError: The file cannot be read.
        """
        stream = open_regular(self.path)
        if stream is None:
            if self._inode:
                self._forget()
            return
        with stream:
            facts = os.fstat(stream.fileno())
            head = stream.read(_HEAD_BYTES)
            is_same = facts.st_ino == self._inode and head.startswith(self._head)
            if self._inode and (not is_same or facts.st_size < self._offset):
                self._forget()
            self._inode, self._head, self.modified_s = facts.st_ino, head, facts.st_mtime
            stream.seek(self._offset)
            while part := stream.read(min(_PART_BYTES, MOST_BYTES - self._offset)):
                self._offset += len(part)
                self._take(part)
            self.is_cut = facts.st_size > MOST_BYTES

    def after(self, epoch: int) -> list[dict[str, Any]]:
        """Returns the records of later epochs."""
        return [record for record in self.records if record["epoch"] > epoch]

    def _take(self, part: bytes) -> None:
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            self._lines += 1
            if self._is_skipping:
                self._is_skipping = False  # The end of a line that was too long and is counted already.
            elif line.strip():
                self._add(line)
        if len(self._rest) > MOST_LINE_BYTES:
            if not self._is_skipping:
                self._count_damaged(self._lines + 1)
            self._rest, self._is_skipping = b"", True

    def _add(self, line: bytes) -> None:
        record = parse_record(line) if len(line) <= MOST_LINE_BYTES else None
        if record is None:
            self._count_damaged(self._lines)
            return
        if self.records and self.records[-1]["epoch"] >= record["epoch"]:
            self.records = [known for known in self.records if known["epoch"] < record["epoch"]]
            self.generation += 1
        self.records.append(record)

    def _count_damaged(self, number: int) -> None:
        self.damaged += 1
        self.first_damaged = self.first_damaged or number


def parse_record(line: bytes) -> dict[str, Any] | None:
    """Returns the record of an epoch with the fields that are known, None for what is no record.

    Example:
        >>> found = parse_record(b'{"epoch": 2, "step": 20, "train_loss": -0.5, "seconds": NaN}')
        >>> found["epoch"], found["train_loss"], found["seconds"], parse_record(b'{"epoch": 2, "st')
        (2, -0.5, None, None)
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or (epoch := _count(found.get("epoch"))) is None or epoch < 1:
        return None
    labels = found.get("pseudo_dice_per_label")
    named = list(labels.items())[:MOST_LABELS] if isinstance(labels, dict) else []
    return {
        "epoch": epoch,
        "best": found.get("best") is True,
        **{name: _number(found.get(name)) for name in _NUMBERS},
        **{name: _count(found.get(name)) for name in _COUNTS},
        "memory_kind": next((kind for kind in _MEMORY_KINDS if kind == found.get("memory_kind")), None),
        "pseudo_dice_per_label": {plain(name, 100): _number(value) for name, value in named},
    }


def plain(text: str, most: int) -> str:
    """Returns text without control characters, at most `most` characters of it."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def open_regular(path: Path) -> IO[bytes] | None:
    """Opens a plain file for reading; None where there is none. Pipes and devices are not waited for.

    Raises:
        OSError: It cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    return os.fdopen(handle, "rb")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 and math.isfinite(value) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else None
