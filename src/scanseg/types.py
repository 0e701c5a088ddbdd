"""The facts that cross from one stage to the next. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

Shape = tuple[int, ...]
Spacing = tuple[float, ...]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of an image lie.

    Attributes:
        shape: Spatial size, (z, y, x) or (y, x).
        spacing: Distance of neighbouring voxels, same order as `shape`, in `unit`.
        unit: `mm`, or `px` where the file carries no physical size (spacing is then all ones).
        affine: (4, 4) float64, maps the voxel index (x, y, z, 1) to mm in RAS+ space. None for 2D images and
            stacks without physical orientation.
        format: `nifti`, `nrrd`, `mha`, `png`, `tiff`, `dicom`, or `array` for images made in memory.
        header: What the writer of that format needs to restore the geometry exactly; plain values.
    """

    shape: Shape
    spacing: Spacing
    unit: str = "mm"
    affine: Array | None = None
    format: str = "array"
    header: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.shape)


@dataclass(frozen=True)
class Image:
    """An image: array (channel, *spatial) and where it lies."""

    array: Array
    geometry: Geometry
    path: Path | None = None


@dataclass(frozen=True)
class LabelMap:
    """A label map: integer array (*spatial) with the values of the file, and where it lies."""

    array: Array
    geometry: Geometry
    path: Path | None = None


@dataclass(frozen=True)
class PatchSample:
    """A slice of a patch as a network segments it, beside the truth.

    Attributes:
        image: (C, rows, columns) as the network sees it: one channel, or three that are colours.
        truth: Class indices, (rows, columns).
        prediction: Class indices, (rows, columns).
    """

    image: Array
    truth: Array
    prediction: Array


@dataclass(frozen=True)
class Label:
    """A class of a dataset. Its index in the dataset's list is the network's class; background is index 0.

    Attributes:
        value: The value that stands for it in the dataset's label files and in the masks we write.
        name: What people call it.
    """

    value: int
    name: str


@dataclass(frozen=True)
class Case:
    """One labelled or unlabelled image of a dataset.

    Attributes:
        case_id: Unique name, also the stem of its output files.
        images: One file per channel; a single file may hold several channels.
        label: The label file, None for unlabelled cases.
        group: What must not be split between training and validation (the patient); None if unknown.
    """

    case_id: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None
