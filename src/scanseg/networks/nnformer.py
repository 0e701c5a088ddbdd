"""nnFormer: a U of transformer blocks with shifted windows for volumes, joined by skip attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn
from torch.nn import functional

from scanseg.blocks.attention import FeedForward, TransformerBlock, WindowAttention, WindowStage
from scanseg.blocks.axis_fit import AxisFit
from scanseg.blocks.dims import layers
from scanseg.blocks.unet import Stage
from scanseg.blocks.vss import stochastic_depth
from scanseg.networks.pyramid import FIT_OPTIONS, block_counts, drop_rate, one_of
from scanseg.networks.registry import Option, register_network
from scanseg.networks.topology import Steps, Topology, positive_integer
from scanseg.networks.windows import DROP_PATH_OPTION, HEADS_OPTION, head_counts, window_sizes


@dataclass(frozen=True)
class _Configuration:
    """A released configuration: width, strides of the stem and of the merges, windows per stage."""

    features: int
    stem: Steps
    merges: Steps
    windows: tuple[tuple[int, ...], ...]


_CONFIGURATIONS = {
    "acdc": _Configuration(
        96,
        ((1, 2, 2), (1, 2, 2)),
        ((1, 2, 2), (2, 2, 2), (2, 2, 2)),
        ((3, 5, 5), (3, 5, 5), (7, 10, 10), (3, 5, 5)),
    ),
    "synapse": _Configuration(
        192,
        ((2, 2, 2), (1, 2, 2)),
        ((2, 2, 2), (2, 2, 2), (2, 2, 2)),
        ((4, 4, 4), (4, 4, 4), (8, 8, 8), (4, 4, 4)),
    ),
}


@dataclass(frozen=True)
class _Sizes:
    """Strides of the stem and the merges; per stage, finest first: width, heads, window, rates of blocks."""

    stem: Steps
    merges: Steps
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]
    encoder_rates: tuple[tuple[float, ...], ...]
    decoder_rates: tuple[tuple[float, ...], ...]

    @property
    def patch(self) -> tuple[int, ...]:
        """By how much the stem shrinks each axis."""
        return tuple(prod(steps) for steps in zip(*self.stem, strict=True))


class ConvStem(nn.Module):
    """Four 3x3x3 convolutions, two of them strided; GELU and LayerNorm between them, LayerNorm at the end.

    Source: nnFormer's encoder, the embedding block.
    """

    def __init__(self, in_channels: int, features: int, strides: Steps) -> None:
        super().__init__()
        half = max(features // 2, 1)
        ones = (1, 1, 1)
        steps = (strides[0], ones, strides[1], ones)
        widths = (half, half, features, features)
        self.convolutions = nn.ModuleList(
            layers(3).conv(source, width, 3, step, 1)
            for source, width, step in zip((in_channels, *widths), widths, steps, strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, *spatial) to (B, *spatial / strides, features)."""
        last = len(self.norms) - 1
        for index, (convolve, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y: Tensor = convolve(x)
            y = norm((y if index == last else functional.gelu(y)).movedim(1, -1))
            x = y.movedim(-1, 1)
        return x.movedim(1, -1)


class ConvMerging(nn.Module):
    """GELU, LayerNorm and a strided convolution that doubles the width.

    An odd side n of a halved axis becomes (n - 1) / 2, so the kernels reach every token without padding.

    Source: nnFormer's encoder, the down-sampling layer; the rule for odd sides is that of its released ACDC
        network, 7 to 3.
    """

    def __init__(self, features: int, stride: Sequence[int]) -> None:
        super().__init__()
        kernel = tuple(3 if step == 2 else 1 for step in stride)
        self.stride = tuple(stride)
        self.norm = nn.LayerNorm(features)
        self.reduction = layers(3).conv(features, 2 * features, kernel, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, *spatial, C) to (B, *spatial / stride, 2 C)."""
        y = self.norm(functional.gelu(x)).movedim(-1, 1)
        begins = [
            int(step == 2 and edge % 2 == 0) for edge, step in zip(y.shape[2:], self.stride, strict=True)
        ]
        y = functional.pad(y, [width for begin in reversed(begins) for width in (begin, 0)])
        return self.reduction(y).movedim(1, -1)  # type: ignore[no-any-return]


class ConvExpanding(nn.Module):
    """LayerNorm and a transposed convolution that halves the width.

    Source: nnFormer's decoder, the up-sampling layer.
    """

    def __init__(self, features: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.up = layers(3).transposed_conv(features, max(features // 2, 1), tuple(stride), tuple(stride))

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Maps (B, *spatial, C) to (B, *size, C / 2); the last plane of an odd side holds the bias alone."""
        y = self.up(self.norm(x).movedim(-1, 1), output_size=list(size))
        return y.movedim(1, -1)  # type: ignore[no-any-return]


class SkipAttentionStage(nn.Module):
    """Expands, attends from the expanded map to the skip inside windows, then applies further blocks.

    The queries are the expanded map itself, keys and values projections of the skip; one norm serves both.

    Source: nnFormer's decoder, skip attention.
    """

    def __init__(self, sizes: _Sizes, level: int) -> None:
        super().__init__()
        width, heads, window = sizes.widths[level], sizes.heads[level], sizes.windows[level]
        rates = sizes.decoder_rates[level]
        self.expand = ConvExpanding(sizes.widths[level + 1], sizes.merges[level])
        self.join = TransformerBlock(
            width, WindowAttention(width, heads, window, crossed=True), FeedForward(width), drop_path=rates[0]
        )
        self.blocks = WindowStage(width, heads, window, drop_paths=rates[1:], first_shifted=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps (B, *spatial, 2 C) and a skip (B, *larger, C) to the shape of the skip."""
        y = self.expand(x, skip.shape[1:-1])
        norm, attention = self.join.norm1, self.join.attention
        y = self.join.advance(y + skip, attention(norm(skip), norm(y)))
        return self.blocks(y)  # type: ignore[no-any-return]


class NnFormer(nn.Module):
    """Convolutional stem, stages of window attention with convolutions between, skip attention, heads.

    Args:
        topology: Of the plan.
        sizes: Of the stages.
        fit: Which images it takes.
        heads: How many decoder stages have a head, from the finest.

    Attributes:
        deep_supervision: Whether forward returns a list, fine to coarse, one for each head.
        stage_table: One row per stage, for people.
    """

    def __init__(self, topology: Topology, sizes: _Sizes, fit: AxisFit, *, heads: int) -> None:
        super().__init__()
        self.fit, self.deep_supervision = fit, False
        widths, levels = sizes.widths, range(len(sizes.widths))
        self.stem = ConvStem(topology.in_channels, widths[0], sizes.stem)
        self.encoder = nn.ModuleList(
            WindowStage(
                widths[level], sizes.heads[level], sizes.windows[level], drop_paths=sizes.encoder_rates[level]
            )
            for level in levels
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.merges = nn.ModuleList(
            ConvMerging(width, stride) for width, stride in zip(widths, sizes.merges, strict=False)
        )
        self.decoder = nn.ModuleList(SkipAttentionStage(sizes, level) for level in reversed(levels[:-1]))
        self.heads = nn.ModuleList(
            layers(3).transposed_conv(width, topology.out_channels, sizes.patch, sizes.patch)
            for width in widths[:heads]
        )
        self.stage_table = _stage_table(topology, sizes, fit, heads)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, D, H, W) to logits (B, classes, D, H, W), or a list, fine to coarse.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        y = self.stem(self.fit.enter(x))
        maps = []
        for level, stage in enumerate(self.encoder):
            y = stage(y)
            maps.append(self.norms[level](y))
            if level < len(self.merges):
                y = self.merges[level](y)
        y = maps.pop()
        decoded: list[Tensor] = []
        for stage in self.decoder:
            y = stage(y, maps.pop())
            decoded.insert(0, y)
        wanted = len(self.heads) if self.deep_supervision else 1
        outputs = [
            self.fit.leave(self.heads[level](decoded[level].movedim(-1, 1)), x.shape[2:])
            for level in range(wanted)
        ]
        return outputs if self.deep_supervision else outputs[0]


def _stage_table(topology: Topology, sizes: _Sizes, fit: AxisFit, heads: int) -> tuple[Stage, ...]:
    maps = _map_sizes(sizes.patch, sizes.merges, fit.padded(topology.patch_size))
    ones, cubes = (1, 1, 1), (3, 3, 3)
    last = len(maps) - 1
    rows = [Stage("stem", sizes.widths[0], maps[0], sizes.patch, cubes, 4, "", ("stem",))]
    for level, size in enumerate(maps):
        modules = [f"encoder.{level}", f"norms.{level}"] + ([f"merges.{level - 1}"] if level else [])
        stride = sizes.merges[level - 1] if level else ones
        blocks = len(sizes.encoder_rates[level])
        rows.append(
            Stage(f"encoder {level}", sizes.widths[level], size, stride, ones, blocks, "", tuple(modules))
        )
    for depth in range(last):
        level = last - 1 - depth
        modules = [f"decoder.{depth}"] + ([f"heads.{level}"] if 0 < level < heads else [])
        stride, blocks = sizes.merges[level], len(sizes.decoder_rates[level])
        rows.append(
            Stage(
                f"decoder {level}", sizes.widths[level], maps[level], stride, ones, blocks, "", tuple(modules)
            )
        )
    rows.append(
        Stage("head", sizes.widths[0], topology.patch_size, sizes.patch, sizes.patch, 0, "", ("heads.0",))
    )
    return tuple(rows)


def _map_sizes(patch: Sequence[int], merges: Steps, size: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Returns the size of the map of each stage for an image that fits."""
    maps = [tuple(edge // step for edge, step in zip(size, patch, strict=True))]
    for stride in merges:
        maps.append(tuple(edge // step for edge, step in zip(maps[-1], stride, strict=True)))
    return tuple(maps)


@register_network(
    "nnformer",
    summary="nnFormer: a 3D U of transformer blocks with shifted windows and skip attention",
    paper=(
        "Zhou H-Y, Guo J, Zhang Y, et al. nnFormer: Volumetric Medical Image Segmentation via a 3D "
        "Transformer. IEEE Trans Image Process 32 (2023), arXiv:2109.03201."
    ),
    spatial_dims=(3,),
    plan_driven=False,
    source="The paper, and the sizes of 282857341/nnFormer d48aaeb, nnFormer_acdc.py and nnFormer_synapse.py",
    differences=(
        "Any size works whose sides are multiples of the patches of the stem and not below the total stride: "
        "maps are padded to whole windows, and odd sides are halved and doubled again. The released code "
        "takes the crop size it was made for.",
        "Shifted windows are masked as in Swin, and padding takes no part in the attention. The released "
        "code lets padding in, and for ACDC leaves the mask out.",
        "Each relative position of a window has an entry of its own in the table of biases; the released "
        "code's index lets some share one.",
        "An axis with one window is not shifted; the released code shifts all axes or none.",
        "Heads of the coarser decoder stages are always there, so weights fit with and without deep "
        "supervision; auxiliary_heads=False builds the network without them.",
        "It starts from random weights; the released ACDC trainer loads a file of weights.",
    ),
    options={
        "configuration": Option(
            "acdc",
            "which released sizes the other options start from: acdc (patches 1x4x4, for thick slices) or "
            "synapse (2x4x4)",
        ),
        "base_features": Option(
            None, "width of the first stage, doubled from stage to stage; None: 96 for acdc, 192 for synapse"
        ),
        "depths": Option((2, 2, 2, 2), "blocks per encoder stage, finest first; the decoder mirrors them"),
        "window_size": Option(
            None,
            "windows per stage, finest first, each a number or z, y, x; None: those of the configuration",
        ),
        "auxiliary_heads": Option(True, "give the coarser decoder stages heads for deep supervision"),
        **HEADS_OPTION,
        **DROP_PATH_OPTION,
        **FIT_OPTIONS,
    },
)
def nnformer(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    configuration: str = "acdc",
    base_features: int | None = None,
    depths: Sequence[int] = (2, 2, 2, 2),
    window_size: int | Sequence[int | Sequence[int]] | None = None,
    auxiliary_heads: bool = True,
    heads: Sequence[int] | None = None,
    drop_path_rate: float = 0.2,
    pad_to_fit: bool = False,
) -> NnFormer:
    """Builds nnFormer."""
    base = _CONFIGURATIONS[one_of("configuration", configuration, tuple(_CONFIGURATIONS))]
    blocks = block_counts("depths", depths)
    count, rate = len(blocks), drop_rate("drop_path_rate", drop_path_rate)
    width = positive_integer("base_features", base.features if base_features is None else base_features)
    widths = tuple(width * 2**level for level in range(count))
    # More stages than were released go on as the last one does.
    merges = (base.merges + base.merges[-1:] * count)[: count - 1]
    windows = (base.windows + base.windows[-1:] * count)[:count] if window_size is None else window_size
    patch = tuple(prod(steps) for steps in zip(*base.stem, strict=True))
    smallest = tuple(prod(steps) for steps in zip(patch, *merges, strict=True))
    fit = AxisFit(topology.in_channels, patch, smallest, pad=bool(pad_to_fit))
    fit.check_patch(topology.patch_size)
    sizes = _Sizes(
        stem=base.stem,
        merges=merges,
        widths=widths,
        heads=head_counts(heads, widths),
        windows=window_sizes(windows, _map_sizes(patch, merges, fit.padded(topology.patch_size))),
        encoder_rates=stochastic_depth(rate, blocks),
        # The decoder's rates rise from its coarsest stage to its finest.
        decoder_rates=stochastic_depth(rate, blocks[-2::-1])[::-1],
    )
    network = NnFormer(topology, sizes, fit, heads=count - 1 if auxiliary_heads else 1)
    network.deep_supervision = deep_supervision
    return network
