"""What a recipe needs from its network besides logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from scanseg.errors import UsageError
from scanseg.networks import NETWORKS, create_network

if TYPE_CHECKING:
    from scanseg.training.recipe import Recipe

# Sizes that suit the networks of these dimensions.
_PATCHES = {2: (256, 256), 3: (64, 64, 64)}


def check_abilities(recipe: Recipe) -> None:
    """Refuses what `require_abilities` does, before there is a plan or a prepared image.

    Raises:
        UsageError: The network lacks something that the recipe needs.
    """
    if recipe.auxiliary_loss is not None and (network := _without_weights(recipe)) is not None:
        require_abilities(recipe, network)


def require_abilities(recipe: Recipe, network: nn.Module) -> None:
    """Refuses a network that lacks something the recipe needs.

    Args:
        recipe: Of a training.
        network: The one it names.

    Raises:
        UsageError: The recipe has an auxiliary loss, and the network no `forward_with_aux`.
    """
    if recipe.auxiliary_loss is not None and not hasattr(network, "forward_with_aux"):
        raise UsageError(
            f"The auxiliary loss {recipe.auxiliary_loss} needs more than logits, and {recipe.network} gives "
            "nothing else.",
            code="E-RECIPE-AUXILIARY",
            hint="Leave auxiliary_loss out, or use a network with forward_with_aux, for example ud_mamba.",
        )


def _without_weights(recipe: Recipe) -> nn.Module | None:
    """Returns the network at its patch or a usual one; None if it cannot be, which the plan has to tell."""
    dims = NETWORKS[recipe.network].spatial_dims
    patch = recipe.patch_size or _PATCHES[dims[0]]
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            return create_network(
                recipe.network,
                spatial_dims=len(patch),
                in_channels=1,
                out_channels=2,
                patch_size=patch,
                **recipe.network_options,
            )
        except UsageError:
            return None
