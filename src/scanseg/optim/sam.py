"""Sharpness-aware minimisation (SAM): the gradient of a step is taken where the loss nearby is highest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

_SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class SAM:
    """How far the weights climb before the gradient of a step is taken.

    A step passes twice over its batch: the first gradient g at the weights w gives the climb
    e = rho g / |g|, the second one is taken at w + e, and any optimiser applies it to w. |g| is one norm over
    all weights of the network. What the loss learns does not climb. Nothing is kept from step to step.

    Attributes:
        rho: Length of the climb, in units of the weights; 0 climbs nowhere.
        adaptive: Measures it relative to each weight: e = rho w^2 g / ||w| g|.

    Source:
        Foret et al. 2021 (arXiv 2010.01412), eq. 2 and algorithm 1; adaptive: Kwon et al. 2021
        (arXiv 2102.11600), eq. 6 with T = |w|. UU-Mamba (arXiv 2405.17496) uses rho 0.05, not adaptive.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> sam, before = SAM(rho=0.1), layer.weight.detach().clone()
        >>> with sam.climbed(layer, sam.norm(layer)):
        ...     round((layer.weight - before).norm().item(), 5)
        0.1
        >>> torch.equal(layer.weight, before)
        True
    """

    rho: float
    adaptive: bool = False

    def norm(self, network: nn.Module) -> float:
        """Returns |g|, or ||w| g| if adaptive; NaN or infinite if a gradient is, 0 without gradients."""
        gradients = [
            weight.detach().abs() * gradient if self.adaptive else gradient
            for weight, gradient in _weights_and_gradients(network)
        ]
        return get_total_norm(gradients).item()

    @contextmanager
    def climbed(self, network: nn.Module, norm: float) -> Iterator[None]:
        """Context with the weights at w + e; afterwards they are w again, bit by bit.

        Running statistics (of batch normalisation) are put back too: they are those of w.

        Args:
            network: With the gradients of the first pass; they may change within the context.
            norm: What `norm` returned, a finite number.
        """
        weights = [weight for weight, _ in _weights_and_gradients(network)]
        places = [*weights, *network.buffers()]
        kept = [place.detach().clone() for place in places]
        try:
            self._climb(network, self.rho / (norm + _SMALLEST_NORM))
            yield
        finally:
            with torch.no_grad():
                for place, value in zip(places, kept, strict=True):
                    place.copy_(value)

    @torch.no_grad()
    def _climb(self, network: nn.Module, scale: float) -> None:
        for weight, gradient in _weights_and_gradients(network):
            weight.add_(weight.square() * gradient if self.adaptive else gradient, alpha=scale)


def _weights_and_gradients(network: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
    return [(weight, weight.grad) for weight in network.parameters() if weight.grad is not None]
