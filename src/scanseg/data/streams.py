"""Bytes that follow a header, plain or deflated, read exactly and to the end."""

import os
import zlib
from pathlib import Path
from typing import BinaryIO, Protocol

from scanseg.data.limits import refused, unreadable

_BLOCK = 1 << 18
# No deflate stream grows by more: 258 bytes from a length code and a distance code of one bit each.
DEFLATE_RATIO = 1032
GZIP_MAGIC = b"\x1f\x8b"


class Source(Protocol):
    """Reads forward through the bytes of one file."""

    def read(self, size: int) -> bytes:
        """Returns the next `size` bytes; fewer only at the end."""

    def most(self) -> int:
        """Returns an upper bound of the bytes still to come, from the size of the file alone."""

    def at_end(self) -> bool:
        """Returns whether nothing follows. A checksum at the end is verified by this call."""


class PlainSource:
    """The bytes of a file from its current position on."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path

    def read(self, size: int) -> bytes:
        """See `Source`."""
        try:
            return self._stream.read(size)
        except OSError as error:
            raise unreadable(self._path, error) from error

    def most(self) -> int:
        """See `Source`."""
        return os.fstat(self._stream.fileno()).st_size - self._stream.tell()

    def at_end(self) -> bool:
        """See `Source`."""
        return not self.read(1)


class InflatedSource:
    """The decompressed bytes of gzip members (any number) or of one zlib stream.

    Checksums and lengths of every member are verified as its end is passed.

    Args:
        stream: Open file, at the first compressed byte.
        path: For messages.
        kind: `gzip` (one or more members), `zlib`, or `either` (one stream of either kind).
    """

    def __init__(self, stream: BinaryIO, path: Path, *, kind: str = "gzip") -> None:
        self._raw = PlainSource(stream, path)
        self._path, self._kind = path, kind
        self._bits = {"gzip": 31, "zlib": 15, "either": 47}[kind]
        self._inflater = zlib.decompressobj(self._bits)
        self._input = b""
        self._finished = False
        self._pending = b""

    def read(self, size: int) -> bytes:
        """See `Source`.

        Raises:
            DataError: The stream is cut, damaged, or followed by something else.
        """
        parts = [self._pending[:size]]
        self._pending = self._pending[size:]
        missing = size - len(parts[0])
        while missing > 0:
            part = self._inflate(missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def most(self) -> int:
        """See `Source`."""
        held = len(self._input) + len(self._inflater.unconsumed_tail) + len(self._inflater.unused_data)
        return (self._raw.most() + held) * DEFLATE_RATIO + len(self._pending) + 2 * _BLOCK

    def at_end(self) -> bool:
        """See `Source`."""
        if not self._pending:
            self._pending = self._inflate(1)
        return not self._pending

    def _inflate(self, most: int) -> bytes:
        """Returns between 1 and `most` bytes, or none at the end of the last member."""
        while not self._finished:
            if self._inflater.eof and not self._next_member():
                break
            data = self._inflater.unconsumed_tail or self._input or self._raw.read(_BLOCK)
            self._input = b""
            try:
                part = self._inflater.decompress(data, min(most, 4 * _BLOCK))
            except zlib.error as error:
                raise refused(
                    self._path,
                    f"the compressed data are damaged ({error})",
                    code="E-FILE-DAMAGED",
                    hint="Copy or download the file again.",
                ) from error
            if part:
                return part
            if not data and not self._inflater.eof:
                raise refused(
                    self._path,
                    "the compressed data end too early; the file was cut",
                    code="E-FILE-TRUNCATED",
                    hint="Copy or download the file again.",
                )
        return b""

    def _next_member(self) -> bool:
        rest = self._inflater.unused_data or self._raw.read(_BLOCK)
        if not rest:
            self._finished = True
            return False
        if len(rest) < 2:
            rest += self._raw.read(_BLOCK)
        if self._kind != "gzip" or not rest.startswith(GZIP_MAGIC):
            raise refused(
                self._path,
                "other bytes follow the compressed data",
                code="E-FILE-TRAILING",
                hint="Copy or download the file again; a complete file ends with its compressed data.",
            )
        self._inflater = zlib.decompressobj(self._bits)
        self._input = rest
        return True
