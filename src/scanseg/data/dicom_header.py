"""The header of one DICOM file as plain values; what cannot be a slice of a volume is refused by name.

Source: PS3.3 C.7.6.2 (image plane), C.7.6.3 (pixel description), C.11.1 (modality LUT); PS3.5 A (transfer
syntaxes); PS3.10 7.1 (file meta information).
"""

import hashlib
import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from scanseg.data.dicom_files import Entry
from scanseg.data.dicom_frames import FRAME_GROUPS, SHARED_GROUPS, BoundedHeader, frames_of
from scanseg.data.dicom_refusal import Refusal
from scanseg.data.limits import looks_like

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN)
COMPRESSED = {
    "1.2.840.10008.1.2.4.50": "JPEG baseline",
    "1.2.840.10008.1.2.4.51": "JPEG extended",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless SV1",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE",
}
_MOST_INFLATED_BYTES = 64 << 20  # a slice of 4,096 x 4,096 32-bit values
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
_UNDEFINED = 0xFFFFFFFF
_PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_TAGS = (
    *(0x00080008, 0x00080016, 0x00080060, 0x00100020, 0x0020000D, 0x0020000E, 0x00200032, 0x00200037),
    *(0x00200052, 0x00180050, 0x00180088, 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011),
    *(0x00280030, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00281052, 0x00281053, 0x00281054),
    *(0x00283000, SHARED_GROUPS, FRAME_GROUPS),
)
_MOST_SLICE_BYTES = 256 << 20  # a classic slice of 8,192 x 8,192 32-bit values
# What is met beside the images of a series. Other classes are judged by what they hold.
_OTHER_KINDS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose",
    "1.2.840.10008.5.1.4.1.1.481.3": "a radiotherapy structure set",
    "1.2.840.10008.5.1.4.1.1.481.5": "a radiotherapy plan",
    "1.2.840.10008.5.1.4.1.1.4.3": "an enhanced MR colour image",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "a whole-slide microscopy image",
    "1.2.840.10008.5.1.4.1.1.11.1": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.88.59": "a key object selection",
    "1.2.840.10008.5.1.4.1.1.104.1": "a PDF document",
}
_REPORT = "1.2.840.10008.5.1.4.1.1.88."


@dataclass(frozen=True)
class Pixels:
    """How the pixels of a slice are stored.

    Attributes:
        syntax: Transfer syntax UID.
        offset: Of the first pixel byte in the (inflated) file; 0 for compressed pixels.
        allocated: Bits a value takes.
        stored: Bits of a value that count.
        signed: Whether values are two's complement.
        frame: Number of the frame in its file, from 0.
        frames: How many the file holds.
    """

    syntax: str
    offset: int
    allocated: int
    stored: int
    signed: bool
    frame: int = 0
    frames: int = 1


@dataclass(frozen=True)
class Slice:
    """What the header of a file says of one slice, lengths in mm, directions in DICOM's LPS space.

    Attributes:
        entry: The file.
        series: Study and series UID.
        patient: Hash of PatientID; it is compared, never shown.
        frame_of_reference: UID, empty where absent.
        modality: `CT`, `MR`, ...
        kind: Values of ImageType.
        rows: Height.
        columns: Width.
        position: Centre of the first pixel.
        orientation: Direction along a row, then along a column.
        spacing: Distance of rows, then of columns.
        thickness: SpacingBetweenSlices, else SliceThickness, else None.
        rescale: Slope and intercept, None where the file gives none.
        unit: RescaleType, empty where absent.
        photometric: `MONOCHROME1` or `MONOCHROME2`.
        pixels: How they are stored.
        volume: Stack and point in time of a frame; empty for a classic slice.
    """

    entry: Entry
    series: tuple[str, str]
    patient: str
    frame_of_reference: str
    modality: str
    kind: tuple[str, ...]
    rows: int
    columns: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float | None
    rescale: tuple[float, float] | None
    unit: str
    photometric: str
    pixels: Pixels
    volume: tuple[str, ...] = ()


