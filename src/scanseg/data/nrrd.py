"""NRRD in one file (.nrrd), raw or gzip, read and written strictly by its published format.

Source: http://teem.sourceforge.net/nrrd/format.html
"""

import gzip
import math
import re
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
from scanseg.data.text_header import TextHeader, numbers, read_until
from scanseg.data.voxels import Opened, Sink, check_length, pour_stream
from scanseg.types import Array, Geometry, Shape, Spacing

_TYPES = {
    "i1": "signed char,int8,int8_t",
    "u1": "uchar,unsigned char,uint8,uint8_t",
    "i2": "short,short int,signed short,signed short int,int16,int16_t",
    "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
    "i4": "int,signed int,int32,int32_t",
    "u4": "uint,unsigned int,uint32,uint32_t",
    "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
    "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
    "f4": "float",
    "f8": "double",
}
_DTYPES = {name: dtype for dtype, names in _TYPES.items() for name in names.split(",")}
# What turns the file's space into RAS.
_SPACES = {
    "right-anterior-superior": (1, 1), "ras": (1, 1), "left-anterior-superior": (-1, 1), "las": (-1, 1),
    "left-posterior-superior": (-1, -1), "lps": (-1, -1),
}  # fmt: skip
_UNKNOWN_SPACES = ("scanner-xyz", "3d-right-handed", "3d-left-handed")
_UNITS_MM = {
    "": 1.0, "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3,
    "µm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "micrometers": 1e-3, "nm": 1e-6,
}  # fmt: skip
_KEPT = ("space", "space dimension", "space directions", "space origin", "space units", "spacings", "units")
_HINT = "Export the image again, for example from 3D Slicer, as .nrrd in one file."


@dataclass(frozen=True)
class _Header:
    geometry: Geometry
    channels: int
    interleaved: bool
    dtype: np.dtype
    packed: bool
    offset: int

    @property
    def values(self) -> int:
        return math.prod(self.geometry.shape) * self.channels


def open_nrrd(path: Path, limits: Limits, spacing: Spacing | None = None) -> Opened:
    """Reads and checks the header of an NRRD file. Arguments and errors as `open_nifti`."""
    with open_file(path) as stream:
        start = stream.read(8)
        stream.seek(0)
        if not re.fullmatch(rb"NRRD000[1-5]", start):
            raise refused(path, f"this is no NRRD image{looks_like(start)}", code="E-NRRD-MAGIC", hint=_HINT)
        raw, offset = read_until(stream, (b"\n\n", b"\r\n\r\n"), path, limits)
    header = _parse(raw, offset, path, limits, spacing)
    with _source(path, header) as source:
        due = header.values * header.dtype.itemsize
        check_length(path, most=source.most(), due=due)
    return Opened(path, header.geometry, header.channels, header.channels, partial(_pour, path, header))


@contextmanager
def _source(path: Path, header: _Header) -> Iterator[Source]:
    with open_file(path) as stream:
        stream.seek(header.offset)
        yield InflatedSource(stream, path) if header.packed else PlainSource(stream, path)


def _pour(path: Path, header: _Header, sink: Sink) -> None:
    with _source(path, header) as source:
        interleaved = header.channels if header.interleaved else 1
        pour_stream(source, sink, path, dtype=header.dtype, values=header.values, interleaved=interleaved)


def _fields(raw: bytes, path: Path) -> TextHeader:
    fields = TextHeader(path, code="E-NRRD-HEADER", hint=_HINT)
    for line in raw.decode("utf-8", "replace").splitlines()[1:]:
        if not line.strip() or line.startswith("#") or ":=" in line:
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise fields.fault(f"the line {line[:60]!r} is no field")
        fields.add(name.strip().lower(), value.strip())
    return fields


