"""Where compiled kernels are kept between processes, and the announcement of the first compilation.

The folder's name is a digest of the kernels' sources, of the versions of Python, Numba and LLVM and of the
processor's features. So a new installation of the same version finds its kernels again, a changed source does
not find old ones, and a home folder shared by different machines holds one set for each.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.registry import cpu_target

from scanseg.kernels.arguments import KEPT_EVERY

logger = logging.getLogger(__name__)

# Measured on one core of 2022; what the announcement promises.
COMPILE_SECONDS = 15
_FOLDER = Path(__file__).parent


def cache_folder() -> Path | None:
    """Returns the folder for this processor and these sources, made if need be; None if none is writable.

    Tried in turn: `NUMBA_CACHE_DIR` if set, the user's cache folder, the package's own `__pycache__`.
    Compiled code is executed, so a folder that others may write to is passed over.
    """
    for base in _candidates():
        folder = base / _key()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(folder, os.W_OK) and _is_private(folder):
            return folder
    return None


def is_compiled() -> bool:
    """Returns whether the forward and the backward kernel are kept for this processor."""
    folder = cache_folder()
    return folder is not None and all(
        any(folder.glob(f"*.{name}-*.nbc")) for name in ("forward_jobs", "backward_jobs")
    )


def _candidates() -> list[Path]:
    bases = []
    if numba.config.CACHE_DIR:
        bases.append(Path(numba.config.CACHE_DIR) / "scanseg")
    if sys.platform == "win32":
        named = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        named = os.path.expanduser("~/Library/Caches")
    else:
        named = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # Without a home folder expanduser leaves the tilde.
    if named and os.path.isabs(named):
        bases.append(Path(named) / "scanseg" / "kernels")
    return [*bases, _FOLDER / "__pycache__"]


def _is_private(folder: Path) -> bool:
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _key() -> str:
    digest = hashlib.sha256()
    for path in sorted(_FOLDER.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    versions = (platform.python_version(), numba.__version__, llvmlite.__version__, KEPT_EVERY)
    digest.update(repr((versions, cpu_target.target_context.codegen().magic_tuple())).encode())
    return digest.hexdigest()[:24]


class _Locator(_CacheLocator):
    """Tells Numba the folder; the digest in its name stands for every other check of freshness."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def from_function(cls, function: Any, file: str) -> _Locator | None:
        folder = cache_folder()
        return None if folder is None else cls(folder)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return self._folder.name

    def get_disambiguator(self) -> str:
        return "0"


class _Implementation(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):
    """Numba's cache in our folder; a damaged or unwritable file costs a compilation, never the scan."""

    _impl_class = _Implementation

    def load_overload(self, signature: Any, context: Any) -> Any:
        try:
            return super().load_overload(signature, context)
        except Exception as error:
            logger.warning("compiling again: the kernel in %s cannot be read (%r)", self.cache_path, error)
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            super().save_overload(signature, data)
        except OSError as error:
            logger.warning("the compiled scan cannot be kept in %s: %s", self.cache_path, error)


class Kernel:
    """A Numba function that is loaded from the cache or compiled, announced once, when first called."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._lock = threading.Lock()
        self._ready = False

    def __call__(self, *arguments: Any) -> None:
        if not self._ready:
            with self._lock:
                if not self._ready:
                    self._compile(arguments)
                    self._ready = True
        self._dispatcher(*arguments)

    def _compile(self, arguments: tuple[Any, ...]) -> None:
        folder = cache_folder()
        if folder is not None:
            self._dispatcher._cache = _Cache(self._dispatcher.py_func)
        _announce(folder)
        started = time.monotonic()
        signature = tuple(numba.typeof(argument) for argument in arguments)
        self._dispatcher.compile(signature)
        if not self._dispatcher.stats.cache_hits:
            name = self._dispatcher.py_func.__name__
            logger.info("compiled %s in %.0f s", name, time.monotonic() - started)


_announced = False


def _announce(folder: Path | None) -> None:
    global _announced
    if _announced or is_compiled():
        return
    _announced = True
    if folder is None:
        logger.warning(
            "compiling the scan for this processor, about %d s, in every process: no cache folder is "
            "writable; set NUMBA_CACHE_DIR to a folder of yours",
            COMPILE_SECONDS,
        )
    else:
        logger.warning(
            "compiling the scan for this processor, about %d s, once; kept in %s", COMPILE_SECONDS, folder
        )
