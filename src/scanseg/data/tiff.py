"""TIFF and BigTIFF (.tif, .tiff): one page is a 2D image, several equal pages are a stack.

The pixels are decoded here, strip by strip, with an upper bound for each, because general readers fill cut
strips with zeros, return fewer pages than there are, unpack without bound, and hang on looped or crafted
tags. tifffile writes.

Source: TIFF revision 6.0 (Adobe, 1992); TIFF technical notes on predictor 3.
"""

import lzma
import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scanseg.data.limits import Limits, open_file, refused
from scanseg.data.raster import flat_geometry
from scanseg.data.tiff_pages import Page, read_pages
from scanseg.data.voxels import Opened, Sink
from scanseg.errors import DataError
from scanseg.types import Array, Geometry, Spacing

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK = 0, 1, 2, 3, 4
_NONE, _CCITT_RLE, _CCITT_3, _CCITT_4, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS, _LZMA, _ZSTD = (
    1, 2, 3, 4, 5, 8, 32946, 32773, 34925, 50000,
)  # fmt: skip
_COMPRESSIONS = (
    _NONE, _CCITT_RLE, _CCITT_3, _CCITT_4, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS, _LZMA, _ZSTD,
)  # fmt: skip
_NAMES = {6: "old JPEG", 7: "JPEG", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 50001: "WebP"}
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_HINT = "Save it as grey, RGB or palette TIFF, uncompressed or with LZW or Deflate."


def open_tiff(path: Path, limits: Limits, spacing: Spacing | None = None) -> Opened:
    """Reads and checks the pages of a TIFF file. Arguments and errors as `open_nifti`.

    Resolution tags are kept for writing but not used as spacing: most programs put 72 or 96 dpi there.
    """
    with open_file(path) as stream:
        pages, order = read_pages(stream, path, limits)
    first = pages[0]
    _check_stack(pages, path)
    for page in pages:
        _check_kind(page, path)
    shape = (first.height, first.width) if len(pages) == 1 else (len(pages), first.height, first.width)
    header = {
        "resolution": [list(pair) for pair in first.resolution] if first.resolution else None,
        "resolution_unit": first.resolution_unit,
        "orientation": first.orientation,
    }
    channels = 3 if first.photometric == _PALETTE else len(_kept_samples(first))
    return Opened(
        path,
        flat_geometry(shape, "tiff", limits, spacing, header),
        channels,
        1 if first.photometric == _PALETTE else channels,
        partial(_pour, path, pages, order),
    )


def _check_stack(pages: list[Page], path: Path) -> None:
    first = pages[0]
    if any(page.reduced for page in pages) or any(page.layout != first.layout for page in pages):
        sizes = ", ".join(dict.fromkeys(f"{p.width} x {p.height} x {p.samples}" for p in pages))
        raise refused(
            path,
            f"its {len(pages)} pages are no stack: they differ ({sizes}) or are thumbnails or pyramid levels",
            code="E-TIFF-PAGES",
            hint="Export the one level or the stack you need.",
        )
    announced = re.search(r"^images=(\d{1,9})\b", first.description, re.MULTILINE)
    if first.description.startswith("ImageJ=") and announced and int(announced[1]) != len(pages):
        raise refused(
            path,
            f"its description announces {announced[1]} images, but it has {len(pages)} pages",
            code="E-TIFF-PAGES",
            hint="Save the stack again with one page for each image.",
        )
    # Channels or time points as pages would be taken for slices.
    axes = {
        name: int(value)
        for name, value in re.findall(
            r'\b(channels|frames|slices|SizeC|SizeT|SizeZ)="?(\d{1,9})\b', first.description
        )
    }
    several = [name for name, size in axes.items() if size > 1 and name not in ("slices", "SizeZ")]
    described = first.description.startswith("ImageJ=") or "<OME" in first.description
    if (
        len(pages) > 1
        and described
        and several
        and not (several == ["frames"] and axes.get("slices", 1) == 1)
    ):
        raise refused(
            path,
            f"its pages are a series over {' and '.join(several)}; accepted are slices of one volume",
            code="E-TIFF-PAGES",
            hint="Save each channel or time point as a file of its own.",
        )


