"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz): whole-file reading and exact writing.

Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group.
"""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from scanseg.data.limits import Limits, looks_like, open_file, refused
from scanseg.data.nifti_header import HEADER_SIZES, Header, build_header, parse_header
from scanseg.data.streams import GZIP_MAGIC, InflatedSource, PlainSource, Source
from scanseg.data.voxels import Opened, Sink, check_length, pour_stream
from scanseg.types import Array, Geometry, Spacing


def open_nifti(path: Path, limits: Limits, spacing: Spacing | None = None) -> Opened:
    """Reads and checks the header of a NIfTI file.

    Args:
        path: `.nii` or `.nii.gz`.
        limits: Checked before anything is allocated.
        spacing: mm, slowest axis first; used where both form codes are 0, must agree with the header
            otherwise.

    Raises:
        DataError: The file cannot be read safely and exactly; the message says why.
    """
    with _source(path) as source:
        raw = source.read(HEADER_SIZES[2])
        header = parse_header(raw, path, limits, spacing)
        due = header.offset + header.values * header.dtype.itemsize
        check_length(path, most=len(raw) + source.most(), due=due)
        if isinstance(source, PlainSource) and len(raw) + source.most() > due:
            raise refused(
                path,
                f"the file holds {len(raw) + source.most():,} bytes, the header announces {due:,}",
                code="E-FILE-TRAILING",
                hint="The header does not fit the data; export the image again.",
            )
    return Opened(path, header.geometry, header.channels, header.channels, partial(_pour, path, header))


def write_nifti(path: Path, array: Array, geometry: Geometry) -> None:
    """Writes voxels with the geometry of the input, bit for bit where that was a NIfTI file.

    Args:
        path: Written in place; the caller makes it atomic. A name ending in `.gz` is compressed. The file
            holds neither a name nor the time.
        array: (*spatial) or, with one axis more than the geometry, (channel, *spatial).
        geometry: Its header is used while it still says the same as its affine; otherwise the affine (or the
            spacing) is written as sform and qform with code 1.
    """
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    header = build_header(array, geometry)
    with open(path, "wb") as stream:
        if not path.name.lower().endswith(".gz"):
            stream.write(header)
            stream.write(array.data.cast("B"))
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=6) as packed:
            packed.write(header)
            packed.write(array.data.cast("B"))


def _pour(path: Path, header: Header, sink: Sink) -> None:
    with _source(path) as source:
        source.read(header.offset)
        pour_stream(
            source,
            sink,
            path,
            dtype=header.dtype,
            values=header.values,
            interleaved=header.interleaved,
            scale=header.scale,
        )


@contextmanager
def _source(path: Path) -> Iterator[Source]:
    """Yields the uncompressed bytes; the name says whether they are packed, and the content must agree."""
    packed = path.name.lower().endswith(".gz")
    with open_file(path) as stream:
        start = stream.read(16)
        stream.seek(0)
        if packed != start.startswith(GZIP_MAGIC):
            raise _misnamed(path, start, packed=packed)
        yield InflatedSource(stream, path) if packed else PlainSource(stream, path)


def _misnamed(path: Path, start: bytes, *, packed: bool) -> Exception:
    if not packed:
        text, hint = "this file is gzip-compressed but not named so", "Rename it to .nii.gz."
        return refused(path, text, code="E-NIFTI-NAME", hint=hint)
    if start[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c"):
        text, hint = "this file is named .gz but is not compressed", "Rename it to .nii."
        return refused(path, text, code="E-NIFTI-NAME", hint=hint)
    return refused(
        path,
        f"this is not a gzip file{looks_like(start)}",
        code="E-NIFTI-MAGIC",
        hint="Accepted under this name is a compressed NIfTI image.",
    )
