"""Validation on patches: nnU-Net's pseudo Dice."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scanseg.nnunet.batches import Batch
from scanseg.training.samples import Samples
from scanseg.training.step import mixed_precision, to_device
from scanseg.types import PatchSample


@dataclass(frozen=True)
class PatchScores:
    """Scores over all validation patches.

    Attributes:
        loss: Mean over the batches.
        dice: One per foreground class; NaN for a class that is neither present nor predicted.
        samples: A few of the patches to look at.
    """

    loss: float
    dice: tuple[float, ...]
    samples: tuple[PatchSample, ...] = ()

    @property
    def mean_dice(self) -> float:
        """Mean over the classes that have a Dice, NaN if none has."""
        known = [value for value in self.dice if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan


def confusion(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the counts (K, K) of voxels, true class by predicted class, on the CPU.

    Args:
        logits: (B, K, *spatial).
        target: Class indices in 0..K-1, (B, 1, *spatial).
    """
    classes = logits.shape[1]
    pairs = target[:, 0].long() * classes + logits.argmax(1)
    return torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes).cpu()


def dice_per_class(counts: Tensor) -> tuple[float, ...]:
    """Returns 2 TP / (2 TP + FP + FN) of every foreground class; NaN where that is 0 / 0."""
    hits = counts.diagonal()[1:]
    sizes = counts.sum(0)[1:] + counts.sum(1)[1:]
    return tuple((2 * hits / sizes).tolist())


@torch.no_grad()
def validate_patches(
    network: nn.Module,
    loss_function: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: str,
) -> PatchScores:
    """Returns loss and pseudo Dice over the batches; the network is left in evaluation mode.

    The pseudo Dice counts voxels of all patches together, so it is not the Dice of cases; it costs little and
    tells whether training still helps.

    Source:
        nnU-Net 2.8.1, nnUNetTrainer.validation_step and on_validation_epoch_end.
    """
    network.eval()
    losses, counts, samples = [], torch.zeros(()), Samples()
    for batch in batches:
        data, target = to_device(batch.data, batch.target, device)
        with mixed_precision(device, precision):
            logits = network(data)
        losses.append(loss_function(logits, target).item())
        finest = logits if isinstance(logits, Tensor) else logits[0]
        counts = counts + confusion(finest, target if isinstance(target, Tensor) else target[0])
        samples.take(batch, finest)
    if not losses:
        return PatchScores(math.nan, ())
    return PatchScores(sum(losses) / len(losses), dice_per_class(counts), samples.kept())
