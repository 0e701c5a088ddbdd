"""The two geometries in a NIfTI header, and which of them counts.

The rule: the sform counts if its code is above 0, else the qform. If both have a code both must be sound.
Where they name different spacings or axis directions the file is refused, because programs would show it
differently; where they only place the same grid elsewhere the sform counts and the notes in the geometry's
header say so. With both codes 0 the file does not say where its voxels lie: it is refused unless the caller
gives a spacing.

Source: nifti1.h of the NIfTI Data Format Working Group, methods 1 to 3.
"""

import math
from collections.abc import Mapping
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
from scanseg.data.limits import Limits, refused
from scanseg.types import Array, Geometry, Shape, Spacing

_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_REPAIR = "Repair the header (for example with nibabel or 3D Slicer) or convert the original scan again."


def nifti_geometry(
    header: dict[str, Any], shape: Shape, path: Path, limits: Limits, spacing: Spacing | None
) -> Geometry:
    """Returns the checked geometry.

    Args:
        header: `version units pixdim qform_code sform_code` and, where the code is above 0, `qform` (b, c, d
            and the offsets) and `sform` (12 numbers), as they stand in the file. Kept for writing.
        shape: (z, y, x) or (y, x); a 2D image has pixel sizes but no place in space.
        path: For messages.
        limits: Accepted spacing.
        spacing: See `open_nifti`.

    Raises:
        DataError: See the rule above.
    """
    check_spacing_argument(spacing, shape, limits)
    if header["units"] & 7 not in _UNITS_MM:
        raise refused(
            path,
            f"the unit of length {header['units'] & 7} is unknown; accepted are metres, mm and microns",
            code="E-NIFTI-UNITS",
            hint=_REPAIR,
        )
    if len(shape) == 2:
        return _flat(header, shape, path, limits, spacing)
    _check_pixdim(header, path, given=spacing is not None)
    forms = {
        name: checked_affine(form, path, limits, name=name) for name, form in _forms(header, path).items()
    }
    if not forms:
        return _unplaced(header, shape, path, spacing)
    _compare(forms, header, shape[::-1], path)
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


def still_fits(geometry: Geometry) -> bool:
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


def new_fields(geometry: Geometry) -> dict[str, Any]:
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
