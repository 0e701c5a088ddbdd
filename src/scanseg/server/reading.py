"""Uploads are parsed in a process of their own, once per case, under limits and without network.

`python -m scanseg.server.reading` reads one JSON line per case and answers with one. It parses nothing
itself: each case is parsed in a fork of it, which writes one raw array and one JSON file and ends, so that a
case neither waits for imports nor meets what another one left behind. Where processes cannot be forked
safely, it parses one case itself and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from scanseg.errors import DataError, Error, UsageError

_MEMORY_BYTES = 16 << 30
_FILE_BYTES = 16 << 30
_CPU_S = 900
_ANSWER_BYTES = 1 << 20
_FORKS = sys.platform.startswith("linux")
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000


class Reader:
    """Starts the reading process and talks to it. For one thread, which must live as long as the process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Starts the process, if there is none that can take a case."""
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scanseg.server.reading"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # It multiplies no matrices; threads would make forking unsafe.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )

    def read(self, orders: dict[str, Any], *, limit_s: float) -> dict[str, Any]:
        """Returns what the reading process found.

        Args:
            orders: See `_parse`.
            limit_s: It is killed after this time.

        Raises:
            Error: What the file was refused for; also when the process died or took too long.
        """
        self.prepare()
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise UsageError("The reading process has no pipes.", code="E-SERVE-READER")
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(orders).encode() + b"\n")
                process.stdin.flush()
            answer = _answer(process, limit_s)
        except BaseException:
            # Whatever it still does or says belongs to this case.
            self.close()
            raise
        if not _FORKS:
            self.close()
        if "error" in answer:
            found = answer["error"]
            kind = UsageError if found["kind"] == "UsageError" else DataError
            raise kind(found["message"], code=found["code"], hint=found["hint"])
        return answer

    def close(self) -> None:
        """Ends the process, and with it the one that parses."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def _answer(process: subprocess.Popen[bytes], limit_s: float) -> dict[str, Any]:
    """Returns the answer line of the process."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit_s, stop)
    timer.daemon = True
    timer.start()
    try:
        line = b"" if process.stdout is None else process.stdout.readline(_ANSWER_BYTES)
    finally:
        timer.cancel()
    if late.is_set():
        raise DataError(
            f"Reading the image took longer than {limit_s:.0f} s.",
            code="E-SERVE-READ-TIME",
            hint="Convert the image to uncompressed NIfTI, or crop it.",
        )
    if not line.endswith(b"\n") or not line.strip():
        raise DataError(
            "The image made the process that reads it fail; it is damaged or needs too much memory.",
            code="E-SERVE-READ-CRASH",
            hint="Open the file in another program and save it again.",
        )
    found: dict[str, Any] = json.loads(line)
    return found


# -- the process --------------------


def confine() -> list[str]:
    """Takes from this process what reading does not need; returns what the system did not allow."""
    missing = []
    try:
        import resource

        for kind, most in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_AS, _MEMORY_BYTES),
            (resource.RLIMIT_CPU, _CPU_S),
            (resource.RLIMIT_FSIZE, _FILE_BYTES),
            (resource.RLIMIT_NOFILE, 64),
        ):
            hard = resource.getrlimit(kind)[1]
            bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (bound, bound))
    except (ImportError, ValueError, OSError):
        missing.append("resource limits")
    if not sys.platform.startswith("linux"):
        return [*missing, "no new privileges", "no network"]
    system = ctypes.CDLL(None, use_errno=True)
    if system.prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS
        missing.append("no new privileges")
    if system.unshare(_NEW_USER | _NEW_NET) != 0 and system.unshare(_NEW_NET) != 0:
        missing.append("no network")
    return missing


def _parse(orders: dict[str, Any]) -> dict[str, Any]:
    """Reads the files of a case.

    Args:
        orders: `paths`; `out`, an empty folder; `options`; `channels`, how many the model reads.
    """
    from scanseg.pipeline.serving import ServeOptions, read_input, write_read_image

    paths, out = [Path(path) for path in orders["paths"]], Path(orders["out"])
    options = orders["options"]
    if options.get("spacing") is not None:
        options["spacing"] = tuple(options["spacing"])
    if len(paths) == 1 and paths[0].suffix == ".zip":
        paths = _unpacked(paths[0], out / "unpacked")
    image = read_input(paths, ServeOptions(**options))
    write_read_image(image, out)
    return {"name": paths[0].name, "files": len(paths)}


def _unpacked(archive: Path, folder: Path) -> list[Path]:
    """Returns the images in an archive, or the archive itself where it holds none, as one of DICOM slices."""
    from scanseg.data.zip_images import unpack_images

    folder.mkdir()
    return unpack_images(archive, folder) or [archive]


def main() -> None:
    """Reads orders, has them carried out, answers."""
    # Imported before the limits, which may not allow to.
    import nibabel  # noqa: F401
    import numpy  # noqa: F401

    import scanseg.data.image
    import scanseg.data.zip_images
    import scanseg.pipeline.serving  # noqa: F401

    with contextlib.suppress(ImportError):
        import pydicom  # noqa: F401

    _die_with_parent()
    # Only answers are ever printed, whatever libraries say.
    answers = os.dup(1)
    os.dup2(2, 1)
    # Without a buffer, in which a fork would find the orders of later cases.
    with open(os.dup(0), "rb", buffering=0) as orders:
        while line := orders.readline():
            os.write(answers, _forked(line) if _FORKS else _carry_out(line))
            if not _FORKS:
                break


def _forked(line: bytes) -> bytes:
    """Returns the answer of a process that is made for this case alone; an empty line if it died."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _die_with_parent()
            # It must not hear the next orders nor answer them.
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            os.closerange(3, send)
            os.closerange(send + 1, 256)
            with open(send, "wb") as answer:
                answer.write(_carry_out(line))
        finally:
            os._exit(0)
    os.close(send)
    with open(receive, "rb") as answer:
        found = answer.readline(_ANSWER_BYTES)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return found if found.endswith(b"\n") else b"\n"


def _die_with_parent() -> None:
    """Has the system kill this process when the one that started it is gone."""
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _carry_out(line: bytes) -> bytes:
    """Gives up what parsing does not need, parses, and returns the answer line."""
    orders = json.loads(line)
    confine()
    try:
        answer = _parse(orders)
    except Error as error:
        kind = "UsageError" if isinstance(error, UsageError) else "DataError"
        answer = _refused(kind, error.message, error.code, error.hint)
    except MemoryError:
        answer = _refused(
            "DataError",
            "There is not enough memory to read the image.",
            "E-IMAGE-MEMORY",
            "Crop or downsample the image.",
        )
    return json.dumps(answer).encode() + b"\n"


def _refused(kind: str, message: str, code: str, hint: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "code": code, "hint": hint}}


if __name__ == "__main__":
    main()
