"""Training batches as a pure function of (seed, step) (signatures; the bodies follow)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scanseg.nnunet.plan import Configuration, Plan

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One training step's input.

    Attributes:
        data: (B, C, *patch_size) float32.
        target: Class indices (B, 1, *patch_size) int16; with deep supervision a list of them, fine to coarse.
        case_ids: The case of each sample.
    """

    data: Tensor
    target: Tensor | list[Tensor]
    case_ids: tuple[str, ...]


def deep_supervision_scales(configuration: Configuration) -> list[list[float]]:
    """Returns nnU-Net's scale of each deep-supervision output, fine to coarse, the deepest stage left out."""
    raise NotImplementedError


class Batches:
    """Batches of one fold; `batch(step)` depends on nothing but the arguments given here and the step."""

    def __init__(
        self,
        store: Path,
        case_ids: Sequence[str],
        plan: Plan,
        configuration: str | Configuration,
        *,
        seed: int,
        train: bool,
        deep_supervision_scales: list[list[float]] | None,
        batch_size: int | None = None,
        patch_size: Sequence[int] | None = None,
        oversample_foreground: float = 0.33,
        augment: bool = True,
        mirror: bool = True,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        raise NotImplementedError

    def batch(self, step: int) -> Batch:
        """Returns the batch of `step`; with shard (rank, count), this rank's part of it."""
        raise NotImplementedError


def iterate(batches: Batches, first_step: int, last_step: int, workers: int = 0) -> Iterator[Batch]:
    """Yields the batches first_step <= step < last_step in order. Make one iterator for a whole training, not per epoch."""
    raise NotImplementedError
