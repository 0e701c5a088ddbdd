"""Uploads are parsed in a process of their own, once per case, under limits and without network.

`python -m scanseg.server.reading` reads one JSON line, parses, writes one raw array and one JSON file,
answers with one JSON line and ends. The parent starts the next one beforehand, so that nobody waits for its
imports.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from scanseg.errors import DataError, Error, UsageError

_MEMORY_BYTES = 16 << 30
_FILE_BYTES = 16 << 30
_CPU_S = 900
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000


class Reader:
    """Starts reading processes and talks to them. For one thread."""

    def __init__(self) -> None:
        self._next: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Starts the process for the next case."""
        if self._next is None:
            self._next = subprocess.Popen(
                [sys.executable, "-m", "scanseg.server.reading"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
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
        process, self._next = self._next, None
        if process is None or process.stdin is None or process.stdout is None:
            raise UsageError("The reading process has no pipes.", code="E-SERVE-READER")
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(orders).encode() + b"\n")
                process.stdin.flush()
            answer = _answer(process, limit_s)
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
        if "error" in answer:
            found = answer["error"]
            kind = UsageError if found["kind"] == "UsageError" else DataError
            raise kind(found["message"], code=found["code"], hint=found["hint"])
        return answer

    def close(self) -> None:
        """Ends the process that waits."""
        if self._next is not None:
            self._next.kill()
            self._next.wait()
            self._next = None


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
        line = b"" if process.stdout is None else process.stdout.readline()
    finally:
        timer.cancel()
    if late.is_set():
        raise DataError(
            f"Reading the image took longer than {limit_s:.0f} s.",
            code="E-SERVE-READ-TIME",
            hint="Convert the image to uncompressed NIfTI, or crop it.",
        )
    if not line.endswith(b"\n"):
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
    """Reads orders, parses, answers."""
    # Imported before the limits, which may not allow to.
    import nibabel  # noqa: F401
    import numpy  # noqa: F401

    import scanseg.data.image
    import scanseg.data.zip_images  # noqa: F401

    line = sys.stdin.readline()
    if not line:
        return
    orders = json.loads(line)
    # Only this one line is ever printed, whatever libraries say.
    answer_to = os.dup(1)
    os.dup2(2, 1)
    confine()
    try:
        answer = _parse(orders)
    except Error as error:
        kind = "UsageError" if isinstance(error, UsageError) else "DataError"
        found = {"kind": kind, "message": error.message, "code": error.code, "hint": error.hint}
        answer = {"error": found}
    except MemoryError:
        answer = {
            "error": {
                "kind": "DataError",
                "message": "There is not enough memory to read the image.",
                "code": "E-IMAGE-MEMORY",
                "hint": "Crop or downsample the image.",
            }
        }
    os.write(answer_to, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
