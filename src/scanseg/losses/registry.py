"""The tables of losses: of the logits, and of what a network tells besides them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from scanseg.registry import Registry, check_options

AuxiliaryLoss = Callable[[Mapping[str, Any]], Tensor]

LOSSES: Registry[Callable[..., nn.Module]] = Registry("loss")
AUXILIARY_LOSSES: Registry[Callable[..., AuxiliaryLoss]] = Registry("auxiliary loss")

_FACTS = ("ignore_index",)


def build_loss(
    name: str, options: Mapping[str, Any], *, batch_dice: bool, ignore_index: int | None
) -> nn.Module:
    """Returns the loss `name` for one output.

    Args:
        name: An entry of `LOSSES`.
        options: Passed to the loss.
        batch_dice: What the plan says: one Dice for the whole batch. A loss without a Dice does not get it;
            an option of this name comes before it.
        ignore_index: Class index that does not count, None if there is none.

    Raises:
        UsageError: The name, an option or its value is not accepted.
    """
    build = LOSSES[name]
    check_options("loss", name, build, options, reserved=_FACTS)
    facts = {"batch_dice": batch_dice} if _takes(build, "batch_dice") else {}
    return build(ignore_index=ignore_index, **{**facts, **options})


def create_auxiliary_loss(name: str, **options: Any) -> AuxiliaryLoss:
    """Returns the auxiliary loss `name`: from the second result of `forward_with_aux` to a scalar.

    Args:
        name: An entry of `AUXILIARY_LOSSES`.
        options: Its options, for example `pairs="same_direction"`.

    Raises:
        UsageError: The name, an option or its value is not accepted.
    """
    build = AUXILIARY_LOSSES[name]
    check_options("auxiliary loss", name, build, options)
    return build(**options)


def _takes(build: Callable[..., object], argument: str) -> bool:
    parameters = inspect.signature(build).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
