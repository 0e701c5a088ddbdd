"""A term of the loss on what a network tells besides its logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scanseg.losses import AuxiliaryLoss

Logits = Tensor | list[Tensor]


@dataclass(frozen=True)
class Auxiliary:
    """A loss of the second result of `forward_with_aux`, and the factor it is added with.

    Attributes:
        loss: From that result to a scalar.
        weight: Its factor.
    """

    loss: AuxiliaryLoss
    weight: float


def forward_with_aux(network: nn.Module, data: Tensor) -> tuple[Logits, Mapping[str, Any]]:
    """Returns what the network's `forward_with_aux` does; hooks and wrappers see a call of the network.

    `DistributedDataParallel` shares gradients only of passes through its own `forward`, which calls that of
    the network in it. So for one call the latter leads to `forward_with_aux`.

    Args:
        network: Has `forward_with_aux`, or is a `DistributedDataParallel` around one that has it.
        data: (B, C, *spatial).
    """
    with _redirected(network.module if isinstance(network, DistributedDataParallel) else network):
        return network(data)  # type: ignore[no-any-return]


@contextmanager
def _redirected(network: nn.Module) -> Iterator[None]:
    def once(data: Tensor) -> tuple[Logits, Mapping[str, Any]]:
        # A forward_with_aux may use forward itself.
        del network.forward
        return network.forward_with_aux(data)  # type: ignore[operator, no-any-return]

    network.forward = once
    try:
        yield
    finally:
        network.__dict__.pop("forward", None)
