"""Mamba-HUNet and the light HUNet: our interpretation (R1), because there is no reference code.

The paper names the parts (VSS blocks, patch merging and expanding, convolutions and transposed convolutions
in the upsampling blocks, batch normalisation, dropout) but gives no channels, depths, kernels or rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from scanseg.blocks.fit import Fit
from scanseg.blocks.patch import PatchExpand
from scanseg.blocks.unet import Stage
from scanseg.blocks.vss import Scanning, VSSStage, initialize_linears
from scanseg.errors import UsageError
from scanseg.networks.mamba_unet import SINGLE_OUTPUT
from scanseg.networks.pyramid import (
    FIT_OPTIONS,
    PYRAMID_OPTIONS,
    Pyramid,
    drop_rate,
    encoder_rows,
    make_pyramid,
    one_of,
    row,
)
from scanseg.networks.registry import Option, register_network
from scanseg.networks.topology import Topology, positive_integer

PAPER = (
    "Sanjid KS, Hossain MT, Junayed MSS, Uddin MM. Integrating Mamba Sequence Model and Hierarchical "
    "Upsampling Network for Accurate Semantic Segmentation of Multiple Sclerosis Lesion. "
    "arXiv:2403.17432 (2024)."
)
_SOURCE = "The paper, section 3 and figures 1 and 2; interpretation R1 of this project, no reference code"
_INTERPRETATION = (
    "Interpretation R1: the paper gives neither channels, depths, kernel sizes, dropout rates nor code. "
    "Every number here is ours and can be set.",
)
_HEADS = ("convolutions", "expand")
_LIGHT_LEVELS = 5


class _Upsample(nn.Sequential):
    """Transposed convolution that doubles the map, batch norm, ReLU; channel-first."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(in_channels, out_channels, 2, 2), nn.BatchNorm2d(out_channels), nn.ReLU()
        )


