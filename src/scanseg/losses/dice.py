"""Soft Dice over softmax probabilities."""

from typing import TypedDict

import torch
from torch import Tensor, nn

from scanseg.losses.ignored import split_ignored
from scanseg.losses.numbers import require_flags


class DiceForm(TypedDict):
    """Which Dice it is; see `soft_dice`."""

    batch_dice: bool
    smooth: float
    squared: bool
    background: bool


def one_hot(target: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Returns class indices (B, 1, *spatial) as zeros and ones (B, classes, *spatial)."""
    shape = (target.shape[0], classes, *target.shape[2:])
    return torch.zeros(shape, dtype=dtype, device=target.device).scatter_(1, target.long(), 1)


def soft_dice(
    probabilities: Tensor,
    target: Tensor,
    *,
    batch_dice: bool,
    smooth: float = 1e-5,
    squared: bool = False,
    background: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Returns the soft Dice, averaged over the foreground classes (and the samples, unless `batch_dice`).

    Args:
        probabilities: (B, K, *spatial), class 0 is the background.
        target: Class indices, (B, 1, *spatial), any numeric type.
        batch_dice: True: the batch counts as one large image; False: each sample has its own Dice.
        smooth: Added to numerator and denominator; a class that is absent from both gets about 1.
        squared: The denominator adds squares: sum p^2 + sum t^2 instead of sum p + sum t.
        background: The background counts as a class, too.
        mask: (B, 1, *spatial), False where voxels do not count.

    Returns:
        A scalar in [0, 1].

    Source:
        V-Net (arXiv 1606.04797), eq. 1, with plain instead of squared denominators as in nnU-Net's
        MemoryEfficientSoftDiceLoss, whose values it reproduces (with the sign reversed). With `squared`,
        `background` and `batch_dice` it is 1 - DiceLoss of TransUNet (utils.py), which the released code of
        Swin-Unet, Mamba-UNet and UD-Mamba uses, too.
    """
    first = 0 if background else 1
    expected = one_hot(target, probabilities.shape[1], probabilities.dtype)[:, first:]
    found = probabilities[:, first:]
    if mask is not None:
        expected, found = expected * mask, found * mask
    axes = tuple(range(2, probabilities.ndim))
    # What is expected is 0 or 1, its own square.
    sizes = found.square() if squared else found
    overlap, total = (found * expected).sum(axes), sizes.sum(axes) + expected.sum(axes)
    if batch_dice:
        overlap, total = overlap.sum(0), total.sum(0)
    return ((2 * overlap + smooth) / (total + smooth).clamp_min(1e-8)).mean()


class Dice(nn.Module):
    """1 - soft Dice: 0 for a perfect result, 1 without any overlap.

    Args:
        batch_dice: One Dice for the whole batch instead of one per sample.
        ignore_index: Class index in the target whose voxels do not count; None if there is no such class.
        smooth, squared, background: See `soft_dice`.
        negative: Returns -Dice instead, as nnU-Net does: the same gradient, values in [-1, 0].

    Source:
        UU-Mamba (arXiv 2405.17496), eqs. 4 and 5. Its code takes nnU-Net's -Dice; divided by a variance that
        is learned, that has no lower bound.
    """

    def __init__(
        self,
        *,
        batch_dice: bool,
        ignore_index: int | None = None,
        smooth: float = 1e-5,
        squared: bool = False,
        background: bool = False,
        negative: bool = False,
    ) -> None:
        super().__init__()
        require_flags(batch_dice=batch_dice, squared=squared, background=background, negative=negative)
        self.ignore_index, self.negative = ignore_index, negative
        self.form: DiceForm = {
            "batch_dice": batch_dice,
            "smooth": smooth,
            "squared": squared,
            "background": background,
        }

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of one output.

        Args:
            logits: (B, K, *spatial), float32 or float64.
            target: Class indices, (B, 1, *spatial), any numeric type.
        """
        known, mask = split_ignored(target, self.ignore_index)
        dice = soft_dice(logits.softmax(1), known, mask=mask, **self.form)
        return -dice if self.negative else 1 - dice
