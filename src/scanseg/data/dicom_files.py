"""The files of a DICOM folder or zip archive, numbered, because their names may name patients."""

import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from scanseg.data.limits import Limits, open_file, refused, unreadable
from scanseg.data.zip_entries import ARCHIVES, ZipEntries, opened_zip
from scanseg.errors import DataError
from scanseg.files import sha256

MOST_FILE_BYTES = 1 << 30  # an enhanced image of 2,000 slices of 512 x 512 16-bit values
_OTHER_NAMES = {"dicomdir", "thumbs.db", "desktop.ini", "lockfile", "version"}
_OTHER_SUFFIXES = (
    *(
        ".txt",
        ".md",
        ".json",
        ".xml",
        ".html",
        ".htm",
        ".css",
        ".js",
        ".csv",
        ".pdf",
        ".jpg",
        ".jpeg",
        ".png",
    ),
    *(".gif", ".ico", ".ini", ".inf", ".exe", ".dll", ".log", ".nii", ".nrrd", ".mha"),
)
_MAGIC_AT, _MAGIC = 128, b"DICM"
_LOOKED_AT = 64
_DEFAULT = Limits()


@dataclass(frozen=True)
class Entry:
    """A file that should be DICOM.

    Attributes:
        number: Its place in the sorted list of files, from 1; messages call it by that.
        size: Bytes.
        open: Returns a new stream at the first byte.
    """

    number: int
    size: int
    open: Callable[[], BinaryIO]


def is_series_path(path: Path) -> bool:
    """Returns whether a path is read as a DICOM series: a zip archive, or a folder not named like an image.

    Example:
        >>> is_series_path(Path("scan.zip")), is_series_path(Path("scan.nii.gz"))
        (True, False)
    """
    name = path.name.lower()
    return name.endswith(".zip") or (
        not name.endswith((*_OTHER_SUFFIXES, ".gz", ".tif", ".tiff")) and path.is_dir()
    )


def case_name(path: Path) -> str:
    """Returns what a series is called: its folder's name, or the archive's without `.zip`.

    Example:
        >>> case_name(Path("scans/case_7.zip"))
        'case_7'
    """
    name = Path(path).resolve().name if path.name in ("", ".", "..") else path.name
    return name[:-4] if name.lower().endswith(".zip") and len(name) > 4 else name


def holds_dicom(folder: Path, *, below: bool = False) -> bool:
    """Returns whether a file of the folder starts as DICOM files do; looks at the first 64 by name.

    Args:
        folder: Where to look.
        below: Also look into its folders.
    """
    walk = os.walk(folder) if below else [next(os.walk(folder), (str(folder), [], []))]
    seen = 0
    for root, folders, names in walk:
        folders.sort()
        for name in sorted(names, key=as_counted):
            if _is_other(name):
                continue
            seen += 1
            if seen > _LOOKED_AT:
                return False
            if _starts_as_dicom(Path(root) / name):
                return True
    return False


def archive_holds_dicom(archive: ZipEntries) -> bool:
    """Returns whether an entry of an archive starts as DICOM files do; looks at the first 64 by name.

    Raises:
        DataError: An entry is damaged.
    """
    names = [(PurePosixPath(info.filename), info) for info in archive.infos]
    kept = [info for name, info in names if not _is_hidden_below(name) and not _is_other(name.name)]
    kept.sort(key=lambda info: as_counted(info.filename))
    return any(_is_dicom(archive.start(info, _MAGIC_AT + 4)) for info in kept[:_LOOKED_AT])


@contextmanager
def series_files(path: Path, limits: Limits) -> Iterator[list[Entry]]:
    """Yields every file of a folder (its folders too) or zip archive that should be DICOM.

    Left out are hidden files, DICOMDIR (whose references are never followed), pictures and texts that
    exports add. An archive stays open meanwhile.

    Raises:
        DataError: Missing, too many files, a link to a folder, an archive inside, a file of over 1 GiB,
            or a fault of the zip archive.
    """
    path = Path(path)
    shown_as = Path(case_name(path))
    if path.is_dir():
        yield _of_folder(path, shown_as, limits)
        return
    with opened_zip(path, limits, shown_as=shown_as) as archive:
        found: list[Entry] = []
        for info in sorted(archive.infos, key=lambda info: as_counted(info.filename)):
            name = PurePosixPath(info.filename)
            if _is_hidden_below(name) or _is_other(name.name):
                continue
            _check_bytes(info.file_size, shown_as)
            read = partial(archive.read, info, most=MOST_FILE_BYTES)
            found.append(Entry(len(found) + 1, info.file_size, _as_stream(read)))
        yield found


