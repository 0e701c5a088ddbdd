"""Encoder, decoder and whole of a U-Net whose stages follow a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from scanseg.blocks.dims import layers
from scanseg.errors import UsageError


@dataclass(frozen=True)
class Stage:
    """What a table of the network says about one of its stages.

    Attributes:
        name: `stem`, `encoder 0` (finest) ... or `decoder 0` (finest) ....
        features: Channels that leave the stage.
        size: Spatial size of its output at the planned patch.
        stride: By how much it shrinks (encoder) or enlarges (decoder) its input.
        blocks: Convolution blocks in it.
        mamba: `patch` or `channel` where a Mamba layer follows, else empty.
        modules: Names of its submodules.
    """

    name: str
    features: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    kernel_size: tuple[int, ...]
    blocks: int
    mamba: str
    modules: tuple[str, ...]


class Encoder(nn.Module):
    """Stem, stages and, behind each stage, a mixer (a Mamba layer or nothing).

    The map after the mixer goes on to the next stage and is the skip connection.
    """

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], mixers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.mixers = nn.ModuleList(mixers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps (B, in_channels, *spatial) to one map per stage, fine to coarse."""
        x = self.stem(x)
        skips = []
        for stage, mixer in zip(self.stages, self.mixers, strict=True):
            x = mixer(stage(x))
            skips.append(x)
        return skips


class NearestUpsample(nn.Module):
    """1x1 convolution, then nearest-neighbour enlargement by `stride`.

    A pointwise convolution and the copying of voxels commute, so this equals the order of the released
    U-Mamba (enlarge, then convolve) while it computes and stores prod(stride) times less.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, *, stride: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv = layers(spatial_dims).conv(in_channels, out_channels, 1)
        self.scale = tuple(float(step) for step in stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, *spatial) to (B, out_channels, *spatial * stride)."""
        y: Tensor = self.conv(x)
        if all(step == 1 for step in self.scale):
            return y
        return nn.functional.interpolate(y, scale_factor=self.scale, mode="nearest")


class Decoder(nn.Module):
    """Enlarges from the coarsest map up, joining the skip of each stage; a 1x1 head at every stage.

    All modules are listed from the coarsest stage to the finest. The heads exist with and without deep
    supervision, so that weights fit both.

    Args:
        concatenate: Per stage, whether the skip is joined.
    """

    def __init__(
        self,
        upsamplers: Sequence[nn.Module],
        stages: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        *,
        concatenate: Sequence[bool],
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.upsamplers = nn.ModuleList(upsamplers)
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)
        self.concatenate = tuple(concatenate)
        self.deep_supervision = deep_supervision

    def forward(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        """Maps the encoder's maps to logits (B, classes, *spatial), or to a list of them, fine to coarse."""
        x = skips[-1]
        outputs: list[Tensor] = []
        last = len(self.stages) - 1
        for depth, (upsample, stage, head) in enumerate(
            zip(self.upsamplers, self.stages, self.heads, strict=True)
        ):
            x = upsample(x)
            if self.concatenate[depth]:
                x = torch.cat((x, skips[-(depth + 2)]), dim=1)
            x = stage(x)
            if self.deep_supervision or depth == last:
                outputs.insert(0, head(x))
        return outputs if self.deep_supervision else outputs[0]


class UNet(nn.Module):
    """An encoder that returns its maps and a decoder that takes them, with the checks at the edge.

    Attributes:
        stage_table: One row per stage, for people.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        in_channels: int,
        strides: Sequence[Sequence[int]],
        stage_table: Sequence[Stage],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.in_channels = in_channels
        self.total_stride = tuple(prod(axis) for axis in zip(*strides, strict=True))
        self.stage_table = tuple(stage_table)

    @property
    def deep_supervision(self) -> bool:
        """Whether forward returns a list of logits, fine to coarse, instead of the finest logits."""
        return bool(self.decoder.deep_supervision)

    @deep_supervision.setter
    def deep_supervision(self, value: bool) -> None:
        self.decoder.deep_supervision = bool(value)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, *spatial) to logits (B, classes, *spatial), or a list fine to coarse.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that is too small or not divisible by the
                strides.
        """
        self._check_input(x)
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]

    def _check_input(self, x: Tensor) -> None:
        spatial = tuple(x.shape[2:])
        if len(spatial) != len(self.total_stride) or x.shape[1] != self.in_channels:
            axes = ", ".join("zyx"[-len(self.total_stride) :])
            raise UsageError(
                f"The network takes (batch, {self.in_channels}, {axes}), got {tuple(x.shape)}.",
                code="E-NETWORK-INPUT",
            )
        if any(size % step for size, step in zip(spatial, self.total_stride, strict=True)):
            raise UsageError(
                f"The input size {spatial} is not divisible by the network's strides, {self.total_stride}.",
                code="E-NETWORK-INPUT",
                hint="Pad the image, or cut patches of the plan's size.",
            )
        if spatial == self.total_stride:
            raise UsageError(
                f"The input size {spatial} is too small: the coarsest map would have one element, and "
                f"instance normalisation needs two.",
                code="E-NETWORK-INPUT",
                hint=f"Feed {tuple(2 * step for step in self.total_stride)} or more.",
            )
