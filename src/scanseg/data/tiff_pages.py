"""The pages of a TIFF file: the chain of directories walked and checked before any pixel is read.

Only the tags that say how to read the pixels are looked at. Everything they point to must lie in the file,
the chain must end, and all parts together may not announce more bytes than the file has, so that work and
memory stay bounded by the size of the file and the limits.

Source: TIFF revision 6.0 (Adobe, 1992); the BigTIFF proposal; TIFF technical notes on predictor 3.
"""

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from scanseg.data.limits import Limits, looks_like, refused
from scanseg.errors import DataError

_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_FORMS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
# the tags whose values decide about pixels
_USED = {
    254,
    256,
    257,
    258,
    259,
    262,
    266,
    273,
    274,
    277,
    278,
    279,
    282,
    283,
    284,
    292,
    296,
    317,
    320,
    322,
    323,
}
_USED |= {324, 325, 338, 339}
_MOST_TAGS = 4096
_MOST_TEXT = 1 << 16


@dataclass(frozen=True)
class Page:
    """What reading one page needs; names and numbers are those of the TIFF standard."""

    width: int
    height: int
    samples: int
    bits: int
    sample_format: int
    photometric: int
    planar: bool
    compression: int
    predictor: int
    fill_order: int
    fax_options: int
    extra_samples: tuple[int, ...]
    tile: tuple[int, int] | None
    rows_per_strip: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    colours: tuple[int, ...]
    reduced: bool
    description: str
    orientation: int
    resolution: tuple[tuple[int, int], tuple[int, int]] | None
    resolution_unit: int

    @property
    def layout(self) -> tuple[int, ...]:
        """What must be equal in all pages of a stack."""
        size = (self.width, self.height, self.samples, self.bits)
        return (*size, self.sample_format, self.photometric, *self.extra_samples)

    @property
    def segment(self) -> tuple[int, int]:
        """Rows and columns of one strip or tile."""
        return self.tile or (min(self.rows_per_strip, self.height), self.width)

    @property
    def grid(self) -> tuple[int, int]:
        """How many strips or tiles stand below and beside each other, in one sample plane."""
        rows, columns = self.segment
        return -(-self.height // rows), -(-self.width // columns)


def read_pages(stream: BinaryIO, path: Path, limits: Limits) -> tuple[list[Page], str]:
    """Returns all pages and the byte order (`<` or `>`).

    Raises:
        DataError: No TIFF, or a page that is cut, loops, points outside the file, or claims too much.
    """
    size = os.fstat(stream.fileno()).st_size
    walk = _Walk(stream, path, limits, size)
    pages = walk.pages()
    values = sum(p.width * p.height * p.samples for p in pages)
    limits.check_size(path, values=values, value_bytes=max(-(-p.bits // 8) for p in pages))
    if sum(sum(p.counts) for p in pages) > size:
        raise walk.damaged("the strips announce more bytes than the file has")
    return pages, walk.order


class _Walk:
    """One pass along the chain of directories."""

    def __init__(self, stream: BinaryIO, path: Path, limits: Limits, size: int) -> None:
        self._stream, self._path, self._limits, self._size = stream, path, limits, size
        self._budget = size
        start = self._stream.read(16)
        magic = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
        if start[:4] not in magic:
            raise refused(
                path,
                f"this is no TIFF picture{looks_like(start)}",
                code="E-TIFF-MAGIC",
                hint="Accepted is a TIFF or BigTIFF file.",
            )
        self.order, self._big = magic[start[:4]]
        if len(start) < 8 + 8 * self._big:
            raise self.cut()
        if self._big and struct.unpack_from(self.order + "HH", start, 4) != (8, 0):
            raise self.damaged("the BigTIFF header is wrong")
        self._first = struct.unpack_from(self.order + ("Q" if self._big else "I"), start, 4 + 4 * self._big)[
            0
        ]

    def damaged(self, text: str) -> DataError:
        return refused(
            self._path,
            f"the TIFF is damaged: {text}",
            code="E-TIFF-DAMAGED",
            hint="Copy or export the picture again.",
        )

    def cut(self) -> DataError:
        return refused(
            self._path,
            "the TIFF was cut: a part lies outside of the file",
            code="E-FILE-TRUNCATED",
            hint="Copy or download the file again.",
        )

    def _read(self, offset: int, length: int) -> bytes:
        """Returns bytes of a directory or of its values; all of them together are at most the file."""
        self._budget -= length
        if offset + length > self._size:
            raise self.cut()
        if self._budget < 0:
            raise self.damaged("its directories overlap")
        self._stream.seek(offset)
        return self._stream.read(length)

    def pages(self) -> list[Page]:
        found: list[Page] = []
        seen: set[int] = set()
        offset = self._first
        while offset:
            if offset in seen:
                raise self.damaged("the chain of its pages is a loop")
            if len(found) == self._limits.pages:
                raise refused(
                    self._path,
                    f"it has more than {self._limits.pages:,} pages",
                    code="E-IMAGE-LIMIT",
                    hint="Split the stack, or raise the limits (scanseg.data.Limits).",
                )
            seen.add(offset)
            tags, offset = self._directory(offset)
            found.append(self._page(tags))
        if not found:
            raise self.damaged("it has no page")
        return found

    def _directory(self, offset: int) -> tuple[dict[int, tuple[int, int, bytes]], int]:
        """Returns the tags (type, count, value field) of a directory and the offset of the next one."""
        wide = self._big
        count = struct.unpack(self.order + ("Q" if wide else "H"), self._read(offset, 8 if wide else 2))[0]
        entry, width = (20, 8) if wide else (12, 4)
        if not 1 <= count <= _MOST_TAGS:
            raise self.damaged(f"a page has {count} tags")
        raw = self._read(offset + (8 if wide else 2), count * entry + width)
        tags: dict[int, tuple[int, int, bytes]] = {}
        for index in range(count):
            code, kind, number = struct.unpack_from(
                self.order + ("HHQ" if wide else "HHI"), raw, index * entry
            )
            if code in tags and code in _USED:
                raise self.damaged(f"tag {code} stands there twice")
            if code in tags:
                continue
            tags[code] = (kind, number, raw[(index + 1) * entry - width : (index + 1) * entry])
        return tags, struct.unpack_from(self.order + ("Q" if wide else "I"), raw, count * entry)[0]

    def _value(
        self, tags: dict[int, tuple[int, int, bytes]], code: int, *, most: int
    ) -> tuple[int, bytes] | None:
        """Returns type and bytes of a tag's values, None if the page does not have it."""
        if code not in tags:
            return None
        kind, number, field = tags[code]
        if kind not in _SIZES or number > most:
            raise self.damaged(f"tag {code} has {number} values of type {kind}")
        length = number * _SIZES[kind]
        if length <= len(field):
            return kind, field[:length]
        return kind, self._read(struct.unpack(self.order + ("Q" if self._big else "I"), field)[0], length)

    def _integers(
        self, tags: dict[int, tuple[int, int, bytes]], code: int, *, most: int = 1 << 26
    ) -> tuple[int, ...]:
        found = self._value(tags, code, most=most)
        if found is None:
            return ()
        kind, data = found
        if kind not in _FORMS:
            raise self.damaged(f"tag {code} is of type {kind}, not a whole number")
        return struct.unpack(f"{self.order}{len(data) // _SIZES[kind]}{_FORMS[kind]}", data)

    def _integer(self, tags: dict[int, tuple[int, int, bytes]], code: int, default: int | None = None) -> int:
        values = self._integers(tags, code, most=1 << 16)
        if values and all(value == values[0] for value in values):
            return values[0]
        if values or default is None:
            raise self.damaged(f"tag {code} is missing or has different values for its samples")
        return default

    def _page(self, tags: dict[int, tuple[int, int, bytes]]) -> Page:
        tile = (self._integer(tags, 323), self._integer(tags, 322)) if 322 in tags else None
        bits = self._integer(tags, 258, 1)
        page = Page(
            width=self._integer(tags, 256),
            height=self._integer(tags, 257),
            samples=self._integer(tags, 277, 1),
            bits=bits,
            sample_format=self._integer(tags, 339, 1),
            photometric=self._integer(tags, 262, 1),
            planar=self._integer(tags, 284, 1) == 2 and self._integer(tags, 277, 1) > 1,
            compression=self._integer(tags, 259, 1),
            predictor=self._integer(tags, 317, 1),
            fill_order=self._integer(tags, 266, 1),
            fax_options=self._integer(tags, 292, 0),
            extra_samples=self._integers(tags, 338, most=1 << 16),
            tile=tile,
            rows_per_strip=max(self._integer(tags, 278, 2**32 - 1), 1),
            offsets=self._integers(tags, 324 if tile else 273),
            counts=self._integers(tags, 325 if tile else 279),
            colours=self._integers(tags, 320, most=3 << 16),
            reduced=bool(self._integer(tags, 254, 0) & 5),
            description=self._text(tags, 270),
            orientation=self._integer(tags, 274, 1),
            resolution=self._resolution(tags),
            resolution_unit=self._integer(tags, 296, 2),
        )
        self._check(page)
        return page

    def _check(self, page: Page) -> None:
        sizes = (page.width, page.height, page.samples, *page.segment)
        if min(sizes) < 1 or page.bits < 1 or page.bits > 64 or max(sizes) > 2**31 or page.samples > 65_535:
            raise self.damaged(
                f"a page claims {page.width} x {page.height} pixels of {page.samples} x {page.bits} bits"
            )
        self._limits.check_size(
            self._path, values=page.width * page.height * page.samples, value_bytes=-(-page.bits // 8)
        )
        # an edge tile may reach beyond the picture, but not without end
        self._limits.check_size(
            self._path, values=math.prod(page.segment) * page.samples, value_bytes=-(-page.bits // 8)
        )
        expected = math.prod(page.grid) * (page.samples if page.planar else 1)
        if not len(page.offsets) == len(page.counts) == expected:
            raise self.damaged(f"a page needs {expected} strips or tiles and names {len(page.offsets)}")
        if min(page.counts) < 1:
            raise self.damaged("a strip or tile is empty")
        if any(offset + count > self._size for offset, count in zip(page.offsets, page.counts, strict=True)):
            raise self.cut()

    def _text(self, tags: dict[int, tuple[int, int, bytes]], code: int) -> str:
        if code not in tags or tags[code][0] != 2 or tags[code][1] > _MOST_TEXT:
            return ""
        found = self._value(tags, code, most=_MOST_TEXT)
        return "" if found is None else found[1].split(b"\0")[0].decode("utf-8", "replace")

    def _resolution(
        self, tags: dict[int, tuple[int, int, bytes]]
    ) -> tuple[tuple[int, int], tuple[int, int]] | None:
        pairs = []
        for code in (282, 283):
            if code not in tags or tags[code][:2] != (5, 1):
                return None
            found = self._value(tags, code, most=1)
            pairs.append(struct.unpack(self.order + "II", found[1] if found else b"\0" * 8))
        return (pairs[0][0], pairs[0][1]), (pairs[1][0], pairs[1][1])
