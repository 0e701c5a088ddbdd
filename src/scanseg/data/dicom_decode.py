"""Compressed DICOM pixels, decoded in a child process: a damaged stream may end or hang a codec, not us.

The child is this module run by itself. It reads requests and writes answers through its pipes:

    request   rows, columns, length (three 8-byte integers), then the bytes of a DICOM file
    answer    one byte: `v` values, `d` damaged, `n` no decoder; for values their item size and sign
              (two bytes), then rows x columns values in the machine's byte order
"""

import contextlib
import os
import struct
import subprocess
import sys
import threading
from typing import Any, BinaryIO

import numpy as np

from scanseg.types import Array

_MEMORY_BYTES = 4 << 30
_SECONDS = 60.0
_HEAD = struct.Struct("=3Q")


class NoDecoder(Exception):
    """Nothing that is installed decodes this transfer syntax."""


class Decoder:
    """A child that decodes slices one after another; it starts with the first and ends with the context."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def decode(self, content: bytes, rows: int, columns: int) -> Array:
        """Returns the stored values of a DICOM file with one compressed frame, (rows, columns) integers.

        Raises:
            ValueError: Damaged, another size than announced, or over a minute of work.
            NoDecoder: The decoder is not installed.
        """
        child = self._child = self._child or _started()
        if child.stdin is None or child.stdout is None:
            raise ValueError("no pipes")
        timer = threading.Timer(_SECONDS, child.kill)
        timer.start()
        try:
            child.stdin.write(_HEAD.pack(rows, columns, len(content)) + content)
            child.stdin.flush()
            return _answer(child.stdout, rows, columns)
        except OSError:
            raise ValueError("the decoder ended") from None
        finally:
            timer.cancel()
            if child.poll() is not None:
                self._child = None


def _started() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "scanseg.data.dicom_decode"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _answer(stream: BinaryIO | Any, rows: int, columns: int) -> Array:
    kind = stream.read(1)
    if kind == b"n":
        raise NoDecoder
    head = stream.read(2) if kind == b"v" else b""
    if len(head) < 2 or head[0] not in (1, 2, 4):
        raise ValueError("damaged")
    dtype = np.dtype(f"{'i' if head[1] else 'u'}{head[0]}")
    raw = stream.read(rows * columns * dtype.itemsize)
    if len(raw) != rows * columns * dtype.itemsize:
        raise ValueError("the decoder ended")
    return np.frombuffer(raw, dtype).reshape(rows, columns)


def _decoded(content: bytes, rows: int, columns: int) -> Array:
    import io

    from pydicom import dcmread
    from pydicom.pixels.decoders.base import get_decoder

    from scanseg.data.dicom_header import quiet

    with quiet():
        document = dcmread(io.BytesIO(content))
        decoder = get_decoder(document.file_meta.TransferSyntaxUID)
        if not decoder.is_available:
            raise NoDecoder
        _check_codestream(document, rows, columns)
        values, facts = decoder.as_array(document, raw=True, index=0)
    if values.shape != (rows, columns) or values.dtype.kind not in "iu" or facts["samples_per_pixel"] != 1:
        raise ValueError("another shape")
    unused = int(facts["bits_allocated"]) - int(facts["bits_stored"])
    if str(document.file_meta.TransferSyntaxUID).endswith(".2.5") and unused:
        values = (values << unused) >> unused  # RLE gives the bits as stored, the others values
    return np.ascontiguousarray(values)


def _check_codestream(document: Any, rows: int, columns: int) -> None:
    """Compares the size inside the compressed data with the header, so that no decoder allocates more."""
    from pydicom.encaps import generate_frames

    frames = generate_frames(document.PixelData, number_of_frames=1)
    frame = next(frames)
    if next(frames, None) is not None:
        raise ValueError("more than one frame")
    if str(document.file_meta.TransferSyntaxUID).endswith(".2.5"):
        if len(frame) * 64 < rows * columns:  # two bytes of RLE give at most 128
            raise ValueError("too short")
    elif _codestream_size(frame) != (rows, columns, 1):
        raise ValueError("the sizes differ")


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
        place += 1 if kind == 0xFF else 2 + length


def _limit() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold pixels


def _serve() -> None:
    """Answers requests until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # codecs print; nothing but answers may reach the pipe
    requests = sys.stdin.buffer
    _limit()
    while len(head := requests.read(_HEAD.size)) == _HEAD.size:
        rows, columns, length = _HEAD.unpack(head)
        try:
            values = _decoded(requests.read(length), rows, columns)
            kind = bytes((values.dtype.itemsize, values.dtype.kind == "i"))
            answers.write(b"v" + kind + values.astype(values.dtype.newbyteorder("="), copy=False).tobytes())
        except NoDecoder:
            answers.write(b"n")
        except Exception:  # codecs raise classes of many kinds for damaged data
            answers.write(b"d")
        answers.flush()


if __name__ == "__main__":
    _serve()
