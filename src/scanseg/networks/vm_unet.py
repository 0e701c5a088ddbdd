"""VM-UNet: a U of VSS blocks whose skips are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from scanseg.blocks.patch import PatchExpand
from scanseg.blocks.unet import Stage
from scanseg.blocks.vss import VSSStage, initialize_linears, stochastic_depth
from scanseg.networks.mamba_unet import SINGLE_OUTPUT
from scanseg.networks.pyramid import (
    PYRAMID_OPTIONS,
    REPEAT_OPTION,
    Pyramid,
    block_counts,
    drop_rate,
    encoder_rows,
    make_pyramid,
    row,
)
from scanseg.networks.registry import Option, register_network
from scanseg.networks.topology import Topology


class VMUNet(nn.Module):
    """Patch embedding, VSS encoder, VSS decoder with added skips, four-fold expansion, head.

    The first decoder stage works on the coarsest map. Each further one adds what enters the encoder stage
    below it, then expands; so the finest map of the encoder is no skip.

    Args:
        topology: Of the plan.
        pyramid: Sizes.
        drop_paths: Per decoder stage, coarsest first, the rate of each block.

    Attributes:
        deep_supervision: Whether forward returns a list of one.
        stage_table: One row per stage, for people.
    """

    def __init__(
        self, topology: Topology, pyramid: Pyramid, *, drop_paths: Sequence[Sequence[float]]
    ) -> None:
        super().__init__()
        self.fit, self.deep_supervision = pyramid.fit, False
        coarse_first = pyramid.widths[::-1]
        self.encoder = pyramid.encoder()
        self.expands = nn.ModuleList(PatchExpand(width, width // 2) for width in coarse_first[:-1])
        self.stages = nn.ModuleList(
            VSSStage(width, pyramid.scanning, drop_paths=rates)
            for width, rates in zip(coarse_first, drop_paths, strict=True)
        )
        last = max(coarse_first[-1] // pyramid.patch, 1)
        self.up = PatchExpand(coarse_first[-1], last, scale=pyramid.patch)
        self.output = nn.Conv2d(last, topology.out_channels, 1)
        self.stage_table = _stage_table(topology, pyramid, [len(rates) for rates in drop_paths])
        initialize_linears(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, H, W) to logits (B, classes, H, W), or a list of them.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        entering, leaving = self.encoder(self.fit.enter(x))
        y = self.stages[0](leaving[-1])
        for depth, expand in enumerate(self.expands, start=1):
            y = self.stages[depth](expand(y + entering[-depth]))
        logits = self.fit.leave(self.output(self.up(y).permute(0, 3, 1, 2)), x.shape[2:])
        return [logits] if self.deep_supervision else logits


def _stage_table(topology: Topology, pyramid: Pyramid, blocks: Sequence[int]) -> tuple[Stage, ...]:
    rows = encoder_rows(topology, pyramid, prefix="encoder", stem=())
    for depth, count in enumerate(blocks):
        stage = len(blocks) - 1 - depth
        modules = [f"stages.{depth}"] + ([f"expands.{depth - 1}"] if depth else [])
        rows.append(
            row(
                f"decoder {stage}",
                topology,
                pyramid.widths[stage],
                modules,
                reduction=pyramid.patch * 2**stage,
                stride=2 if depth else 1,
                kernel=3,
                blocks=count,
                scans=True,
            )
        )
    features = max(pyramid.widths[0] // pyramid.patch, 1)
    rows.append(row("head", topology, features, ("up", "output"), reduction=1, stride=pyramid.patch))
    return tuple(rows)


@register_network(
    "vm_unet",
    summary="VM-UNet: a U of VSS blocks with cross scans and added skips",
    paper=(
        "Ruan J, Li J, Xiang S. VM-UNet: Vision Mamba UNet for Medical Image Segmentation. "
        "arXiv:2402.02491 (2024)."
    ),
    spatial_dims=(2,),
    plan_driven=False,
    source="JCruan519/VM-UNet 43c495b, vmunet.py and vmamba.py, with the depths of its configuration",
    differences=(
        "The sigmoid that the released code applies where there is one class is left to the loss.",
        SINGLE_OUTPUT,
        "The VSS blocks run in float32 under every autocast.",
        "It starts from random weights; the released recipe starts from VMamba's of ImageNet.",
    ),
    options=PYRAMID_OPTIONS
    | REPEAT_OPTION
    | {
        "depths_decoder": Option(
            None, "VSS blocks per decoder stage, coarsest first; None: 2, in the last 1"
        ),
    },
)
def vm_unet(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    repeat_gray: bool = True,
    depths_decoder: Sequence[int] | None = None,
    drop_path_rate: float = 0.2,
    **sizes: Any,
) -> VMUNet:
    """Builds VM-UNet."""
    pyramid = make_pyramid(topology, repeat_gray=repeat_gray, drop_path_rate=drop_path_rate, **sizes)
    count = len(pyramid.depths)
    released = (*(2,) * (count - 1), 1)
    blocks = block_counts("depths_decoder", depths_decoder or released, count=count)
    rising = stochastic_depth(drop_rate("drop_path_rate", drop_path_rate), blocks[::-1])
    network = VMUNet(topology, pyramid, drop_paths=[rates[::-1] for rates in rising[::-1]])
    network.deep_supervision = deep_supervision
    return network
