"""How much a file may claim before it is refused, and how readers refuse."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from scanseg.errors import DataError

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Bounds that are checked from the header, before anything is allocated.

    Attributes:
        voxels: Most values in one file, all channels counted.
        decompressed_bytes: Most bytes that the voxels of one file may take uncompressed.
        header_bytes: Most bytes in front of the voxels of a NIfTI file (header and extensions).
        text_header_bytes: Most bytes of a header made of text lines (NRRD, MetaImage).
        pages: Most pages of a TIFF file.
        entries: Most files of a DICOM folder, or entries of a zip archive.
        spacing_mm: Smallest and largest distance of neighbouring voxels. Microscopy stored in physical units
            needs a smaller lower bound, see `MICROSCOPY`.
    """

    voxels: int = 512 * MIB
    decompressed_bytes: int = 4 * GIB
    header_bytes: int = 16 * MIB
    text_header_bytes: int = MIB
    pages: int = 65_536
    entries: int = 20_000
    spacing_mm: tuple[float, float] = (1e-3, 1e3)

    def check_size(self, path: Path, *, values: int, value_bytes: int) -> None:
        """Refuses a file whose header claims more than the limits.

        Args:
            path: The file, for the message.
            values: Claimed number of values, all channels counted.
            value_bytes: Size of one value.

        Raises:
            DataError: `E-IMAGE-LIMIT`.
        """
        if values > self.voxels or values * value_bytes > self.decompressed_bytes:
            raise refused(
                path,
                f"the header claims {values:,} values ({values * value_bytes:,} bytes); accepted are at most "
                f"{self.voxels:,} values and {self.decompressed_bytes:,} bytes",
                code="E-IMAGE-LIMIT",
                hint="Split or crop the image, or raise the limits (scanseg.data.Limits).",
            )


MICROSCOPY = Limits(spacing_mm=(1e-7, 1e3))


def shown(path: Path) -> str:
    """Returns the path as printable text on one line: control, bidi and undecodable characters are escaped.

    Example:
        >>> shown(Path("a b\\nc.png"))
        'a b\\\\nc.png'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(path)
    )


def refused(path: Path, text: str, *, code: str, hint: str = "") -> DataError:
    """Returns the error for a file: `PATH: text.`"""
    return DataError(f"{shown(path)}: {text}.", code=code, hint=hint)


_KINDS = {
    b"\xff\xd8\xff": "a JPEG picture", b"\x89PNG": "a PNG picture", b"<": "a web page or XML",
    b"PK\x03\x04": "a zip archive", b"NRRD": "an NRRD image", b"%PDF": "a PDF document", b"{": "JSON",
    b"version http": "a Git LFS pointer", b"II*\x00": "a TIFF picture", b"MM\x00*": "a TIFF picture",
    b"ObjectType": "a MetaImage", b"\x1f\x8b": "a gzip file", b"\x5c\x01\x00\x00": "a NIfTI image",
}  # fmt: skip


def looks_like(start: bytes) -> str:
    """Returns ` (it looks like ...)` for the first bytes of a known kind of file, otherwise nothing."""
    found = [name for magic, name in _KINDS.items() if start.lstrip().startswith(magic)]
    return f" (it looks like {found[0]})" if found else ""


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file for reading.

    Raises:
        DataError: It is missing, no regular file (a folder, a pipe), not readable, or no valid name.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return open(path, "rb")
    except FileNotFoundError:
        raise refused(path, "the file does not exist", code="E-FILE-MISSING") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
    raise refused(path, f"this is {what}; one image file is expected", code="E-FILE-IRREGULAR")


def unreadable(path: Path, error: Exception) -> DataError:
    """Returns the error for a file that the system does not hand out."""
    reason = getattr(error, "strerror", None) or str(error)
    return refused(
        path,
        f"the file cannot be read ({reason})",
        code="E-FILE-UNREADABLE",
        hint="Check its permissions and the disk.",
    )
