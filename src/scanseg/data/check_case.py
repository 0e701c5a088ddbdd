"""What one case holds and what is wrong with it: its files are read once, strictly."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scanseg.data.case_label import read_case_label
from scanseg.data.image import read_image, same_geometry
from scanseg.data.label_values import count_values
from scanseg.data.orientation import orientation_of
from scanseg.data.wording import counted, in_xyz, listed, shown
from scanseg.errors import DataError, Finding, Level
from scanseg.types import Array, Case, Geometry, Label, Shape, Spacing

Part = Literal["training", "unlabelled", "test"]

# Squares of larger values overflow 32-bit floats, those of smaller ones vanish.
LARGEST_INTENSITY = 1e18
SMALLEST_RANGE = 1e-18

# What a reader offers for one image (a spacing, a value to fill in) is no way to train on it.
HINTS = {
    "E-IMAGE-NONFINITE": "Replace these values in the image file, or take the case out of the dataset.",
    "E-GEOMETRY-MISSING": "Write the geometry of the original scan into the file, or take the case out.",
}


@dataclass(frozen=True)
class Intensity:
    """Smallest, largest and mean value of one channel."""

    low: float
    high: float
    mean: float


@dataclass(frozen=True)
class CaseFacts:
    """What was read from the files of one case.

    Attributes:
        case_id: Its name.
        part: `training`, `unlabelled` or `test`.
        group: The patient, None if unknown.
        channels: How many the image files hold in all; 0 where none could be read.
        shape: (z, y, x) or (y, x) of the image; empty where none could be read. So is `spacing`.
        spacing: Same order, in `unit`.
        unit: `mm` or `px`.
        orientation: Axis codes such as `RAS`; None in 2D and where the file has no affine.
        intensity: One entry per channel.
        label_voxels: Value in the label file -> number of voxels; None without a readable label.
        voxel_hash: SHA-256 of the image's voxels as 32-bit floats; empty where a file could not be read.
    """

    case_id: str
    part: Part
    group: str | None = None
    channels: int = 0
    shape: Shape = ()
    spacing: Spacing = ()
    unit: str = ""
    orientation: str | None = None
    intensity: tuple[Intensity, ...] = ()
    label_voxels: Mapping[int, int] | None = None
    voxel_hash: str = ""

    @property
    def spatial_dims(self) -> int:
        """2 or 3; 0 where no image could be read."""
        return len(self.shape)

    @property
    def voxel_size(self) -> float:
        """Volume (or area) of a voxel in the unit's cube (or square)."""
        return float(np.prod(self.spacing))

    @property
    def is_constant(self) -> bool:
        """Whether no channel has two different values."""
        return all(channel.low == channel.high for channel in self.intensity)

    def as_dict(self) -> dict[str, Any]:
        """Returns the facts as plain JSON values."""
        facts = asdict(self)
        counts = self.label_voxels
        facts["label_voxels"] = None if counts is None else {str(value): n for value, n in counts.items()}
        facts["label_sizes"] = (
            None if counts is None else {str(value): n * self.voxel_size for value, n in counts.items()}
        )
        facts["size_unit"] = f"{self.unit}{self.spatial_dims}" if self.shape else ""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in facts.items()}


@dataclass
class _Images:
    """Facts of a case's image files, gathered one file at a time."""

    geometry: Geometry | None = None
    channels: int = 0
    intensity: list[Intensity] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)
    is_whole: bool = True

    def add(self, array: Array, geometry: Geometry) -> None:
        self.geometry = self.geometry or geometry
        self.channels += len(array)
        self.digest.update(repr(array.shape).encode())
        for channel in array:
            self.digest.update(np.ascontiguousarray(channel).data)
            mean = float(channel.mean(dtype=np.float64))
            self.intensity.append(Intensity(float(channel.min()), float(channel.max()), mean))


def check_case(
    case: Case, part: Part, labels: Sequence[Label], *, allow_geometry_mismatch: bool = False
) -> tuple[CaseFacts, list[Finding]]:
    """Reads the files of a case, one at a time, and returns what they hold and every fault.

    Faults of images outside the training part are warnings: training does not need them.

    Args:
        case: The case.
        part: Where it belongs.
        labels: The classes whose values the label file may hold.
        allow_geometry_mismatch: Makes a label that lies elsewhere than its image a warning. Its size must be
            the image's in any case.
    """
    findings: list[Finding] = []
    images = _read_images(case, findings)
    label = None if case.label is None else _read_label(case.label, labels, images.geometry, findings)
    if label is not None and images.geometry is not None:
        findings.extend(_overlay(images.geometry, label[1], allowed=allow_geometry_mismatch))
    if label is not None:
        findings.extend(_unknown_values(label[0], labels))
    findings.extend(_intensity_findings(images.intensity))
    geometry = images.geometry
    facts = CaseFacts(
        case_id=case.case_id,
        part=part,
        group=case.group,
        channels=images.channels,
        shape=tuple(geometry.shape) if geometry else (),
        spacing=tuple(float(step) for step in geometry.spacing) if geometry else (),
        unit=geometry.unit if geometry else "",
        orientation=orientation_of(geometry) if geometry else None,
        intensity=tuple(images.intensity),
        label_voxels=label[0] if label is not None else None,
        voxel_hash=images.digest.hexdigest() if images.is_whole else "",
    )
    return facts, [_placed(finding, case, part) for finding in findings]


