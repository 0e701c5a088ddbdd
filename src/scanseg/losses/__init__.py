"""Losses: modules that map logits and targets to one number; those that learn hold parameters."""

from collections.abc import Callable
from typing import Any

from torch import nn

from scanseg.losses.deep_supervision import DeepSupervision, deep_supervision_weights
from scanseg.losses.dice_ce import DiceCE
from scanseg.registry import Registry, check_options

LOSSES: Registry[Callable[..., nn.Module]] = Registry("loss")
LOSSES.register("dice_ce")(DiceCE)

_FACTS = ("batch_dice", "ignore_index")


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
        UsageError: The name or an option is unknown.

    Example:
        >>> import torch
        >>> loss = create_loss("dice_ce", batch_dice=True)
        >>> target = torch.tensor([[[[0, 1], [1, 0]]]])
        >>> logits = torch.nn.functional.one_hot(target[:, 0], 2).movedim(-1, 1) * 100.0
        >>> round(loss(logits, target).item(), 4)
        -1.0
    """
    build = LOSSES[name]
    check_options("loss", name, build, options, reserved=_FACTS)
    return DeepSupervision(build(batch_dice=batch_dice, ignore_index=ignore_index, **options))


__all__ = ["LOSSES", "DeepSupervision", "DiceCE", "create_loss", "deep_supervision_weights"]
