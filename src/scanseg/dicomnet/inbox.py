"""Received instances on disk: whole and synced before they are acknowledged, handed over a series at a time.

    INBOX/incoming/ID/     a series that still grows
    INBOX/ready/ID-TIME/   handed to the callback; removed when that returns
    INBOX/failed/ID-TIME/  the callback failed; error.json says why

Names are hashes of UIDs, so no name tells who the patient is. A crash loses nothing: what lies in `incoming`
and `ready` is handed over after the next start, so a series may come twice, never not at all.
"""

import hashlib
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scanseg.errors import Error, UsageError
from scanseg.files import sync_folder, write_bytes, write_json

logger = logging.getLogger(__name__)


class InboxFull(Exception):
    """An instance goes beyond a limit or the disk; it was not kept."""


@dataclass(frozen=True)
class Received:
    """A complete series.

    Attributes:
        case_id: Made here; unique, and the same when the series is handed over again after a crash.
        folder: Its DICOM files.
        files: How many.
    """

    case_id: str
    folder: Path
    files: int


@dataclass
class _Growing:
    last_s: float
    files: int
    size: int
    senders: set[int]


class Inbox:
    """Series that are being received. All methods may be called from any thread.

    Args:
        folder: Made if need be; locked while the inbox is open.
        most_files: Most instances of one series.
        most_bytes: Most bytes of one series.
        free_bytes: What must stay free on the disk.
        clock: Monotonic seconds.

    Raises:
        UsageError: Another process uses the folder, or it cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        most_files: int,
        most_bytes: int,
        free_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._most_files, self._most_bytes, self._free_bytes = most_files, most_bytes, free_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._growing: dict[str, _Growing] = {}
        try:
            for name in ("incoming", "ready", "failed"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            self._held = _locked(folder)
        except OSError as error:
            raise UsageError(
                f"The inbox {folder} cannot be used ({error.strerror}).",
                code="E-DICOM-INBOX",
                hint="Another receiver may use it; choose another folder with --inbox.",
            ) from None
        self._find_again()

    def close(self) -> None:
        """Frees the folder for another receiver."""
        self._held.close()

    def _find_again(self) -> None:
        for series in sorted((self.folder / "incoming").iterdir()):
            for unfinished in series.glob(".tmp-*"):
                unfinished.unlink()
            sizes = [path.stat().st_size for path in series.iterdir()]
            self._growing[series.name] = _Growing(self._clock(), len(sizes), sum(sizes), set())

    def keep(self, series: tuple[str, str], instance: str, content: bytes, *, sender: int) -> None:
        """Writes an instance; when this returns, it survives a crash.

        Args:
            series: Study and series UID.
            instance: SOP instance UID; a second one of the same UID replaces the first.
            content: The file.
            sender: Identifies the association, see `released`.

        Raises:
            InboxFull: A limit is reached; nothing was kept.
            OSError: The disk failed; nothing was kept.
        """
        name = _hash("\0".join(series))
        path = self.folder / "incoming" / name / f"{_hash(instance)}.dcm"
        if shutil.disk_usage(self.folder).free - len(content) < self._free_bytes:
            raise InboxFull
        # A hand-over must not move the folder between the check and the write.
        with self._lock:
            growing = self._growing.setdefault(name, _Growing(self._clock(), 0, 0, set()))
            replaced = path.stat().st_size if path.exists() else None
            files, size = growing.files + (replaced is None), growing.size + len(content) - (replaced or 0)
            if files > self._most_files or size > self._most_bytes:
                raise InboxFull
            is_new = not path.parent.exists()
            write_bytes(path, content)
            if is_new:
                sync_folder(path.parent.parent)
            growing.files, growing.size, growing.last_s = files, size, self._clock()
            growing.senders.add(sender)

    def released(self, sender: int) -> list[str]:
        """Notes that an association ended; returns the series that it sent to and no other still sends to."""
        with self._lock:
            names = [name for name, growing in self._growing.items() if sender in growing.senders]
            for name in names:
                self._growing[name].senders.discard(sender)
                self._growing[name].last_s = self._clock()
            return [name for name in names if not self._growing[name].senders]

    def quiet(self, seconds: float) -> list[str]:
        """Returns the series that no association sends to and that did not grow for so long."""
        now = self._clock()
        with self._lock:
            return [
                name
                for name, growing in self._growing.items()
                if not growing.senders and now - growing.last_s >= seconds
            ]

    def hand_over(self, name: str) -> None:
        """Moves a series to `ready`; instances that come later start a new one."""
        with self._lock:
            growing = self._growing.pop(name, None)
            source = self.folder / "incoming" / name
            if growing is None or not growing.files:
                return
            os.rename(source, self.folder / "ready" / f"{name}-{time.time_ns():x}")
            sync_folder(self.folder / "ready")
            sync_folder(self.folder / "incoming")

    def ready(self) -> Iterator[Received]:
        """Yields what is ready, the oldest first."""
        for folder in sorted((self.folder / "ready").iterdir(), key=lambda path: path.name.split("-")[-1]):
            yield Received(folder.name, folder, sum(1 for _ in folder.iterdir()))

    def done(self, received: Received) -> None:
        """Erases a series; the callback may have moved its folder away."""
        if received.folder.exists():
            shutil.rmtree(received.folder)
        sync_folder(received.folder.parent)

    def failed(self, received: Received, error: Exception) -> None:
        """Puts a series aside, with the reason."""
        target = self.folder / "failed" / received.case_id
        os.rename(received.folder, target)
        facts = {"code": "E-INTERNAL", "message": type(error).__name__, "hint": ""}
        if isinstance(error, Error):
            facts = {"code": error.code, "message": error.message, "hint": error.hint}
        write_json(target / "error.json", facts)
        logger.warning("Series %s failed: %s", received.case_id, facts["code"])


def _locked(folder: Path) -> IO[bytes]:
    """Returns an open file that holds the lock; the system frees it when the process ends in any way."""
    stream = open(folder / ".lock", "ab")  # noqa: SIM115 (open as long as the inbox)
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.close()
            raise
    return stream


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
