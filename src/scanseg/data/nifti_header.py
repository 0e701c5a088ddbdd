"""The header of NIfTI-1 and NIfTI-2: what its bytes mean, and which of its two geometries counts.

The rule: the sform counts if its code is above 0, else the qform. If both have a code both must be sound.
Where they name different spacings or axis directions the file is refused, because programs would show it
differently; where they only place the same grid elsewhere the sform counts and the notes in the geometry's
header say so. With both codes 0 the file does not say where its voxels lie: it is refused unless the caller
gives a spacing.

Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.data.affine import (
    check_given,
    check_spacing,
    check_spacing_argument,
    checked_affine,
    from_spacing,
    largest_shift_mm,
    spacing_of,
)
from scanseg.data.limits import Limits, looks_like, refused
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
_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
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
_REPAIR = "Repair the header (for example with nibabel or 3D Slicer) or convert the original scan again."


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
        geometry=_geometry(version, fields, shape_xyz, path, limits, spacing),
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


def _geometry(
    version: int,
    fields: Mapping[str, Sequence[Any]],
    shape_xyz: Shape,
    path: Path,
    limits: Limits,
    spacing: Spacing | None,
) -> Geometry:
    shape = tuple(shape_xyz[::-1])
    check_spacing_argument(spacing, shape, limits)
    header: dict[str, Any] = {
        "version": version,
        "units": int(fields["units"][0]) & 0x3F,
        "pixdim": [float(v) for v in fields["pixdim"][:4]],
    }
    for form in ("qform", "sform"):
        header[f"{form}_code"] = max(int(fields[f"{form}_code"][0]), 0)
        if header[f"{form}_code"]:
            header[form] = [float(v) for v in fields[form]]
    if header["units"] & 7 not in _UNITS_MM:
        raise refused(
            path,
            f"the unit of length {header['units'] & 7} is unknown; accepted are metres, mm and microns",
            code="E-NIFTI-UNITS",
            hint=_DAMAGED,
        )
    if len(shape) == 2:
        return _flat(header, shape, path, limits, spacing)
    _check_pixdim(header, path, given=spacing is not None)
    forms = {
        name: checked_affine(form, path, limits, name=name) for name, form in _forms(header, path).items()
    }
    if not forms:
        return _unplaced(header, shape, path, spacing)
    _compare(forms, header, shape_xyz, path)
    affine = forms["sform" if "sform" in forms else "qform"]
    found = spacing_of(affine)
    check_given(spacing, found, path)
    return Geometry(shape, found, "mm", affine, "nifti", header)


def _flat(
    header: dict[str, Any], shape: Shape, path: Path, limits: Limits, spacing: Spacing | None
) -> Geometry:
    """Returns the geometry of a 2D image: sizes of its pixels, but no place in space."""
    unit = _UNITS_MM[header["units"] & 7]
    found = tuple(size * unit for size in header["pixdim"][2:0:-1])
    check_spacing(found, path, limits, name="header")
    check_given(spacing, found, path)
    return Geometry(shape, found, "mm", None, "nifti", header)


def _unplaced(header: dict[str, Any], shape: Shape, path: Path, spacing: Spacing | None) -> Geometry:
    if spacing is None:
        raise refused(
            path,
            "the header does not say where the voxels lie (qform_code and sform_code are 0), so left and "
            "right are unknown",
            code="E-GEOMETRY-MISSING",
            hint="Give the voxel spacing in mm (spacing=, --spacing Z Y X) to use it without orientation, or "
            "repair the header.",
        )
    unit = _UNITS_MM[header["units"] & 7]
    header["pixdim"] = [1.0, *(size / unit for size in spacing[::-1])]
    return Geometry(shape, tuple(float(s) for s in spacing), "mm", None, "nifti", header)


def _check_pixdim(header: Mapping[str, Any], path: Path, *, given: bool) -> None:
    sizes = header["pixdim"][1:]
    placed = header["qform_code"] or header["sform_code"]
    if (placed or not given) and not all(math.isfinite(s) and s > 0 for s in sizes):
        raise refused(
            path,
            f"the voxel size {tuple(sizes)} in the header (pixdim) is not positive",
            code="E-GEOMETRY-SPACING",
            hint=_REPAIR,
        )


def _forms(header: Mapping[str, Any], path: Path) -> dict[str, Array]:
    """Returns the affines (4, 4) in mm of the forms that have a code."""
    unit = _UNITS_MM[header["units"] & 7]
    forms = {}
    if header["sform_code"]:
        forms["sform"] = np.array([*header["sform"], 0, 0, 0, 1], dtype=np.float64).reshape(4, 4)
    if header["qform_code"]:
        b, c, d, *origin = header["qform"]
        matrix = np.eye(4)
        matrix[:3, :3] = _rotation(b, c, d, path) * header["pixdim"][1:]
        if header["pixdim"][0] < 0:
            matrix[:3, 2] *= -1
        matrix[:3, 3] = origin
        forms["qform"] = matrix
    for form in forms.values():
        form[:3] *= unit
    return forms


def _rotation(b: float, c: float, d: float, path: Path) -> Array:
    """Returns the rotation matrix of a unit quaternion given without its first part."""
    length = b * b + c * c + d * d
    if not length <= 1.01:
        raise refused(
            path,
            f"the qform's quaternion ({b:g}, {c:g}, {d:g}) is longer than 1",
            code="E-GEOMETRY-NONFINITE",
            hint=_REPAIR,
        )
    a = math.sqrt(max(1.0 - length, 0.0))
    if a < 1e-4:
        a, b, c, d = 0.0, *(v / math.sqrt(length) for v in (b, c, d))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _compare(forms: Mapping[str, Array], header: dict[str, Any], shape_xyz: Shape, path: Path) -> None:
    """Refuses a qform and sform that contradict each other; notes it where they only differ in place."""
    if len(forms) < 2:
        return
    sform, qform = forms["sform"], forms["qform"]
    s_size, q_size = (np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform))
    cosines = (sform[:3, :3] * qform[:3, :3]).sum(axis=0) / (s_size * q_size)
    if not np.allclose(s_size, q_size, rtol=1e-2, atol=0) or cosines.min() < math.sqrt(0.5):
        raise refused(
            path,
            "its two geometries contradict each other: the sform has voxels of "
            f"{_numbers(s_size)} mm, the qform of {_numbers(q_size)} mm, and an axis points up to "
            f"{math.degrees(math.acos(max(-1.0, min(1.0, cosines.min())))):.0f} degrees elsewhere",
            code="E-GEOMETRY-CONFLICT",
            hint="Find out which one is right and set both to it (nibabel: set_sform, set_qform).",
        )
    shift = largest_shift_mm(sform, qform, shape_xyz)
    if shift > 0.1 * s_size.min():
        header["notes"] = [f"qform and sform place the voxels up to {shift:.3g} mm apart; the sform is used"]


def _numbers(values: Array) -> str:
    return " x ".join(f"{v:.4g}" for v in values)


def build_header(array: Array, geometry: Geometry) -> bytes:
    """Returns the header of a file that holds `array`, up to the first voxel.

    Args:
        array: Little-endian, (*spatial) or (channel, *spatial).
        geometry: See `write_nifti`.
    """
    sizes = list(geometry.shape[::-1])
    if array.ndim > len(sizes):
        sizes = [*[*sizes, 1][:3], array.shape[0]]
    known = dict(geometry.header) if _still_fits(geometry) else _new_fields(geometry)
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


def _still_fits(geometry: Geometry) -> bool:
    """Returns whether the fields of the input still say what the geometry says."""
    header = geometry.header
    if geometry.format != "nifti" or "pixdim" not in header:
        return False
    if geometry.affine is None:
        unit = _UNITS_MM[header["units"] & 7]
        sizes = [size * unit for size in header["pixdim"][1 : len(geometry.shape) + 1]]
        return bool(np.allclose(sizes[::-1], geometry.spacing, rtol=1e-6, atol=0))
    forms = _forms(header, Path())
    affine = forms.get("sform", forms.get("qform"))
    return affine is not None and np.array_equal(affine, geometry.affine)


def _new_fields(geometry: Geometry) -> dict[str, Any]:
    """Returns fields that state the affine (made from the spacing if there is none) in both forms."""
    affine = from_spacing(geometry.spacing) if geometry.affine is None else geometry.affine
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / sizes
    left, _, right = np.linalg.svd(directions)
    rotation = left @ right
    qfac = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation[:, 2] *= qfac
    exact = np.abs(left @ right - directions).max() < 1e-5
    return {
        "version": 1,
        "units": 0 if geometry.unit == "px" else 2,
        "pixdim": [qfac, *(float(s) for s in sizes)],
        "qform_code": int(exact),
        "sform_code": 1,
        "qform": [*_quaternion(rotation), *(float(v) for v in affine[:3, 3])],
        "sform": [float(v) for v in affine[:3].ravel()],
    }


def _quaternion(rotation: Array) -> tuple[float, float, float]:
    """Returns (b, c, d) of the unit quaternion with a >= 0 of a proper rotation matrix."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    symmetric = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    vector = np.linalg.eigh(symmetric)[1][:, -1]
    _, b, c, d = (vector if vector[0] >= 0 else -vector).tolist()
    return b, c, d
