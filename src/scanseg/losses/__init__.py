"""Losses: modules that map logits and targets to one number; those that learn hold parameters."""

from typing import Any

from torch import nn

from scanseg.losses.consistency import cosine_consistency, create_cosine_consistency
from scanseg.losses.cross_entropy import CrossEntropy
from scanseg.losses.deep_supervision import DeepSupervision, deep_supervision_weights
from scanseg.losses.dice import Dice
from scanseg.losses.dice_ce import DiceCE
from scanseg.losses.focal import Focal
from scanseg.losses.registry import (
    AUXILIARY_LOSSES,
    LOSSES,
    AuxiliaryLoss,
    build_loss,
    create_auxiliary_loss,
)
from scanseg.losses.uncertainty import UncertaintyAware

LOSSES.register("dice_ce")(DiceCE)
LOSSES.register("dice")(Dice)
LOSSES.register("cross_entropy")(CrossEntropy)
LOSSES.register("focal")(Focal)
LOSSES.register("uncertainty_aware")(UncertaintyAware)

AUXILIARY_LOSSES.register("cosine_consistency")(create_cosine_consistency)


def create_loss(
    name: str, *, batch_dice: bool = False, ignore_index: int | None = None, **options: Any
) -> nn.Module:
    """Returns the loss `name`, able to take one output or a list of them (deep supervision).

    Args:
        name: An entry of `LOSSES`.
        batch_dice: What the plan says: one Dice for the whole batch.
        ignore_index: Class index that does not count, None if there is none.
        options: Passed to the loss, for example `weight_ce=0.5`.

    Raises:
        UsageError: The name, an option or its value is not accepted.

    Example:
        >>> import torch
        >>> loss = create_loss("dice_ce", batch_dice=True)
        >>> target = torch.tensor([[[[0, 1], [1, 0]]]])
        >>> logits = torch.nn.functional.one_hot(target[:, 0], 2).movedim(-1, 1) * 100.0
        >>> round(loss(logits, target).item(), 4)
        -1.0
    """
    return DeepSupervision(build_loss(name, options, batch_dice=batch_dice, ignore_index=ignore_index))


__all__ = [
    "AUXILIARY_LOSSES",
    "LOSSES",
    "AuxiliaryLoss",
    "CrossEntropy",
    "DeepSupervision",
    "Dice",
    "DiceCE",
    "Focal",
    "UncertaintyAware",
    "build_loss",
    "cosine_consistency",
    "create_auxiliary_loss",
    "create_loss",
    "deep_supervision_weights",
]
