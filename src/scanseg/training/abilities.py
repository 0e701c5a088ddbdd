"""What a recipe needs from its network besides logits."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import nn

from scanseg.errors import UsageError
from scanseg.networks import NETWORKS, create_network
from scanseg.networks.pretrained import has_vss_encoder
from scanseg.types import Shape

if TYPE_CHECKING:
    from scanseg.training.recipe import Recipe

# Sizes that suit the networks of these dimensions.
_PATCHES = {2: (256, 256), 3: (64, 64, 64)}


def check_abilities(recipe: Recipe) -> None:
    """Refuses what `require_abilities` does, before there is a plan or a prepared image.

    Raises:
        UsageError: The network lacks something that the recipe needs.
    """
    if recipe.auxiliary_loss or recipe.freeze_encoder_epochs or recipe.pretrained:
        options = json.dumps(recipe.network_options, sort_keys=True, default=str)
        if (network := _without_weights(recipe.network, recipe.patch_size, options)) is not None:
            require_abilities(recipe, network)


def require_abilities(recipe: Recipe, network: nn.Module) -> None:
    """Refuses a network that lacks something the recipe needs.

    Args:
        recipe: Of a training.
        network: The one it names.

    Raises:
        UsageError: The recipe has an auxiliary loss, and the network no `forward_with_aux`; or it has
            pretrained weights or freezes the encoder, and the network has no VSS encoder.
    """
    if (recipe.freeze_encoder_epochs or recipe.pretrained) and not has_vss_encoder(network):
        field = "pretrained" if recipe.pretrained else "freeze_encoder_epochs"
        raise UsageError(
            f"The recipe's {field} needs a network with VMamba's encoder, and {recipe.network} has none.",
            code="E-RECIPE-ENCODER",
            hint=f"Leave {field} out, or use such a network, for example vm_unet.",
        )
    if recipe.auxiliary_loss is not None and not hasattr(network, "forward_with_aux"):
        raise UsageError(
            f"The auxiliary loss {recipe.auxiliary_loss} needs more than logits, and {recipe.network} gives "
            "nothing else.",
            code="E-RECIPE-AUXILIARY",
            hint="Leave auxiliary_loss out, or use a network with forward_with_aux, for example ud_mamba.",
        )


@lru_cache(maxsize=16)
def _without_weights(name: str, patch_size: Shape | None, options: str) -> nn.Module | None:
    """Returns the network at its patch or a usual one; None if it cannot be, which the plan has to tell."""
    patch = patch_size or _PATCHES[NETWORKS[name].spatial_dims[0]]
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            return create_network(
                name,
                spatial_dims=len(patch),
                in_channels=1,
                out_channels=2,
                patch_size=patch,
                **json.loads(options),
            )
        except UsageError:
            return None
