"""Reads a DICOM Segmentation as a label map.

Source: PS3.3 C.8.20 (segmentation), C.7.6.16 (functional groups); PS3.5 8.1.1 (packing of single bits).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.data.affine import checked_affine, spacing_of
from scanseg.data.dicom_header import COMPRESSED, DEFLATED, NATIVE, body_of, quiet
from scanseg.data.dicom_refusal import Refusal
from scanseg.data.limits import Limits, open_file, refused
from scanseg.data.voxels import allocate
from scanseg.errors import DataError
from scanseg.optional import require
from scanseg.types import Array, Geometry, Label, LabelMap

_DEFAULT = Limits()
_SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_OFF_GRID = 0.02


@dataclass(frozen=True)
class _Frames:
    """The frames of a file: bits or values, and for each the segment (0 in a label map) and its place."""

    pixels: Array
    segments: Array
    positions: Array
    orientation: Array
    spacing: tuple[float, float]
    step: float | None


def read_segmentation(
    path: Path,
    *,
    labels: Sequence[Label] | None = None,
    geometry: Geometry | None = None,
    limits: Limits = _DEFAULT,
) -> LabelMap:
    """Returns a segmentation object as a label map.

    Args:
        path: A DICOM file with binary segments, or a label map segmentation, uncompressed.
        labels: Gives each segment the value of the label of its name; without it values are segment numbers.
        geometry: Of the image it belongs to; frames left out are then empty. Without it the label map
            reaches from the first to the last frame that the file holds.
        limits: Checked before anything is allocated.

    Raises:
        DataError: It is no segmentation, damaged, too large, in an unknown form, its frames do not lie on the
            grid, segments overlap, or a segment is none of the labels.
    """
    require("pydicom", extra="dicom", purpose="Reading DICOM")
    path = Path(path)
    values, frames = _parsed(path, labels, limits)
    geometry = geometry or _own_geometry(frames, path, limits)
    array = allocate(geometry.shape, np.int32, path)
    array[...] = 0
    for frame, segment, index in zip(
        frames.pixels, frames.segments, _indices(frames, geometry, path), strict=True
    ):
        _place(array[index], frame, int(segment), values, path)
    return LabelMap(array, geometry, path)


def common_grid(paths: Sequence[Path], limits: Limits = _DEFAULT) -> Geometry:
    """Returns the grid from the first to the last frame that any of some files holds.

    The first file gives orientation and spacing; `read_segmentation` refuses those whose frames do not lie
    on the grid.

    Args:
        paths: At least one.
        limits: As in `read_segmentation`.

    Raises:
        DataError: As `read_segmentation`, as far as files are read alone.
    """
    require("pydicom", extra="dicom", purpose="Reading DICOM")
    found = [_parsed(Path(path), None, limits)[1] for path in paths]
    own = _own_geometry(found[0], Path(paths[0]), limits)
    affine = np.array(own.affine)
    to_voxels = np.linalg.inv(_LPS_TO_RAS @ affine)
    places = np.concatenate([one.positions @ to_voxels[2, :3] + to_voxels[2, 3] for one in found])
    first = min(0, round(float(places.min())))
    count = max(own.shape[0] - 1, round(float(places.max()))) - first + 1
    shape = (count, *own.shape[1:])
    limits.check_size(Path(paths[0]), values=int(np.prod([float(n) for n in shape])), value_bytes=4)
    affine[:3, 3] += first * affine[:3, 2]
    return Geometry(shape, own.spacing, affine=affine, format="dicom")


def segment_names(path: Path, limits: Limits) -> dict[int, str]:
    """Returns number -> name of the segments of a file, the background of a label map left out.

    Raises:
        DataError: It is no segmentation, damaged, or too large.
    """
    require("pydicom", extra="dicom", purpose="Reading DICOM")
    document = _document(path, limits)
    try:
        with quiet():
            items = [(int(item.SegmentNumber), str(item.SegmentLabel)) for item in document.SegmentSequence]
    except Exception:  # as in `read_segmentation`
        raise _damaged(path) from None
    return {number: name for number, name in items if number != 0}


def _parsed(path: Path, labels: Sequence[Label] | None, limits: Limits) -> tuple[dict[int, int], _Frames]:
    """Returns segment number -> value, and the frames."""
    document = _document(path, limits)
    try:
        with quiet():
            return _values(document, labels, path), _frames(document, path, limits)
    except DataError:
        raise
    except Exception:  # damaged files make pydicom raise classes of many kinds
        raise _damaged(path) from None


def _document(path: Path, limits: Limits) -> Any:
    from pydicom import dcmread

    with open_file(path) as stream:
        try:
            syntax, body = body_of(stream)
        except Refusal as refusal:
            raise refused(path, f"this file {refusal.what}", code=refusal.code) from None
        if body.seek(0, 2) > limits.decompressed_bytes:
            raise refused(path, "the file is larger than accepted", code="E-IMAGE-LIMIT")
        if syntax in COMPRESSED or syntax == DEFLATED or syntax not in NATIVE:
            raise refused(
                path, "compressed segmentations are not read", code="E-SEG-FORM", hint="Decompress it."
            )
        stream.seek(0)
        try:
            with quiet():
                document = dcmread(stream)
                kind = str(document.SOPClassUID)
        except Exception:  # see above
            raise _damaged(path) from None
    if kind not in _SOP_CLASSES:
        raise refused(path, "this is no DICOM segmentation", code="E-SEG-KIND")
    return document


def _values(document: Any, labels: Sequence[Label] | None, path: Path) -> dict[int, int]:
    """Returns segment number -> value."""
    known = {label.name[:64]: label.value for label in labels or ()}
    found = {0: 0}
    for item in document.SegmentSequence:
        number, name = int(item.SegmentNumber), str(item.SegmentLabel)
        if labels is not None and name not in known and number != 0:
            raise refused(
                path,
                f"segment {number} is none of the {len(known)} labels",
                code="E-SEG-LABEL",
                hint="Give the labels of the dataset that the segmentation was made with.",
            )
        found[number] = known.get(name, 0) if labels is not None else number
    return found


def _frames(document: Any, path: Path, limits: Limits) -> _Frames:
    count, rows, columns = int(document.NumberOfFrames), int(document.Rows), int(document.Columns)
    limits.check_size(path, values=count * rows * columns, value_bytes=4)
    bits, kind = int(document.BitsAllocated), str(document.SegmentationType)
    if (kind, bits) not in (("BINARY", 1), ("LABELMAP", 8), ("LABELMAP", 16)):
        raise refused(path, "only binary and label map segmentations are read", code="E-SEG-FORM")
    raw = document.PixelData
    due = (count * rows * columns * bits + 7) // 8
    if len(raw) not in (due, due + due % 2):
        raise _damaged(path)
    if bits == 1:
        flat = np.unpackbits(np.frombuffer(raw, np.uint8), count=count * rows * columns, bitorder="little")
    else:
        flat = np.frombuffer(raw[:due], np.dtype(f"<u{bits // 8}"))
    shared = document.SharedFunctionalGroupsSequence[0]
    groups = list(document.PerFrameFunctionalGroupsSequence)
    if len(groups) != count:
        raise _damaged(path)
    orientations = np.array(
        [_group(g, shared, "PlaneOrientationSequence").ImageOrientationPatient for g in groups], float
    )
    measures = _group(groups[0], shared, "PixelMeasuresSequence")
    if np.abs(orientations - orientations[0]).max() > 1e-4:
        raise refused(path, "its frames lie in different orientations", code="E-SEG-GEOMETRY")
    step = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")
    positions = [_group(g, shared, "PlanePositionSequence").ImagePositionPatient for g in groups]
    if not np.isfinite(np.array([*positions, orientations[0, :3], orientations[0, 3:]], float)).all():
        raise _damaged(path)
    return _Frames(
        flat.reshape(count, rows, columns),
        np.array([_segment(g, shared, kind) for g in groups]),
        np.array(positions, float),
        orientations[0],
        (float(measures.PixelSpacing[0]), float(measures.PixelSpacing[1])),
        float(step) if step else None,
    )


def _group(own: Any, shared: Any, name: str) -> Any:
    return (own.get(name) or shared.get(name))[0]


def _segment(own: Any, shared: Any, kind: str) -> int:
    if kind == "LABELMAP":
        return 0
    return int(_group(own, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)


def _axes(frames: _Frames) -> tuple[Array, Array, Array]:
    row, column = frames.orientation[:3], frames.orientation[3:]
    return row, column, np.cross(row, column)


def _own_geometry(frames: _Frames, path: Path, limits: Limits) -> Geometry:
    row, column, normal = _axes(frames)
    places = frames.positions @ normal
    first, last = int(places.argmin()), int(places.argmax())
    apart = np.diff(np.unique(np.round(places, 3)))
    step = frames.step or (float(apart.min()) if apart.size else 0.0)
    if step <= 0:
        raise refused(path, "its frames do not tell their distance", code="E-SEG-GEOMETRY")
    count = round((places[last] - places[first]) / step) + 1
    shape = (count, *frames.pixels.shape[1:])
    limits.check_size(path, values=int(np.prod([float(n) for n in shape])), value_bytes=4)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * frames.spacing[1], column * frames.spacing[0]
    affine[:3, 2] = (
        normal * step if count == 1 else (frames.positions[last] - frames.positions[first]) / (count - 1)
    )
    affine[:3, 3] = frames.positions[first]
    affine = checked_affine(_LPS_TO_RAS @ affine, path, limits, name="segmentation")
    return Geometry(shape, spacing_of(affine), affine=affine, format="dicom")


def _indices(frames: _Frames, geometry: Geometry, path: Path) -> Array:
    """Returns the slice of each frame; the grid of the frames must be that of the geometry."""
    if geometry.affine is None or len(geometry.shape) != 3 or geometry.shape[1:] != frames.pixels.shape[1:]:
        raise _elsewhere(path)
    row, column, _ = _axes(frames)
    voxels = np.linalg.inv(_LPS_TO_RAS @ geometry.affine)
    steps = voxels[:3, :3] @ np.stack([row * frames.spacing[1], column * frames.spacing[0]], axis=1)
    places = frames.positions @ voxels[:3, :3].T + voxels[:3, 3]
    indices = np.round(places[:, 2]).astype(np.int64)
    places[:, 2] -= indices
    # An error of a step grows over the whole width of a frame.
    drift = np.abs(steps - np.eye(3)[:, :2]).max() * max(geometry.shape[1:])
    if (
        drift > 0.5
        or np.abs(places).max() > _OFF_GRID
        or indices.min() < 0
        or indices.max() >= geometry.shape[0]
    ):
        raise _elsewhere(path)
    return indices


def _place(plane: Array, frame: Array, segment: int, values: dict[int, int], path: Path) -> None:
    if segment == 0:
        numbers = np.unique(frame)
        table = np.zeros(int(numbers[-1]) + 1, np.int32)
        for number in numbers:
            if int(number) not in values:
                raise _damaged(path)
            table[number] = values[int(number)]
        plane[...] = table[frame]
        return
    inside = frame != 0
    if segment not in values:
        raise _damaged(path)
    if plane[inside].any():
        raise refused(
            path,
            "its segments overlap; a label map has one label for each voxel",
            code="E-SEG-OVERLAP",
            hint="Export the segments without overlap, or into several files.",
        )
    plane[inside] = values[segment]


def _elsewhere(path: Path) -> DataError:
    return refused(
        path,
        "its frames do not lie on the slices of the image",
        code="E-SEG-GEOMETRY",
        hint="Was it made on another series, or is the image stored in another orientation?",
    )


def _damaged(path: Path) -> DataError:
    return refused(
        path,
        "the segmentation is damaged or incomplete",
        code="E-SEG-DAMAGED",
        hint="Copy or export it again.",
    )
