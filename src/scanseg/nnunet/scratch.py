"""Large arrays in a temporary file, which the system may move out of memory at any time."""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from scanseg.errors import Error
from scanseg.types import Array

# Arrays up to this size stay in memory.
MEMORY_BYTES = 1024**3

_CHUNK_BYTES = 16 * 1024**2

# Address -> mapping, so that a view of a tensor or array finds the file behind it.
_MAPPINGS: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()


def zeros(
    shape: Sequence[int],
    dtype: torch.dtype,
    *,
    memory_bytes: int = MEMORY_BYTES,
    folder: Path | str | None = None,
) -> Tensor:
    """Returns a tensor of zeros on the CPU, in memory if small, else in a temporary file.

    The file has no name (on Windows it is deleted when closed) and goes with the last view of the tensor,
    also when the program is killed. Its disk space is reserved here, so writing to it cannot fail later.

    Args:
        shape: Of the tensor.
        dtype: Of the tensor.
        memory_bytes: Largest size kept in memory.
        folder: For the file. By default $TMPDIR, else /var/tmp where it exists (/tmp often is memory), else
            the system's temporary folder.

    Raises:
        Error: The disk has too little free space, or no file can be made in the folder.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= max(memory_bytes, 0):
        return torch.zeros(tuple(shape), dtype=dtype)
    place = Path(folder) if folder is not None else _default_folder()
    with _open(place) as stream:
        _reserve(stream, size, place)
        try:
            mapping = mmap.mmap(stream.fileno(), size)
        except OSError as error:
            raise _folder_error(str(place), error) from error
    flat = torch.frombuffer(mapping, dtype=dtype)
    _MAPPINGS[flat.data_ptr()] = mapping
    return flat.reshape(tuple(shape))


def release(array: Tensor | Array) -> None:
    """Takes the pages of a file-backed array out of the process's resident memory; its values stay.

    They remain in the system's cache as long as there is room, and come back when touched. Arrays in
    memory are left alone. Does nothing outside Linux, where the system does it by itself when short.
    """
    if sys.platform != "linux":
        return
    address = array.data_ptr() if isinstance(array, Tensor) else array.ctypes.data
    for start, mapping in list(_MAPPINGS.items()):
        if start <= address < start + len(mapping):
            # Safe for shared mappings of files only: private memory would be zeroed.
            mapping.madvise(mmap.MADV_DONTNEED)


def _default_folder() -> Path:
    large = Path("/var/tmp")
    chosen = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    if not chosen and os.access(large, os.W_OK):
        return large
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise _folder_error("the system's temporary folder", error) from error


def _open(folder: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="scanseg-", dir=folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_error(folder, str(error.strerror)) from error
        raise _folder_error(str(folder), error) from error


def _reserve(stream: IO[bytes], size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise _disk_error(folder, f"{_gb(size)} are needed, {_gb(free)} are free")
    try:
        if sys.platform == "linux":
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            for start in range(0, size, _CHUNK_BYTES):
                stream.write(bytes(min(_CHUNK_BYTES, size - start)))
        stream.flush()
    except OSError as error:
        raise _disk_error(folder, f"{_gb(size)} are needed: {error.strerror}") from error


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def _disk_error(folder: Path, reason: str) -> Error:
    return Error(
        f"The temporary folder {folder} has too little space for the network's output ({reason}).",
        code="E-PREDICT-DISK",
        hint="Free disk space, or set the environment variable TMPDIR to a folder on a larger disk.",
    )


def _folder_error(folder: str, error: OSError) -> Error:
    return Error(
        f"No temporary file for the network's output can be made in {folder} ({error.strerror or error}).",
        code="E-PREDICT-FOLDER",
        hint="Set the environment variable TMPDIR to an existing folder that you may write to.",
    )
