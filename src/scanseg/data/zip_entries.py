"""Zip archives from outside: every rule is checked before an entry is read; names in them are never paths."""

import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from scanseg.data.limits import Limits, open_file, refused, unreadable
from scanseg.errors import DataError

ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".tar", ".7z", ".rar", ".jar")
_NO_ARCHIVES = (".nii.gz",)  # images whose names end like those of archives
_BLOCK = 1 << 20
# More than 20,000 entries with long names need; a directory of this size takes little memory when parsed.
_MOST_DIRECTORY_BYTES = 16 << 20
_END = b"PK\x05\x06"
_HINT = "Make the archive again from the files themselves, or give the unpacked folder."


class ZipEntries:
    """The regular files of an open archive.

    Attributes:
        infos: One entry a file, in the order of their names; folders are left out.
    """

    def __init__(self, archive: zipfile.ZipFile, shown_as: Path, limits: Limits) -> None:
        self._archive, self._shown_as = archive, shown_as
        self.infos = sorted(
            (info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename
        )
        self._left = limits.decompressed_bytes

    def read(self, info: zipfile.ZipInfo, *, most: int) -> bytes:
        """Returns the bytes of an entry; its checksum is verified.

        Raises:
            DataError: It is damaged, larger than it says or than `most`, or all entries read so far
                are larger together than the limits.
        """
        return b"".join(self._blocks(info, most))

    def unpack(self, info: zipfile.ZipInfo, path: Path) -> None:
        """Writes an entry to a new file that only its owner may read; the name of the entry plays no part.

        Raises:
            DataError: As `read`; what was written by then stays.
            OSError: The file exists or cannot be written.
        """
        with open(path, "xb") as target:
            os.chmod(path, 0o600)
            for block in self._blocks(info, info.file_size):
                target.write(block)

    def start(self, info: zipfile.ZipInfo, count: int) -> bytes:
        """Returns the first bytes of an entry; they do not count as read.

        Raises:
            DataError: As `read`.
        """
        left = self._left
        try:
            return next(self._blocks(info, info.file_size), b"")[:count]
        finally:
            self._left = left

    def _blocks(self, info: zipfile.ZipInfo, most: int) -> Iterator[bytes]:
        count = 0
        try:
            with self._archive.open(info) as stream:
                while part := stream.read(_BLOCK):
                    count += len(part)
                    self._left -= len(part)
                    if count > min(info.file_size, most) or self._left < 0:
                        raise self._too_large()
                    yield part
        except DataError:
            raise
        except OSError as error:
            if error.errno is not None:
                raise unreadable(self._shown_as, error) from None
            raise _damaged(self._shown_as) from None
        except Exception:  # zipfile and the codecs behind it raise classes of many kinds
            raise _damaged(self._shown_as) from None
        if count != info.file_size:
            raise _damaged(self._shown_as)

    def _too_large(self) -> Exception:
        return refused(
            self._shown_as,
            "the entries of the zip archive hold more bytes than announced or accepted",
            code="E-ZIP-LIMIT",
            hint=_HINT,
        )


@contextmanager
def opened_zip(path: Path, limits: Limits, *, shown_as: Path | None = None) -> Iterator[ZipEntries]:
    """Yields the entries of an archive that keeps every rule.

    Args:
        path: The archive.
        limits: `entries` and `decompressed_bytes` (over all entries) are checked before anything is read.
        shown_as: What messages call it; the path by default.

    Raises:
        DataError: No zip archive, damaged, too many entries or bytes, encrypted, a method other than store
            and deflate, links, names that lead outside or hold control characters, two entries of one name,
            archives inside, or entries that overlap.
    """
    shown_as = shown_as or path
    with open_file(path) as stream:
        _check_directory(stream, shown_as, limits)
        try:
            archive = zipfile.ZipFile(stream)
        except (
            *(zipfile.BadZipFile, ValueError, NotImplementedError),
            *(struct.error, EOFError, IndexError, OverflowError),
        ):
            raise _damaged(shown_as) from None
        with archive:
            _check_entries(archive, stream, shown_as, limits)
            yield ZipEntries(archive, shown_as, limits)


def _check_directory(stream: BinaryIO, path: Path, limits: Limits) -> None:
    """Bounds the directory by its own end record, before zipfile makes an object of each entry."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 65_557))
    tail = stream.read()
    stream.seek(0)
    place = tail.rfind(_END)
    if place < 0 or len(tail) - place < 22:
        raise refused(path, "this is no complete zip archive", code="E-ZIP-FORMAT", hint=_HINT)
    entries, directory_bytes = struct.unpack("<HI", tail[place + 10 : place + 16])
    if 0xFFFFFFFF in (directory_bytes,) or entries == 0xFFFF:
        raise _too_many(path, limits)  # only archives beyond every limit here need the 64-bit record
    if entries > limits.entries or directory_bytes > _MOST_DIRECTORY_BYTES:
        raise _too_many(path, limits)


def _too_many(path: Path, limits: Limits) -> Exception:
    return refused(
        path,
        f"the zip archive has too many entries; accepted are {limits.entries:,}",
        code="E-ZIP-LIMIT",
        hint="Give one series an archive.",
    )


def _check_entries(archive: zipfile.ZipFile, stream: BinaryIO, path: Path, limits: Limits) -> None:
    infos = archive.infolist()
    if len(infos) > limits.entries:
        raise _too_many(path, limits)
    total = sum(info.file_size for info in infos)
    if total > limits.decompressed_bytes:
        raise refused(
            path,
            f"the zip archive announces {total:,} bytes; accepted are {limits.decompressed_bytes:,}",
            code="E-ZIP-LIMIT",
            hint="Give one series an archive, or raise the limits (scanseg.data.Limits).",
        )
    for info in infos:
        _check_entry(info, path)
    if len({info.filename.casefold() for info in infos}) < len(infos):
        raise _bad(path, "two entries of the zip archive share a name")
    _check_overlap(archive, stream, path)


def _check_entry(info: zipfile.ZipInfo, path: Path) -> None:
    name = PurePosixPath(info.filename.replace("\\", "/"))
    if not info.filename or name.is_absolute() or ".." in name.parts or ":" in info.filename:
        raise _bad(path, "a name in the zip archive is empty or leads outside of it")
    # Spaces that do not break are met in names of folders; all else that cannot be printed misleads.
    if not info.orig_filename.replace("\u00a0", " ").isprintable():
        raise _bad(path, "a name in the zip archive holds control characters")
    if info.flag_bits & 0x1:
        raise _bad(path, "the zip archive is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _bad(path, "the zip archive uses a compression other than store and deflate")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _bad(path, "the zip archive holds a link or another special file")
    if name.suffix.lower() in ARCHIVES and not name.name.lower().endswith(_NO_ARCHIVES):
        raise _bad(path, "the zip archive holds another archive")


def _check_overlap(archive: zipfile.ZipFile, stream: BinaryIO, path: Path) -> None:
    """Entries that share bytes make a small archive unpack to a huge one."""
    end = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if info.header_offset < 0:
            raise _damaged(path)
        stream.seek(info.header_offset)
        head = stream.read(30)
        if len(head) < 30 or not head.startswith(b"PK\x03\x04"):
            raise _damaged(path)
        if info.header_offset < end:
            raise _bad(path, "entries of the zip archive overlap")
        name_bytes, extra_bytes = struct.unpack("<HH", head[26:30])
        end = info.header_offset + 30 + name_bytes + extra_bytes + info.compress_size
    if end > archive.start_dir:
        raise _bad(path, "entries of the zip archive overlap")


def _bad(path: Path, text: str) -> Exception:
    return refused(path, text, code="E-ZIP-ENTRY", hint=_HINT)


def _damaged(path: Path) -> Exception:
    return refused(
        path,
        "the zip archive is damaged; an entry or its directory cannot be read",
        code="E-ZIP-DAMAGED",
        hint="Copy or download it again.",
    )
