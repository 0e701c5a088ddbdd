"""One process trains one run."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from scanseg.errors import Error, TrainingError, UsageError

LOCK = ".lock"
_ORPHANS_S = 10.0
_MOST_BYTES = 4096


@dataclass(frozen=True)
class Owner:
    """Who trains a run, or trained it last, as the lock and its file say.

    Attributes:
        is_running: The lock is held by a process that lives.
        pid: Of the process; None if the file does not tell.
        host: Name of its machine.
        since: When it began, RFC 3339; empty if the file does not tell.
        ended: When it ended; empty while it runs, and after a kill.
        how: `finished`, `stopped` or `failed`; empty while it runs, and after a kill.
        code: Of the error it failed with, empty if that has none.
    """

    is_running: bool
    pid: int | None = None
    host: str = ""
    since: str = ""
    ended: str = ""
    how: str = ""
    code: str = ""


@contextmanager
def exclusive(run_folder: Path) -> Iterator[None]:
    """Holds the lock of a run folder, `.lock` in it; the system frees it when the process ends in any way.

    The file tells who holds it since when, and afterwards how it ended: see `read_owner`. Data workers of a
    killed process hold it until they notice, at most ten seconds; that time is waited for.

    Raises:
        UsageError: The folder cannot be written to.
        TrainingError: Another process trains this run.
    """
    path = run_folder / LOCK
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UsageError(
            f"The run folder {run_folder} cannot be written to ({error.strerror}).",
            code="E-RUN-FOLDER",
            hint="Choose another folder, or mend its permissions.",
        ) from error
    with stream:
        give_up_s = time.monotonic() + _ORPHANS_S
        while not _try_lock(stream):
            owner = _owner(stream)
            if time.monotonic() > give_up_s or _is_alive(owner):
                raise TrainingError(
                    f"The run {run_folder} is being trained by process {owner.get('pid', 'unknown')} on "
                    f"{owner.get('host', 'unknown')} since {owner.get('since', 'unknown')}.",
                    code="E-TRAIN-LOCKED",
                    hint="Wait for it, stop it, or choose another run folder.",
                )
            time.sleep(0.1)
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
        _note(stream, facts)
        try:
            yield
        except BaseException as error:
            # A full disk must not hide why the training ended.
            with suppress(OSError):
                _note(stream, {**facts, **_ending(error)})
            raise
        with suppress(OSError):
            _note(stream, {**facts, **_ending(None)})


def read_owner(run_folder: Path) -> Owner | None:
    """Returns who trains a run or did so last; None if nobody has begun.

    The lock is tried for a moment, shared: two readers do not disturb each other, and a training that begins
    just then tries again.

    Raises:
        OSError: The file cannot be read.
    """
    path = run_folder / LOCK
    try:
        stream = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), encoding="utf-8")
    except FileNotFoundError:
        return None
    with stream:
        facts = _owner(stream)
        is_running = not facts.get("ended") and _is_locked(stream, facts) and _is_alive(facts)
        if not is_running and not facts.get("ended"):
            facts = _owner(stream)  # It may have ended since, and have said so before it let go.
    texts = {key: str(facts.get(key, ""))[:200] for key in ("host", "since", "ended", "how", "code")}
    pid = facts.get("pid")
    return Owner(is_running, pid if isinstance(pid, int) and pid > 0 else None, **texts)


def _note(stream: IO[str], facts: Mapping[str, Any]) -> None:
    """Replaces what the file says; past the buffer, which would fail once more when it is closed."""
    os.ftruncate(stream.fileno(), 0)
    os.write(stream.fileno(), json.dumps(facts).encode())


def _ending(error: BaseException | None) -> dict[str, str]:
    """Returns what is noted at the end; no sentence, for that may name files."""
    how = "finished"
    if error is not None:
        how = "stopped" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
    code = error.code if isinstance(error, Error) else ""
    return {"ended": datetime.now(UTC).isoformat(), "how": how, "code": code}


def _owner(stream: IO[str]) -> dict[str, Any]:
    try:
        os.lseek(stream.fileno(), 0, os.SEEK_SET)  # Past the buffer, which may hold what was there before.
        facts = json.loads(os.read(stream.fileno(), _MOST_BYTES))
    except (ValueError, RecursionError, OSError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _is_alive(owner: dict[str, Any]) -> bool:
    if owner.get("ended"):
        return False
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int):
        return True
    if sys.platform == "win32":
        return True  # There os.kill(pid, 0) is Ctrl-C.
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if sys.platform == "win32":
    import msvcrt

    def _try_lock(stream: IO[str]) -> bool:
        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _is_locked(stream: IO[str], owner: dict[str, Any]) -> bool:
        if not _try_lock(stream):
            return True
        msvcrt.locking(stream.fileno(), msvcrt.LK_UNLCK, 1)
        return False

else:
    import fcntl

    def _try_lock(stream: IO[str]) -> bool:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _is_locked(stream: IO[str], owner: dict[str, Any]) -> bool:
        """Where the file system knows no locks, the process that is named must do."""
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return owner.get("host") == socket.gethostname()
        fcntl.flock(stream, fcntl.LOCK_UN)
        return False
