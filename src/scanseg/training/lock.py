"""One process trains one run."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from scanseg.errors import TrainingError, UsageError

_ORPHANS_S = 10.0


@contextmanager
def exclusive(run_folder: Path) -> Iterator[None]:
    """Holds the lock of a run folder, `.lock` in it; the system frees it when the process ends in any way.

    Data workers of a killed process hold it until they notice, at most ten seconds; that time is waited for.

    Raises:
        UsageError: The folder cannot be written to.
        TrainingError: Another process trains this run.
    """
    path = run_folder / ".lock"
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
        stream.truncate(0)
        stream.write(json.dumps(facts))
        stream.flush()
        yield


def _owner(stream: IO[str]) -> dict[str, Any]:
    stream.seek(0)
    try:
        facts = json.loads(stream.read())
    except (json.JSONDecodeError, OSError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _is_alive(owner: dict[str, Any]) -> bool:
    if owner.get("host") != socket.gethostname() or not isinstance(owner.get("pid"), int):
        return True
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

else:
    import fcntl

    def _try_lock(stream: IO[str]) -> bool:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