def _parse(raw: bytes, offset: int, path: Path, limits: Limits, spacing: Spacing | None) -> _Header:
    fields = _fields(raw, path)
    for name in ("data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(name, "0") not in ("0", ""):
            raise fields.fault(
                f"the voxels are elsewhere ({name}); only voxels right behind the header are accepted"
            )
    kind = fields.get("type", "")
    if kind not in _DTYPES:
        raise fields.fault(f"the voxel type {kind!r} is not accepted; accepted are integers and floats")
    encoding = fields.get("encoding", "")
    if encoding not in ("raw", "gzip", "gz"):
        raise fields.fault(f"the encoding {encoding!r} is not accepted; accepted are raw and gzip")
    dtype = np.dtype(_DTYPES[kind])
    if dtype.itemsize > 1:
        endian = fields.get("endian", "")
        if endian not in ("little", "big"):
            raise fields.fault(f"the byte order {endian!r} is not little or big")
        dtype = dtype.newbyteorder("<" if endian == "little" else ">")
    sizes = fields.integers("sizes")
    if fields.integers("dimension") != [len(sizes)] or not 2 <= len(sizes) <= 4 or min(sizes) < 1:
        raise fields.fault(f"the sizes {sizes} do not fit the dimension; accepted are 2 to 4 positive sizes")
    limits.check_size(path, values=math.prod(sizes), value_bytes=dtype.itemsize)
    axis = _channel_axis(fields, len(sizes))
    channels = 1 if axis is None else sizes.pop(axis)
    kept = _spatial_fields(fields, axis)
    geometry = _geometry(kept, tuple(sizes[::-1]), fields, limits, spacing)
    return _Header(geometry, channels, axis == 0, dtype, encoding != "raw", offset)


def _channel_axis(fields: TextHeader, axes: int) -> int | None:
    """Returns the axis that is no direction of space: the fastest, the slowest or none."""
    if "space directions" in fields:
        tokens = _vectors(fields, "space directions")
        flat = [index for index, token in enumerate(tokens) if token == "none"]
    elif "kinds" in fields:
        tokens = fields["kinds"].split()
        flat = [
            index
            for index, kind in enumerate(tokens)
            if kind.lower() not in ("domain", "space", "???", "none")
        ]
    else:
        tokens, flat = [""] * axes, [3] if axes == 4 else []
    if len(tokens) != axes:
        raise fields.fault(f"it describes {len(tokens)} axes, but there are {axes}")
    if len(flat) > 1 or axes - len(flat) not in (2, 3) or (flat and flat[0] not in (0, axes - 1)):
        raise fields.fault("accepted are two or three axes of space and one for channels, first or last")
    return flat[0] if flat else None


def _vectors(fields: Mapping[str, str], name: str) -> list[str]:
    return re.findall(r"\([^()]*\)|[^\s()]+", fields[name])


def _spatial_fields(fields: TextHeader, axis: int | None) -> dict[str, str]:
    """Returns the fields that say where the voxels lie, without the channel axis."""
    kept = {name: fields[name] for name in _KEPT if name in fields}
    if axis is None:
        return kept
    for name in ("space directions", "spacings", "units"):
        if name in kept:
            tokens = re.findall(r'"[^"]*"', kept[name]) if name == "units" else _vectors(kept, name)
            kept[name] = " ".join(token for index, token in enumerate(tokens) if index != axis)
    return kept


def _geometry(
    kept: dict[str, str], shape: Shape, fields: TextHeader, limits: Limits, spacing: Spacing | None
) -> Geometry:
    path, header = fields.path, {"fields": kept}
    check_spacing_argument(spacing, shape, limits)
    affine, found = _placed(kept, len(shape), fields)
    if affine is not None:
        checked_affine(affine, path, limits, name="space directions")
    elif found is None:
        given = tuple(float(s) for s in spacing) if spacing else (1.0,) * len(shape)
        return Geometry(shape, given, "mm" if spacing else "px", None, "nrrd", header)
    else:
        check_spacing(found, path, limits, name="header")
    check_given(spacing, found or (), path)
    return Geometry(shape, found or (), "mm", affine, "nrrd", header)


def _placed(kept: Mapping[str, str], axes: int, fields: TextHeader) -> tuple[Array | None, Spacing | None]:
    """Returns the affine (None where the orientation is unknown) and the spacing (None if there is none)."""
    if "space directions" not in kept:
        if "spacings" not in kept:
            return None, None
        unit = _unit(kept.get("units", ""), fields)
        sizes = numbers(kept["spacings"].split(), axes, fields, "spacings")
        return None, tuple(size * unit for size in sizes[::-1])
    rows = [
        numbers(v.strip("()").split(","), axes, fields, "space directions")
        for v in _vectors(kept, "space directions")
    ]
    if len(rows) != axes:
        raise fields.fault(f"it has {len(rows)} space directions for {axes} axes")
    unit = _unit(kept.get("space units", ""), fields)
    columns = np.array(rows).T * unit
    space = kept.get("space", "").lower()
    if axes == 2 or space not in _SPACES:
        if space not in (*_SPACES, *_UNKNOWN_SPACES, "") and axes == 3:
            raise fields.fault(f"the space {space!r} is not accepted; accepted are LPS, RAS and LAS")
        return None, tuple(float(s) for s in np.linalg.norm(columns, axis=0)[::-1])
    affine = np.eye(4)
    affine[:3, :3] = columns
    origin = kept.get("space origin", "(0,0,0)").strip("()").split(",")
    affine[:3, 3] = np.array(numbers(origin, 3, fields, "space origin")) * unit
    affine[:2] *= np.array(_SPACES[space])[:, None]
    return affine, spacing_of(affine)


def _unit(text: str, fields: TextHeader) -> float:
    names = {name.strip().lower() for name in re.findall(r'"([^"]*)"', text)} - {"???"}
    factors = {_UNITS_MM.get(name) for name in names} or {1.0}
    if len(factors) > 1 or None in factors:
        raise fields.fault(f"the units of length {text} are unknown or mixed")
    return float(next(iter(factors)) or 1.0)


def write_nrrd(path: Path, array: Array, geometry: Geometry) -> None:
    """Writes voxels, gzip-compressed, with the geometry of the input.

    Args:
        path: Written in place; the caller makes it atomic.
        array: (*spatial) or, with one axis more than the geometry, (channel, *spatial).
        geometry: The fields of an NRRD input are written again as they were while they still fit its affine;
            otherwise the affine becomes `space directions` in LPS, as ITK and 3D Slicer write it.
    """
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    axes, more = len(geometry.shape), array.ndim > len(geometry.shape)
    kept = dict(geometry.header["fields"]) if _still_fits(geometry) else _new_fields(geometry)
    lines = ["NRRD0004", f"type: {_TYPES[array.dtype.str[1:]].split(',')[-1]}", f"dimension: {array.ndim}"]
    lines += [f"{name}: {kept.pop(name)}" for name in ("space", "space dimension") if name in kept]
    lines.append("sizes: " + " ".join(str(size) for size in array.shape[::-1]))
    fillers = {"space directions": " none", "spacings": " nan", "units": ' ""'}
    lines += [f"{name}: {value}{fillers.get(name, '') if more else ''}" for name, value in kept.items()]
    lines += ["kinds: " + "domain " * axes + "list" * more, "endian: little", "encoding: gzip"]
    with open(path, "wb") as stream:
        stream.write(("\n".join(line.strip() for line in lines) + "\n\n").encode())
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=6) as packed:
            packed.write(array.data.cast("B"))


def _still_fits(geometry: Geometry) -> bool:
    """Returns whether the fields of the input still say what the geometry says."""
    kept: Any = geometry.header.get("fields")
    if geometry.format != "nrrd" or kept is None:
        return False
    affine, found = _placed(kept, len(geometry.shape), TextHeader(Path(), code="E-NRRD-HEADER", hint=""))
    same_place = affine is geometry.affine or (
        affine is not None and geometry.affine is not None and np.array_equal(affine, geometry.affine)
    )
    return same_place and (found == geometry.spacing if found else geometry.unit == "px")


def _new_fields(geometry: Geometry) -> dict[str, str]:
    if geometry.affine is None:
        if geometry.unit == "px":
            return {}
        return {"spacings": " ".join(repr(float(size)) for size in geometry.spacing[::-1])}
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine
    vectors = ["(" + ",".join(repr(float(v)) for v in lps[:3, column]) + ")" for column in range(4)]
    return {
        "space": "left-posterior-superior",
        "space directions": " ".join(vectors[:3]),
        "space origin": vectors[3],
    }