class _Convolve(nn.Sequential):
    """3x3 convolution, batch norm, ReLU and, if wanted, dropout of whole channels; channel-first."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            *((nn.Dropout2d(dropout),) if dropout else ()),
        )


@dataclass(frozen=True)
class _Parts:
    """Which parts of HUNet are there; without all of them the network is Mamba-UNet."""

    dual_pathway: bool
    up_convolutions: bool
    dropout: float


class HierarchicalUp(nn.Module):
    """Doubles a map of width c on two pathways, joins the skip, convolves, and reads it with VSS blocks.

    Maps (B, H, W, c) and a skip (B, 2 H, 2 W, c / 2) to (B, 2 H, 2 W, c / 2): the sum of patch expanding and
    a transposed convolution; concatenation; 1x1 convolution; 3x3 convolution; VSS blocks.
    """

    def __init__(
        self, features: int, parts: _Parts, scanning: Scanning, *, drop_paths: tuple[float, ...]
    ) -> None:
        super().__init__()
        half = features // 2
        self.expand = PatchExpand(features, half)
        self.transposed = _Upsample(features, half) if parts.dual_pathway else None
        # On channel-last maps a linear layer is the 1x1 convolution.
        self.join = nn.Linear(features, half)
        self.convolve = _Convolve(half, half, dropout=parts.dropout) if parts.up_convolutions else None
        self.stage = VSSStage(half, scanning, drop_paths=drop_paths)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps as the class says."""
        y = self.expand(x)
        if self.transposed is not None:
            y = y + self.transposed(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = self.join(torch.cat((y, skip), -1))
        if self.convolve is not None:
            y = self.convolve(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.stage(y)  # type: ignore[no-any-return]


class MambaHUNet(nn.Module):
    """Mamba-UNet's encoder, three hierarchical upsampling blocks, two convolutional ones at the end.

    Args:
        topology: Of the plan.
        pyramid: Sizes.
        parts: Of HUNet.
        head: `convolutions`, or `expand` for Mamba-UNet's head.

    Attributes:
        deep_supervision: Whether forward returns a list of one.
        stage_table: One row per stage, for people.
    """

    def __init__(self, topology: Topology, pyramid: Pyramid, parts: _Parts, *, head: str) -> None:
        super().__init__()
        self.fit, self.deep_supervision = pyramid.fit, False
        coarse_first = pyramid.widths[::-1]
        width = coarse_first[-1]
        self.encoder = pyramid.encoder()
        self.norm = nn.LayerNorm(coarse_first[0])
        self.ups = nn.ModuleList(
            HierarchicalUp(features, parts, pyramid.scanning, drop_paths=rates)
            for features, rates in zip(coarse_first[:-1], pyramid.drop_paths[-2::-1], strict=True)
        )
        self.norm_up = nn.LayerNorm(width)
        self.up: nn.Module
        if head == "expand":
            self.up = PatchExpand(width, width, scale=pyramid.patch)
            self.output = nn.Conv2d(width, topology.out_channels, 1, bias=False)
        else:
            half, quarter = max(width // 2, 1), max(width // 4, 1)
            self.up = nn.Sequential(
                _Upsample(width, half),
                _Convolve(half, half, dropout=parts.dropout),
                _Upsample(half, quarter),
                _Convolve(quarter, quarter, dropout=parts.dropout),
            )
            self.output = nn.Conv2d(quarter, topology.out_channels, 1)
        self.stage_table = _hunet_table(topology, pyramid, self.output.in_channels)
        initialize_linears(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, H, W) to logits (B, classes, H, W), or a list of them.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        entering, leaving = self.encoder(self.fit.enter(x))
        y = self.norm(leaving[-1])
        for depth, up in enumerate(self.ups):
            y = up(y, entering[-(depth + 2)])
        y = self.norm_up(y)
        if isinstance(self.up, PatchExpand):
            y = self.up(y).permute(0, 3, 1, 2)
        else:
            y = self.up(y.permute(0, 3, 1, 2))
        logits = self.fit.leave(self.output(y), x.shape[2:])
        return [logits] if self.deep_supervision else logits


def _hunet_table(topology: Topology, pyramid: Pyramid, features: int) -> tuple[Stage, ...]:
    rows = encoder_rows(topology, pyramid, prefix="encoder", stem=())
    count = len(pyramid.depths)
    for depth in range(count - 1):
        stage = count - 2 - depth
        modules = [f"ups.{depth}"] + ["norm"] * (depth == 0)
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
    rows.append(row("head", topology, features, head, reduction=1, stride=pyramid.patch, kernel=3))
    return tuple(rows)


@register_network(
    "mamba_hunet",
    summary="Mamba-HUNet (our interpretation R1, no reference code): Mamba-UNet with convolutions going up",
    paper=PAPER,
    spatial_dims=(2,),
    plan_driven=False,
    source=_SOURCE,
    differences=(
        *_INTERPRETATION,
        "The paper speaks of a softmax in its VSS blocks and of a bilinear discretisation; the blocks here "
        "are VMamba's, with SiLU, zero-order hold for A and Euler's rule for B.",
        SINGLE_OUTPUT,
        "The VSS blocks run in float32 under every autocast.",
    ),
    options=PYRAMID_OPTIONS
    | {
        "dropout": Option(0.1, "rate at which whole channels are dropped after the convolutions"),
        "dual_pathway": Option(True, "a transposed convolution beside each patch expanding"),
        "up_convolutions": Option(True, "a 3x3 convolution in each upsampling block"),
        "head": Option("convolutions", "`convolutions`, or `expand` for the head of Mamba-UNet"),
    },
)
def mamba_hunet(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    dropout: float = 0.1,
    dual_pathway: bool = True,
    up_convolutions: bool = True,
    head: str = "convolutions",
    **sizes: Any,
) -> MambaHUNet:
    """Builds Mamba-HUNet, interpretation R1."""
    parts = _Parts(bool(dual_pathway), bool(up_convolutions), drop_rate("dropout", dropout))
    network = MambaHUNet(topology, make_pyramid(topology, **sizes), parts, head=one_of("head", head, _HEADS))
    network.deep_supervision = deep_supervision
    return network


class LightHUNet(nn.Module):
    """A U-Net whose second pathway carries every coarser map up to full resolution.

    Each level has two 3x3 convolutions. The second pathway projects the bottleneck and the coarser decoder
    maps to the finest width, doubles and adds them from coarse to fine, and joins the finest decoder map
    before the head.

    Args:
        topology: Of the plan.
        features: Width of the finest level; it doubles from level to level.
        dropout: After the first convolution of each level.
        fit: Which images it takes.

    Attributes:
        deep_supervision: Whether forward returns a list of one.
        stage_table: One row per stage, for people.
    """

    def __init__(self, topology: Topology, *, features: int, dropout: float, fit: Fit) -> None:
        super().__init__()
        self.fit, self.deep_supervision = fit, False
        widths = [features * 2**level for level in range(_LIGHT_LEVELS)]
        self.encoder = nn.ModuleList(
            _double(below, width, dropout)
            for below, width in zip((fit.channels, *widths), widths, strict=False)
        )
        self.ups = nn.ModuleList(_Upsample(2 * width, width) for width in widths[-2::-1])
        self.decoder = nn.ModuleList(_double(2 * width, width, dropout) for width in widths[-2::-1])
        self.projections = nn.ModuleList(nn.Conv2d(width, features, 1) for width in widths[:0:-1])
        self.second_ups = nn.ModuleList(nn.ConvTranspose2d(features, features, 2, 2) for _ in widths[1:])
        self.output = nn.Conv2d(2 * features, topology.out_channels, 1)
        self.stage_table = _light_table(topology, widths)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, H, W) to logits (B, classes, H, W), or a list of them.

        Raises:
            UsageError: Wrong number of axes or channels, a size that does not fit, or, while training, a
                batch whose coarsest maps have one element in all.
        """
        y = self.fit.enter(x)
        self._check_norms(y)
        skips = []
        for level, block in enumerate(self.encoder):
            y = block(y if level == 0 else nn.functional.max_pool2d(y, 2))
            skips.append(y)
        second = self.projections[0](y)
        for depth, (up, block) in enumerate(zip(self.ups, self.decoder, strict=True)):
            y = block(torch.cat((up(y), skips[-(depth + 2)]), 1))
            second = self.second_ups[depth](second)
            if depth + 1 < len(self.projections):
                second = second + self.projections[depth + 1](y)
        logits = self.fit.leave(self.output(torch.cat((y, second), 1)), x.shape[2:])
        return [logits] if self.deep_supervision else logits

    def _check_norms(self, x: Tensor) -> None:
        smallest = x.shape[0] * prod([edge // self.fit.multiple for edge in x.shape[2:]])
        if self.training and smallest < 2:
            raise UsageError(
                f"A batch of {tuple(x.shape)} is too small to train on: the coarsest map has one element, "
                "and batch normalisation needs two.",
                code="E-NETWORK-INPUT",
                hint=f"Use sides of {2 * self.fit.multiple}, or a larger batch.",
            )


def _double(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        _Convolve(in_channels, out_channels, dropout=dropout), _Convolve(out_channels, out_channels)
    )


def _light_table(topology: Topology, widths: list[int]) -> tuple[Stage, ...]:
    rows = []
    for level, width in enumerate(widths):
        stride = 2 if level else 1
        rows.append(
            row(
                f"encoder {level}",
                topology,
                width,
                (f"encoder.{level}",),
                reduction=2**level,
                stride=stride,
                kernel=3,
                blocks=2,
            )
        )
    for depth, width in enumerate(widths[-2::-1]):
        level = len(widths) - 2 - depth
        parts = tuple(f"{part}.{depth}" for part in ("ups", "decoder", "projections", "second_ups"))
        rows.append(
            row(f"decoder {level}", topology, width, parts, reduction=2**level, stride=2, kernel=3, blocks=2)
        )
    rows.append(row("head", topology, 2 * widths[0], ("output",), reduction=1))
    return tuple(rows)


@register_network(
    "hunet_light",
    summary="The light HUNet (our interpretation R1, no reference code): a U-Net with a second pathway up",
    paper=PAPER,
    spatial_dims=(2,),
    plan_driven=False,
    source=_SOURCE,
    differences=(
        *_INTERPRETATION,
        "HUNet itself (SSRN 4725376) could not be read; its title names the dual pathway, the scales and the "
        "hierarchical upsampling that this follows.",
        SINGLE_OUTPUT,
    ),
    options={
        "base_features": Option(16, "width of the finest level; it doubles from level to level"),
        "dropout": Option(
            0.1, "rate at which whole channels are dropped after the first convolution of a level"
        ),
        **FIT_OPTIONS,
    },
)
def hunet_light(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    base_features: int = 16,
    dropout: float = 0.1,
    pad_to_fit: bool = False,
) -> LightHUNet:
    """Builds the light HUNet, interpretation R1."""
    fit = Fit(topology.in_channels, 2 ** (_LIGHT_LEVELS - 1), pad=bool(pad_to_fit))
    fit.check_patch(topology.patch_size)
    network = LightHUNet(
        topology,
        features=positive_integer("base_features", base_features),
        dropout=drop_rate("dropout", dropout),
        fit=fit,
    )
    network.deep_supervision = deep_supervision
    return network
