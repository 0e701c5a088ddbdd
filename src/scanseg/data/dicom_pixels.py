"""The stored values of one DICOM slice, decoded and rescaled."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.data.dicom_header import BIG_ENDIAN, COMPRESSED, NATIVE, Refusal, Slice, body_of, quiet
from scanseg.data.limits import refused
from scanseg.errors import DataError
from scanseg.types import Array

_DAMAGED_HINT = "Copy or export the series again."


def slice_values(one: Slice, shown_as: Path) -> Array:
    """Returns the values of a slice (row, column) with its own slope and intercept applied.

    Args:
        one: From `parse_slice`.
        shown_as: What messages call the series.

    Returns:
        The stored integers where nothing is to rescale, else float64.

    Raises:
        DataError: The file changed, its compressed pixels are damaged, or the decoder is not installed.
    """
    stored = _native(one, shown_as) if one.pixels.syntax in NATIVE else _decompressed(one, shown_as)
    if one.rescale is None or one.rescale == (1.0, 0.0):
        return stored
    return stored.astype(np.float64) * one.rescale[0] + one.rescale[1]


def _native(one: Slice, shown_as: Path) -> Array:
    pixels = one.pixels
    due = one.rows * one.columns * pixels.allocated // 8
    try:
        with one.entry.open() as stream:
            _, body = body_of(stream)
            body.seek(pixels.offset)
            raw = body.read(due)
    except Refusal:
        raw = b""
    if len(raw) != due:
        raise refused(
            shown_as,
            f"file {one.entry.number} changed while it was read",
            code="E-DICOM-CHANGED",
            hint="Wait until the series is complete, then run the command again.",
        )
    order = ">" if pixels.syntax == BIG_ENDIAN else "<"
    kind = "i" if pixels.signed else "u"
    values = np.frombuffer(raw, np.dtype(f"{order}{kind}{pixels.allocated // 8}"))
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return _only_stored_bits(values, pixels.allocated - pixels.stored).reshape(one.rows, one.columns)


def _only_stored_bits(values: Array, unused: int) -> Array:
    """Clears the bits above those stored, where old files keep overlays, and extends the sign."""
    return (values << unused) >> unused if unused else values


def _decompressed(one: Slice, shown_as: Path) -> Array:
    from pydicom import dcmread
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(one.pixels.syntax)  # type: ignore[arg-type]
    if not decoder.is_available:
        raise refused(
            shown_as,
            f"nothing that is installed decodes {COMPRESSED[one.pixels.syntax]} pixels",
            code="E-DICOM-DECODER",
            hint="Run: pip install 'scanseg[dicom]'",
        )
    try:
        with quiet(), one.entry.open() as stream:
            document = dcmread(stream)
            _check_codestream(document, one)
            values, facts = decoder.as_array(document, raw=True, index=0)
    except DataError:
        raise
    except Exception:  # the decoders raise classes of many kinds for damaged data
        raise _damaged(one, shown_as) from None
    wanted = (one.rows, one.columns)
    if values.shape != wanted or values.dtype.kind not in "iu" or facts.get("samples_per_pixel", 1) != 1:
        raise _damaged(one, shown_as)
    if COMPRESSED[one.pixels.syntax] == "RLE":  # the others decode to values, RLE to the bits as stored
        values = _only_stored_bits(values, one.pixels.allocated - one.pixels.stored)
    return np.asarray(values)


def _check_codestream(document: Any, one: Slice) -> None:
    """Compares the size inside the compressed data with the header, so that no decoder allocates more."""
    from pydicom.encaps import generate_frames

    frames = generate_frames(document.PixelData, number_of_frames=1)
    frame = next(frames)
    if next(frames, None) is not None:
        raise ValueError("more than one frame")
    size = (one.rows, one.columns, 1)
    if COMPRESSED[one.pixels.syntax] != "RLE" and _codestream_size(frame) != size:
        raise ValueError("the sizes differ")
    # Two bytes of RLE give at most 128; 64 bytes are the header.
    if COMPRESSED[one.pixels.syntax] == "RLE" and len(frame) * 64 < one.rows * one.columns:
        raise ValueError("too short")


def _codestream_size(frame: bytes) -> tuple[int, int, int]:
    """Returns rows, columns and components that a JPEG, JPEG-LS or JPEG 2000 stream announces."""
    if frame[:4] == b"\xff\x4f\xff\x51":
        x1, y1, x0, y0 = struct.unpack(">4I", frame[8:24])
        return y1 - y0, x1 - x0, struct.unpack(">H", frame[40:42])[0]
    if frame[:2] != b"\xff\xd8":
        raise ValueError("no codestream")
    place = 2
    while True:
        mark, kind, length = struct.unpack(">BBH", frame[place : place + 4])
        if mark != 0xFF:
            raise ValueError("no marker")
        if kind == 0xF7 or (0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)):
            rows, columns, components = struct.unpack(">HHB", frame[place + 5 : place + 10])
            return rows, columns, components
        if kind == 0xFF:
            place += 1
            continue
        place += 2 + length


def _damaged(one: Slice, shown_as: Path) -> DataError:
    return refused(
        shown_as,
        f"the compressed pixels of file {one.entry.number} are damaged or do not fit its header",
        code="E-DICOM-DECODE",
        hint=_DAMAGED_HINT,
    )
