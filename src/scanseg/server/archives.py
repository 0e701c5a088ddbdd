"""Zip archives of channels: checked by their directory, extracted under fixed names, bytes counted."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

from scanseg.data.image import SUFFIXES
from scanseg.errors import DataError

_CHUNK = 1 << 20
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar", ".bz2", ".xz", ".jar")
_HINT = "Pack the channels of one image as plain files in one zip archive."


@dataclass(frozen=True)
class ArchiveLimits:
    """Bounds of an archive.

    Attributes:
        entries: Most entries.
        bytes: Most uncompressed bytes in all.
    """

    entries: int = 20_000
    bytes: int = 4 << 30


def extract(archive: Path, folder: Path, limits: ArchiveLimits | None = None) -> list[Path]:
    """Returns the images of a zip archive, extracted to `folder` as 0000.nii.gz, 0001.nii.gz, ... .

    Names from the archive are never used as paths: they only decide the order and the ending. Folders, hidden
    files and what systems add (`__MACOSX`) are left out.

    Args:
        archive: The upload.
        folder: Exists and is empty.
        limits: Bounds.

    Raises:
        DataError: It is damaged, encrypted, too large, holds links, overlapping entries or other archives,
            or no image.
    """
    limits = limits or ArchiveLimits()
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            _check(entries, archive.stat().st_size, limits)
            chosen = sorted((e for e in entries if _is_wanted(e)), key=lambda e: _order(e.filename))
            if not chosen:
                raise _refused("it holds no image", "E-ARCHIVE-EMPTY")
            budget, paths = limits.bytes, []
            for index, entry in enumerate(chosen):
                path = folder / f"{index:04d}{_suffix(entry.filename)}"
                budget -= _pour(opened, entry, path, budget)
                paths.append(path)
            return paths
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        EOFError,
        ValueError,
        OverflowError,
        RuntimeError,
        UnicodeError,
    ) as error:
        raise _refused("it is damaged or of a kind that is not read", "E-ARCHIVE-DAMAGED") from error
    except Exception as error:
        # zlib.error and lzma.LZMAError have no common base.
        if type(error).__module__ in ("zlib", "_lzma", "lzma", "struct"):
            raise _refused("it is damaged", "E-ARCHIVE-DAMAGED") from error
        raise


def _check(entries: list[zipfile.ZipInfo], size: int, limits: ArchiveLimits) -> None:
    if len(entries) > limits.entries:
        raise _refused(f"it has {len(entries):,} entries, accepted are {limits.entries:,}", "E-ARCHIVE-LIMIT")
    if sum(entry.file_size for entry in entries) > limits.bytes:
        raise _refused(f"it unpacks to more than {limits.bytes:,} bytes", "E-ARCHIVE-LIMIT")
    end = 0
    for entry in sorted(entries, key=lambda e: e.header_offset):
        if entry.header_offset < end or entry.header_offset + 30 + entry.compress_size > size:
            raise _refused("its entries overlap or reach past its end", "E-ARCHIVE-OVERLAP")
        end = entry.header_offset + 30 + len(entry.orig_filename) // 4 + entry.compress_size
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused("it holds a link or a special file", "E-ARCHIVE-LINK")
        if entry.flag_bits & 0x1:
            raise _refused("it is encrypted", "E-ARCHIVE-ENCRYPTED")
        if _is_unsafe(entry.filename):
            raise _refused("it holds a name that leads out of it", "E-ARCHIVE-NAME")
        if entry.filename.lower().endswith(_ARCHIVES) and not entry.filename.lower().endswith(SUFFIXES):
            raise _refused("it holds another archive", "E-ARCHIVE-NESTED")


def _is_unsafe(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return (
        not name
        or name.startswith(("/", "\\"))
        or ".." in parts
        or "\0" in name
        or bool(re.match(r"^[A-Za-z]:", name))
        or not name.isprintable()
    )


def _is_wanted(entry: zipfile.ZipInfo) -> bool:
    parts = entry.filename.split("/")
    if entry.is_dir() or any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return False
    return entry.filename.lower().endswith(SUFFIXES)


def _order(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names as numbers: t1_2 before t1_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name.lower())]


def _suffix(name: str) -> str:
    return next(suffix for suffix in SUFFIXES if name.lower().endswith(suffix))


def _pour(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, budget: int) -> int:
    """Writes an entry and returns its size; what it claims to hold is not believed."""
    written = 0
    with opened.open(entry) as source, open(path, "xb") as target:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > budget or written > entry.file_size:
                raise _refused("it unpacks to more than it says or than is accepted", "E-ARCHIVE-LIMIT")
            target.write(chunk)
        target.flush()
    os.chmod(path, 0o600)
    return written


def _refused(what: str, code: str) -> DataError:
    return DataError(f"The archive is refused: {what}.", code=code, hint=_HINT)
