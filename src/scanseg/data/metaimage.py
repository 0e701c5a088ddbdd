"""MetaImage (.mha; .mhd with its .raw beside it), plain or compressed, read and written strictly.

Its space is LPS, as ITK writes it; `AnatomicalOrientation` only repeats the matrix in words and is not read.

Source: https://itk.org/Wiki/ITK/MetaIO/Documentation and the files ITK 5 writes.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.data.affine import (
    check_given,
    check_spacing,
    check_spacing_argument,
    checked_affine,
    spacing_of,
)
from scanseg.data.limits import Limits, looks_like, open_file, refused
from scanseg.data.streams import InflatedSource, PlainSource, Source
from scanseg.data.text_header import TextHeader, numbers
from scanseg.data.voxels import Opened, Sink, check_length, pour_stream
from scanseg.types import Array, Geometry, Shape, Spacing

_DTYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NAMES = {"u1": "MET_UCHAR", "u2": "MET_USHORT", "u4": "MET_UINT", "f4": "MET_FLOAT"}
_MATRIX = ("TransformMatrix", "Rotation", "Orientation")
_ORIGIN = ("Offset", "Position", "Origin")
_SPACING = ("ElementSpacing", "ElementSize")
_HINT = "Export the image again, for example with SimpleITK or 3D Slicer, as .mha."


@dataclass(frozen=True)
class _Header:
    geometry: Geometry
    channels: int
    dtype: np.dtype
    packed: bool
    data: Path
    offset: int

    @property
    def values(self) -> int:
        return math.prod(self.geometry.shape) * self.channels


def open_metaimage(path: Path, limits: Limits, spacing: Spacing | None = None) -> Opened:
    """Reads and checks the header of a MetaImage. Arguments and errors as `open_nifti`."""
    fields, offset = _fields(path, limits)
    header = _parse(fields, offset, limits, spacing)
    with _source(header) as source:
        if header.packed and fields.get("CompressedDataSize", "0") != "0":
            held = header.data.stat().st_size - header.offset
            if fields.integers("CompressedDataSize") != [held]:
                raise refused(
                    path,
                    f"its header announces {fields['CompressedDataSize']} compressed bytes, it holds {held}",
                    code="E-FILE-TRUNCATED",
                    hint="Copy or download the file again.",
                )
        check_length(header.data, most=source.most(), due=header.values * header.dtype.itemsize)
    return Opened(path, header.geometry, header.channels, header.channels, partial(_pour, header))


@contextmanager
def _source(header: _Header) -> Iterator[Source]:
    with open_file(header.data) as stream:
        stream.seek(header.offset)
        packed = InflatedSource(stream, header.data, kind="either") if header.packed else None
        yield packed or PlainSource(stream, header.data)


def _pour(header: _Header, sink: Sink) -> None:
    with _source(header) as source:
        pour_stream(
            source, sink, header.data, dtype=header.dtype, values=header.values, interleaved=header.channels
        )


def _fields(path: Path, limits: Limits) -> tuple[TextHeader, int]:
    """Returns the fields and where the header ends, which is behind the line ElementDataFile."""
    fields = TextHeader(path, code="E-METAIMAGE-HEADER", hint=_HINT)
    with open_file(path) as stream:
        start = stream.read(256)
        stream.seek(0)
        if b"=" not in start.partition(b"\n")[0]:
            raise refused(
                path, f"this is no MetaImage{looks_like(start)}", code="E-METAIMAGE-MAGIC", hint=_HINT
            )
        while stream.tell() <= limits.text_header_bytes:
            line = stream.readline(4096)
            if not line.endswith(b"\n"):
                break
            name, sign, value = line.decode("utf-8", "replace").partition("=")
            if not line.strip():
                continue
            if not sign or not name.strip().replace("_", "").isalnum():
                raise refused(
                    path,
                    f"this is no MetaImage, a line of it is {line[:60]!r}",
                    code="E-METAIMAGE-MAGIC",
                    hint=_HINT,
                )
            fields.add(name.strip(), value.strip())
            if name.strip() == "ElementDataFile":
                return fields, stream.tell()
    raise refused(
        path,
        "the end of its header (ElementDataFile) was not found; it was cut or is damaged",
        code="E-FILE-TRUNCATED",
        hint="Copy or download the file again.",
    )


def _is_true(fields: TextHeader, name: str, default: str) -> bool:
    value = fields.get(name, default).lower()
    if value not in ("true", "false", "1", "0"):
        raise fields.fault(f"the field {name!r} must be True or False, got {value[:60]!r}")
    return value in ("true", "1")


def _parse(fields: TextHeader, offset: int, limits: Limits, spacing: Spacing | None) -> _Header:
    axes = fields.integers("NDims")
    sizes = fields.integers("DimSize")
    if axes not in ([2], [3]) or len(sizes) != axes[0] or min(sizes) < 1:
        raise fields.fault(f"it has {axes} axes of sizes {sizes}; accepted are 2 or 3 positive sizes")
    kind = fields.get("ElementType", "")
    if kind not in _DTYPES:
        raise fields.fault(f"the voxel type {kind!r} is not accepted; accepted are integers and floats")
    if not _is_true(fields, "BinaryData", "True"):
        raise fields.fault("the voxels are text; only binary voxels are accepted")
    if fields.get("HeaderSize", "0") != "0":
        raise fields.fault("a HeaderSize other than 0 is not accepted")
    order = "BinaryDataByteOrderMSB" if "BinaryDataByteOrderMSB" in fields else "ElementByteOrderMSB"
    big = _is_true(fields, order, "False")
    dtype = np.dtype((">" if big else "<") + _DTYPES[kind])
    channels = fields.integers("ElementNumberOfChannels")[0] if "ElementNumberOfChannels" in fields else 1
    if channels < 1:
        raise fields.fault("it has no channels")
    limits.check_size(fields.path, values=math.prod(sizes) * channels, value_bytes=dtype.itemsize)
    data = _data_file(fields)
    return _Header(
        geometry=_geometry(fields, tuple(sizes[::-1]), limits, spacing),
        channels=channels,
        dtype=dtype,
        packed=_is_true(fields, "CompressedData", "False"),
        data=data,
        offset=offset if data == fields.path else 0,
    )


def _data_file(fields: TextHeader) -> Path:
    """Returns the file with the voxels: the same one, or one of plain name in the same folder."""
    name = fields["ElementDataFile"]
    if name.upper() == "LOCAL":
        return fields.path
    if fields.path.name.lower().endswith(".mha"):
        raise fields.fault("an .mha file must hold its voxels itself (ElementDataFile = LOCAL)")
    if (
        name != Path(name).name
        or name in ("", ".", "..")
        or "\\" in name
        or "%" in name
        or name.upper() == "LIST"
    ):
        raise fields.fault(f"the file of voxels {name[:80]!r} must be one file in the same folder")
    return fields.path.with_name(name)


def _geometry(fields: TextHeader, shape: Shape, limits: Limits, spacing: Spacing | None) -> Geometry:
    check_spacing_argument(spacing, shape, limits)
    names = (*_MATRIX, *_ORIGIN, *_SPACING, "CenterOfRotation", "AnatomicalOrientation")
    kept = {name: fields[name] for name in names if name in fields}
    affine, found = _placed(kept, len(shape), fields)
    header = {"fields": kept}
    if found is None:
        given = tuple(float(s) for s in spacing) if spacing else (1.0,) * len(shape)
        return Geometry(shape, given, "mm" if spacing else "px", None, "mha", header)
    check_spacing(found, fields.path, limits, name="header")
    if affine is not None:
        checked_affine(affine, fields.path, limits, name="TransformMatrix")
    check_given(spacing, found, fields.path)
    return Geometry(shape, found, "mm", affine, "mha", header)


def _placed(kept: Mapping[str, str], axes: int, fields: TextHeader) -> tuple[Array | None, Spacing | None]:
    """Returns the affine (None in 2D and without a matrix) and the spacing (None if there is none)."""
    size = next((name for name in _SPACING if name in kept), None)
    matrix = next((name for name in _MATRIX if name in kept), None)
    origin = next((name for name in _ORIGIN if name in kept), None)
    if size is None and matrix is None:
        return None, None
    sizes = numbers(kept[size].split(), axes, fields, size) if size else [1.0] * axes
    if min(sizes) <= 0:
        raise fields.fault(f"the spacing {sizes} is not positive")
    spacing = tuple(sizes[::-1])
    if matrix is None or axes == 2:
        return None, spacing
    # the numbers of one axis stand together
    axes_xyz = np.reshape(numbers(kept[matrix].split(), 9, fields, matrix), (3, 3))
    lengths = np.linalg.norm(axes_xyz, axis=1)
    if np.abs(lengths - 1).max() > 1e-2:
        raise fields.fault(f"the axes in {matrix} have the lengths {lengths}; accepted is 1")
    affine = np.eye(4)
    affine[:3, :3] = axes_xyz.T * sizes
    if origin is not None:
        affine[:3, 3] = numbers(kept[origin].split(), 3, fields, origin)
    affine[:2] *= -1
    return affine, spacing_of(affine)


def write_metaimage(path: Path, array: Array, geometry: Geometry) -> None:
    """Writes voxels into one compressed .mha file, with the geometry of the input.

    Args:
        path: Written in place; the caller makes it atomic.
        array: (*spatial) or, with one axis more than the geometry, (channel, *spatial).
        geometry: The fields of a MetaImage are written again as they were while they still fit its affine;
            otherwise they are made from the affine or the spacing.
    """
    channels = array.shape[0] if array.ndim > len(geometry.shape) else 1
    if array.ndim > len(geometry.shape):
        array = np.moveaxis(array, 0, -1)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    packed = zlib.compress(array.data.cast("B"), 6)
    kept = dict(geometry.header["fields"]) if _still_fits(geometry) else _new_fields(geometry)
    lines = {
        "ObjectType": "Image",
        "NDims": str(len(geometry.shape)),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(len(packed)),
        **kept,
        "DimSize": " ".join(str(size) for size in geometry.shape[::-1]),
        **({"ElementNumberOfChannels": str(channels)} if channels > 1 else {}),
        "ElementType": _NAMES[array.dtype.str[1:]],
        "ElementDataFile": "LOCAL",
    }
    with open(path, "wb") as stream:
        stream.write("".join(f"{name} = {value}\n" for name, value in lines.items()).encode())
        stream.write(packed)


def _still_fits(geometry: Geometry) -> bool:
    """Returns whether the fields of the input still say what the geometry says."""
    kept: Any = geometry.header.get("fields")
    if geometry.format != "mha" or kept is None:
        return False
    affine, found = _placed(kept, len(geometry.shape), TextHeader(Path(), code="E-METAIMAGE-HEADER", hint=""))
    if affine is None or geometry.affine is None:
        return affine is geometry.affine and (found == geometry.spacing if found else geometry.unit == "px")
    return np.array_equal(affine, geometry.affine)


def _new_fields(geometry: Geometry) -> dict[str, str]:
    axes = len(geometry.shape)
    sizes = {"ElementSpacing": " ".join(repr(float(size)) for size in geometry.spacing[::-1])}
    if geometry.affine is None:
        return {} if geometry.unit == "px" else sizes
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine
    directions = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    return {
        "TransformMatrix": " ".join(repr(float(v)) for v in directions.T.ravel()),
        "Offset": " ".join(repr(float(v)) for v in lps[:3, 3]),
        "CenterOfRotation": " ".join(["0"] * axes),
        **sizes,
    }
