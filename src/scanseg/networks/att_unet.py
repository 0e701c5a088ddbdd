"""Attention U-Net: a U-Net whose decoder weighs the skips before it takes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scanseg.blocks.dims import layers
from scanseg.blocks.double_conv import ConvBatchNorm, DoubleConv
from scanseg.networks.levels import Levels, level_options, level_rows, make_levels
from scanseg.networks.mamba_unet import SINGLE_OUTPUT
from scanseg.networks.registry import register_network
from scanseg.networks.topology import Topology

_BASE_FEATURES = 64


class AttentionGate(nn.Module):
    """Weighs each place of a skip by how it agrees with the decoder's map.

    The weight is sigmoid(psi(ReLU(W_g g + W_x x))), all maps 1x1 convolutions, here with batch norm.

    Source: Oktay 2018, equations 1 and 2, with both maps at the size of the skip.
    """

    def __init__(self, spatial_dims: int, features: int) -> None:
        super().__init__()
        inner = max(features // 2, 1)
        self.gate = ConvBatchNorm(spatial_dims, features, inner, kernel_size=1, activation=None)
        self.skip = ConvBatchNorm(spatial_dims, features, inner, kernel_size=1, activation=None)
        self.weight = ConvBatchNorm(spatial_dims, inner, 1, kernel_size=1, activation=nn.Sigmoid)

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """Maps two maps (B, features, *spatial) to the weighed skip, of the same shape."""
        return skip * self.weight(torch.relu(self.gate(gate) + self.skip(skip)))  # type: ignore[no-any-return]


class AttentionUNet(nn.Module):
    """Double convolutions on halved maps; going up, nearest upsampling, a convolution, gated skips.

    Args:
        topology: Of the plan.
        levels: Sizes.

    Attributes:
        deep_supervision: Whether forward returns a list of one.
        stage_table: One row per stage, for people.
    """

    def __init__(self, topology: Topology, levels: Levels) -> None:
        super().__init__()
        self.levels, self.deep_supervision = levels, False
        dims, coarse_first = topology.spatial_dims, levels.widths[::-1]
        self.encoder = levels.encoder()
        self.pool = levels.pool()
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2.0), ConvBatchNorm(dims, width, width // 2))
            for width in coarse_first[:-1]
        )
        self.gates = nn.ModuleList(AttentionGate(dims, width) for width in coarse_first[1:])
        self.decoder = nn.ModuleList(DoubleConv(dims, 2 * width, width) for width in coarse_first[1:])
        self.output = layers(dims).conv(coarse_first[-1], topology.out_channels, 1)
        self.stage_table = level_rows(
            topology, levels, encoder="encoder", decoder=("ups", "gates", "decoder")
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, *spatial) to logits (B, classes, *spatial), or a list of them.

        Raises:
            UsageError: Wrong number of axes or channels, a size that does not fit, or, while training, a
                batch whose coarsest maps have one element in all.
        """
        y = self.levels.enter(x, training=self.training)
        skips = []
        for level, block in enumerate(self.encoder):
            y = block(self.pool(y) if level else y)
            skips.append(y)
        for depth, (up, gate, block) in enumerate(zip(self.ups, self.gates, self.decoder, strict=True)):
            y = up(y)
            y = block(torch.cat((gate(y, skips[-(depth + 2)]), y), 1))
        logits = self.levels.fit.leave(self.output(y), x.shape[2:])
        return [logits] if self.deep_supervision else logits


@register_network(
    "att_unet",
    summary="Attention U-Net: a U-Net of 64 to 1024 channels whose skips are weighed by attention gates",
    paper=(
        "Oktay O, Schlemper J, Le Folgoc L, et al. Attention U-Net: Learning Where to Look for the Pancreas. "
        "MIDL (2018)."
    ),
    plan_driven=False,
    source=(
        "The paper, section 2; widths and layers of the one among the peers of piooip/UD-mamba f8aa3b8, "
        "34,877,616 parameters for 1 channel and 4 classes"
    ),
    differences=(
        "As in that peer, the gate reads the upsampled decoder map at the size of the skip; the paper's gate "
        "works on the coarser grid and interpolates its weights. All four skips are gated; the paper leaves "
        "the finest one alone.",
        "As in that peer: batch normalisation everywhere and nearest upsampling followed by a convolution.",
        "3D is an extension of that peer, which is 2D; the paper is in 3D.",
        SINGLE_OUTPUT,
    ),
    options=level_options(_BASE_FEATURES),
)
def att_unet(
    topology: Topology, *, deep_supervision: bool = False, base_features: int = _BASE_FEATURES, **sizes: Any
) -> AttentionUNet:
    """Builds Attention U-Net."""
    network = AttentionUNet(topology, make_levels(topology, base_features=base_features, **sizes))
    network.deep_supervision = deep_supervision
    return network
