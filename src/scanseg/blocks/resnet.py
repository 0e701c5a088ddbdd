"""The residual blocks of ResNets, in 2D, channel-first."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn

_GROUPS = 32


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose kernels are brought to mean 0 and variance 1, each output channel for itself.

    Source: Weight Standardization (Qiao 2019), with the epsilon of BiT (Kolesnikov 2020).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        kernels = (self.weight - mean) / (variance + 1e-5).sqrt()
        return self._conv_forward(x, kernels, self.bias)  # type: ignore[no-any-return]


class StandardizedBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 standardized convolutions with group norm and a shortcut; ReLU on the sum.

    Where the block changes the size or the width, the shortcut is a 1x1 convolution whose channels are normed
    one by one.

    Args:
        in_channels: Width of the input.
        middle: Width of the 3x3 convolution; the output is four times as wide.
        stride: Of the 3x3 convolution.

    Source: BiT's ResNet (Kolesnikov 2020) as TransUNet has it: the norms follow the convolutions.
    """

    def __init__(self, in_channels: int, middle: int, *, stride: int = 1) -> None:
        super().__init__()
        out_channels = 4 * middle
        self.narrow = nn.Sequential(
            StandardizedConv2d(in_channels, middle, 1, bias=False), group_norm(middle), nn.ReLU(inplace=True)
        )
        self.spatial = nn.Sequential(
            StandardizedConv2d(middle, middle, 3, stride, 1, bias=False),
            group_norm(middle),
            nn.ReLU(inplace=True),
        )
        self.wide = nn.Sequential(
            StandardizedConv2d(middle, out_channels, 1, bias=False), group_norm(out_channels)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                StandardizedConv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.GroupNorm(out_channels, out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, 4 middle, H / stride, W / stride), halves rounded up."""
        return torch.relu(self.wide(self.spatial(self.narrow(x))) + self.shortcut(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut; ReLU on the sum.

    Where the block changes the size or the width, the shortcut is a 1x1 convolution with batch norm.

    Source: ResNet (He 2016), figure 5, left, and its option B.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.second = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride), halves rounded up."""
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class ConvBatchNorm(nn.Sequential):
    """A 3x3 convolution, batch norm and ReLU: (B, in_channels, H, W) to (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


def group_norm(channels: int) -> nn.GroupNorm:
    """Returns a norm over 32 groups of channels, or as many as divide both 32 and the channels."""
    return nn.GroupNorm(gcd(_GROUPS, channels), channels, eps=1e-6)
