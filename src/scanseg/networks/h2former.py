"""H2Former: a ResNet whose stages alternate with window attention and a pyramid of multi-scale tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from scanseg.blocks.attention import FeedForward, WindowStage
from scanseg.blocks.fit import Fit
from scanseg.blocks.resnet import BasicBlock, ConvBatchNorm
from scanseg.blocks.unet import Stage
from scanseg.blocks.vss import stochastic_depth
from scanseg.networks.mamba_unet import SINGLE_OUTPUT
from scanseg.networks.pyramid import FIT_OPTIONS, block_counts, drop_rate, row
from scanseg.networks.registry import Option, register_network
from scanseg.networks.topology import Topology, positive_integer
from scanseg.networks.windows import HEADS_OPTION, head_counts, window_sizes

_EMBED_KERNELS = (2, 4, 8, 16)
_MERGE_KERNELS = (2, 4)


class ChannelGate(nn.Module):
    """Strengthens channels by a factor from 1 to 2 that follows from the means of three neighbouring ones.

    Source: the channel attention of ECA-Net (Wang 2020), with the input added as H2Former has it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, *spatial, C) to the same shape."""
        means = x.flatten(1, -2).mean(1, keepdim=True)
        gate = self.mix(means).sigmoid()
        return x + x * gate.view(x.shape[0], *(1,) * (x.dim() - 2), -1)  # type: ignore[no-any-return]


class GatedFeedForward(FeedForward):
    """A feed-forward part with a channel gate behind it, on maps (B, *spatial, C).

    Source: H2Former, the multi-scale channel attention of its transformer blocks.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.gate = ChannelGate()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, *spatial, C) to the same shape."""
        return self.gate(super().forward(x))  # type: ignore[no-any-return]


class MultiScaleConvolutions(nn.Module):
    """Convolutions of stride 2 and several even sizes beside each other, and a channel gate.

    The smaller a kernel, the more channels it makes: a half, a quarter ... and the rest.
    """

    def __init__(self, in_channels: int, features: int, kernels: Sequence[int]) -> None:
        super().__init__()
        widths = [features // 2 ** (index + 1) for index in range(len(kernels) - 1)]
        widths.append(features - sum(widths))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(in_channels, width, kernel, 2, kernel // 2 - 1)
            for width, kernel in zip(widths, kernels, strict=True)
            if width
        )
        self.gate = ChannelGate()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) with even sides to (B, H / 2, W / 2, features)."""
        parts = torch.cat([convolve(x) for convolve in self.convolutions], 1)
        return self.gate(parts.movedim(1, -1))  # type: ignore[no-any-return]


