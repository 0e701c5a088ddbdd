"""Dice plus cross-entropy, nnU-Net's loss."""

from torch import Tensor, nn

from scanseg.losses.cross_entropy import cross_entropy
from scanseg.losses.dice import DiceForm, soft_dice
from scanseg.losses.ignored import split_ignored
from scanseg.losses.numbers import require_flags


class DiceCE(nn.Module):
    """Cross-entropy minus soft Dice, each with a weight.

    The Dice enters as -Dice, so a perfect result has the value -1, as in nnU-Net.

    Args:
        batch_dice: One Dice for the whole batch instead of one per sample.
        ignore_index: Class index in the target whose voxels do not count; None if there is no such class.
            A batch in which no voxel counts has a cross-entropy of 0.
        weight_dice, weight_ce: Factors of the two terms.
        smooth, squared, background: See `soft_dice`.

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
        squared: bool = False,
        background: bool = False,
    ) -> None:
        super().__init__()
        require_flags(batch_dice=batch_dice, squared=squared, background=background)
        self.ignore_index = ignore_index
        self.weight_dice, self.weight_ce = weight_dice, weight_ce
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
        return -self.weight_dice * dice + self.weight_ce * cross_entropy(logits, known, mask)
