"""PNG and JPEG pictures, read by Pillow after our own checks of size and checksums."""

import io
import struct
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from scanseg.data.affine import check_spacing_argument
from scanseg.data.limits import Limits, looks_like, open_file, refused
from scanseg.data.streams import DEFLATE_RATIO
from scanseg.data.voxels import Opened, Sink, truncated
from scanseg.errors import DataError, UsageError
from scanseg.types import Array, Geometry, Spacing

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# colour type: (samples in a pixel, bit depths)
_PNG_TYPES = {
    0: (1, (1, 2, 4, 8, 16)),
    2: (3, (8, 16)),
    3: (1, (1, 2, 4, 8)),
    4: (2, (8, 16)),
    6: (4, (8, 16)),
}
_PNG_IMAGE_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
# first column, first row and steps of the seven passes
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# Pillow warns from here on
_PILLOW_PIXELS = 80_000_000
_COPY = "Copy or download the file again."
_PNG_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


_DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)


def open_png(path: Path, limits: Limits, spacing: Spacing | None = None) -> Opened:
    """Reads and checks the header of a PNG file.

    Args:
        path: `.png`.
        limits: Checked before anything is allocated.
        spacing: mm, (y, x); a PNG has none of its own.

    Raises:
        DataError: Damaged, too large or no PNG.
    """
    with open_file(path) as stream:
        start = stream.read(33)
    if not start.startswith(_PNG_MAGIC):
        raise refused(path, f"this is no PNG picture{looks_like(start)}", code="E-PNG-MAGIC")
    if len(start) < 33 or start[8:16] != b"\x00\x00\x00\rIHDR":
        raise _damaged(path, "its header is missing or cut")
    width, height, depth, colour, *methods = struct.unpack(">2I5B", start[16:29])
    if methods not in ([0, 0, 0], [0, 0, 1]):
        raise _damaged(path, f"its methods {methods} are unknown")
    if width < 1 or height < 1 or depth not in _PNG_TYPES.get(colour, (0, ()))[1]:
        raise _damaged(
            path, f"the header claims {width} x {height} pixels of colour type {colour}, {depth} bits"
        )
    samples = _PNG_TYPES[colour][0]
    limits.check_size(path, values=width * height * samples, value_bytes=(depth + 7) // 8)
    if width * height > _PILLOW_PIXELS and (colour == 3 or depth < 8):
        limits = replace(limits, voxels=_PILLOW_PIXELS)
        limits.check_size(path, values=width * height, value_bytes=1)
    due = height * (1 + (width * samples * depth + 7) // 8)
    if path.stat().st_size * DEFLATE_RATIO < due:
        raise truncated(path, held=path.stat().st_size * DEFLATE_RATIO, due=due)
    return Opened(
        path,
        flat_geometry((height, width), "png", limits, spacing),
        _PNG_IMAGE_CHANNELS[colour],
        1 if colour == 3 else _PNG_IMAGE_CHANNELS[colour],
        partial(_pour_png, path, colour, depth),
    )


def open_jpeg(path: Path, limits: Limits, spacing: Spacing | None = None) -> Opened:
    """Reads and checks the header of a JPEG photograph, grey or colour. Arguments and errors as `open_png`.

    The pixels are taken as they are stored; an EXIF note that they should be shown turned is not followed.
    """
    from PIL import Image as Pillow

    with open_file(path) as stream:
        data = stream.read()
    if not data.startswith(b"\xff\xd8\xff"):
        raise refused(path, f"this is no JPEG picture{looks_like(data[:16])}", code="E-JPEG-MAGIC")
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise refused(path, "the JPEG has no end; it was cut", code="E-FILE-TRUNCATED", hint=_COPY)
    try:
        with Pillow.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            (width, height), mode = picture.size, picture.mode
    except (*_DECODING_ERRORS, Pillow.DecompressionBombError) as error:
        raise refused(
            path, f"the JPEG cannot be read ({error})", code="E-FILE-DAMAGED", hint=_COPY
        ) from error
    if mode not in ("L", "RGB"):
        raise refused(
            path, f"a JPEG of mode {mode} is not accepted", code="E-JPEG-KIND", hint="Save it as grey or RGB."
        )
    channels = 1 if mode == "L" else 3
    limits = replace(limits, voxels=min(limits.voxels, _PILLOW_PIXELS * channels))
    limits.check_size(path, values=width * height * channels, value_bytes=1)
    geometry = flat_geometry((height, width), "jpeg", limits, spacing)
    return Opened(path, geometry, channels, channels, partial(_pour_jpeg, path))


def _pour_jpeg(path: Path, sink: Sink) -> None:
    with open_file(path) as stream:
        pour_pixels(sink, _decode(path, stream.read(), "JPEG", convert=None))


def flat_geometry(
    shape: tuple[int, ...], form: str, limits: Limits, spacing: Spacing | None, header: dict | None = None
) -> Geometry:
    """Returns the geometry of a picture without physical size, or with the given one."""
    check_spacing_argument(spacing, shape, limits)
    if spacing is None:
        return Geometry(shape, (1.0,) * len(shape), "px", None, form, header or {})
    return Geometry(shape, tuple(float(s) for s in spacing), "mm", None, form, header or {})


def write_png(path: Path, array: Array, geometry: Geometry) -> None:
    """Writes a grey 8- or 16-bit PNG: array (y, x), uint8 or uint16.

    Raises:
        UsageError: The array is of another kind.
    """
    from PIL import Image as Pillow

    if array.ndim != 2 or array.dtype not in (np.uint8, np.uint16):
        raise UsageError(
            f"a PNG holds 2D integers up to 65535, got {array.dtype} {array.shape}.",
            code="E-WRITE-FORMAT",
            hint="Write .nii.gz or .tif instead.",
        )

    Pillow.fromarray(array).save(path, format="PNG")


def _damaged(path: Path, text: str) -> DataError:
    return refused(
        path, f"the PNG is damaged: {text}", code="E-PNG-DAMAGED", hint="Copy or export the picture again."
    )


def _needed_chunks(path: Path) -> bytes:
    """Returns the PNG without its optional chunks, after checking length and checksum of every chunk.

    Text, colour profiles and animations are left out: they can be bombs and say nothing about pixels.
    """
    with open_file(path) as stream:
        data = stream.read()
    kept, position, kind = [_PNG_MAGIC], len(_PNG_MAGIC), b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", data[position : position + 8].ljust(8, b"\xff"))
        chunk = data[position : position + 12 + length]
        if len(chunk) < 12 + length:
            raise refused(path, "the PNG ends too early; it was cut", code="E-FILE-TRUNCATED", hint=_COPY)
        if zlib.crc32(chunk[4:-4]) != struct.unpack(">I", chunk[-4:])[0]:
            raise _damaged(path, f"the checksum of a part ({kind!r}) is wrong")
        if kind in _PNG_NEEDED:
            if kind != b"IDAT" and kind in (part[4:8] for part in kept):
                raise _damaged(path, f"its part {kind!r} stands there twice")
            kept.append(chunk)
        elif not kind[0] & 0x20:
            raise _damaged(path, f"it has a part {kind!r} that must be understood and is unknown")
        position += 12 + length
    if position != len(data):
        raise refused(path, "bytes follow the end of the PNG", code="E-FILE-TRAILING", hint=_COPY)
    if kept[1][17] & 3 == 3 and kept[2][4:8] != b"PLTE":
        raise _damaged(path, "its palette is missing")
    _check_pixels(path, kept)
    return b"".join(kept)


def _check_pixels(path: Path, chunks: list[bytes]) -> None:
    """Refuses a PNG with more or fewer pixels than its header says; decoders would fill up with zeros."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">2I5B", chunks[1], 8)
    bits = depth * _PNG_TYPES[colour][0]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    due = sum(h * (1 + (w * bits + 7) // 8) for w, h in sizes if w > 0 and h > 0)
    inflater, held = zlib.decompressobj(), 0
    try:
        for chunk in (c for c in chunks if c[4:8] == b"IDAT"):
            rest = chunk[8:-4]
            while rest and held <= due:
                held += len(inflater.decompress(rest, 1 << 20))
                rest = inflater.unconsumed_tail
    except zlib.error as error:
        raise _damaged(path, f"its pixels cannot be unpacked ({error})") from error
    if held != due or not inflater.eof:
        raise _damaged(path, f"it holds {held:,} bytes of pixels, its header announces {due:,}")


def _pour_png(path: Path, colour: int, depth: int, sink: Sink) -> None:
    """Decodes a PNG into a sink: palettes as colours for images, as indices for labels; alpha is dropped."""
    data = _needed_chunks(path)
    width, height = struct.unpack_from(">2I", data, 16)
    if colour != 3 and depth >= 8 and (depth * (colour > 0) == 16 or width * height > _PILLOW_PIXELS):
        array = _decode_by_libpng(path, data)
    else:
        array = _decode(path, data, "PNG", convert="RGB" if colour == 3 and not sink.for_labels else None)
    if colour == 0 and depth < 8:
        # Pillow spreads 2 and 4 bits over 0 to 255
        array = array.astype(np.uint8) // (255 // (2**depth - 1) if depth > 1 else 1)
    pour_pixels(sink, array)


def pour_pixels(sink: Sink, array: Array, start: int = 0) -> None:
    """Sends a decoded picture (y, x) or (y, x, channel) to a sink, block by block; alpha is dropped."""
    channels = 1 if array.ndim == 2 else array.shape[2]
    pixels = array.reshape(-1, channels)[:, : {2: 1, 4: 3}.get(channels, channels)]
    for first in range(0, len(pixels), 1 << 18):
        sink.put(pixels[first : first + (1 << 18)], start + first, interleaved=True)


def _decode(path: Path, data: bytes, form: str, convert: str | None) -> Array:
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(data), formats=[form]) as picture:
            picture.load()
            return np.asarray(picture.convert(convert) if convert else picture)
    except _DECODING_ERRORS as error:
        raise refused(
            path,
            f"the {form} cannot be decoded ({error})",
            code="E-FILE-DAMAGED",
            hint="Copy or export the picture again.",
        ) from error


def _decode_by_libpng(path: Path, data: bytes) -> Array:
    """Decodes 16-bit colours, which Pillow would cut to 8 bits, and pictures that are too large for it."""
    import imagecodecs

    try:
        return np.asarray(imagecodecs.png_decode(data))
    except imagecodecs.PngError as error:
        raise _damaged(path, str(error)) from error
