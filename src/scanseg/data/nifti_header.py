"""The header of NIfTI-1 and NIfTI-2: what its bytes mean.

Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.data.limits import Limits, looks_like, refused
from scanseg.data.nifti_geometry import new_fields, nifti_geometry, still_fits
from scanseg.errors import DataError
from scanseg.types import Array, Geometry, Shape, Spacing

HEADER_SIZES = {1: 348, 2: 540}
_MAGICS = {1: b"n+1\x00", 2: b"n+2\x00\r\n\x1a\n"}
_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_RGB24 = 128
_REFUSED_DTYPES = {
    1: "single bits", 32: "complex numbers", 1536: "128-bit floats", 1792: "complex numbers",
    2048: "complex numbers", 2304: "RGBA colours",
}  # fmt: skip
# name: (struct format, offset) of the fields that matter here
_FIELDS: dict[int, dict[str, tuple[str, int]]] = {
    1: {
        "dim": ("8h", 40), "datatype": ("h", 70), "bitpix": ("h", 72), "pixdim": ("8f", 76),
        "vox_offset": ("f", 108), "scale": ("2f", 112), "units": ("B", 123), "qform_code": ("h", 252),
        "sform_code": ("h", 254), "qform": ("6f", 256), "sform": ("12f", 280),
    },
    2: {
        "dim": ("8q", 16), "datatype": ("h", 12), "bitpix": ("h", 14), "pixdim": ("8d", 104),
        "vox_offset": ("q", 168), "scale": ("2d", 176), "units": ("i", 500), "qform_code": ("i", 344),
        "sform_code": ("i", 348), "qform": ("6d", 352), "sform": ("12d", 400),
    },
}  # fmt: skip
_DAMAGED = "The header is damaged; copy or export the image again."


@dataclass(frozen=True)
class Header:
    """What reading the voxels needs.

    Attributes:
        geometry: Where they lie.
        channels: Number of channels; colours are three.
        values: Number of values in the file, all channels counted.
        dtype: With byte order.
        interleaved: Values side by side for one voxel: 3 for colours, else 1.
        offset: First byte of the voxels.
        scale: Slope and intercept, None where there is nothing to do.
    """

    geometry: Geometry
    channels: int
    values: int
    dtype: np.dtype
    interleaved: int
    offset: int
    scale: tuple[float, float] | None


def parse_header(raw: bytes, path: Path, limits: Limits, spacing: Spacing | None) -> Header:
    """Returns the checked header.

    Args:
        raw: The first 540 bytes of the uncompressed file, fewer if it has fewer.
        path: For messages.
        limits: Sizes that are accepted.
        spacing: See `open_nifti`.

    Raises:
        DataError: Any field that matters is not what the format allows, or what we can read.
    """
    version, order = _version(raw, path)
    fields = {
        name: struct.unpack_from(order + form, raw, offset)
        for name, (form, offset) in _FIELDS[version].items()
    }
    shape_xyz, channels = _shape(fields["dim"], path)
    dtype, interleaved = _dtype(fields["datatype"][0], fields["bitpix"][0], order, path)
    if interleaved > 1 and channels > 1:
        raise refused(path, "a colour image with a fourth axis is not accepted", code="E-NIFTI-SHAPE")
    values = math.prod(shape_xyz) * channels * interleaved
    limits.check_size(path, values=values, value_bytes=dtype.itemsize)
    return Header(
        geometry=nifti_geometry(_kept(version, fields), shape_xyz[::-1], path, limits, spacing),
        channels=channels * interleaved,
        values=values,
        dtype=dtype,
        interleaved=interleaved,
        offset=_offset(fields["vox_offset"][0], version, path, limits),
        scale=_scale(fields["scale"][0], fields["scale"][1], path),
    )


def _version(raw: bytes, path: Path) -> tuple[int, str]:
    if not raw:
        raise refused(path, "the file holds no bytes", code="E-FILE-EMPTY", hint="Copy the file again.")
    for order in "<>":
        for version, size in HEADER_SIZES.items():
            if len(raw) < 4 or struct.unpack_from(order + "i", raw)[0] != size:
                continue
            if len(raw) < size:
                raise refused(
                    path,
                    f"the file ends after {len(raw)} bytes, inside its header of {size}",
                    code="E-FILE-TRUNCATED",
                    hint="Copy or download the file again.",
                )
            magic = raw[344:348] if version == 1 else raw[4:12]
            if magic == _MAGICS[version]:
                return version, order
            if magic[:3] in (b"ni1", b"ni2"):
                raise _pair(path)
    raise refused(
        path,
        f"this is no NIfTI image, its first bytes are wrong{looks_like(raw[:16])}",
        code="E-NIFTI-MAGIC",
        hint="Accepted is a NIfTI-1 or NIfTI-2 image in one file (.nii, .nii.gz).",
    )


def _pair(path: Path) -> DataError:
    return refused(
        path,
        "header and voxels are in two files (.hdr, .img); only images in one file are accepted",
        code="E-NIFTI-PAIR",
        hint="Convert it: nibabel.save(nibabel.load('x.hdr'), 'x.nii.gz').",
    )


def _shape(dim: Sequence[int], path: Path) -> tuple[Shape, int]:
    """Returns the spatial shape (x, y[, z]) and the size of the fourth axis."""
    axes = dim[0]
    if not 1 <= axes <= 7 or min(dim[1 : axes + 1]) < 1:
        raise refused(
            path,
            f"the header claims {axes} axes of sizes {tuple(dim[1:])}; accepted are positive sizes",
            code="E-NIFTI-SHAPE",
            hint=_DAMAGED,
        )
    sizes = tuple(dim[1 : axes + 1])
    if axes == 1 or any(size > 1 for size in sizes[4:]):
        raise refused(
            path,
            f"the image has {axes} axes of sizes {sizes}; accepted are x, y, z and channels",
            code="E-NIFTI-SHAPE",
            hint="Vectors, tensors and series: save the component you need as a 3D image.",
        )
    return sizes[:3], sizes[3] if axes > 3 else 1


def _dtype(code: int, bits: int, order: str, path: Path) -> tuple[np.dtype, int]:
    if code == _RGB24 and bits == 24:
        return np.dtype("u1"), 3
    if code in _DTYPES:
        dtype = np.dtype(order + _DTYPES[code])
        if dtype.itemsize * 8 == bits:
            return dtype, 1
        raise refused(
            path,
            f"data type {code} has {dtype.itemsize * 8} bits, the header says {bits}",
            code="E-NIFTI-TYPE",
            hint=_DAMAGED,
        )
    what = _REFUSED_DTYPES.get(code, "of an unknown type")
    raise refused(
        path,
        f"the voxels are {what} (data type {code}, {bits} bits); accepted are integers, 32- and 64-bit "
        "floats and RGB",
        code="E-NIFTI-TYPE",
        hint="Convert the image; of complex numbers take the magnitude.",
    )


def _offset(offset: float, version: int, path: Path, limits: Limits) -> int:
    least = HEADER_SIZES[version] + 4
    if not least <= offset <= limits.header_bytes or offset != int(offset):
        raise refused(
            path,
            f"the voxels are said to start at byte {offset:g}; accepted are whole numbers from {least} to "
            f"{limits.header_bytes}",
            code="E-NIFTI-OFFSET",
            hint=_DAMAGED,
        )
    return int(offset)


def _scale(slope: float, intercept: float, path: Path) -> tuple[float, float] | None:
    """Returns slope and intercept; slope 0 and NaN mean unscaled."""
    if slope == 0 or math.isnan(slope) or (slope, intercept) == (1, 0):
        return None
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise refused(
            path,
            f"the slope {slope:g} and intercept {intercept:g} of the intensities are not finite",
            code="E-NIFTI-SCALE",
            hint=_DAMAGED,
        )
    return slope, intercept


def _kept(version: int, fields: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Returns the fields that say where the voxels lie."""
    kept: dict[str, Any] = {
        "version": version,
        "units": int(fields["units"][0]) & 0x3F,
        "pixdim": [float(v) for v in fields["pixdim"][:4]],
    }
    for form in ("qform", "sform"):
        kept[f"{form}_code"] = max(int(fields[f"{form}_code"][0]), 0)
        if kept[f"{form}_code"]:
            kept[form] = [float(v) for v in fields[form]]
    return kept


