"""U-Net++: a U-Net whose skips are nested decoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scanseg.blocks.dims import layers
from scanseg.blocks.double_conv import DoubleConv, LinearUpsample
from scanseg.blocks.unet import Stage
from scanseg.networks.levels import Levels, level_options, make_levels
from scanseg.networks.pyramid import row
from scanseg.networks.registry import register_network
from scanseg.networks.topology import Topology

_BASE_FEATURES = 32


class NestedUNet(nn.Module):
    """A triangle of double convolutions: X(i, 0) is the encoder, X(0, last) gives the logits.

    X(i, j) reads all maps X(i, 0) ... X(i, j - 1) of its level and X(i + 1, j - 1), doubled in size.

    Args:
        topology: Of the plan.
        levels: Sizes.

    Attributes:
        deep_supervision: Whether forward returns a list of one.
        stage_table: One row per node, for people.

    Source: Zhou 2018, equation 1.
    """

    def __init__(self, topology: Topology, levels: Levels) -> None:
        super().__init__()
        self.levels, self.deep_supervision = levels, False
        dims, widths = topology.spatial_dims, levels.widths
        self.encoder = levels.encoder()
        self.pool, self.up = levels.pool(), LinearUpsample(dims)
        # nested[j - 1][i] is X(i, j).
        self.nested = nn.ModuleList(
            nn.ModuleList(
                DoubleConv(dims, column * widths[level] + widths[level + 1], widths[level])
                for level in range(len(widths) - column)
            )
            for column in range(1, len(widths))
        )
        self.output = layers(dims).conv(widths[0], topology.out_channels, 1)
        self.stage_table = _stage_table(topology, levels)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, *spatial) to logits (B, classes, *spatial), or a list of them.

        Raises:
            UsageError: Wrong number of axes or channels, a size that does not fit, or, while training, a
                batch whose coarsest maps have one element in all.
        """
        y = self.levels.enter(x, training=self.training)
        maps: list[list[Tensor]] = []
        for level, block in enumerate(self.encoder):
            y = block(self.pool(y) if level else y)
            maps.append([y])
        for column in self.nested:
            # From the finest level down, so that X(i + 1, j - 1) is still the last of its level.
            for level, block in enumerate(column):  # type: ignore[arg-type]
                maps[level].append(block(torch.cat((*maps[level], self.up(maps[level + 1][-1])), 1)))
        logits = self.levels.fit.leave(self.output(maps[0][-1]), x.shape[2:])
        return [logits] if self.deep_supervision else logits


def _stage_table(topology: Topology, levels: Levels) -> tuple[Stage, ...]:
    count, rows = len(levels.widths), []
    for column in range(count):
        for level in range(count - column):
            name = f"node {level}.{column}" if column else f"encoder {level}"
            module = f"nested.{column - 1}.{level}" if column else f"encoder.{level}"
            rows.append(
                row(
                    name,
                    topology,
                    levels.widths[level],
                    (module,),
                    reduction=2**level,
                    stride=1 if level == column == 0 else 2,
                    kernel=3,
                    blocks=2,
                )
            )
    return (*rows, row("head", topology, topology.out_channels, ("output",), reduction=1))


@register_network(
    "unetpp",
    summary="U-Net++: a U-Net of 32 to 512 channels whose skips are nested decoders",
    paper=(
        "Zhou Z, Siddiquee MMR, Tajbakhsh N, Liang J. UNet++: A Nested U-Net Architecture for Medical Image "
        "Segmentation. DLMIA (2018)."
    ),
    plan_driven=False,
    source=(
        "The paper, figure 1 and equation 1; among the peers of piooip/UD-mamba f8aa3b8, 9,162,852 "
        "parameters for 1 channel and 4 classes"
    ),
    differences=(
        "As in that peer: batch normalisation, bilinear upsampling that keeps the corners.",
        "The paper can supervise X(0, 1) to X(0, 4), all at full size. Lists of logits here go from fine to "
        "coarse, so only the last is there: deep supervision gives a list of one.",
        "3D (trilinear upsampling) is an extension; the source is 2D.",
    ),
    options=level_options(_BASE_FEATURES),
)
def unetpp(
    topology: Topology, *, deep_supervision: bool = False, base_features: int = _BASE_FEATURES, **sizes: Any
) -> NestedUNet:
    """Builds U-Net++."""
    network = NestedUNet(topology, make_levels(topology, base_features=base_features, **sizes))
    network.deep_supervision = deep_supervision
    return network
