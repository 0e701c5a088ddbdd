"""Mamba-UNet: a U of VSS blocks, and the body that UD-Mamba shares with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scanseg.blocks.dims import layers
from scanseg.blocks.patch import PatchExpand
from scanseg.blocks.unet import Stage
from scanseg.blocks.vss import Scanning, VSSStage, initialize_linears
from scanseg.networks.pyramid import (
    PYRAMID_OPTIONS,
    REPEAT_OPTION,
    Pyramid,
    encoder_rows,
    make_pyramid,
    row,
)
from scanseg.networks.registry import register_network
from scanseg.networks.topology import Topology

SINGLE_OUTPUT = "It has one output: deep supervision gives a list of one."


class MambaUNet(nn.Module):
    """Patch embedding, VSS encoder, VSS decoder with concatenated skips, four-fold expansion, head.

    The skip of a decoder stage is what enters the encoder stage of the same size.

    Args:
        topology: Of the plan.
        pyramid: Sizes.
        encoder_scannings: Per encoder stage, finest first; None: the pyramid's own.
        decoder_scannings: Per decoder stage, coarsest first; None: the pyramid's own.

    Attributes:
        deep_supervision: Whether forward returns a list of one.
        stage_table: One row per stage, for people.
    """

    def __init__(
        self,
        topology: Topology,
        pyramid: Pyramid,
        *,
        encoder_scannings: Sequence[Scanning] | None = None,
        decoder_scannings: Sequence[Scanning] | None = None,
    ) -> None:
        super().__init__()
        self.fit, self.deep_supervision = pyramid.fit, False
        coarse_first = pyramid.widths[::-1]
        self.encoder = pyramid.encoder(encoder_scannings)
        self.norm = nn.LayerNorm(coarse_first[0])
        scannings = decoder_scannings or (pyramid.scanning,) * (len(coarse_first) - 1)
        dims = topology.spatial_dims
        self.expands = nn.ModuleList(
            PatchExpand(width, width // 2, spatial_dims=dims) for width in coarse_first[:-1]
        )
        self.joins = nn.ModuleList(nn.Linear(2 * width, width) for width in coarse_first[1:])
        self.stages = nn.ModuleList(
            VSSStage(width, scanning, drop_paths=rates)
            for width, scanning, rates in zip(
                coarse_first[1:], scannings, pyramid.drop_paths[-2::-1], strict=True
            )
        )
        self.norm_up = nn.LayerNorm(coarse_first[-1])
        last = coarse_first[-1]
        self.up = PatchExpand(last, last, scale=pyramid.patch, spatial_dims=dims)
        self.output = layers(dims).conv(last, topology.out_channels, 1, bias=False)
        self.stage_table = _stage_table(topology, pyramid)
        initialize_linears(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, *spatial) to logits (B, classes, *spatial), or a list of them.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        return self.run(x)[0]

    def run(
        self, x: Tensor, *, factor: Tensor | None = None, keep: Collection[int] = ()
    ) -> tuple[Tensor | list[Tensor], list[list[Tensor]]]:
        """Returns the logits, and the scans of the decoder stages in `keep`, each a list over its blocks.

        Args:
            x: Images, (B, in_channels, *spatial).
            factor: Weights of the scans of all blocks, (K,); see SS2D.
            keep: Decoder stages, 0 is the coarsest.
        """
        entering, leaving = self.encoder(self.fit.enter(x), factor)
        y = self.norm(leaving[-1])
        kept = []
        for depth, stage in enumerate(self.stages):
            y = self.joins[depth](torch.cat((self.expands[depth](y), entering[-(depth + 2)]), -1))
            if depth in keep:
                y, scans = stage.forward_with_scans(y, factor)  # type: ignore[operator]
                kept.append(scans)
            else:
                y = stage(y, factor)
        logits = self.output(self.up(self.norm_up(y)).movedim(-1, 1))
        logits = self.fit.leave(logits, x.shape[2:])
        return [logits] if self.deep_supervision else logits, kept


def _stage_table(topology: Topology, pyramid: Pyramid) -> tuple[Stage, ...]:
    rows = encoder_rows(topology, pyramid, prefix="encoder", stem=())
    count = len(pyramid.depths)
    for depth in range(count - 1):
        stage = count - 2 - depth
        # The norm behind the encoder is shown with the first decoder stage.
        modules = [f"{part}.{depth}" for part in ("expands", "joins", "stages")] + ["norm"] * (depth == 0)
        rows.append(
            row(
                f"decoder {stage}",
                topology,
                pyramid.widths[stage],
                modules,
                reduction=pyramid.patch * 2**stage,
                stride=2,
                kernel=3,
                blocks=pyramid.depths[stage],
                scans=True,
            )
        )
    head = ("norm_up", "up", "output")
    rows.append(row("head", topology, pyramid.widths[0], head, reduction=1, stride=pyramid.patch))
    return tuple(rows)


@register_network(
    "mamba_unet",
    summary="Mamba-UNet: a U of VSS blocks with cross scans",
    paper=(
        "Wang Z, Zheng J-Q, Zhang Y, Cui G, Li L. Mamba-UNet: UNet-Like Pure Visual Mamba for Medical Image "
        "Segmentation. arXiv:2402.05079 (2024)."
    ),
    spatial_dims=(2,),
    plan_driven=False,
    source="ziyangwang007/Mamba-UNet dfe92ba, mamba_sys.py, with the depths of its configuration",
    differences=(
        SINGLE_OUTPUT,
        "The VSS blocks run in float32 under every autocast.",
        "It starts from random weights; the released recipe starts from VMamba's of ImageNet.",
    ),
    options=PYRAMID_OPTIONS | REPEAT_OPTION,
)
def mamba_unet(
    topology: Topology, *, deep_supervision: bool = False, repeat_gray: bool = True, **sizes: Any
) -> MambaUNet:
    """Builds Mamba-UNet."""
    network = MambaUNet(topology, make_pyramid(topology, repeat_gray=repeat_gray, **sizes))
    network.deep_supervision = deep_supervision
    return network