def parse_slices(entry: Entry) -> list[Slice]:
    """Returns the slices of a file: one, or the frames of an enhanced image in their order.

    No value of the file appears in an error, but numbers and names from closed lists.

    Raises:
        Refusal: The file is no DICOM file, damaged, or holds no grey slices with a place in space.
        DataError: The file cannot be opened.
    """
    with entry.open() as stream:
        syntax, body = body_of(stream)
        with quiet():
            facts, pixel = _parsed(body, syntax)
            try:
                return _slices(entry, syntax, facts, pixel, body)
            except Refusal:
                raise
            except Exception:  # values of any class reach here from damaged files
                raise Refusal("E-DICOM-DAMAGED", "has a header with impossible values") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps pydicom from warning and logging about values that break a rule: it quotes them."""
    from pydicom.config import disable_value_validation, logger

    logger.addFilter(_is_loud)  # a second time adds nothing; other threads stay as loud as they were
    token = _QUIET.set(True)
    try:
        with disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _QUIET.reset(token)


def _is_loud(record: logging.LogRecord) -> bool:
    return not _QUIET.get()


def series_uids(stream: BinaryIO) -> tuple[str, str]:
    """Returns the study and series UID of a DICOM file of any kind.

    Raises:
        Refusal: It is no DICOM file, or has none.
    """
    from pydicom.filereader import read_dataset

    syntax, body = body_of(stream)
    try:
        with quiet():
            facts = read_dataset(
                body,
                syntax == IMPLICIT,
                syntax != BIG_ENDIAN,
                stop_when=lambda tag, *_: int(tag) > 0x0020000E,
                specific_tags=[0x0020000D, 0x0020000E],  # type: ignore[list-item]
            )
            found = str(facts.StudyInstanceUID), str(facts.SeriesInstanceUID)
    except Exception:  # as in `_parsed`
        raise Refusal("E-DICOM-DAMAGED", "cannot be parsed") from None
    if not all(found):
        raise Refusal("E-DICOM-DAMAGED", "does not say which series it belongs to")
    return found


def body_of(stream: BinaryIO) -> tuple[str, BinaryIO]:
    """Returns the transfer syntax of a DICOM file, and a stream at its data set, inflated if need be.

    Raises:
        Refusal: No DICOM file, no or an unknown transfer syntax, or damaged deflated data.
    """
    head = stream.read(132)
    if head[128:] != b"DICM":
        raise Refusal("E-DICOM-FORMAT", f"is no DICOM file{looks_like(head)}")
    syntax = _transfer_syntax(stream)
    if syntax not in NATIVE and syntax not in COMPRESSED:
        raise Refusal("E-DICOM-SYNTAX", "has no transfer syntax, or one that is not read")
    if syntax != DEFLATED:
        return syntax, stream
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(stream.read(), _MOST_INFLATED_BYTES)
    except zlib.error:
        raise Refusal("E-DICOM-DAMAGED", "has damaged deflated data") from None
    if not inflater.eof:
        raise Refusal("E-DICOM-DAMAGED", "has deflated data that are cut or too large")
    return syntax, io.BytesIO(content)


def _transfer_syntax(stream: BinaryIO) -> str:
    """Reads the file meta group, which is always explicit little endian, and stops behind it."""
    syntax = ""
    while True:
        start = stream.tell()
        head = stream.read(8)
        if len(head) < 8 or head[:2] != b"\x02\x00":
            stream.seek(start)
            return syntax
        element, representation, length = struct.unpack("<H2sH", head[2:])
        if representation in (b"OB", b"OW", b"UN", b"UT", b"SQ", b"UC", b"UR"):
            length = struct.unpack("<I", stream.read(4).ljust(4, b"\xff"))[0]
        value = stream.read(length) if length <= 1 << 16 else b""
        if len(value) < length:
            return ""
        if element == 0x0010:
            syntax = value.rstrip(b"\0 ").decode("ascii", "replace")


def _parsed(body: BinaryIO, syntax: str) -> tuple[Any, tuple[int, str, int, int] | None]:
    """Returns the wanted elements, and tag, representation, length and place of the pixel data."""
    from pydicom.filereader import read_dataset

    pixel: list[tuple[int, str, int, int]] = []

    def at_pixels(tag: int, representation: str | None, length: int) -> bool:
        if int(tag) in _PIXELS:
            pixel.append((int(tag), representation or "", length, body.tell()))
        return int(tag) > 0x7FE00000  # that one is only a group length

    try:
        facts = read_dataset(
            BoundedHeader(body),  # type: ignore[arg-type]
            syntax == IMPLICIT,
            syntax != BIG_ENDIAN,
            stop_when=at_pixels,
            specific_tags=list(_TAGS),  # type: ignore[arg-type]
        )
    except Exception:  # pydicom raises classes of many kinds for damaged files, some quote the values
        raise Refusal("E-DICOM-DAMAGED", "cannot be parsed") from None
    return facts, pixel[0] if pixel else None


def _slices(
    entry: Entry, syntax: str, facts: Any, pixel: tuple[int, str, int, int] | None, body: BinaryIO
) -> list[Slice]:
    _check_kind(facts)
    frames = frames_of(facts)
    if len(frames) == 1 and entry.size > _MOST_SLICE_BYTES:
        raise Refusal("E-DICOM-LIMIT", f"holds more than {_MOST_SLICE_BYTES:,} bytes for one slice")
    rows, columns = _whole(facts, "Rows"), _whole(facts, "Columns")
    first = _check_pixels(syntax, facts, pixel, rows * columns, len(frames), body)
    step = rows * columns * first.allocated // 8 if syntax in NATIVE else 0
    return [
        _slice(entry, frame, rows, columns, replace(first, offset=first.offset + number * step, frame=number))
        for number, frame in enumerate(frames)
    ]


def _slice(entry: Entry, facts: Any, rows: int, columns: int, pixels: Pixels) -> Slice:
    position = _floats(facts, "ImagePositionPatient", 3)
    orientation = _floats(facts, "ImageOrientationPatient", 6)
    spacing = _floats(facts, "PixelSpacing", 2)
    if not position or not orientation or not spacing:
        missing = "position" if not position else "orientation" if not orientation else "pixel spacing"
        raise Refusal("E-DICOM-POSITION", f"has no {missing} (it is no slice of a volume)")
    between = _floats(facts, "SpacingBetweenSlices", 1) or _floats(facts, "SliceThickness", 1)
    return Slice(
        entry,
        (str(facts.get("StudyInstanceUID", "")), str(facts.get("SeriesInstanceUID", ""))),
        hashlib.sha256(str(facts.get("PatientID", "") or "").strip().encode()).hexdigest(),
        str(facts.get("FrameOfReferenceUID", "") or ""),
        _word(facts.get("Modality", "")),
        tuple(str(value).upper() for value in facts.get("ImageType", None) or ()),
        rows,
        columns,
        position,
        orientation,
        spacing,
        between[0] if between else None,
        _rescale(facts),
        str(facts.get("RescaleType", "") or ""),
        str(facts.get("PhotometricInterpretation")),
        pixels,
        tuple(str(facts.get(name, "")) for name in ("StackID", "TemporalPositionIndex"))
        if pixels.frames > 1
        else (),
    )


def _check_kind(facts: Any) -> None:
    kind = str(facts.get("SOPClassUID", ""))
    if kind in _OTHER_KINDS or kind.startswith(_REPORT):
        raise Refusal(
            "E-DICOM-KIND", f"is {_OTHER_KINDS.get(kind, 'a structured report')}, no image of one slice"
        )


def _check_pixels(
    syntax: str,
    facts: Any,
    pixel: tuple[int, str, int, int] | None,
    values: int,
    frames: int,
    body: BinaryIO,
) -> Pixels:
    if pixel is None or values == 0:
        raise Refusal("E-DICOM-NO-PIXELS", "has no pixel data")
    if "MOSAIC" in [str(value).upper() for value in facts.get("ImageType", None) or ()]:
        raise Refusal("E-DICOM-FRAMES", "holds many frames; one slice a file is expected")
    if _whole(facts, "SamplesPerPixel") != 1 or not str(
        facts.get("PhotometricInterpretation", "")
    ).startswith("MONOCHROME"):
        raise Refusal("E-DICOM-COLOUR", "is a colour picture; grey slices are expected")
    tag, representation, length, place = pixel
    allocated, stored = _whole(facts, "BitsAllocated"), _whole(facts, "BitsStored")
    sound = allocated in (8, 16, 32) and 1 <= stored <= allocated and _whole(facts, "HighBit") == stored - 1
    if tag != 0x7FE00010 or not sound or (syntax == BIG_ENDIAN and allocated == 8 and representation == "OW"):
        raise Refusal("E-DICOM-BITS", "stores its pixels in a form that is not read")
    signed = _whole(facts, "PixelRepresentation") == 1
    found = Pixels(syntax, place, allocated, stored, signed, frames=frames)
    if syntax in COMPRESSED:
        if length != _UNDEFINED:
            raise Refusal("E-DICOM-LENGTH", "has compressed pixels without the frames they should be in")
        return found
    due = frames * values * allocated // 8
    held = body.seek(0, 2) - place
    if length == _UNDEFINED or length not in (due, due + due % 2) or held < length:
        raise Refusal(
            "E-DICOM-LENGTH", "holds fewer or more pixel bytes than its size needs; it was cut or damaged"
        )
    return found


def _rescale(facts: Any) -> tuple[float, float] | None:
    if facts.get("ModalityLUTSequence"):
        raise Refusal("E-DICOM-RESCALE", "maps its values by a table, which is not read")
    slope, intercept = _floats(facts, "RescaleSlope", 1), _floats(facts, "RescaleIntercept", 1)
    if slope is None and intercept is None:
        return None
    if slope is None or intercept is None or slope[0] == 0:
        raise Refusal("E-DICOM-RESCALE", "has half a rescale, or one with slope 0")
    return slope[0], intercept[0]


def _whole(facts: Any, name: str) -> int:
    value = facts.get(name)
    if isinstance(value, int) and 0 <= value <= 0xFFFF:
        return value
    if value is None and name in ("Rows", "Columns"):
        raise Refusal("E-DICOM-NO-PIXELS", "has no pixel data")
    raise Refusal("E-DICOM-DAMAGED", "has a header with missing or impossible values")


def _floats(facts: Any, name: str, count: int) -> tuple[float, ...] | None:
    """Returns the finite numbers of an element; None where it is absent or empty."""
    value = facts.get(name)
    if value is None or value == "":
        return None
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        return None
    numbers: tuple[float, ...] = ()
    with suppress(TypeError, ValueError):
        numbers = tuple(float(item) for item in values)
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise Refusal("E-DICOM-DAMAGED", "has a header with missing or impossible values")
    return numbers


def _word(value: Any) -> str:
    """Returns a modality, which is two or three capitals; anything else could be text from the file."""
    text = str(value)
    return text if text.isascii() and text.isalpha() and text.isupper() and len(text) <= 10 else "unknown"
