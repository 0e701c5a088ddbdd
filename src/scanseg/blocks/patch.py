"""Between images and tokens, and between maps of tokens, in 2D and 3D; maps are channel-last."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from scanseg.blocks.dims import layers


class PatchEmbed(nn.Module):
    """Cuts an image into squares (cubes) and projects each to a token; LayerNorm.

    Args:
        in_channels: Channels of the image.
        features: Width of a token.
        patch: Side of the squares.
    """

    def __init__(self, in_channels: int, features: int, *, patch: int = 4, spatial_dims: int = 2) -> None:
        super().__init__()
        self.proj = layers(spatial_dims).conv(in_channels, features, patch, patch)
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, *spatial) to (B, *spatial / patch, features)."""
        return self.norm(self.proj(x).movedim(1, -1))  # type: ignore[no-any-return]


class PatchMerging(nn.Module):
    """Joins 2 x 2 (x 2) tokens to one of twice the width.

    Source: Swin Transformer (Liu 2021), section 3.1. The neighbours are joined column by column, as VMamba's
        weights expect.
    """

    def __init__(self, features: int, *, spatial_dims: int = 2) -> None:
        super().__init__()
        joined = 2**spatial_dims * features
        self.norm = nn.LayerNorm(joined)
        self.reduction = nn.Linear(joined, 2 * features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, *spatial, C) with even sides to (B, *spatial / 2, 2 C)."""
        starts = product((0, 1), repeat=x.dim() - 2)
        neighbours = [x[(slice(None), *(slice(start, None, 2) for start in s[::-1]))] for s in starts]
        return self.reduction(self.norm(torch.cat(neighbours, -1)))  # type: ignore[no-any-return]


class PatchExpand(nn.Module):
    """Splits each token into `scale` x `scale` (x `scale`) tokens of another width; LayerNorm.

    Source: Swin-Unet (Cao 2022), section 3.4: doubling with half the width in its decoder, four times with
        the same width before its head. VM-UNet's expanding layers are the same with other widths.
    """

    def __init__(self, in_features: int, out_features: int, *, scale: int = 2, spatial_dims: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(in_features, scale**spatial_dims * out_features, bias=False)
        self.norm = nn.LayerNorm(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, *spatial, in_features) to (B, *spatial * scale, out_features)."""
        batch, *sizes, _ = x.shape
        dims = len(sizes)
        parts = self.expand(x).view(batch, *sizes, *(self.scale,) * dims, -1)
        # Each axis of the map beside its own axis of the parts.
        axes = [
            axis
            for pair in zip(range(1, dims + 1), range(dims + 1, 2 * dims + 1), strict=True)
            for axis in pair
        ]
        joined = parts.permute(0, *axes, -1).reshape(batch, *(size * self.scale for size in sizes), -1)
        return self.norm(joined)  # type: ignore[no-any-return]
