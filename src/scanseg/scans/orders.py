"""Scan orders that depend on the size of the map alone, and the inverse of any order.

An order is a table of int64 indices, (K, L) or (B, K, L): scan k reads token order[k, t] at step t. Tokens
are numbered row by row (last axis fastest).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class ScanOrder(Protocol):
    """How a block reads a map: the names of its scans, and their orders for given features."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each scan."""

    def __call__(self, features: Tensor) -> Tensor:
        """Returns (K, L) or (B, K, L) for features (B, *spatial, C) of L tokens."""


def raster(length: int, *, device: torch.device | str | None = None) -> Tensor:
    """Returns the order of the tokens as they are stored, (1, length).

    Example:
        >>> raster(3)
        tensor([[0, 1, 2]])
    """
    return torch.arange(length, device=device)[None]


def cross_scan(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """Returns the four orders of VMamba's cross scan, (4, height * width).

    Row 0 reads row by row, row 1 column by column, rows 2 and 3 are rows 0 and 1 backwards.

    Source: VMamba (Liu 2024), figure 3; the order of directions is that of its first released version.

    Example:
        >>> cross_scan(2, 3)[1]
        tensor([0, 3, 1, 4, 2, 5])
    """
    rows = torch.arange(height * width, device=device)
    columns = rows.view(height, width).t().flatten()
    return torch.stack((rows, columns, rows.flip(0), columns.flip(0)))


def inverse(order: Tensor) -> Tensor:
    """Returns the step at which each token is read: gathering by `order`, then by this, changes nothing.

    Args:
        order: Permutations along the last axis, (..., L).

    Example:
        >>> inverse(torch.tensor([2, 0, 1]))
        tensor([1, 2, 0])
    """
    steps = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, steps)


@dataclass(frozen=True)
class CrossScan:
    """VMamba's four directions, the same for every image; see `cross_scan`."""

    @property
    def names(self) -> tuple[str, ...]:
        """`rows`, `columns` and both backwards."""
        return ("rows", "columns", "rows_back", "columns_back")

    def __call__(self, features: Tensor) -> Tensor:
        """Returns (4, H * W) for features (B, H, W, C), on their device."""
        return cross_scan(features.shape[1], features.shape[2], device=features.device)
