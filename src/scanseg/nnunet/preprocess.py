"""From images to the arrays that training reads (signatures; the bodies follow)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scanseg.nnunet.plan import Configuration, Plan
from scanseg.progress import Report, silent
from scanseg.types import Array, Image


@dataclass(frozen=True)
class Preprocessed:
    """A case as the network sees it.

    Attributes:
        data: (C, z, y, x) float32, cropped, normalised, resampled, in network order; 2D images have z = 1.
        seg: (1, z, y, x) int16, -1 where the image was zero outside the body.
        properties: What the way back needs; plain JSON values.
        class_locations: Per class, voxels (n, 4) int32 as (0, z, y, x) to sample foreground from; empty without labels.
    """

    data: Array
    seg: Array
    properties: dict[str, Any]
    class_locations: dict[int, Array] = field(default_factory=dict)


def preprocess_case(
    image: Image, label: Array | None, plan: Plan, configuration: str | Configuration
) -> Preprocessed:
    """Crops, normalises and resamples one case with nnU-Net's own code. `image` is in the plan's orientation."""
    raise NotImplementedError


def preprocess_dataset(
    dataset: Any,
    plan: Plan,
    configuration: str | Configuration,
    folder: Path,
    *,
    workers: int = 0,
    report: Report = silent,
) -> None:
    """Preprocesses every labelled case into `folder`, redoing only what is unfinished or changed."""
    raise NotImplementedError
