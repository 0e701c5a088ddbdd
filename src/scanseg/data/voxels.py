"""What the numbers of a file become: float32 images or exact int32 label maps."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from scanseg.data.limits import refused
from scanseg.data.streams import Source
from scanseg.types import Array, Geometry

_CHUNK_VALUES = 1 << 18
_LARGEST_LABEL = 2**31 - 1


class Sink(Protocol):
    """Takes the voxels of one file in order."""

    for_labels: bool

    def put(self, values: Array, start: int, *, interleaved: bool = False) -> None:
        """Stores `values` from position `start` of the file on.

        Args:
            values: One-dimensional, any real dtype. With `interleaved`: (voxels, channel).
            start: Index of the first value in (channel, *spatial) order; with `interleaved` of the voxel.
            interleaved: Whether the channels of one voxel stand side by side.
        """


@dataclass(frozen=True)
class Opened:
    """A file whose header was read and checked.

    Attributes:
        path: The file.
        geometry: Where its voxels lie.
        channels: Number of channels when read as an image.
        label_channels: Number of channels when read as a label map (a palette counts as one).
        pour: Reads all voxels into a sink; raises DataError when the file is damaged.
    """

    path: Path
    geometry: Geometry
    channels: int
    label_channels: int
    pour: Callable[[Sink], None]


class ImageSink:
    """Fills a float32 array (channel, *spatial) and counts what is not finite."""

    for_labels = False

    def __init__(self, out: Array, *, nan_fill: float | None = None) -> None:
        self._flat = out.reshape(-1)
        self._by_voxel = out.reshape(out.shape[0], -1)
        self._fill = nan_fill
        self._nonfinite = self._overflown = 0

    def put(self, values: Array, start: int, *, interleaved: bool = False) -> None:
        """See `Sink`."""
        if values.dtype.kind == "f":
            values = self._checked(values)
        if interleaved:
            self._by_voxel[:, start : start + len(values)] = values.T
        else:
            self._flat[start : start + values.size] = values

    def _checked(self, values: Array) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            single = values.astype(np.float32, copy=False)
        good = np.isfinite(single)
        if good.all():
            return single
        bad = int(np.count_nonzero(~np.isfinite(values)))
        self._nonfinite += bad
        self._overflown += int(np.count_nonzero(~good)) - bad
        return np.where(good, single, np.float32(self._fill or 0.0))

    def finish(self, path: Path) -> None:
        """Raises DataError when a value was NaN, infinite (unless filled) or too large for float32."""
        total = self._flat.size
        if self._overflown:
            raise refused(
                path,
                f"{self._overflown:,} of {total:,} values are beyond 3.4e38 and do not fit 32-bit floats",
                code="E-IMAGE-RANGE",
                hint="Rescale the intensities.",
            )
        if self._nonfinite and self._fill is None:
            raise refused(
                path,
                f"{self._nonfinite:,} of {total:,} values are NaN or infinite; only finite ones are accepted",
                code="E-IMAGE-NONFINITE",
                hint="Repair the image, or say what to put there instead (nan_fill=, --nan-fill).",
            )


class LabelSink:
    """Fills an int32 array (channel, *spatial) with exact non-negative integers."""

    for_labels = True

    def __init__(self, out: Array) -> None:
        self._flat = out.reshape(-1)
        self._by_voxel = out.reshape(out.shape[0], -1)
        self._faults: dict[str, tuple[int, str]] = {}

    def put(self, values: Array, start: int, *, interleaved: bool = False) -> None:
        """See `Sink`."""
        values = self._checked(values)
        if interleaved:
            self._by_voxel[:, start : start + len(values)] = values.T
        else:
            self._flat[start : start + values.size] = values

    def _checked(self, values: Array) -> Array:
        faulty = np.zeros(values.shape, dtype=bool)
        if values.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                faulty |= self._count("E-LABEL-NOT-INTEGER", values, np.floor(values) != values)
                faulty |= self._count("E-LABEL-NOT-INTEGER", values, np.isinf(values))
        if values.dtype.kind in "if":
            faulty |= self._count("E-LABEL-NEGATIVE", values, (values < 0) & ~faulty)
        if values.dtype.kind == "f" or np.iinfo(values.dtype).max > _LARGEST_LABEL:
            faulty |= self._count("E-LABEL-RANGE", values, (values >= _LARGEST_LABEL + 1) & ~faulty)
        return np.where(faulty, 0, values) if faulty.any() else values

    def _count(self, code: str, values: Array, bad: Array) -> Array:
        number = int(np.count_nonzero(bad))
        if number:
            seen, first = self._faults.get(code, (0, str(values[bad].flat[0])))
            self._faults[code] = (seen + number, first)
        return bad

    def finish(self, path: Path) -> None:
        """Raises DataError when a value was no whole number from 0 to 2147483647; names value and count."""
        total = self._flat.size

        def text(code: str, what: str) -> str:
            count, first = self._faults[code]
            return f"{count:,} of {total:,} label values are {what}, for example {first}"

        if "E-LABEL-NOT-INTEGER" in self._faults:
            raise refused(
                path,
                text("E-LABEL-NOT-INTEGER", "not whole numbers")
                + "; labels must be exact integers from 0 on",
                code="E-LABEL-NOT-INTEGER",
                hint="Was it resampled with interpolation or rescaled? Use nearest neighbour and no slope.",
            )
        if "E-LABEL-NEGATIVE" in self._faults:
            raise refused(
                path,
                text("E-LABEL-NEGATIVE", "negative") + "; labels must be integers from 0 on",
                code="E-LABEL-NEGATIVE",
                hint="Map negative values to a class of their own or to background.",
            )
        if "E-LABEL-RANGE" in self._faults:
            raise refused(
                path,
                text("E-LABEL-RANGE", "too large") + f"; accepted are 0 to {_LARGEST_LABEL}",
                code="E-LABEL-RANGE",
            )


def allocate(shape: tuple[int, ...], dtype: type, path: Path) -> Array:
    """Returns an uninitialised array.

    Raises:
        DataError: There is not enough memory.
    """
    try:
        return np.empty(shape, dtype=dtype)
    except MemoryError as error:
        size = int(np.prod([float(n) for n in shape])) * np.dtype(dtype).itemsize
        raise refused(
            path,
            f"reading it needs {size:,} bytes of memory, more than can be had",
            code="E-IMAGE-MEMORY",
            hint="Crop or downsample the image, or use a machine with more memory.",
        ) from error


def pour_stream(
    source: Source,
    sink: Sink,
    path: Path,
    *,
    dtype: np.dtype,
    values: int,
    interleaved: int = 1,
    scale: tuple[float, float] | None = None,
) -> None:
    """Sends `values` numbers from `source` to `sink`, chunk by chunk; the file must end with them.

    Args:
        source: At the first voxel.
        sink: Where the voxels go.
        path: For messages.
        dtype: Type in the file, with byte order.
        values: How many, all channels counted.
        interleaved: Number of channels that stand side by side; 1 where whole channels follow each other.
        scale: Slope and intercept, applied in float64.

    Raises:
        DataError: The file holds fewer or more bytes.
    """
    chunk = _CHUNK_VALUES // interleaved * interleaved
    for start in range(0, values, chunk):
        count = min(chunk, values - start)
        data = source.read(count * dtype.itemsize)
        if len(data) < count * dtype.itemsize:
            raise truncated(path, held=start * dtype.itemsize + len(data), due=values * dtype.itemsize)
        block = np.frombuffer(data, dtype=dtype)
        if scale is not None:
            block = block.astype(np.float64) * scale[0] + scale[1]
        if interleaved > 1:
            sink.put(block.reshape(-1, interleaved), start // interleaved, interleaved=True)
        else:
            sink.put(block, start)
    if not source.at_end():
        raise refused(
            path,
            f"bytes follow the {values * dtype.itemsize:,} bytes of voxels that the header announces",
            code="E-FILE-TRAILING",
            hint="The header does not fit the data; export the image again.",
        )


def check_length(path: Path, *, most: int, due: int) -> None:
    """Refuses a file too small to hold the bytes its header announces, before they are read.

    Args:
        path: For the message.
        most: Upper bound of the bytes that the file can hold behind its header, see `Source.most`.
        due: Bytes announced.
    """
    if most < due:
        raise truncated(path, held=most, due=due)


def truncated(path: Path, *, held: int, due: int) -> Exception:
    """Returns the error for a file with fewer bytes than announced."""
    return refused(
        path,
        f"the header announces {due:,} bytes of voxels, the file can hold {held:,}; it was cut",
        code="E-FILE-TRUNCATED",
        hint="Copy or download the file again.",
    )
