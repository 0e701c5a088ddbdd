"""Attention over all tokens and inside windows of a map, in 2D and 3D; maps are channel-last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from scanseg.blocks.vss import DropPath
from scanseg.errors import UsageError

# What the regions of a padded, shifted map are told apart by, on each axis.
_INSIDE, _WRAPPED, _PADDING = range(3)


class SelfAttention(nn.Module):
    """Multi-head attention of all tokens to all tokens.

    Raises:
        UsageError: `heads` does not divide `features`.

    Source: Vaswani 2017, section 3.2.
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        _check_heads(features, heads)
        self.heads = heads
        self.inner = nn.Linear(features, 3 * features)
        self.outer = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, L, C) to the same shape."""
        query, key, value = _split(self.inner(x), self.heads)
        return self.outer(_join(functional.scaled_dot_product_attention(query, key, value)))  # type: ignore[no-any-return]


class WindowAttention(nn.Module):
    """Multi-head attention inside the windows of a map, with a learned bias for each relative position.

    A map that is not made of whole windows is padded. A shifted layer moves the windows by half their size
    along each axis that has more than one; the map is rolled for it. Neither padding nor tokens that meet
    only because of the roll attend to each other, so any size of map works with the same weights.

    Args:
        features: Width of a token.
        heads: Of the attention.
        window: Size of the windows, one number for each axis.
        shifted: Whether the windows are moved.
        crossed: Whether the queries are given to `forward`; keys and values come from the map.

    Raises:
        UsageError: `heads` does not divide `features`.

    Source: Swin Transformer (Liu 2021), section 3.2 and equation 4.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        window: Sequence[int],
        *,
        shifted: bool = False,
        crossed: bool = False,
    ) -> None:
        super().__init__()
        _check_heads(features, heads)
        self.heads, self.window, self.shifted = heads, tuple(window), shifted
        self.bias = nn.Parameter(torch.zeros(prod(2 * edge - 1 for edge in self.window), heads))
        self.inner = nn.Linear(features, (2 if crossed else 3) * features)
        self.outer = nn.Linear(features, features)
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """Maps (B, *spatial, C) to the same shape; `queries` of that shape where the layer is crossed."""
        mixed = self.inner(x) if queries is None else torch.cat((queries, self.inner(x)), -1)
        size = mixed.shape[1:-1]
        whole = tuple(-(-edge // width) * width for edge, width in zip(size, self.window, strict=True))
        axes = tuple(range(1, len(size) + 1))
        shift = self._shift(whole)
        if whole != tuple(size):
            ends = [end for edge, full in zip(size, whole, strict=True) for end in (full - edge, 0)]
            mixed = functional.pad(mixed, (0, 0, *reversed(ends)))
        if any(shift):
            mixed = mixed.roll([-step for step in shift], axes)
        y = self._attend(to_windows(mixed, self.window), self._allowed(size, whole, shift, x.device))
        y = from_windows(y, self.window, whole)
        if any(shift):
            y = y.roll(shift, axes)
        kept = tuple(slice(edge) for edge in size)
        return self.outer(y[(slice(None), *kept)])  # type: ignore[no-any-return]

    def _shift(self, whole: Sequence[int]) -> tuple[int, ...]:
        pairs = zip(whole, self.window, strict=True)
        return tuple(width // 2 if self.shifted and edge > width else 0 for edge, width in pairs)

    def _attend(self, windows: Tensor, allowed: Tensor | None) -> Tensor:
        """Maps queries, keys and values of windows, (B, W, N, 3 C), to (B, W, N, C)."""
        batch, count, length, _ = windows.shape
        index = relative_positions(self.window, device=windows.device)
        bias = self.bias[index].permute(2, 0, 1)  # (heads, N, N)
        rows, mask = batch * count, bias[None]
        if allowed is not None:
            # Windows beside heads: four axes in all, which is what the fused kernels take.
            rows, mask = batch, bias.masked_fill(~allowed[:, None], -torch.inf).reshape(1, -1, length, length)
        parts = _split(windows, self.heads)
        query, key, value = (part.reshape(rows, -1, length, part.shape[-1]) for part in parts)
        y = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return _join(y.reshape(batch, count, self.heads, length, -1))

    def _allowed(
        self, size: Sequence[int], whole: Sequence[int], shift: Sequence[int], device: torch.device
    ) -> Tensor | None:
        """Returns which tokens of each window may attend to which, (W, N, N); None: all to all."""
        if not any(shift) and tuple(size) == tuple(whole):
            return None
        labels = torch.zeros((), dtype=torch.long, device=device)
        for edge, full, step in zip(size, whole, shift, strict=True):
            place = torch.arange(full, device=device)
            region = torch.where(place >= full - step, _WRAPPED, _INSIDE) if step else place.new_zeros(full)
            region = torch.where((place + step) % full >= edge, _PADDING, region)
            labels = 3 * labels[..., None] + region
        cut = to_windows(labels[None, ..., None], self.window)[0, ..., 0]  # (W, N)
        return cut[:, :, None] == cut[:, None, :]


def relative_positions(window: Sequence[int], *, device: torch.device | str | None = None) -> Tensor:
    """Returns a number for the offset between each two tokens of a window, (N, N), from 0 without gaps.

    Example:
        >>> relative_positions((2,))
        tensor([[1, 0],
                [2, 1]])
    """
    index = torch.zeros(1, 1, dtype=torch.long, device=device)
    for edge in window:
        place = torch.arange(edge, device=device)
        offset = place[:, None] - place[None] + edge - 1
        pairs = index[:, None, :, None] * (2 * edge - 1) + offset[:, None, :]
        index = pairs.reshape(index.shape[0] * edge, -1)
    return index


def to_windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """Cuts maps (B, *spatial, C) of whole windows into (B, windows, tokens, C), both row by row."""
    batch, *size, channels = x.shape
    pairs = [part for edge, width in zip(size, window, strict=True) for part in (edge // width, width)]
    dims = len(size)
    order = (0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1)
    return x.reshape(batch, *pairs, channels).permute(order).reshape(batch, -1, prod(window), channels)


def from_windows(windows: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """Puts windows (B, windows, tokens, C) back into maps (B, *size, C)."""
    batch, channels, dims = windows.shape[0], windows.shape[-1], len(size)
    counts = [edge // width for edge, width in zip(size, window, strict=True)]
    order = (0, *(axis for pair in range(1, dims + 1) for axis in (pair, pair + dims)), 2 * dims + 1)
    return windows.reshape(batch, *counts, *window, channels).permute(order).reshape(batch, *size, channels)


class FeedForward(nn.Module):
    """Two linear layers with GELU between them, `ratio` times as wide inside."""

    def __init__(self, features: int, *, ratio: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.wide = nn.Linear(features, ratio * features)
        self.narrow = nn.Linear(ratio * features, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., C) to the same shape."""
        y = self.dropout(functional.gelu(self.wide(x)))
        return self.dropout(self.narrow(y))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Adds the attention of the normed input to the input, and a feed-forward part of that to that.

    Args:
        features: Width of a token.
        attention: Maps tokens to tokens.
        feed_forward: Maps tokens to tokens.
        drop_path: Rate at which either branch is left out while training.
        eps: Of the norms.

    Source: pre-norm transformer, as in ViT (Dosovitskiy 2021), equations 2 and 3.
    """

    def __init__(
        self,
        features: int,
        attention: nn.Module,
        feed_forward: nn.Module,
        *,
        drop_path: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features, eps=eps)
        self.attention = attention
        self.norm2 = nn.LayerNorm(features, eps=eps)
        self.feed_forward = feed_forward
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens (B, ..., C) to the same shape."""
        return self.advance(x, self.attention(self.norm1(x)))

    def advance(self, x: Tensor, attended: Tensor) -> Tensor:
        """Returns what `forward` does, for attention that was computed elsewhere."""
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.feed_forward(self.norm2(x)))  # type: ignore[no-any-return]


class WindowStage(nn.Sequential):
    """Transformer blocks in a row, one for each rate of `drop_paths`; every second one is shifted.

    Maps (B, *spatial, C) to the same shape.

    Args:
        features: Width of a token.
        heads: Of the attention.
        window: Size of the windows, one number for each axis.
        drop_paths: Rate of each block.
        feed_forward: Makes the feed-forward part for a width.
        first_shifted: Whether the first block is shifted, too.

    Source: Swin Transformer (Liu 2021), equation 3.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        window: Sequence[int],
        *,
        drop_paths: Sequence[float],
        feed_forward: Callable[[int], nn.Module] = FeedForward,
        first_shifted: bool = False,
    ) -> None:
        super().__init__(
            *(
                TransformerBlock(
                    features,
                    WindowAttention(features, heads, window, shifted=bool((index + first_shifted) % 2)),
                    feed_forward(features),
                    drop_path=rate,
                )
                for index, rate in enumerate(drop_paths)
            )
        )


def _check_heads(features: int, heads: int) -> None:
    if features % heads:
        raise UsageError(
            f"The number of heads must divide the width of the tokens, got {heads} heads for {features}.",
            code="E-NETWORK-ARGUMENT",
        )


def _split(mixed: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts (..., N, 3 C) into queries, keys and values, (..., heads, N, C / heads) each."""
    parts = mixed.view(*mixed.shape[:-1], 3, heads, -1).movedim(-3, 0).transpose(-3, -2)
    query, key, value = parts
    return query, key, value


def _join(heads: Tensor) -> Tensor:
    """Puts (..., heads, N, C / heads) together to (..., N, C)."""
    return heads.transpose(-3, -2).flatten(-2)