def series_sha256(folder: Path, limits: Limits = _DEFAULT) -> str:
    """Returns one hash of the contents of a folder's DICOM files; their names do not count.

    Raises:
        DataError: As `series_files`.
    """
    hashes = []
    with series_files(folder, limits) as entries:
        for entry in entries:
            with entry.open() as stream:
                hashes.append(_sha256(stream))
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


def content_sha256(path: Path, limits: Limits = _DEFAULT) -> str:
    """Returns the hash of a file, or of the contents of a folder of DICOM files.

    Raises:
        DataError: As `series_files`, for a folder.
    """
    return series_sha256(path, limits) if path.is_dir() else sha256(path)


def content_stamp(path: Path) -> tuple[int, int]:
    """Returns bytes and time of the last change in ns of a file, or over all that a folder holds.

    Raises:
        OSError: It is not there.
    """
    facts = [path.stat()]
    if not path.is_dir():
        return facts[0].st_size, facts[0].st_mtime_ns
    facts += [
        (Path(root) / name).stat() for root, folders, names in os.walk(path) for name in (*folders, *names)
    ]
    held = sum(one.st_size for one in facts if not stat.S_ISDIR(one.st_mode))
    return held, max(one.st_mtime_ns for one in facts)


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _as_stream(read: Callable[[], bytes]) -> Callable[[], BinaryIO]:
    return lambda: io.BytesIO(read())


def _of_folder(folder: Path, shown_as: Path, limits: Limits) -> list[Entry]:
    paths: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=partial(_raise_unreadable, shown_as)):
        folders[:] = [name for name in sorted(folders) if not _is_hidden(name)]
        if any(os.path.islink(os.path.join(root, name)) for name in folders):
            raise refused(
                shown_as,
                "a link to another folder is inside; links are not followed",
                code="E-DICOM-LINK",
                hint="Copy the files themselves into one folder.",
            )
        paths += [Path(root) / name for name in names if not _is_other(name)]
        if len(paths) > limits.entries:
            raise refused(
                shown_as,
                f"the folder holds more than {limits.entries:,} files",
                code="E-DICOM-LIMIT",
                hint="Give one series a folder.",
            )
    paths.sort(key=lambda path: as_counted(str(path)))
    found, total = [], 0
    for number, path in enumerate(paths, start=1):
        if path.suffix.lower() in ARCHIVES:
            raise refused(
                shown_as,
                f"file {number} is an archive inside the folder",
                code="E-DICOM-ARCHIVE",
                hint="Unpack it first, or give the archive alone.",
            )
        size = _size(path, shown_as)
        _check_bytes(size, shown_as)
        total += size
        found.append(Entry(number, size, partial(_open, path, number, shown_as)))
    if total > limits.decompressed_bytes:
        raise refused(
            shown_as,
            f"the files hold {total:,} bytes; accepted are {limits.decompressed_bytes:,}",
            code="E-DICOM-LIMIT",
            hint="Give one series a folder, or raise the limits (scanseg.data.Limits).",
        )
    return found


def _open(path: Path, number: int, shown_as: Path) -> BinaryIO:
    try:
        return open_file(path)
    except DataError as error:
        # The message of the error names the file, which may name the patient.
        raise refused(shown_as, f"file {number} cannot be opened", code=error.code, hint=error.hint) from None


def _size(path: Path, shown_as: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(shown_as, error) from None


def _check_bytes(size: int, shown_as: Path) -> None:
    if size > MOST_FILE_BYTES:
        raise refused(
            shown_as,
            f"a file holds {size:,} bytes; accepted are {MOST_FILE_BYTES:,}",
            code="E-DICOM-LIMIT",
            hint="Export the series as one file a slice.",
        )


def _raise_unreadable(shown_as: Path, error: OSError) -> None:
    raise unreadable(shown_as, error) from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_hidden_below(name: PurePosixPath) -> bool:
    return any(_is_hidden(part) for part in name.parts)


def _is_other(name: str) -> bool:
    lower = name.lower()
    return _is_hidden(name) or lower in _OTHER_NAMES or lower.endswith(_OTHER_SUFFIXES)


def _starts_as_dicom(path: Path) -> bool:
    try:
        with open_file(path) as stream:
            return _is_dicom(stream.read(_MAGIC_AT + 4))
    except (DataError, OSError):
        return False


def _is_dicom(start: bytes) -> bool:
    return start[_MAGIC_AT:] == _MAGIC


def as_counted(name: str) -> list[tuple[int, int | str]]:
    """Returns a key that sorts numbers in names as numbers: t1_2 before t1_10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]