def _placed(finding: Finding, case: Case, part: Part) -> Finding:
    level: Level = "warning" if part != "training" and finding.level == "error" else finding.level
    text = finding.text if part == "training" else f"{part} image: {finding.text}"
    return Finding(finding.code, level, text, case_id=shown(case.case_id), hint=finding.hint)


def _read_images(case: Case, findings: list[Finding]) -> _Images:
    images = _Images()
    first: Path | None = None
    for path in case.images:
        try:
            image = read_image(path)
        except DataError as error:
            findings.append(_unreadable(error))
            images.is_whole = False
            continue
        if images.geometry is not None and first is not None:
            findings.extend(_channels_apart(first, images.geometry, path, image.geometry))
        findings.extend(_notes(path, image.geometry))
        first = first or path
        images.add(image.array, image.geometry)
    return images


def _unreadable(error: DataError) -> Finding:
    return Finding(error.code, "error", error.message, hint=HINTS.get(error.code, error.hint))


def _notes(path: Path, geometry: Geometry) -> Iterator[Finding]:
    """Yields what the reader found odd in a header, but could settle."""
    for note in geometry.header.get("notes", ()):
        hint = "Nothing, if image and label overlay in a viewer."
        yield Finding("E-DATA-HEADER", "info", f"{shown(path.name)}: {note}.", hint=hint)


def _read_label(
    path: Path, labels: Sequence[Label], geometry: Geometry | None, findings: list[Finding]
) -> tuple[dict[int, int], Geometry] | None:
    try:
        label_map = read_case_label(path, labels, geometry)
    except DataError as error:
        findings.append(_unreadable(error))
        return None
    findings.extend(_notes(path, label_map.geometry))
    return count_values(label_map.array), label_map.geometry


def _channels_apart(first: Path, geometry: Geometry, path: Path, other: Geometry) -> Iterator[Finding]:
    differences = same_geometry(geometry, other)
    if differences:
        yield Finding(
            "E-DATA-CHANNEL-GEOMETRY",
            "error",
            f"the channels {listed([first.name, path.name])} do not overlay: {'; '.join(differences)}.",
            hint="Register and resample the channels of a case to one grid first.",
        )


def _overlay(image: Geometry, label: Geometry, *, allowed: bool) -> Iterator[Finding]:
    """Yields a finding when a label does not lie on its image."""
    differences = same_geometry(image, label)
    if image.shape != label.shape:
        turned = sorted(image.shape) == sorted(label.shape)
        yield Finding(
            "E-DATA-SHAPE",
            "error",
            f"image {in_xyz(image.shape)}, label {in_xyz(label.shape)} voxels; they must be equal.",
            hint="The axes look exchanged; export the label on the grid of its image."
            if turned
            else "Export the label on the grid of its image; this may be the label of another case.",
        )
    elif differences:
        # Sizes and spacings are said already, x first; the words of same_geometry count from z.
        words = ["the spacings differ" if "spacings differ" in text else text for text in differences]
        yield Finding(
            "E-DATA-GEOMETRY",
            "warning" if allowed else "error",
            f"image {_grid(image)}, label {_grid(label)}: {'; '.join(words)}.",
            hint=f"{_cause(image, label)}Write the image's geometry into the label; if the voxels overlay all"
            " the same, use --allow-geometry-mismatch.",
        )


def _grid(geometry: Geometry) -> str:
    orientation = orientation_of(geometry)
    return (
        f"{in_xyz(geometry.shape)} spacing {in_xyz(geometry.spacing)} {geometry.unit}"
        f"{f' {orientation}' if orientation else ''}"
    )


def _cause(image: Geometry, label: Geometry) -> str:
    if orientation_of(image) != orientation_of(label):
        return "One of them may be mirrored or turned. "
    if image.spacing != label.spacing and np.allclose(image.spacing, label.spacing, rtol=1e-2):
        return "The header of one may only be rounded. "
    return ""


def _unknown_values(counts: Mapping[int, int], labels: Sequence[Label]) -> Iterator[Finding]:
    known = {label.value for label in labels}
    unknown = {value: count for value, count in counts.items() if value not in known}
    if unknown:
        values = [f"{value} ({counted(count, 'voxel')})" for value, count in unknown.items()]
        accepted = [f"{label.value} ({label.name})" for label in labels]
        yield Finding(
            "E-DATA-LABEL-UNKNOWN",
            "error",
            f"the label holds values of no class: {listed(values)}; accepted are {listed(accepted, most=9)}.",
            hint="Add the value to labels in dataset.json, or mend the label file.",
        )


def _intensity_findings(intensity: Sequence[Intensity]) -> Iterator[Finding]:
    for index, channel in enumerate(intensity):
        which = f"channel {index}" if len(intensity) > 1 else "the image"
        if channel.low == channel.high:
            yield Finding(
                "E-DATA-CONSTANT",
                "warning",
                f"{which} has the same value everywhere, {channel.low:g}.",
                hint="Look at the image; such a case teaches nothing.",
            )
        elif max(abs(channel.low), abs(channel.high)) > LARGEST_INTENSITY or (
            channel.high - channel.low < SMALLEST_RANGE
        ):
            yield Finding(
                "E-DATA-EXTREME",
                "warning",
                f"{which} has values from {channel.low:g} to {channel.high:g}, which normalise badly.",
                hint="Rescale the intensities.",
            )