def _check_kind(page: Page, path: Path) -> None:
    def fault(text: str) -> DataError:
        return refused(path, text, code="E-TIFF-KIND", hint=_HINT)

    if page.compression not in _COMPRESSIONS:
        raise fault(f"its compression ({_NAMES.get(page.compression, page.compression)}) is not accepted")
    if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK):
        names = {5: "CMYK", 6: "YCbCr", 8: "CIELab", 32803: "a colour filter array"}
        raise fault(f"its colours ({names.get(page.photometric, page.photometric)}) are not accepted")
    if _dtype(page, "<") is None:
        raise fault(f"samples of {page.bits} bits and format {page.sample_format} are not accepted")
    if page.photometric == _PALETTE and (
        page.samples != 1 or page.bits > 16 or page.sample_format > 1 or len(page.colours) != 3 << page.bits
    ):
        raise fault("its palette does not fit its pixels")
    if page.photometric == _RGB and page.samples < 3:
        raise fault(f"it is RGB with {page.samples} samples")
    fax = page.compression in (_CCITT_RLE, _CCITT_3, _CCITT_4)
    if fax and (page.bits != 1 or page.samples != 1):
        raise fault("fax compression is accepted for one bit only")
    if page.predictor not in (1, 2, 3) or (page.predictor > 1 and (fax or page.bits not in (8, 16, 32, 64))):
        raise fault(f"its predictor {page.predictor} is not accepted for {page.bits} bits")
    if page.predictor == 3 and page.sample_format != 3:
        raise fault("its predictor is for floats, its samples are not")


def _dtype(page: Page, order: str) -> np.dtype | None:
    """Returns the type of the decoded samples, None where it is not accepted."""
    kind = {1: "u", 2: "i", 3: "f", 4: "u"}.get(page.sample_format, "")
    if page.bits in (8, 16, 32, 64) and kind and f"{kind}{page.bits}" != "f8":
        return np.dtype(f"{order}{kind}{page.bits // 8}")
    if kind == "u" and page.bits < 32:
        return np.dtype("u1" if page.bits <= 8 else "u2" if page.bits <= 16 else "u4")
    return None


def _kept_samples(page: Page) -> list[int]:
    """Returns the samples that are channels: all but alpha."""
    colours = 3 if page.photometric == _RGB else 1
    extra = page.extra_samples
    if not extra and page.photometric == _RGB and page.samples == 4:
        extra = (2,)
    alphas = {colours + index for index, kind in enumerate(extra) if kind in (1, 2)}
    return [sample for sample in range(page.samples) if sample not in alphas]


def _pour(path: Path, pages: list[Page], order: str, sink: Sink) -> None:
    first = pages[0]
    if sink.for_labels and first.photometric == _WHITE_IS_ZERO and first.bits > 1:
        raise refused(
            path,
            "its values count downwards (white is zero), so its label values are not certain",
            code="E-LABEL-INVERTED",
            hint="Save it with black as zero.",
        )
    with open_file(path) as stream:
        for index, page in enumerate(pages):
            plane = index * page.width * page.height
            volume = len(pages) * page.width * page.height
            _pour_page(stream, path, page, order, sink, plane, volume)


