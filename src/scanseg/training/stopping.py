"""Stopping a training from another process, as Ctrl-C does: its step is finished and saved."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

from scanseg.errors import TrainingError
from scanseg.training.lock import LOCK, Owner


def ask_to_stop(run_folder: Path, owner: Owner | None) -> None:
    """Sends SIGINT to the process that trains a run; it ends after the step at hand, which is saved.

    A second one would end it at once, so ask only once. Nobody else is met: the process must hold the run's
    lock file open (where /proc tells), not only have the number that stands in it.

    Args:
        run_folder: The run.
        owner: What `read_owner` returned a moment ago.

    Raises:
        TrainingError: Nobody trains the run, or a process that cannot be reached from here.
    """
    if owner is None or not owner.is_running:
        raise _idle()
    if sys.platform == "win32" or owner.host != socket.gethostname():
        raise _elsewhere("on another machine" if sys.platform != "win32" else "where no signal reaches it")
    if owner.pid is None:
        raise _idle()
    try:
        if not _has_open(owner.pid, run_folder / LOCK):
            raise _elsewhere("under another process number, as in a container")
        os.kill(owner.pid, signal.SIGINT)
    except (ProcessLookupError, FileNotFoundError):
        raise _idle() from None
    except PermissionError:
        raise _elsewhere("as another user") from None


def _has_open(pid: int, path: Path) -> bool:
    """Tells whether a process has a file open; True where the system does not tell."""
    if not Path("/proc/self/fd").is_dir():
        return True
    wanted = path.stat()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found = entry.stat()
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    return False


def _idle() -> TrainingError:
    return TrainingError(
        "Nobody trains this run at the moment.", code="E-TRAIN-IDLE", hint="Look at its state again."
    )


def _elsewhere(where: str) -> TrainingError:
    return TrainingError(
        f"The training cannot be stopped from here: it runs {where}.",
        code="E-TRAIN-ELSEWHERE",
        hint="Press Ctrl-C where it was started, or send SIGINT to it there.",
    )
