"""Files that are either whole or absent: write aside, sync, rename."""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scanseg.errors import DataError


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to disk, so that a rename in it survives power loss.

    Does nothing on Windows, where a folder cannot be opened and NTFS keeps a journal of renames.
    """
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def written_aside(
    path: Path, *, verify: Callable[[Path], None] | None = None, suffix: str | None = None
) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced, verified and renamed to `path`.

    The temporary name keeps the suffixes of `path`, because writers choose their format by them. After an
    error nothing is left behind and an older file under `path` is untouched.

    Args:
        path: Final name. Its folder is created.
        suffix: Ending of the temporary name; by default the last two suffixes of `path`.
        verify: Called with the temporary path after the sync; an exception from it cancels the rename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:]) if suffix is None else suffix
    handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        if verify is not None:
            verify(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path` atomically."""
    with written_aside(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 `text` to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path` atomically. NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Returns the JSON document in `path`.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"The file {path} does not exist.", code="E-FILE-MISSING") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON ({error}).",
            code="E-FILE-JSON",
            hint="It may be damaged; restore it or delete it and run the command that wrote it again.",
        ) from error


def sha256(path: Path) -> str:
    """Returns the SHA-256 of the file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
