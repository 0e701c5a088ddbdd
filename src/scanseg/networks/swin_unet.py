"""Swin-Unet: a U of transformer blocks with shifted windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scanseg.blocks.attention import WindowStage
from scanseg.blocks.fit import Fit
from scanseg.blocks.patch import PatchEmbed, PatchExpand, PatchMerging
from scanseg.blocks.unet import Stage
from scanseg.blocks.vss import initialize_linears, stochastic_depth
from scanseg.networks.mamba_unet import SINGLE_OUTPUT
from scanseg.networks.pyramid import FIT_OPTIONS, REPEAT_OPTION, block_counts, drop_rate, row
from scanseg.networks.registry import Option, register_network
from scanseg.networks.topology import Topology, positive_integer
from scanseg.networks.windows import DROP_PATH_OPTION, HEADS_OPTION, head_counts, window_sizes

_PATCH = 4


@dataclass(frozen=True)
class _Sizes:
    """Per stage, finest first: width, heads, window and the rate of stochastic depth of each block."""

    widths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]
    drop_paths: tuple[tuple[float, ...], ...]

    def stage(self, level: int) -> WindowStage:
        """Returns the blocks of a stage."""
        return WindowStage(
            self.widths[level], self.heads[level], self.windows[level], drop_paths=self.drop_paths[level]
        )


class SwinUnet(nn.Module):
    """Patch embedding, Swin's encoder, a mirrored decoder with concatenated skips, four-fold expansion, head.

    The skip of a decoder stage is what enters the encoder stage of the same size.

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
        widths, count = sizes.widths, len(sizes.widths)
        self.patch_embed = PatchEmbed(fit.channels, widths[0], patch=_PATCH)
        self.encoder = nn.ModuleList(sizes.stage(level) for level in range(count))
        self.merges = nn.ModuleList(PatchMerging(width) for width in widths[:-1])
        self.norm = nn.LayerNorm(widths[-1])
        self.expands = nn.ModuleList(PatchExpand(width, width // 2) for width in widths[:0:-1])
        self.joins = nn.ModuleList(nn.Linear(2 * width, width) for width in widths[-2::-1])
        self.decoder = nn.ModuleList(sizes.stage(level) for level in range(count - 2, -1, -1))
        self.norm_up = nn.LayerNorm(widths[0])
        self.up = PatchExpand(widths[0], widths[0], scale=_PATCH)
        self.output = nn.Conv2d(widths[0], topology.out_channels, 1, bias=False)
        self.stage_table = _stage_table(topology, sizes)
        initialize_linears(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, H, W) to logits (B, classes, H, W), or a list of them.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        y = self.patch_embed(self.fit.enter(x))
        entering = []
        for level, stage in enumerate(self.encoder):
            entering.append(y)
            y = stage(y)
            if level < len(self.merges):
                y = self.merges[level](y)
        y = self.norm(y)
        for depth, stage in enumerate(self.decoder):
            joined = torch.cat((self.expands[depth](y), entering[-(depth + 2)]), -1)
            y = stage(self.joins[depth](joined))
        logits = self.output(self.up(self.norm_up(y)).movedim(-1, 1))
        logits = self.fit.leave(logits, x.shape[2:])
        return [logits] if self.deep_supervision else logits


def _stage_table(topology: Topology, sizes: _Sizes) -> tuple[Stage, ...]:
    widths, count = sizes.widths, len(sizes.widths)
    stem = row("stem", topology, widths[0], ("patch_embed",), reduction=_PATCH, stride=_PATCH, kernel=_PATCH)
    rows = [stem]
    for level in range(count):
        modules = [f"encoder.{level}"] + ([f"merges.{level - 1}"] if level else [])
        rows.append(_row("encoder", topology, sizes, level, modules))
    for depth in range(count - 1):
        # The norm behind the encoder is shown with the first decoder stage.
        modules = [f"{part}.{depth}" for part in ("expands", "joins", "decoder")] + ["norm"] * (depth == 0)
        rows.append(_row("decoder", topology, sizes, count - 2 - depth, modules))
    rows.append(row("head", topology, widths[0], ("norm_up", "up", "output"), reduction=1, stride=_PATCH))
    return tuple(rows)


def _row(half: str, topology: Topology, sizes: _Sizes, level: int, modules: Sequence[str]) -> Stage:
    return row(
        f"{half} {level}",
        topology,
        sizes.widths[level],
        modules,
        reduction=_PATCH * 2**level,
        stride=2 if level or half == "decoder" else 1,
        blocks=len(sizes.drop_paths[level]),
    )


@register_network(
    "swin_unet",
    summary="Swin-Unet: a U of transformer blocks with shifted windows",
    paper=(
        "Cao H, Wang Y, Chen J, et al. Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation. "
        "ECCV Workshops (2022), arXiv:2105.05537."
    ),
    spatial_dims=(2,),
    plan_driven=False,
    source="The paper, and the widths, depths and heads of HuCaoFighting/Swin-Unet f48f623",
    differences=(
        "Any size that is a multiple of the total stride, 32, works with the same weights: maps are padded "
        "to whole windows, and padding takes no part in the attention. The released code takes one size.",
        "A window is cut to the map, and its shift left out, on each axis for itself; the released code does "
        "so on both axes together. For square images they are the same.",
        SINGLE_OUTPUT,
        "It starts from random weights; the released recipe starts from Swin-T's of ImageNet.",
    ),
    options={
        "base_features": Option(96, "width of the first stage; it doubles from stage to stage"),
        "depths": Option((2, 2, 2, 2), "blocks per encoder stage, finest first; the decoder mirrors them"),
        "window_size": Option(7, "tokens on a side of a window; 7 for images of 224, 8 for images of 256"),
        **HEADS_OPTION,
        **DROP_PATH_OPTION,
        **REPEAT_OPTION,
        **FIT_OPTIONS,
    },
)
def swin_unet(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    base_features: int = 96,
    depths: Sequence[int] = (2, 2, 2, 2),
    window_size: int | Sequence[int] = 7,
    heads: Sequence[int] | None = None,
    drop_path_rate: float = 0.2,
    repeat_gray: bool = True,
    pad_to_fit: bool = False,
) -> SwinUnet:
    """Builds Swin-Unet."""
    blocks = block_counts("depths", depths)
    width = positive_integer("base_features", base_features)
    fit = Fit(
        topology.in_channels,
        _PATCH * 2 ** (len(blocks) - 1),
        pad=bool(pad_to_fit),
        repeat=3 if repeat_gray and topology.in_channels == 1 else 1,
    )
    fit.check_patch(topology.patch_size)
    levels = range(len(blocks))
    padded = [-(-edge // fit.multiple) * fit.multiple for edge in topology.patch_size]
    maps = [[edge // (_PATCH * 2**level) for edge in padded] for level in levels]
    widths = tuple(width * 2**level for level in levels)
    sizes = _Sizes(
        widths,
        head_counts(heads, widths),
        window_sizes(window_size, maps),
        stochastic_depth(drop_rate("drop_path_rate", drop_path_rate), blocks),
    )
    network = SwinUnet(topology, sizes, fit)
    network.deep_supervision = deep_supervision
    return network
