"""Affines from file headers: checked, compared, made from a spacing."""

from itertools import combinations
from pathlib import Path

import numpy as np

from scanseg.data.limits import Limits, refused
from scanseg.errors import UsageError
from scanseg.types import Array, Geometry, Shape, Spacing

_MOST_SHEAR = 1e-2
_HINT = "Repair the header (for example with nibabel or 3D Slicer) or convert the original scan again."


def spacing_of(affine: Array) -> Spacing:
    """Returns the voxel distances (z, y, x) of a (4, 4) affine of (x, y, z)."""
    return tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0)[::-1])


def from_spacing(spacing: Spacing) -> Array:
    """Returns the (4, 4) affine of an unrotated grid; two axes get a third of 1 mm.

    Example:
        >>> from_spacing((3.0, 1.0, 0.5)).diagonal().tolist()
        [0.5, 1.0, 3.0, 1.0]
    """
    x_first = [*spacing[::-1], 1.0][:3]
    return np.diag([*x_first, 1.0])


def checked_affine(affine: Array, path: Path, limits: Limits, *, name: str) -> Array:
    """Returns the affine if it describes a grid of right-angled voxels of plausible size.

    Args:
        affine: (4, 4) float64, mm.
        path: For messages.
        limits: Gives the accepted spacing.
        name: Where it came from, for messages, for example `sform`.

    Raises:
        DataError: It is not finite, singular, sheared by more than 0.01 (cosine of two axes), or its
            spacing is outside the limits.
    """
    if not np.isfinite(affine).all():
        raise refused(
            path, f"the {name} has values that are not finite", code="E-GEOMETRY-NONFINITE", hint=_HINT
        )
    check_spacing(spacing_of(affine), path, limits, name=name)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(directions)) < _MOST_SHEAR:
        raise refused(
            path,
            f"the {name} is singular: its axes do not span the space",
            code="E-GEOMETRY-SINGULAR",
            hint=_HINT,
        )
    shear = max(abs(float(directions[:, a] @ directions[:, b])) for a, b in combinations(range(3), 2))
    if shear > _MOST_SHEAR:
        raise refused(
            path,
            f"the {name} is sheared: the cosine of two axes is {shear:.3g}, accepted is at most "
            f"{_MOST_SHEAR:g}",
            code="E-GEOMETRY-SHEARED",
            hint="Resample the image to a right-angled grid first.",
        )
    return affine


def check_spacing(spacing: Spacing, path: Path, limits: Limits, *, name: str) -> None:
    """Refuses spacings that are not finite, zero, negative or outside the limits.

    Raises:
        DataError: `E-GEOMETRY-SPACING`.
    """
    low, high = limits.spacing_mm
    if not all(low <= s <= high for s in spacing):
        values = ", ".join(f"{s:.6g}" for s in spacing)
        raise refused(
            path,
            f"the voxel spacing ({values}) mm of the {name} is outside the accepted {low:g} to {high:g} mm",
            code="E-GEOMETRY-SPACING",
            hint="Check the header and its units; for microscopy raise the limits (scanseg.data.MICROSCOPY).",
        )


def check_spacing_argument(spacing: Spacing | None, shape: Shape, limits: Limits) -> None:
    """Refuses a `spacing=` argument that is not one plausible number for each axis.

    Raises:
        UsageError: Wrong number of values, or a value outside the limits.
    """
    low, high = limits.spacing_mm
    if spacing is not None and (len(spacing) != len(shape) or not all(low <= s <= high for s in spacing)):
        raise UsageError(
            f"spacing must be {len(shape)} numbers from {low:g} to {high:g} mm, slowest axis first, "
            f"got {spacing}.",
            code="E-IMAGE-SPACING",
        )


def check_given(spacing: Spacing | None, found: Spacing, path: Path) -> None:
    """Refuses a given spacing that differs from the one in the file.

    Raises:
        DataError: `E-IMAGE-SPACING`.
    """
    if spacing is not None and not np.allclose(spacing, found, rtol=1e-3, atol=0):
        raise refused(
            path,
            f"the given spacing {_text(spacing)} differs from {_text(found)} mm in the header",
            code="E-IMAGE-SPACING",
            hint="Leave the spacing out: this file knows its own.",
        )


def largest_shift_mm(first: Array, second: Array, shape_xyz: Shape) -> float:
    """Returns the largest distance between the places two affines give to a corner voxel of the grid."""
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners[:, :3] *= np.maximum(np.array(shape_xyz, dtype=np.float64) - 1.0, 0.0)
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())


def same_geometry(first: Geometry, second: Geometry) -> list[str]:
    """Returns the differences of two geometries in words; empty where they agree.

    Shapes must be equal, spacings agree within 0.1 %, axis directions within 1e-3 (difference of cosines),
    and the first voxels lie within a hundredth of a voxel plus 0.001 mm. What one of them does not know (a
    PNG has no physical size) is not compared.
    """
    if first.shape != second.shape:
        return [f"the sizes differ: {first.shape} and {second.shape}"]
    differences = []
    if "px" not in (first.unit, second.unit) and not np.allclose(
        first.spacing, second.spacing, rtol=1e-3, atol=0
    ):
        differences.append(f"the spacings differ: {_text(first.spacing)} and {_text(second.spacing)} mm")
    if first.affine is None or second.affine is None:
        return differences
    a, b = (g.affine[:3, :3] / np.linalg.norm(g.affine[:3, :3], axis=0) for g in (first, second))  # type: ignore[index]
    if np.abs(a - b).max() > 1e-3:
        differences.append(f"the axis directions differ by up to {np.abs(a - b).max():.3g}")
    distance = float(np.linalg.norm(first.affine[:3, 3] - second.affine[:3, 3]))
    if distance > 1e-2 * min(first.spacing) + 1e-3:
        differences.append(f"the origins lie {distance:.4g} mm apart")
    return differences


def _text(spacing: Spacing) -> str:
    return "(" + ", ".join(f"{s:.6g}" for s in spacing) + ")"
