"""The residual blocks of UNETR's decoder, in 2D, channel-first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SLOPE = 0.01


class UnetrBlock(nn.Module):
    """Two 3x3 convolutions with instance norm and a shortcut; the sum goes through the last LeakyReLU.

    Convolutions have no bias, norms no weights. Where the channels change, the shortcut is a 1x1 convolution
    with instance norm.

    Source: UNETR (Hatamizadeh 2022); names, shapes and values equal those of MONAI's UnetResBlock.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _bare(in_channels, out_channels, 3)
        self.norm1 = nn.InstanceNorm2d(out_channels)
        self.conv2 = _bare(out_channels, out_channels, 3)
        self.norm2 = nn.InstanceNorm2d(out_channels)
        self.activation = nn.LeakyReLU(_SLOPE)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                _bare(in_channels, out_channels, 1), nn.InstanceNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, out_channels, H, W)."""
        y = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))
        return self.activation(y + self.shortcut(x))  # type: ignore[no-any-return]


class UnetrUp(nn.Module):
    """Doubles a map by a transposed convolution without bias, joins the skip, and applies a UnetrBlock.

    Source: UNETR (Hatamizadeh 2022); equal to MONAI's UnetrUpBlock.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, 2, bias=False)
        self.block = UnetrBlock(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) and a skip (B, out_channels, 2 H, 2 W) to the shape of the skip."""
        return self.block(torch.cat((self.up(x), skip), 1))  # type: ignore[no-any-return]


def _bare(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
