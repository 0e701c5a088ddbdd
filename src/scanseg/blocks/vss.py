"""Visual state space blocks, the encoder they form, and their initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scanseg.blocks.patch import PatchEmbed, PatchMerging
from scanseg.blocks.ss2d import SS2D
from scanseg.scans import CrossScan, ScanOrder


@dataclass(frozen=True)
class Scanning:
    """What VSS blocks share.

    Attributes:
        order, d_state, expand, reweight, spatial_dims: See SS2D.
        checkpoint: See VSSBlock.
    """

    order: ScanOrder = field(default_factory=CrossScan)
    d_state: int = 16
    expand: int = 2
    reweight: str = "off"
    spatial_dims: int = 2
    checkpoint: bool = False


class DropPath(nn.Module):
    """Leaves out the residual branch of a sample with probability `rate` while training.

    What stays is divided by 1 - rate, so that the mean is the same.

    Source: Deep Networks with Stochastic Depth (Huang 2016).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = float(rate)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, ...) to the same shape."""
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        mask = torch.empty(x.shape[0], *(1,) * (x.dim() - 1), dtype=x.dtype, device=x.device)
        return x * mask.bernoulli_(keep).div_(keep)


class VSSBlock(nn.Module):
    """x + DropPath(SS2D(LayerNorm(x))) on maps (B, *spatial, C).

    With `scanning.checkpoint` a block keeps only its input for the backward pass, which computes it again.

    Source: VMamba (Liu 2024), the block of its first version: no feed-forward part.
    """

    def __init__(self, features: int, scanning: Scanning, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(features)
        self.self_attention = SS2D(
            features,
            order=scanning.order,
            d_state=scanning.d_state,
            expand=scanning.expand,
            reweight=scanning.reweight,
            spatial_dims=scanning.spatial_dims,
        )
        self.drop_path = DropPath(drop_path)
        self.checkpoint = scanning.checkpoint

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """Maps (B, *spatial, C) to the same shape; `factor` as in SS2D."""
        if self.checkpoint and torch.is_grad_enabled():
            y = checkpoint(self._branch, x, factor, use_reentrant=False, preserve_rng_state=False)
        else:
            y = self._branch(x, factor)
        return x + self.drop_path(y)  # type: ignore[no-any-return]

    def _branch(self, x: Tensor, factor: Tensor | None) -> Tensor:
        return self.self_attention(self.ln_1(x), factor)  # type: ignore[no-any-return]

    def forward_with_scans(self, x: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns what `forward` does, and the result of each scan, (B, K, D, L)."""
        y, scans = self.self_attention.forward_with_scans(self.ln_1(x), factor)
        return x + self.drop_path(y), scans


class VSSStage(nn.Module):
    """VSS blocks in a row, one for each rate of `drop_paths`."""

    def __init__(self, features: int, scanning: Scanning, *, drop_paths: Sequence[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(VSSBlock(features, scanning, drop_path=rate) for rate in drop_paths)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """Maps (B, *spatial, C) to the same shape; `factor` as in SS2D."""
        for block in self.blocks:
            x = block(x, factor)
        return x

    def forward_with_scans(self, x: Tensor, factor: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Returns what `forward` does, and the result of each scan of each block, (B, K, D, L) each."""
        found = []
        for block in self.blocks:
            x, scans = block.forward_with_scans(x, factor)  # type: ignore[operator]
            found.append(scans)
        return x, found


class VSSEncoder(nn.Module):
    """VMamba's pyramid: patch embedding, then stages with patch merging between them; widths double.

    Args:
        in_channels: Channels of the image.
        scannings: One for each stage.
        features: Width of the first stage.
        drop_paths: Per stage, the rate of each block.
        patch: Side of the patches.

    Source: VMamba (Liu 2024), figure 4, first version.
    """

    def __init__(
        self,
        in_channels: int,
        scannings: Sequence[Scanning],
        *,
        features: int,
        drop_paths: Sequence[Sequence[float]],
        patch: int = 4,
    ) -> None:
        super().__init__()
        widths = [features * 2**stage for stage in range(len(scannings))]
        dims = scannings[0].spatial_dims
        self.patch_embed = PatchEmbed(in_channels, features, patch=patch, spatial_dims=dims)
        self.stages = nn.ModuleList(
            VSSStage(width, scanning, drop_paths=rates)
            for width, scanning, rates in zip(widths, scannings, drop_paths, strict=True)
        )
        self.merges = nn.ModuleList(PatchMerging(width, spatial_dims=dims) for width in widths[:-1])

    def forward(self, x: Tensor, factor: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the maps that enter the stages and those that leave them, fine to coarse, channel-last."""
        entering = [self.patch_embed(x)]
        leaving = []
        for index, stage in enumerate(self.stages):
            leaving.append(stage(entering[-1], factor))
            if index < len(self.merges):
                entering.append(self.merges[index](leaving[-1]))
        return entering, leaving


def stochastic_depth(rate: float, depths: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """Returns the drop rate of each block of each stage, rising evenly from 0 to `rate`.

    Example:
        >>> stochastic_depth(0.3, (2, 2))
        ((0.0, 0.1), (0.2, 0.3))
    """
    count = sum(depths)
    rates = [round(rate * block / max(count - 1, 1), 12) for block in range(count)]
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return tuple(tuple(rates[start : start + depth]) for start, depth in zip(starts, depths, strict=True))


def initialize_linears(module: nn.Module) -> None:
    """Draws every linear layer of `module` from a truncated normal of standard deviation 0.02; biases 0.

    Convolutions keep PyTorch's own initialisation, the parameters of the scans their own.

    Source: VMamba and the networks built on it.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
