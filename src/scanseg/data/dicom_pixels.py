"""The stored values of one DICOM slice, decoded and rescaled."""

from pathlib import Path

import numpy as np

from scanseg.data.dicom_decode import Decoder, NoDecoder
from scanseg.data.dicom_header import BIG_ENDIAN, COMPRESSED, NATIVE, Refusal, Slice, body_of
from scanseg.data.limits import refused
from scanseg.types import Array


def slice_values(one: Slice, shown_as: Path, decoder: Decoder) -> Array:
    """Returns the values of a slice (row, column) with its own slope and intercept applied.

    Args:
        one: From `parse_slice`.
        shown_as: What messages call the series.
        decoder: For compressed pixels.

    Returns:
        The stored integers where nothing is to rescale, else float64.

    Raises:
        DataError: The file changed, its compressed pixels are damaged, or the decoder is not installed.
    """
    stored = _native(one, shown_as) if one.pixels.syntax in NATIVE else _decompressed(one, shown_as, decoder)
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


def _decompressed(one: Slice, shown_as: Path, decoder: Decoder) -> Array:
    try:
        with one.entry.open() as stream:
            return decoder.decode(stream.read(), one.rows, one.columns)
    except NoDecoder:
        raise refused(
            shown_as,
            f"nothing that is installed decodes {COMPRESSED[one.pixels.syntax]} pixels",
            code="E-DICOM-DECODER",
            hint="Run: pip install 'scanseg[dicom]'",
        ) from None
    except ValueError:
        raise refused(
            shown_as,
            f"the compressed pixels of file {one.entry.number} are damaged or do not fit its header",
            code="E-DICOM-DECODE",
            hint="Copy or export the series again.",
        ) from None
