"""The U-Net that state-space networks are compared with: five narrow levels with batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scanseg.blocks.dims import layers
from scanseg.blocks.double_conv import DoubleConv, LinearUpsample
from scanseg.errors import UsageError
from scanseg.networks.levels import Levels, level_options, level_rows, make_levels
from scanseg.networks.mamba_unet import SINGLE_OUTPUT
from scanseg.networks.pyramid import drop_rate
from scanseg.networks.registry import Option, register_network
from scanseg.networks.topology import Topology

_BASE_FEATURES = 16
_DROPOUTS = (0.05, 0.1, 0.2, 0.3, 0.5)


class BatchNormUNet(nn.Module):
    """Double convolutions on halved maps, linear upsampling, concatenated skips, a 3x3 head.

    Args:
        topology: Of the plan.
        levels: Sizes.
        dropouts: Rate in the double convolution of each encoder level, finest first.

    Attributes:
        deep_supervision: Whether forward returns a list of one.
        stage_table: One row per stage, for people.
    """

    def __init__(self, topology: Topology, levels: Levels, *, dropouts: Sequence[float]) -> None:
        super().__init__()
        self.levels, self.deep_supervision = levels, False
        dims, kinds = topology.spatial_dims, layers(topology.spatial_dims)
        self.encoder = levels.encoder(activation=nn.LeakyReLU, dropouts=dropouts)
        self.pool = levels.pool()
        coarse_first = levels.widths[::-1]
        self.ups = nn.ModuleList(
            nn.Sequential(kinds.conv(width, width // 2, 1), LinearUpsample(dims))
            for width in coarse_first[:-1]
        )
        self.decoder = nn.ModuleList(
            DoubleConv(dims, 2 * width, width, activation=nn.LeakyReLU) for width in coarse_first[1:]
        )
        self.output = kinds.conv(coarse_first[-1], topology.out_channels, 3, padding=1)
        self.stage_table = level_rows(
            topology, levels, encoder="encoder", decoder=("ups", "decoder"), head_kernel=3
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
        for depth, (up, block) in enumerate(zip(self.ups, self.decoder, strict=True)):
            y = block(torch.cat((skips[-(depth + 2)], up(y)), 1))
        logits = self.levels.fit.leave(self.output(y), x.shape[2:])
        return [logits] if self.deep_supervision else logits


def _dropouts(value: float | Sequence[float] | None, count: int) -> tuple[float, ...]:
    if value is None:
        return tuple(_DROPOUTS[min(level, len(_DROPOUTS) - 1)] for level in range(count))
    if not isinstance(value, Sequence):
        return (drop_rate("dropout", value),) * count
    rates = tuple(drop_rate("dropout", rate) for rate in value)
    if len(rates) != count:
        raise UsageError(
            f"dropout needs one rate, or {count} here, one per level, got {rates}.", code="E-NETWORK-ARGUMENT"
        )
    return rates


@register_network(
    "unet",
    summary="U-Net of 16 to 256 channels with batch normalisation, the small peer of Mamba-UNet and UD-Mamba",
    paper=(
        "Ronneberger O, Fischer P, Brox T. U-Net: Convolutional Networks for Biomedical Image Segmentation. "
        "MICCAI (2015)."
    ),
    plan_driven=False,
    source=(
        "The U-Net among the peers of piooip/UD-mamba f8aa3b8, 1,813,764 parameters for 1 channel and 4 "
        "classes; written from its structure"
    ),
    differences=(
        "As in that peer, not in the paper: padded convolutions with batch normalisation and LeakyReLU, 16 "
        "to 256 channels, bilinear upsampling behind a 1x1 convolution, dropout in the encoder, a 3x3 head.",
        "3D (trilinear upsampling) is an extension; the source is 2D.",
        SINGLE_OUTPUT,
    ),
    options=level_options(_BASE_FEATURES)
    | {
        "dropout": Option(
            None,
            "rate in each encoder level, one number or one per level; None is 0.05, 0.1, 0.2, 0.3, 0.5, "
            "finest first",
        ),
    },
)
def unet(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    base_features: int = _BASE_FEATURES,
    dropout: float | Sequence[float] | None = None,
    **sizes: Any,
) -> BatchNormUNet:
    """Builds the U-Net."""
    levels = make_levels(topology, base_features=base_features, **sizes)
    network = BatchNormUNet(topology, levels, dropouts=_dropouts(dropout, len(levels.widths)))
    network.deep_supervision = deep_supervision
    return network
