"""Between images and tokens, and between maps of tokens. Maps are channel-last, (B, H, W, C)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Cuts an image into squares and projects each to a token; LayerNorm.

    Args:
        in_channels: Channels of the image.
        features: Width of a token.
        patch: Side of the squares.
    """

    def __init__(self, in_channels: int, features: int, *, patch: int = 4) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, features, patch, patch)
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, H / patch, W / patch, features)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class PatchMerging(nn.Module):
    """Joins 2 x 2 tokens to one of twice the width.

    Source: Swin Transformer (Liu 2021), section 3.1. The four neighbours are joined column by column, as
        VMamba's weights expect.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * features)
        self.reduction = nn.Linear(4 * features, 2 * features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C) with even H and W to (B, H / 2, W / 2, 2 C)."""
        neighbours = (x[:, row::2, column::2] for column in (0, 1) for row in (0, 1))
        return self.reduction(self.norm(torch.cat(tuple(neighbours), -1)))  # type: ignore[no-any-return]


class PatchExpand(nn.Module):
    """Splits each token into `scale` x `scale` tokens of another width; LayerNorm.

    Source: Swin-Unet (Cao 2022), section 3.4: doubling with half the width in its decoder, four times with
        the same width before its head. VM-UNet's expanding layers are the same with other widths.
    """

    def __init__(self, in_features: int, out_features: int, *, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(in_features, scale**2 * out_features, bias=False)
        self.norm = nn.LayerNorm(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, in_features) to (B, scale H, scale W, out_features)."""
        batch, height, width, _ = x.shape
        parts = self.expand(x).view(batch, height, width, self.scale, self.scale, -1)
        joined = parts.transpose(2, 3).reshape(batch, height * self.scale, width * self.scale, -1)
        return self.norm(joined)  # type: ignore[no-any-return]