def _pour_page(
    stream: BinaryIO, path: Path, page: Page, order: str, sink: Sink, plane: int, volume: int
) -> None:
    """Sends one page to a sink; `plane` is its first voxel's index, `volume` the voxels of one channel."""
    kept = _kept_samples(page)
    for sample, row, column, block in _segments(stream, path, page, order):
        block = block[: page.height - row, : page.width - column]
        if page.planar and sample not in kept:
            continue
        if not page.planar:
            block = block[:, :, kept] if len(kept) < page.samples else block
        block = _as_seen(block, page, for_labels=sink.for_labels)
        whole = block.shape[1] == page.width
        for part, top in (
            [(block, row)] if whole else [(block[r : r + 1], row + r) for r in range(len(block))]
        ):
            start = plane + top * page.width + column
            if page.planar:
                sink.put(part.reshape(-1), kept.index(sample) * volume + start)
            else:
                sink.put(part.reshape(-1, part.shape[2]), start, interleaved=True)


def _as_seen(block: Array, page: Page, *, for_labels: bool) -> Array:
    """Returns samples with black as the lowest value, and palettes as colours unless they are labels."""
    if page.photometric == _WHITE_IS_ZERO and block.dtype.kind == "u":
        return np.asarray((1 << page.bits) - 1 - block)
    if page.photometric == _PALETTE and not for_labels:
        colours = (np.array(page.colours, dtype=np.uint16) >> 8).astype(np.uint8).reshape(3, -1).T
        return np.asarray(colours[block[:, :, 0]])
    return block


def _segments(stream: BinaryIO, path: Path, page: Page, order: str) -> Iterator[tuple[int, int, int, Array]]:
    """Yields sample plane, first row, first column and pixels (row, column, sample) of each strip or tile."""
    below, beside = page.grid
    rows, columns = page.segment
    for index, (offset, count) in enumerate(zip(page.offsets, page.counts, strict=True)):
        plane, place = divmod(index, below * beside)
        row, column = place // beside * rows, place % beside * columns
        height = rows if page.tile else min(rows, page.height - row)
        stream.seek(offset)
        data = stream.read(count)
        if len(data) < count:
            raise _short(path, len(data), count)
        yield plane, row, column, _decoded(data, path, page, order, (height, columns))


def _short(path: Path, held: int, due: int) -> DataError:
    return refused(
        path,
        f"a strip or tile holds {held:,} bytes of {due:,}; the TIFF was cut or is damaged",
        code="E-FILE-TRUNCATED",
        hint="Copy or export the picture again.",
    )


