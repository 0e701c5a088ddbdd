"""What an operator chooses, and the folder that holds everything."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from scanseg.errors import DataError, UsageError
from scanseg.server.limits import Limits

if TYPE_CHECKING:
    from scanseg.dicomnet.destination import Destination
    from scanseg.dicomnet.scp import ListenOptions

_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"}


@dataclass(frozen=True)
class DicomSettings:
    """How series come from the network and where segmentations go.

    Attributes:
        port: TCP port; 0 takes a free one.
        listen: Who may send how much.
        model: Id of the model; empty for the only one.
        send_to: Who gets the segmentations; None sends none.
        send_tls: Send by TLS, with the files of `listen`.
    """

    port: int
    listen: ListenOptions
    model: str = ""
    send_to: Destination | None = None
    send_tls: bool = False


@dataclass(frozen=True)
class Settings:
    """Everything the service is started with.

    Attributes:
        runs: Model id -> run folder.
        data: Folder of the job store, uploads and results.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        tokens: Owner -> token; empty where none is needed.
        names: Further host names under which the service is reached, as behind a proxy.
        docs: Whether `/docs` is there.
        device: As in `scanseg predict`; so is `threads`.
        dicom: Receives series as well; None does not.
        watch: Run folders, or folders of runs, whose trainings are shown.
        allow_training: Whether these trainings may be stopped over HTTP.
    """

    runs: dict[str, Path]
    data: Path
    host: str = "127.0.0.1"
    port: int = 8000
    tokens: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    docs: bool = False
    device: str = "auto"
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)
    dicom: DicomSettings | None = None
    watch: tuple[Path, ...] = ()
    allow_training: bool = False

    @property
    def jobs(self) -> Path:
        """Folder with one folder per job."""
        return self.data / "jobs"

    @property
    def dicom_folder(self) -> Path:
        """Folder of series and segmentations on their way, see `scanseg.server.intake`."""
        return self.data / "dicom"

    def outgoing(self, job_id: str) -> Path:
        """Returns where the segmentation of a job waits to be sent."""
        return self.dicom_folder / "outbox" / f"{job_id}.dcm"

    def folder(self, job_id: str) -> Path:
        """Returns the folder of a job; the id is one that this server made."""
        return self.jobs / job_id

    def worker_orders(self, model: str) -> dict[str, Any]:
        """Returns what the worker of a model is told."""
        return {
            "data": str(self.data),
            "model": model,
            "run": str(self.runs[model]),
            "device": self.device,
            "threads": self.threads,
            "limits": asdict(self.limits),
        }


def is_local(host: str) -> bool:
    """Tells whether an address is reached from this machine only."""
    return host in ("127.0.0.1", "::1", "localhost")


def prepare_folder(data: Path) -> None:
    """Makes the data folder, closed to other users.

    Raises:
        UsageError: It cannot be made or written, or lies on a network file system, where SQLite's log and
            locks do not work.
    """
    try:
        for folder in (data, data / "jobs", data / "workers", data / "scratch"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        data.chmod(0o700)
    except OSError as error:
        raise UsageError(
            f"The data folder {data} cannot be used ({error.strerror or error}).",
            code="E-SERVE-FOLDER",
            hint="Choose another folder with --data-dir.",
        ) from error
    kind = file_system(data)
    if kind in _REMOTE:
        raise UsageError(
            f"The data folder {data} lies on a network file system ({kind}).",
            code="E-SERVE-REMOTE",
            hint="Choose a folder on a local disk with --data-dir.",
        )


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Returns the type of the file system of a folder, empty where it cannot be told."""
    if not mounts.is_file():
        return ""
    best, kind = "", ""
    where = str(folder.resolve())
    for line in mounts.read_text(errors="replace").splitlines():
        parts = line.split()
        if len(parts) < 3:
            continue
        point = parts[1].replace("\\040", " ")
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, parts[2]
    return kind


def hold_lock(path: Path, *, wait: bool = False) -> IO[str] | None:
    """Returns an open file that holds the lock of `path` until it is closed or the process ends.

    Args:
        path: Lock file; created.
        wait: Wait for it; otherwise None if another process holds it.
    """
    stream = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held open on purpose)
    os.chmod(path, 0o600)
    if _lock(stream, wait):
        return stream
    stream.close()
    return None


def lock_data(data: Path) -> IO[str]:
    """Takes the data folder for this server.

    Raises:
        DataError: Another server has it.
    """
    stream = hold_lock(data / "server.lock")
    if stream is None:
        raise DataError(
            f"Another server uses the data folder {data}.",
            code="E-SERVE-BUSY",
            hint="Stop it, or choose another folder with --data-dir.",
        )
    return stream


if sys.platform == "win32":
    import msvcrt

    def _lock(stream: IO[str], wait: bool) -> bool:
        while True:
            try:
                msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError:
                if wait:
                    continue
                return False
            return True

else:
    import fcntl

    def _lock(stream: IO[str], wait: bool) -> bool:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
