"""Dice plus cross-entropy, nnU-Net's loss."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scanseg.losses.dice import soft_dice


class DiceCE(nn.Module):
    """Cross-entropy minus soft Dice, each with a weight.

    The Dice enters as -Dice, so a perfect result has the value -1, as in nnU-Net.

    Args:
        batch_dice: One Dice for the whole batch instead of one per sample.
        ignore_index: Class index in the target whose voxels do not count; None if there is no such class.
            A batch in which no voxel counts has a cross-entropy of 0.
        weight_dice, weight_ce: Factors of the two terms.
        smooth: See `soft_dice`.

    Source:
        nnU-Net (Isensee 2021); equal in value and gradient to nnunetv2's DC_and_CE_loss.
    """

    def __init__(
        self,
        *,
        batch_dice: bool,
        ignore_index: int | None = None,
        weight_dice: float = 1.0,
        weight_ce: float = 1.0,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        self.batch_dice, self.ignore_index = batch_dice, ignore_index
        self.weight_dice, self.weight_ce, self.smooth = weight_dice, weight_ce, smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of one output.

        Args:
            logits: (B, K, *spatial).
            target: Class indices, (B, 1, *spatial), any numeric type.
        """
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        mask = None if self.ignore_index is None else target != self.ignore_index
        known = target if mask is None else torch.where(mask, target, 0)
        dice = soft_dice(logits.softmax(1), known, batch_dice=self.batch_dice, smooth=self.smooth, mask=mask)
        loss = -self.weight_dice * dice
        if mask is None:
            return loss + self.weight_ce * functional.cross_entropy(logits, target[:, 0].long())
        voxelwise = functional.cross_entropy(logits, known[:, 0].long(), reduction="none")
        return loss + self.weight_ce * (voxelwise * mask[:, 0]).sum() / mask.sum().clamp_min(1)
