"""The stored values of one DICOM slice, decoded and rescaled."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scanseg.data.dicom_decode import Decoder, NoDecoder
from scanseg.data.dicom_header import BIG_ENDIAN, COMPRESSED, NATIVE, Slice, body_of, quiet
from scanseg.data.dicom_refusal import Refusal
from scanseg.data.limits import refused
from scanseg.errors import DataError
from scanseg.types import Array


class SliceReader:
    """Reads the values of slices one after another; a file of many frames stays open between them."""

    def __init__(self, shown_as: Path, decoder: Decoder) -> None:
        self._shown_as, self._decoder = shown_as, decoder
        self._stream: BinaryIO | None = None
        self._body: BinaryIO | None = None
        self._frames: list[bytes] = []
        self._number = 0

    def __enter__(self) -> "SliceReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def values(self, one: Slice) -> Array:
        """Returns the values of a slice (row, column) with its own slope and intercept applied.

        Args:
            one: From `parse_slices`.

        Returns:
            The stored integers where nothing is to rescale, else float64.

        Raises:
            DataError: The file changed, its compressed pixels are damaged, or the decoder is not installed.
        """
        if self._number != one.entry.number:
            self._close()
            self._number = one.entry.number
        stored = self._native(one) if one.pixels.syntax in NATIVE else self._decompressed(one)
        if one.rescale is None or one.rescale == (1.0, 0.0):
            return stored
        return stored.astype(np.float64) * one.rescale[0] + one.rescale[1]

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream, self._body, self._frames = None, None, []

    def _native(self, one: Slice) -> Array:
        pixels = one.pixels
        due = one.rows * one.columns * pixels.allocated // 8
        try:
            if self._body is None:
                self._stream = one.entry.open()
                _, self._body = body_of(self._stream)
            self._body.seek(pixels.offset)
            raw = self._body.read(due)
        except Refusal:
            raw = b""
        if len(raw) != due:
            raise self._refused(
                f"file {one.entry.number} changed while it was read",
                "E-DICOM-CHANGED",
                "Wait until the series is complete, then run the command again.",
            )
        order = ">" if pixels.syntax == BIG_ENDIAN else "<"
        kind = "i" if pixels.signed else "u"
        values = np.frombuffer(raw, np.dtype(f"{order}{kind}{pixels.allocated // 8}"))
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        return _only_stored_bits(values, pixels.allocated - pixels.stored).reshape(one.rows, one.columns)

    def _decompressed(self, one: Slice) -> Array:
        try:
            return self._decoder.decode(self._content(one), one.rows, one.columns)
        except NoDecoder:
            raise self._refused(
                f"nothing that is installed decodes {COMPRESSED[one.pixels.syntax]} pixels",
                "E-DICOM-DECODER",
                "Run: pip install 'scanseg[dicom]'",
            ) from None
        except ValueError:
            raise self._refused(
                f"the compressed pixels of file {one.entry.number} are damaged or do not fit its header",
                "E-DICOM-DECODE",
                "Copy or export the series again.",
            ) from None

    def _content(self, one: Slice) -> bytes:
        """Returns a DICOM file that holds the slice alone."""
        if one.pixels.frames == 1:
            with one.entry.open() as stream:
                return stream.read()
        if not self._frames:
            with one.entry.open() as stream:
                self._frames = _encapsulated(stream, one.pixels.frames)
        return _alone(one, self._frames[one.pixels.frame])

    def _refused(self, text: str, code: str, hint: str) -> DataError:
        return refused(self._shown_as, text, code=code, hint=hint)


def _only_stored_bits(values: Array, unused: int) -> Array:
    """Clears the bits above those stored, where old files keep overlays, and extends the sign."""
    return (values << unused) >> unused if unused else values


def _encapsulated(stream: BinaryIO, count: int) -> list[bytes]:
    """Returns the compressed frames of a file.

    Raises:
        ValueError: There are more or fewer of them, or their container is damaged.
    """
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    try:
        with quiet():
            frames = list(generate_frames(dcmread(stream).PixelData, number_of_frames=count))
    except Exception:  # damaged files make pydicom raise classes of many kinds
        raise ValueError("damaged") from None
    if len(frames) != count:
        raise ValueError("another number of frames")
    return frames


def _alone(one: Slice, frame: bytes) -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    pixels, found = one.pixels, Dataset()
    found.Rows, found.Columns, found.SamplesPerPixel = one.rows, one.columns, 1
    found.PhotometricInterpretation = one.photometric
    found.BitsAllocated, found.BitsStored, found.HighBit = pixels.allocated, pixels.stored, pixels.stored - 1
    found.PixelRepresentation = int(pixels.signed)
    found.PixelData = encapsulate([frame])
    found["PixelData"].VR = "OB"
    found["PixelData"].is_undefined_length = True
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = UID(pixels.syntax)
    found.preamble = bytes(128)
    content = io.BytesIO()
    found.save_as(content, enforce_file_format=False)
    return content.getvalue()