def build_header(array: Array, geometry: Geometry) -> bytes:
    """Returns the header of a file that holds `array`, up to the first voxel.

    Args:
        array: Little-endian, (*spatial) or (channel, *spatial).
        geometry: See `write_nifti`.
    """
    sizes = list(geometry.shape[::-1])
    if array.ndim > len(sizes):
        sizes = [*[*sizes, 1][:3], array.shape[0]]
    known = dict(geometry.header) if still_fits(geometry) else new_fields(geometry)
    version = 2 if max(sizes) > 32767 else int(known["version"])
    length = HEADER_SIZES[version]
    raw = bytearray(length + 4)
    code = next(c for c, name in _DTYPES.items() if np.dtype("<" + name) == array.dtype)
    content: dict[str, Sequence[float]] = {
        "dim": [len(sizes), *sizes, 1, 1, 1, 1, 1][:8],
        "datatype": [code],
        "bitpix": [array.dtype.itemsize * 8],
        "pixdim": [*known["pixdim"], 1, 1, 1, 1],
        "vox_offset": [length + 4],
        "scale": [1, 0],
        "units": [known["units"]],
        "qform_code": [known["qform_code"]],
        "sform_code": [known["sform_code"]],
        "qform": known.get("qform", [0.0] * 6),
        "sform": known.get("sform", [0.0] * 12),
    }
    for name, (form, offset) in _FIELDS[version].items():
        struct.pack_into("<" + form, raw, offset, *content[name])
    struct.pack_into("<i", raw, 0, length)
    at = 344 if version == 1 else 4
    raw[at : at + len(_MAGICS[version])] = _MAGICS[version]
    return bytes(raw)