def _decoded(data: bytes, path: Path, page: Page, order: str, size: tuple[int, int]) -> Array:
    """Returns the pixels (row, column, sample) of a strip or tile of `size` rows and columns."""
    samples = 1 if page.planar else page.samples
    row_bytes = -(-size[1] * samples * page.bits // 8)
    due = size[0] * row_bytes
    if page.fill_order == 2:
        data = data.translate(_REVERSED)
    plain = _unpacked(data, path, page, size, due)
    if len(plain) < due:
        raise _short(path, len(plain), due)
    plain = plain[:due]
    if page.bits not in (8, 16, 32, 64):
        return _from_bits(plain, page, size, samples)
    if page.predictor == 3:
        parts = np.frombuffer(plain, dtype=np.uint8).reshape(size[0], -1, samples)
        parts = np.cumsum(parts, axis=1, dtype=np.uint8).reshape(size[0], page.bits // 8, -1)
        floats = np.ascontiguousarray(parts.transpose(0, 2, 1)).view(f">f{page.bits // 8}")
        return floats.reshape(*size, samples)
    block = np.frombuffer(plain, dtype=_dtype(page, order)).reshape(*size, samples)
    if page.predictor == 2:
        whole = block.astype(block.dtype.newbyteorder("=")).view(f"u{page.bits // 8}")
        return np.cumsum(whole, axis=1, dtype=whole.dtype).view(block.dtype.newbyteorder("="))
    return block


def _from_bits(plain: bytes, page: Page, size: tuple[int, int], samples: int) -> Array:
    """Returns samples of 1 to 31 bits; each row starts at a byte."""
    bits = np.unpackbits(np.frombuffer(plain, dtype=np.uint8).reshape(size[0], -1), axis=1)
    bits = bits[:, : size[1] * samples * page.bits].reshape(size[0], size[1], samples, page.bits)
    out = np.zeros(bits.shape[:3], dtype=_dtype(page, "="))
    for index in range(page.bits):
        out = (out << 1) | bits[..., index]
    return out


def _unpacked(data: bytes, path: Path, page: Page, size: tuple[int, int], due: int) -> bytes:
    """Returns at most `due` uncompressed bytes."""
    try:
        if page.compression == _NONE:
            return data
        if page.compression in (_DEFLATE, _OLD_DEFLATE, _LZMA):
            # some programs fill up the last strip
            full = due // size[0] * page.segment[0]
            return _inflated(data, full, path, xz=page.compression == _LZMA)
        return _unpacked_by_imagecodecs(data, page, size, due)
    except (zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError) as error:
        raise refused(
            path,
            f"a compressed strip or tile is damaged ({error})",
            code="E-FILE-DAMAGED",
            hint="Copy or export the picture again.",
        ) from error


def _inflated(data: bytes, most: int, path: Path, *, xz: bool) -> bytes:
    """Returns at most `most` bytes; the stream must end with them, because its checksum stands there."""
    if xz:
        unpacker = lzma.LZMADecompressor(memlimit=1 << 28)
        plain = unpacker.decompress(data, most + 1)
        if not unpacker.eof:
            plain += unpacker.decompress(b"", 1)
        ended = unpacker.eof
    else:
        inflater = zlib.decompressobj()
        plain = inflater.decompress(data, most + 1)
        ended = inflater.eof
    if not ended or len(plain) > most:
        raise refused(
            path,
            f"a compressed strip or tile does not end with its {most:,} bytes of pixels",
            code="E-FILE-DAMAGED",
            hint="Copy or export the picture again.",
        )
    return plain


def _unpacked_by_imagecodecs(data: bytes, page: Page, size: tuple[int, int], due: int) -> bytes:
    import imagecodecs

    if page.compression == _LZW:
        return bytes(imagecodecs.lzw_decode(data, out=due))
    if page.compression == _PACKBITS:
        return bytes(imagecodecs.packbits_decode(data, out=due))
    if page.compression == _ZSTD:
        return bytes(imagecodecs.zstd_decode(data, out=due))
    name = {_CCITT_RLE: "ccittrle_decode", _CCITT_3: "ccittfax3_decode", _CCITT_4: "ccittfax4_decode"}
    options = {"t4options": page.fax_options} if page.compression == _CCITT_3 else {}
    pixels = getattr(imagecodecs, name[page.compression])(data, *size, **options)
    return np.packbits(pixels, axis=1).tobytes()


def write_tiff(path: Path, array: Array, geometry: Geometry) -> None:
    """Writes a grey TIFF, Deflate-compressed, one page for each slice, with the resolution tags of the input.

    Args:
        path: Written in place; the caller makes it atomic.
        array: (*spatial) or, with one axis more than the geometry, (channel, *spatial): then each page has a
            plane for each channel.
        geometry: Of the input.
    """
    import tifffile

    known = geometry.header if geometry.format == "tiff" else {}
    stack = array if array.ndim > len(geometry.shape) else array[None]
    stack = stack if len(geometry.shape) == 3 else stack[:, None]
    resolution = known.get("resolution")
    with tifffile.TiffWriter(path) as writer:
        for page in np.moveaxis(stack, 0, 1):
            writer.write(
                page if len(page) > 1 else page[0],
                photometric="minisblack",
                planarconfig="separate" if len(page) > 1 else None,
                extrasamples=["unspecified"] * (len(page) - 1) if len(page) > 1 else None,
                compression="zlib",
                contiguous=False,
                metadata=None,
                software=False,
                resolution=tuple(tuple(pair) for pair in resolution) if resolution else None,
                resolutionunit=known.get("resolution_unit"),
                extratags=[(274, 3, 1, known["orientation"], True)]
                if known.get("orientation", 1) != 1
                else (),
            )
