"""Optimisers by name, and which parameters they move."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from scanseg.registry import Registry, check_options

Groups = Sequence[dict[str, Any]]

OPTIMIZERS: Registry[Callable[..., torch.optim.Optimizer]] = Registry("optimizer")

_FACTS = ("learning_rate", "weight_decay")


@OPTIMIZERS.register("sgd")
def sgd(
    groups: Groups,
    *,
    learning_rate: float,
    weight_decay: float,
    momentum: float = 0.99,
    nesterov: bool = True,
) -> torch.optim.Optimizer:
    """Returns SGD with (Nesterov) momentum; the defaults are nnU-Net's."""
    return torch.optim.SGD(
        groups,
        learning_rate,
        momentum=momentum,
        nesterov=nesterov and momentum > 0,
        weight_decay=weight_decay,
    )


@OPTIMIZERS.register("adamw")
def adamw(
    groups: Groups,
    *,
    learning_rate: float,
    weight_decay: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> torch.optim.Optimizer:
    """Returns AdamW (decoupled weight decay)."""
    return torch.optim.AdamW(groups, learning_rate, (beta1, beta2), eps=epsilon, weight_decay=weight_decay)


@OPTIMIZERS.register("adam")
def adam(
    groups: Groups,
    *,
    learning_rate: float,
    weight_decay: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> torch.optim.Optimizer:
    """Returns Adam (weight decay added to the gradient)."""
    return torch.optim.Adam(groups, learning_rate, (beta1, beta2), eps=epsilon, weight_decay=weight_decay)


def parameter_groups(network: nn.Module, loss: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Returns the optimiser groups: the network with weight decay, what the loss learns without it.

    Every parameter that wants a gradient is in exactly one group. A group without parameters is left out.
    """
    of_network = [p for p in network.parameters() if p.requires_grad]
    of_loss = [p for p in loss.parameters() if p.requires_grad]
    groups = [
        {"params": of_network, "weight_decay": weight_decay},
        {"params": of_loss, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def create_optimizer(
    name: str, groups: Groups, *, learning_rate: float, weight_decay: float = 0.0, **options: Any
) -> torch.optim.Optimizer:
    """Returns the optimiser `name` over the parameter groups.

    Args:
        name: An entry of `OPTIMIZERS`.
        groups: What `parameter_groups` returns, or any groups that torch.optim takes.
        learning_rate: The first learning rate; schedules set it anew before each step.
        weight_decay: Of groups that do not set their own.
        options: Passed to the optimiser, for example `momentum=0.9`.

    Raises:
        UsageError: The name or an option is unknown.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> groups = parameter_groups(layer, nn.Identity(), weight_decay=3e-5)
        >>> create_optimizer("sgd", groups, learning_rate=1e-2).defaults["momentum"]
        0.99
    """
    build = OPTIMIZERS[name]
    check_options("optimizer", name, build, options, reserved=_FACTS)
    return build(groups, learning_rate=learning_rate, weight_decay=weight_decay, **options)
