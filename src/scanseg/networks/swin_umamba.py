"""Swin-UMamba and Swin-UMamba-D: VMamba-T's encoder under a convolutional or a VSS decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scanseg.blocks.conv import initialize_convolutions
from scanseg.blocks.patch import PatchExpand
from scanseg.blocks.unet import Stage
from scanseg.blocks.unetr import UnetrBlock, UnetrUp
from scanseg.blocks.vss import VSSStage, initialize_linears, stochastic_depth
from scanseg.networks.pyramid import PYRAMID_OPTIONS, Pyramid, drop_rate, encoder_rows, make_pyramid, row
from scanseg.networks.registry import Option, register_network
from scanseg.networks.topology import Topology

PAPER = (
    "Liu J, Yang H, Zhou H-Y, et al. Swin-UMamba: Mamba-based UNet with ImageNet-based Pretraining. MICCAI "
    "(2024), arXiv:2402.03302."
)
_TINY = (2, 2, 9, 2)
_DECODER_DEPTH = 2
_DIFFERENCES = (
    "The VSS blocks run in float32 under every autocast.",
    "It starts from random weights; the released recipe starts from VMamba's of ImageNet and freezes them "
    "for ten epochs.",
    "Sizes that do not fit are refused; the released encoder drops odd rows and columns with a warning and "
    "fails in the decoder.",
)
_OPTIONS = PYRAMID_OPTIONS | {"depths": Option(_TINY, "VSS blocks per encoder stage, finest first")}


class SwinUMamba(nn.Module):
    """A convolutional stem, VMamba's encoder, UNETR's blocks on every skip and on the way up.

    Args:
        topology: Of the plan.
        pyramid: Sizes.

    Attributes:
        deep_supervision: Whether forward returns logits at full size, a half, a quarter and an eighth.
        stage_table: One row per stage, for people.
    """

    def __init__(self, topology: Topology, pyramid: Pyramid) -> None:
        super().__init__()
        self.fit, self.deep_supervision = pyramid.fit, False
        half = max(pyramid.widths[0] // 2, 1)
        # Channels of the maps at 1, 1/2, 1/4 ... of the size.
        features = (half, *pyramid.widths)
        self.stem = nn.Sequential(
            nn.Conv2d(pyramid.fit.channels, half, 7, 2, 3), nn.InstanceNorm2d(half, affine=True)
        )
        self.encoder = pyramid.encoder(in_channels=half)
        sources = (pyramid.fit.channels, *features[:-1])
        self.skips = nn.ModuleList(
            UnetrBlock(below, width) for below, width in zip(sources, features, strict=True)
        )
        above = (features[-1], *features[:0:-1])
        self.ups = nn.ModuleList(
            UnetrUp(below, width) for below, width in zip(above, features[::-1], strict=True)
        )
        self.last = UnetrBlock(half, half)
        self.heads = nn.ModuleList(
            nn.Conv2d(width, topology.out_channels, 1) for width in features[: len(pyramid.depths)]
        )
        self.stage_table = _swin_table(topology, pyramid, features)
        initialize_linears(self.encoder)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, H, W) to logits (B, classes, H, W), or a list of them, fine to coarse.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        image = self.fit.enter(x)
        stem = self.stem(image)
        _, leaving = self.encoder(stem)
        maps = [image, stem, *(level.permute(0, 3, 1, 2) for level in leaving)]
        y = maps.pop()
        decoded: list[Tensor] = []
        for up in self.ups:
            skip = self.skips[len(maps) - 1](maps.pop())
            y = up(y, skip)
            decoded.insert(0, y)
        decoded[0] = self.last(decoded[0])
        wanted = len(self.heads) if self.deep_supervision else 1
        outputs = [
            self.fit.leave(self.heads[level](decoded[level]), x.shape[2:], stride=2**level)
            for level in range(wanted)
        ]
        return outputs if self.deep_supervision else outputs[0]


def _swin_table(topology: Topology, pyramid: Pyramid, features: tuple[int, ...]) -> tuple[Stage, ...]:
    rows = encoder_rows(topology, pyramid, prefix="encoder", stem=("stem",))
    levels = len(features)
    for depth, width in enumerate(features[::-1]):
        level = levels - 1 - depth
        modules = [f"ups.{depth}", f"skips.{level}"]
        modules += [f"heads.{level}"] if level < len(pyramid.depths) else []
        modules += ["last"] if level == 0 else []
        blocks = 3 if level == 0 else 2
        rows.append(
            row(
                f"decoder {level}",
                topology,
                width,
                modules,
                reduction=2**level,
                stride=2,
                kernel=3,
                blocks=blocks,
            )
        )
    return tuple(rows)


@register_network(
    "swin_umamba",
    summary="Swin-UMamba: VMamba-T's encoder under a convolutional decoder",
    paper=PAPER,
    spatial_dims=(2,),
    plan_driven=False,
    source="JiarunLiu/Swin-UMamba 2c1f72e, SwinUMamba.py",
    differences=_DIFFERENCES,
    options=_OPTIONS,
)
def swin_umamba(topology: Topology, *, deep_supervision: bool = False, **sizes: Any) -> SwinUMamba:
    """Builds Swin-UMamba."""
    arguments = {"depths": _TINY, **sizes}
    network = SwinUMamba(topology, make_pyramid(topology, patch=2, stem_stride=2, **arguments))
    network.deep_supervision = deep_supervision
    return network


class SwinUMambaD(nn.Module):
    """VMamba's encoder and a decoder of VSS blocks with concatenated skips.

    Args:
        topology: Of the plan.
        pyramid: Sizes.
        drop_path_rate: Of the decoder, falling to 0 at its end.

    Attributes:
        deep_supervision: Whether forward returns logits at full size and at the size of each decoder stage.
        stage_table: One row per stage, for people.
    """

    def __init__(self, topology: Topology, pyramid: Pyramid, *, drop_path_rate: float) -> None:
        super().__init__()
        self.fit, self.deep_supervision, self.patch = pyramid.fit, False, pyramid.patch
        coarse_first = pyramid.widths[::-1]
        rising = stochastic_depth(drop_path_rate, (_DECODER_DEPTH,) * (len(coarse_first) - 1))
        self.encoder = pyramid.encoder()
        self.expands = nn.ModuleList(PatchExpand(width, width // 2) for width in coarse_first[:-1])
        self.joins = nn.ModuleList(nn.Linear(2 * width, width) for width in coarse_first[1:])
        self.stages = nn.ModuleList(
            VSSStage(width, pyramid.scanning, drop_paths=rates[::-1])
            for width, rates in zip(coarse_first[1:], rising[::-1], strict=True)
        )
        self.up = PatchExpand(coarse_first[-1], coarse_first[-1], scale=pyramid.patch)
        widths = (*coarse_first[1:], coarse_first[-1])
        self.heads = nn.ModuleList(nn.Conv2d(width, topology.out_channels, 1) for width in widths)
        self.stage_table = _swin_d_table(topology, pyramid)
        initialize_linears(self.encoder)
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, H, W) to logits (B, classes, H, W), or a list of them, fine to coarse.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        _, leaving = self.encoder(self.fit.enter(x))
        y = leaving[-1]
        outputs: list[Tensor] = []
        for depth, stage in enumerate(self.stages):
            joined = torch.cat((self.expands[depth](y), leaving[-(depth + 2)]), -1)
            y = stage(self.joins[depth](joined))
            if self.deep_supervision:
                stride = self.patch * 2 ** (len(self.stages) - 1 - depth)
                outputs.insert(0, self._head(depth, y, x, stride))
        outputs.insert(0, self._head(-1, self.up(y), x, 1))
        return outputs if self.deep_supervision else outputs[0]

    def _head(self, depth: int, y: Tensor, x: Tensor, stride: int) -> Tensor:
        return self.fit.leave(self.heads[depth](y.permute(0, 3, 1, 2)), x.shape[2:], stride=stride)


def _swin_d_table(topology: Topology, pyramid: Pyramid) -> tuple[Stage, ...]:
    rows = encoder_rows(topology, pyramid, prefix="encoder", stem=())
    count = len(pyramid.depths)
    for depth in range(count - 1):
        stage = count - 2 - depth
        rows.append(
            row(
                f"decoder {stage}",
                topology,
                pyramid.widths[stage],
                [f"{part}.{depth}" for part in ("expands", "joins", "stages", "heads")],
                reduction=pyramid.patch * 2**stage,
                stride=2,
                kernel=3,
                blocks=_DECODER_DEPTH,
                scans=True,
            )
        )
    head = ("up", f"heads.{count - 1}")
    rows.append(row("head", topology, pyramid.widths[0], head, reduction=1, stride=pyramid.patch))
    return tuple(rows)


@register_network(
    "swin_umamba_d",
    summary="Swin-UMamba-D: VMamba-T's encoder under a decoder of VSS blocks",
    paper=PAPER,
    spatial_dims=(2,),
    plan_driven=False,
    source="JiarunLiu/Swin-UMamba 2c1f72e, SwinUMambaD.py",
    differences=_DIFFERENCES,
    options=_OPTIONS,
)
def swin_umamba_d(
    topology: Topology, *, deep_supervision: bool = False, drop_path_rate: float = 0.2, **sizes: Any
) -> SwinUMambaD:
    """Builds Swin-UMamba-D."""
    arguments = {"depths": _TINY, "drop_path_rate": drop_path_rate, **sizes}
    pyramid = make_pyramid(topology, **arguments)
    network = SwinUMambaD(topology, pyramid, drop_path_rate=drop_rate("drop_path_rate", drop_path_rate))
    network.deep_supervision = deep_supervision
    return network
