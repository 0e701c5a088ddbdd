"""TransUNet: a ResNet and a vision transformer under a cascaded upsampler with skips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from scanseg.blocks.attention import FeedForward, SelfAttention, TransformerBlock
from scanseg.blocks.fit import Fit
from scanseg.blocks.resnet import ConvBatchNorm, StandardizedBottleneck, StandardizedConv2d, group_norm
from scanseg.blocks.unet import Stage
from scanseg.networks.mamba_unet import SINGLE_OUTPUT
from scanseg.networks.pyramid import FIT_OPTIONS, REPEAT_OPTION, block_counts, drop_rate, row
from scanseg.networks.registry import Option, register_network
from scanseg.networks.topology import Topology, positive_integer
from scanseg.networks.windows import head_counts

_EPS = 1e-6
_HEAD_WIDTH = 64
# Width of the tokens in widths of the stem: 768 for 64.
_HIDDEN = 12


@dataclass(frozen=True)
class _Sizes:
    """Width of the stem, residual units per stage, and the transformer's width, blocks, heads and dropout."""

    features: int
    depths: tuple[int, ...]
    hidden: int
    blocks: int
    heads: int
    dropout: float

    @property
    def reduction(self) -> int:
        """How much smaller than the image the map of tokens is."""
        return 4 << (len(self.depths) - 1)

    @property
    def skips(self) -> tuple[int, ...]:
        """Widths of the skips, coarsest first; none at full size."""
        stages = [4 * self.features * 2**stage for stage in range(len(self.depths) - 1)]
        return (*stages[::-1], self.features, 0)

    @property
    def decoder(self) -> tuple[int, ...]:
        """Widths of the decoder stages, coarsest first: half of the skip; of the stem; a quarter of it."""
        return (*(skip // 2 for skip in self.skips[:-2]), self.features, max(self.features // 4, 1))


class HybridEncoder(nn.Module):
    """BiT's ResNet without its last stage; its maps are the skips."""

    def __init__(self, in_channels: int, sizes: _Sizes) -> None:
        super().__init__()
        width = sizes.features
        self.stem = nn.Sequential(
            StandardizedConv2d(in_channels, width, 7, 2, 3, bias=False),
            group_norm(width),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList(
            _resnet_stage(width * (2 ** (stage + 1) if stage else 1), width * 2**stage, units, bool(stage))
            for stage, units in enumerate(sizes.depths)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps (B, in_channels, H, W) to maps at 1/2, 1/4 ... of the size, fine to coarse."""
        maps = [self.stem(x)]
        y = functional.max_pool2d(maps[0], 3, 2)
        for stage in self.stages:
            y = stage(y)
            maps.append(y)
        # The pooling without padding leaves the finer stages a row and a column short.
        sizes = [[-(-edge // 2**level) for edge in x.shape[2:]] for level in range(1, len(maps) + 1)]
        return [_extend(one, size) for one, size in zip(maps, sizes, strict=True)]


def _resnet_stage(in_channels: int, middle: int, units: int, halve: bool) -> nn.Sequential:
    first = StandardizedBottleneck(in_channels, middle, stride=2 if halve else 1)
    rest = (StandardizedBottleneck(4 * middle, middle) for _ in range(units - 1))
    return nn.Sequential(first, *rest)


def _extend(x: Tensor, size: Sequence[int]) -> Tensor:
    bottom, right = (full - edge for full, edge in zip(size, x.shape[2:], strict=True))
    return functional.pad(x, (0, right, 0, bottom)) if bottom or right else x


class VisionTransformer(nn.Module):
    """Projects the coarsest map to tokens, adds their position embeddings and applies transformer blocks.

    Args:
        in_channels: Width of the map.
        grid: Height and width of the map.
        sizes: Of the transformer.
    """

    def __init__(self, in_channels: int, grid: Sequence[int], sizes: _Sizes) -> None:
        super().__init__()
        hidden = sizes.hidden
        self.embed = nn.Conv2d(in_channels, hidden, 1)
        self.position = nn.Parameter(torch.zeros(1, prod(grid), hidden))
        self.dropout = nn.Dropout(sizes.dropout)
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(
                    hidden,
                    SelfAttention(hidden, sizes.heads),
                    FeedForward(hidden, dropout=sizes.dropout),
                    eps=_EPS,
                )
                for _ in range(sizes.blocks)
            )
        )
        self.norm = nn.LayerNorm(hidden, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, *grid) to (B, hidden, *grid)."""
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        y = self.norm(self.blocks(self.dropout(tokens)))
        return y.transpose(1, 2).unflatten(2, x.shape[2:])  # type: ignore[no-any-return]


class TransUNet(nn.Module):
    """A ResNet, a vision transformer on its coarsest map, and stages that double the map and join a skip.

    Args:
        topology: Of the plan.
        sizes: Of the parts.
        fit: Which images it takes.

    Attributes:
        deep_supervision: Whether forward returns a list of one.
        stage_table: One row per stage, for people.
    """

    def __init__(self, topology: Topology, sizes: _Sizes, fit: Fit) -> None:
        super().__init__()
        self.fit, self.deep_supervision = fit, False
        grid = [edge // fit.multiple for edge in fit.padded(topology.patch_size)]
        coarsest = 4 * sizes.features * 2 ** (len(sizes.depths) - 1)
        self.encoder = HybridEncoder(fit.channels, sizes)
        self.transformer = VisionTransformer(coarsest, grid, sizes)
        self.bridge = ConvBatchNorm(sizes.hidden, coarsest // 2)
        below = (coarsest // 2, *sizes.decoder[:-1])
        self.decoder = nn.ModuleList(
            nn.Sequential(ConvBatchNorm(source + skip, width), ConvBatchNorm(width, width))
            for source, skip, width in zip(below, sizes.skips, sizes.decoder, strict=True)
        )
        self.output = nn.Conv2d(sizes.decoder[-1], topology.out_channels, 3, padding=1)
        self.stage_table = _stage_table(topology, sizes)
        _initialize(self.transformer)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, H, W) to logits (B, classes, H, W), or a list of them.

        Raises:
            UsageError: Wrong number of axes or channels, or not the size the network was made for.
        """
        maps = self.encoder(self.fit.enter(x))
        y = self.bridge(self.transformer(maps.pop()))
        for block in self.decoder:
            y = functional.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=True)
            y = block(torch.cat((y, maps.pop()), 1) if maps else y)
        logits = self.fit.leave(self.output(y), x.shape[2:])
        return [logits] if self.deep_supervision else logits


def _initialize(transformer: VisionTransformer) -> None:
    """Draws the feed-forward parts as ViT does; everything else keeps PyTorch's own initialisation."""
    for part in transformer.modules():
        if isinstance(part, FeedForward):
            for layer in (part.wide, part.narrow):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=_EPS)


def _stage_table(topology: Topology, sizes: _Sizes) -> tuple[Stage, ...]:
    rows = [
        row("stem", topology, sizes.features, ("encoder.stem",), reduction=2, stride=2, kernel=7),
    ]
    for stage, units in enumerate(sizes.depths):
        rows.append(
            row(
                f"encoder {stage}",
                topology,
                4 * sizes.features * 2**stage,
                (f"encoder.stages.{stage}",),
                reduction=4 * 2**stage,
                stride=2,
                kernel=3,
                blocks=units,
            )
        )
    rows.append(
        row(
            "transformer",
            topology,
            sizes.hidden,
            ("transformer",),
            reduction=sizes.reduction,
            blocks=sizes.blocks,
        )
    )
    for depth, width in enumerate(sizes.decoder):
        level = len(sizes.decoder) - 1 - depth
        # The convolution behind the transformer is shown with the first decoder stage.
        modules = [f"decoder.{depth}"] + ["bridge"] * (depth == 0)
        rows.append(
            row(
                f"decoder {level}",
                topology,
                width,
                modules,
                reduction=2**level,
                stride=2,
                kernel=3,
                blocks=2,
            )
        )
    rows.append(row("head", topology, sizes.decoder[-1], ("output",), reduction=1, kernel=3))
    return tuple(rows)


@register_network(
    "transunet",
    summary="TransUNet: a ResNet and a vision transformer under a cascaded upsampler",
    paper=(
        "Chen J, Lu Y, Yu Q, et al. TransUNet: Transformers Make Strong Encoders for Medical Image "
        "Segmentation. arXiv:2102.04306 (2021)."
    ),
    spatial_dims=(2,),
    plan_driven=False,
    source="Beckschen/TransUNet 02ef001, the configuration R50-ViT-B_16 with three skips",
    differences=(
        "Queries, keys and values are one linear layer instead of three of the same sizes.",
        "Images need not be square.",
        "Any number of input channels above one reaches the first convolution as it is; the released code "
        "takes one or three.",
        SINGLE_OUTPUT,
        "It starts from random weights; the released recipe starts from those of ImageNet-21k.",
    ),
    options={
        "base_features": Option(64, "width of the stem; all other widths are multiples of it"),
        "depths": Option((3, 4, 9), "residual units per stage of the ResNet, finest first"),
        "hidden_features": Option(None, "width of the tokens; None: 12 x base_features"),
        "transformer_depth": Option(12, "transformer blocks"),
        "heads": Option(None, "heads of the attention; None: one for each 64 channels"),
        "dropout": Option(0.1, "rate of dropout in the transformer, while training"),
        **REPEAT_OPTION,
        **FIT_OPTIONS,
    },
)
def transunet(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    base_features: int = 64,
    depths: Sequence[int] = (3, 4, 9),
    hidden_features: int | None = None,
    transformer_depth: int = 12,
    heads: int | None = None,
    dropout: float = 0.1,
    repeat_gray: bool = True,
    pad_to_fit: bool = False,
) -> TransUNet:
    """Builds TransUNet."""
    width = positive_integer("base_features", base_features)
    hidden = _HIDDEN * width if hidden_features is None else hidden_features
    hidden = positive_integer("hidden_features", hidden)
    given = None if heads is None else (positive_integer("heads", heads),)
    sizes = _Sizes(
        features=width,
        depths=block_counts("depths", depths),
        hidden=hidden,
        blocks=positive_integer("transformer_depth", transformer_depth),
        heads=head_counts(given, (hidden,), width=_HEAD_WIDTH)[0],
        dropout=drop_rate("dropout", dropout),
    )
    repeat = 3 if repeat_gray and topology.in_channels == 1 else 1
    fit = Fit(
        topology.in_channels,
        sizes.reduction,
        pad=bool(pad_to_fit),
        repeat=repeat,
        smallest=2,
        only=topology.patch_size,
    )
    fit.check_patch(topology.patch_size)
    network = TransUNet(topology, sizes, fit)
    network.deep_supervision = deep_supervision
    return network
