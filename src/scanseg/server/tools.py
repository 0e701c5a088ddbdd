"""Pictures, surfaces, conversions and archives on demand, in one process beside the web process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import threading
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from scanseg.files import sync_folder
from scanseg.server.problems import Refusal

T = TypeVar("T")
_TASKS = 500


class Tools:
    """A process that is started when needed, replaced when it dies, and killed when it takes too long."""

    def __init__(self, limit_s: float = 60.0) -> None:
        self._limit_s = limit_s
        self._pool: ProcessPoolExecutor | None = None
        self._turn = asyncio.Semaphore(8)

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Returns what `work` returns.

        Raises:
            Refusal: 503 if the process died or took too long; it is replaced.
        """
        async with self._turn:
            loop = asyncio.get_running_loop()
            pool = self._pool = self._pool or ProcessPoolExecutor(
                1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_quiet,
                max_tasks_per_child=_TASKS,
            )
            try:
                return await asyncio.wait_for(loop.run_in_executor(pool, work, *arguments), self._limit_s)
            except (BrokenExecutor, TimeoutError):
                self._drop(pool)
                raise Refusal(
                    503,
                    "This picture or file could not be made in time.",
                    code="E-SERVE-TOOLS",
                    hint="Try again; download the mask instead if it happens again.",
                    headers={"Retry-After": "2"},
                ) from None

    def _drop(self, pool: ProcessPoolExecutor) -> None:
        if self._pool is pool:
            self._pool = None
        for process in list((pool._processes or {}).values()):
            with contextlib.suppress(OSError, ValueError):
                process.kill()
        pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Ends the process."""
        if self._pool is not None:
            self._drop(self._pool)


def _quiet() -> None:
    """Is silent, ignores interrupts at the terminal, and ends with the web process however that ends."""
    import signal

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(0)

    logging.captureWarnings(True)
    logging.getLogger().addHandler(logging.NullHandler())
    threading.Thread(target=follow, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def make_slice(folder: str, axis: str, index: int, options: dict[str, Any]) -> bytes:
    """Returns a slice; see `slices.slice_png`."""
    from scanseg.server.slices import slice_png

    return slice_png(Path(folder), axis, index, **options)


def make_surface(folder: str, value: int, kind: str, colour: str) -> bytes:
    """Returns a surface; see `slices.surface`."""
    from scanseg.server.slices import surface

    return surface(Path(folder), value, kind, colour)


def make_mask(view: str, target: str) -> None:
    """Writes the mask in the format of the target's ending."""
    from scanseg.data.image import write_label_map
    from scanseg.pipeline.serving import read_view

    arrays, geometry = read_view(Path(view))
    write_label_map(Path(target), arrays["mask"], geometry)


def make_image(view: str, target: str) -> None:
    """Writes the image as it was read in the format of the target's ending."""
    from scanseg.data.image import write_array
    from scanseg.pipeline.serving import read_view

    arrays, geometry = read_view(Path(view))
    image = arrays["image"]
    write_array(Path(target), image[0] if len(image) == 1 else image, geometry)


def make_zip(result: str, target: str, more: Sequence[str] = ()) -> None:
    """Writes an archive of a result without its raw arrays, and of `more` files; equal files, equal bytes."""
    folder, path = Path(result), Path(target)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(folder.rglob("*")):
                inside = file.relative_to(folder).as_posix()
                if file.is_file() and not inside.startswith("view/"):
                    archive.write(file, f"{folder.parent.name}/{inside}")
            for file in map(Path, more):
                archive.write(file, f"{folder.parent.name}/{file.name}")
        os.replace(part, path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)