class MultiScaleMerging(nn.Module):
    """LayerNorm, then convolutions of two sizes that halve the map and double the width."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.convolutions = MultiScaleConvolutions(features, 2 * features, _MERGE_KERNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C) with even sides to (B, H / 2, W / 2, 2 C)."""
        return self.convolutions(self.norm(x).movedim(-1, 1))  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """Doubles a map by a transposed convolution, joins the skip, and convolves."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, 2)
        self.block = ConvBatchNorm(2 * out_channels, out_channels, bias=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) and a skip (B, out_channels, 2 H, 2 W) to the shape of the skip."""
        return self.block(torch.cat((self.up(x), skip), 1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Sizes:
    """Per stage, finest first: width, residual blocks, heads, window and rate of each transformer block."""

    widths: tuple[int, ...]
    units: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]
    drop_paths: tuple[tuple[float, ...], ...]


class H2Former(nn.Module):
    """A ResNet at half the size; each stage adds multi-scale tokens and applies window attention.

    The tokens of the first stage come from the image, those of the others from the stage before.

    Args:
        topology: Of the plan.
        sizes: Of the stages.
        fit: Which images it takes.

    Attributes:
        deep_supervision: Whether forward returns a list of one.
        stage_table: One row per stage, for people.
    """

    def __init__(self, topology: Topology, sizes: _Sizes, fit: Fit) -> None:
        super().__init__()
        self.fit, self.deep_supervision = fit, False
        widths, levels = sizes.widths, range(len(sizes.widths))
        self.stem = nn.Sequential(
            nn.Conv2d(fit.channels, widths[0], 7, 1, 3, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.embed = MultiScaleConvolutions(fit.channels, widths[0], _EMBED_KERNELS)
        self.norm = nn.LayerNorm(widths[0])
        self.residual = nn.ModuleList(
            _residual_stage(widths[max(level - 1, 0)], widths[level], sizes.units[level], halve=level > 0)
            for level in levels
        )
        self.attention = nn.ModuleList(
            WindowStage(
                widths[level],
                sizes.heads[level],
                sizes.windows[level],
                drop_paths=sizes.drop_paths[level],
                feed_forward=GatedFeedForward,
            )
            for level in levels
        )
        self.merges = nn.ModuleList(MultiScaleMerging(width) for width in widths[:-1])
        self.decoder = nn.ModuleList(UpBlock(2 * width, width) for width in widths[-2::-1])
        self.output = nn.Conv2d(widths[0], topology.out_channels, 1, bias=False)
        self.stage_table = _stage_table(topology, sizes)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, H, W) to logits (B, classes, H, W), or a list of them.

        Raises:
            UsageError: Wrong number of axes or channels, a size that does not fit, or, while training, a
                batch whose coarsest maps have one element in all.
        """
        image = self.fit.enter(x)
        if self.training:
            self.fit.check_batch_norm(image)
        tokens = self.norm(self.embed(image))
        y = functional.max_pool2d(self.stem(image), 3, 2, 1)
        maps: list[Tensor] = []
        for level, residual in enumerate(self.residual):
            joined = self.attention[level](residual(y).movedim(1, -1) + tokens)
            if level < len(self.merges):
                tokens = self.merges[level](joined)
            y = joined.movedim(-1, 1)
            maps.append(y)
        y = maps.pop()
        for block in self.decoder:
            y = block(y, maps.pop())
        y = functional.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=True)
        logits = self.fit.leave(self.output(y), x.shape[2:])
        return [logits] if self.deep_supervision else logits


def _residual_stage(in_channels: int, out_channels: int, units: int, *, halve: bool) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride=2 if halve else 1)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(units - 1)))


def _stage_table(topology: Topology, sizes: _Sizes) -> tuple[Stage, ...]:
    stem = ("stem", "embed", "norm")
    rows = [row("stem", topology, sizes.widths[0], stem, reduction=2, stride=2, kernel=7)]
    count = len(sizes.widths)
    for level, width in enumerate(sizes.widths):
        modules = [f"residual.{level}", f"attention.{level}"] + ([f"merges.{level - 1}"] if level else [])
        rows.append(
            row(
                f"encoder {level}",
                topology,
                width,
                modules,
                reduction=2 ** (level + 1),
                stride=2 if level else 1,
                kernel=3,
                blocks=sizes.units[level] + len(sizes.drop_paths[level]),
            )
        )
    for depth, width in enumerate(sizes.widths[-2::-1]):
        level = count - 2 - depth
        rows.append(
            row(
                f"decoder {level}",
                topology,
                width,
                (f"decoder.{depth}",),
                reduction=2 ** (level + 1),
                stride=2,
                kernel=3,
                blocks=1,
            )
        )
    rows.append(row("head", topology, sizes.widths[0], ("output",), reduction=1, stride=2))
    return tuple(rows)


@register_network(
    "h2former",
    summary="H2Former: ResNet-34 stages, window attention and multi-scale tokens in one encoder",
    paper=(
        "He A, Wang K, Li T, Du C, Xia S, Fu H. H2Former: An Efficient Hierarchical Hybrid Transformer for "
        "Medical Image Segmentation. IEEE Trans Med Imaging 42(9):2763-2775 (2023)."
    ),
    spatial_dims=(2,),
    plan_driven=False,
    source="NKUhealong/H2Former 8dad87e, H2Former.py and basic_module.py, with ResNet-34's blocks",
    differences=(
        "Any size that is a multiple of 16 works with the same weights, and images need not be square; the "
        "released code takes the square it was made for.",
        "The gate of a transformer block weighs channels; the released code reads tokens as channels there, "
        "because it reshapes where it should transpose.",
        "Any number of input channels; the released file takes four.",
        SINGLE_OUTPUT,
    ),
    options={
        "base_features": Option(64, "width of the first stage; it doubles from stage to stage"),
        "depths": Option((2, 2, 2, 2), "transformer blocks per encoder stage, finest first"),
        "resnet_depths": Option((3, 4, 6, 3), "residual blocks per encoder stage, finest first"),
        "window_size": Option(
            None, "tokens on a side of a window; None: the coarsest map at the planned patch, 14 for 224"
        ),
        **HEADS_OPTION,
        "drop_path_rate": Option(0.1, "highest rate of stochastic depth while training; it rises from 0"),
        **FIT_OPTIONS,
    },
)
def h2former(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    base_features: int = 64,
    depths: Sequence[int] = (2, 2, 2, 2),
    resnet_depths: Sequence[int] = (3, 4, 6, 3),
    window_size: int | Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    drop_path_rate: float = 0.1,
    pad_to_fit: bool = False,
) -> H2Former:
    """Builds H2Former."""
    blocks = block_counts("depths", depths)
    width = positive_integer("base_features", base_features)
    fit = Fit(topology.in_channels, 2 ** len(blocks), pad=bool(pad_to_fit))
    fit.check_patch(topology.patch_size)
    padded = fit.padded(topology.patch_size)
    maps = [tuple(edge // 2 ** (level + 1) for edge in padded) for level in range(len(blocks))]
    widths = tuple(width * 2**level for level in range(len(blocks)))
    sizes = _Sizes(
        widths,
        block_counts("resnet_depths", resnet_depths, count=len(blocks)),
        head_counts(heads, widths),
        window_sizes([maps[-1]] * len(maps) if window_size is None else window_size, maps),
        stochastic_depth(drop_rate("drop_path_rate", drop_path_rate), blocks),
    )
    network = H2Former(topology, sizes, fit)
    network.deep_supervision = deep_supervision
    return network
