"""From the headers of slices to one volume, or to everything that speaks against it.

Directions and places are DICOM's (LPS, mm) until `Stack.affine`, which is RAS as everywhere else.
Source: PS3.3 C.7.6.2.1.1 (equation C.7.6.2.1-1).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from scanseg.data.dicom_header import Slice
from scanseg.data.dicom_refusal import Refusal
from scanseg.data.wording import counted
from scanseg.errors import Finding
from scanseg.types import Array

# Positions are written with few digits; what is finer than this cannot be told from rounding.
_ROUNDING_MM = 0.01
_UNEVEN = 0.02
_MOST_TILT = 1e-2
_COSINE = 1e-4
_EXPORT = "Export the whole series from the archive again, and nothing else."
_SPLIT = (
    "Give each series, phase and orientation a folder of its own; `scanseg dicom sort` makes one a series."
)


@dataclass(frozen=True)
class Stack:
    """Slices in the order of their places.

    Attributes:
        slices: Along the normal of the image plane.
        affine: (4, 4) float64, voxel index (column, row, slice, 1) to mm in RAS+ space.
    """

    slices: tuple[Slice, ...]
    affine: Array


def file_findings(refusals: Sequence[tuple[int, Refusal]], total: int) -> list[Finding]:
    """Returns one finding for each kind of fault in single files.

    Args:
        refusals: Number of the file, and why it is no slice.
        total: Number of files.
    """
    grouped: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, refusal in refusals:
        grouped[refusal.code, refusal.what].append(number)
    return [
        Finding(
            code,
            "error",
            f"file {numbers[0]} of {total} {what}{_and_more(len(numbers) - 1)}",
            hint=_HINTS.get(code, _EXPORT),
        )
        for (code, what), numbers in grouped.items()
    ]


_HINTS = {
    "E-DICOM-KIND": "Keep only the images of one series in the folder.",
    "E-DICOM-FRAMES": "Convert it to one file a slice, or to NIfTI, for example with dcm2niix.",
    "E-DICOM-SYNTAX": "Export the series uncompressed.",
    "E-DICOM-FORMAT": "Remove what is not part of the series, or copy it again.",
}


def _and_more(count: int) -> str:
    return f" (and {count} more like it)" if count else ""


def series_of(slices: Sequence[Slice]) -> list[tuple[Slice, ...]]:
    """Returns the slices grouped by study and series, in the order of their first file."""
    grouped: dict[Hashable, list[Slice]] = defaultdict(list)
    for one in slices:
        grouped[one.series].append(one)
    return [tuple(group) for group in grouped.values()]


def series_findings(series: Sequence[Sequence[Slice]]) -> list[Finding]:
    """Returns the finding that there is more than one series; nothing for one."""
    if len(series) < 2:
        return []
    parts = "; ".join(f"{group[0].modality} with {counted(len(group), 'image')}" for group in series[:5])
    more = f"; {len(series) - 5} more" if len(series) > 5 else ""
    return [
        Finding(
            "E-DICOM-SERIES",
            "error",
            f"{len(series)} series are mixed ({parts}{more}); one is accepted",
            hint=_SPLIT,
        )
    ]


def stack(slices: Sequence[Slice]) -> tuple[Stack | None, list[Finding]]:
    """Returns the slices of one series as a volume, or every finding that speaks against it.

    Args:
        slices: At least one, of one series, in any order.
    """
    if several := _volumes(slices):
        return None, several
    findings = _mixed(slices)
    if any(finding.code in ("E-DICOM-ORIENTATION", "E-DICOM-SIZE") for finding in findings):
        return None, findings  # places along different normals say nothing
    first = slices[0]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    places = np.array([one.position for one in slices]) @ normal
    order = np.argsort(places, kind="stable")
    sorted_slices = tuple(slices[index] for index in order)
    positions = np.array([one.position for one in sorted_slices])
    findings += _spacing_findings(places[order], positions, normal)
    if findings:
        return None, findings
    if len(slices) == 1:
        if first.thickness is None or first.thickness <= 0:
            text = "there is one slice, and it does not tell its thickness"
            return None, [Finding("E-DICOM-SPACING", "error", text, hint=_EXPORT)]
        step = normal * first.thickness
    else:
        step = (positions[-1] - positions[0]) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * first.spacing[1], column * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    return Stack(sorted_slices, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine), []


def _volumes(slices: Sequence[Slice]) -> list[Finding]:
    """Returns the finding that the frames make several volumes; nothing for one."""
    volumes = {one.volume for one in slices}
    if len(volumes) < 2:
        return []
    found = [f"the frames make {len(volumes)} volumes"]
    if len({len(one) for one in volumes}) == 1:
        stacks, times = (len(set(values)) for values in zip(*volumes, strict=True))
        found.append(f"{counted(stacks, 'stack')}, {counted(times, 'point in time', 'points in time')}")
    text = f"{' of '.join(found)}; one is accepted"
    return [Finding("E-DICOM-VOLUMES", "error", text, hint="Export one stack at one point in time alone.")]


def _mixed(slices: Sequence[Slice]) -> list[Finding]:
    """Compares what all slices of a volume must share with the commonest value."""
    found = []
    orientations = np.array([one.orientation for one in slices])
    bad = _not_right_angled(orientations)
    if bad:
        text = f"the image axes of {counted(bad, 'slice')} are not two right-angled unit directions"
        found.append(Finding("E-DICOM-ORIENTATION", "error", text, hint=_EXPORT))
    kinds = Counter("LOCALIZER" in one.kind for one in slices)
    if kinds[True] and kinds[False]:
        text = f"{counted(kinds[True], 'localizer')} and {counted(kinds[False], 'other slice')} are mixed"
        found.append(Finding("E-DICOM-LOCALIZER", "error", text, hint=_SPLIT))
    if apart := _beyond(orientations, np.full(6, _COSINE)):
        text = f"{counted(apart, 'slice')} of {len(slices)} lie in another orientation"
        found.append(Finding("E-DICOM-ORIENTATION", "error", text, hint=_SPLIT))
    if apart := _apart(slices, lambda one: (one.rows, one.columns)):
        text = f"{counted(apart, 'slice')} of {len(slices)} have another size"
        found.append(Finding("E-DICOM-SIZE", "error", text, hint=_SPLIT))
    spacings = np.array([one.spacing for one in slices])
    if apart := _beyond(spacings, 1e-3 * np.abs(spacings).min(axis=0)):
        text = f"{counted(apart, 'slice')} of {len(slices)} have another pixel spacing"
        found.append(Finding("E-DICOM-SPACING", "error", text, hint=_SPLIT))
    if apart := _apart(slices, lambda one: one.patient):
        text = f"{counted(apart, 'slice')} of {len(slices)} belong to another patient"
        found.append(Finding("E-DICOM-PATIENT", "error", text, hint=_SPLIT))
    if apart := _apart(slices, lambda one: one.frame_of_reference):
        text = f"{counted(apart, 'slice')} of {len(slices)} lie in another frame of reference"
        found.append(Finding("E-DICOM-REFERENCE", "error", text, hint=_SPLIT))
    if apart := _apart(slices, lambda one: (one.rescale is None, one.unit)):
        text = f"{counted(apart, 'slice')} of {len(slices)} have values in another unit, or no rescale"
        found.append(Finding("E-DICOM-RESCALE", "error", text, hint=_EXPORT))
    if apart := _apart(slices, lambda one: one.photometric):
        text = f"{counted(apart, 'slice')} of {len(slices)} show dark and bright the other way round"
        found.append(Finding("E-DICOM-COLOUR", "error", text, hint=_EXPORT))
    return found


def _apart(slices: Sequence[Slice], fact: Callable[[Slice], Hashable]) -> int:
    """Returns how many slices differ from the commonest value of a fact."""
    counts = Counter(fact(one) for one in slices)
    return len(slices) - max(counts.values())


def _beyond(values: Array, tolerance: Array) -> int:
    """Returns how many rows of `values` differ from the commonest row by more than rounding."""
    rounded = np.round(values / np.maximum(tolerance, 1e-12))
    _, first, counts = np.unique(rounded, axis=0, return_index=True, return_counts=True)
    common = values[first[np.argmax(counts)]]
    return int(np.count_nonzero((np.abs(values - common) > tolerance).any(axis=1)))


def _not_right_angled(orientations: Array) -> int:
    rows, columns = orientations[:, :3], orientations[:, 3:]
    lengths = np.abs(np.linalg.norm(orientations.reshape(-1, 2, 3), axis=2) - 1).max(axis=1)
    return int(np.count_nonzero((lengths > 1e-3) | (np.abs((rows * columns).sum(axis=1)) > 1e-2)))


def _spacing_findings(places: Array, positions: Array, normal: Array) -> list[Finding]:
    """Judges sorted places along the normal, and the way from slice to slice."""
    if len(places) == 1:
        return []
    steps = np.diff(places)
    double = int(np.count_nonzero(steps < _ROUNDING_MM))
    if double:
        text = f"{counted(double, 'slice')} lie where another one lies, as in a doubled or repeated scan"
        return [Finding("E-DICOM-DOUBLE", "error", text, hint=_SPLIT)]
    step = float(np.median(steps))
    allowed = max(_UNEVEN * step, 2 * _ROUNDING_MM)
    ratios = np.round(steps / step)
    off = np.abs(steps - ratios * step) > allowed * np.maximum(ratios, 1)
    found = []
    gaps = (ratios > 1) & ~off
    if gaps.any():
        missing = int((ratios[gaps] - 1).sum())
        text = (
            f"{counted(missing, 'slice')} missing: the distance of neighbours is {step:.4g} mm, "
            f"but {steps[gaps][0]:.4g} mm behind slice {int(np.flatnonzero(gaps)[0]) + 1}"
        )
        found.append(Finding("E-DICOM-MISSING", "error", text, hint=_EXPORT))
    if off.any():
        text = (
            "the slices are not evenly spaced: their distances range from "
            f"{steps.min():.4g} to {steps.max():.4g} mm"
        )
        found.append(
            Finding(
                "E-DICOM-UNEVEN", "error", text, hint="Resample the scan to even slices, or export it again."
            )
        )
    return found or _straightness(positions, normal, step)


def _straightness(positions: Array, normal: Array, step: float) -> list[Finding]:
    count = len(positions)
    way = positions[-1] - positions[0]
    aside = float(np.linalg.norm(way - (way @ normal) * normal)) / (count - 1)
    if aside > max(_MOST_TILT * step, _ROUNDING_MM / (count - 1)):
        text = (
            f"the slices are tilted against their stack, by {np.degrees(np.arctan2(aside, step)):.3g} degrees"
        )
        return [
            Finding(
                "E-DICOM-TILT",
                "error",
                text,
                hint="Resample the scan to a right-angled grid, for example with dcm2niix.",
            )
        ]
    line = positions[0] + np.linspace(0, 1, count)[:, None] * way
    if np.linalg.norm(positions - line, axis=1).max() > _UNEVEN * step + 2 * _ROUNDING_MM:
        return [Finding("E-DICOM-UNEVEN", "error", "the slices do not lie on one straight line", hint=_SPLIT)]
    return []
