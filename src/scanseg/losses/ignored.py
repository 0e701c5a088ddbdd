"""Voxels that do not count."""

import torch
from torch import Tensor


def split_ignored(target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor | None]:
    """Returns class indices that all exist, and where voxels count.

    Args:
        target: Class indices, (B, 1, *spatial), any numeric type.
        ignore_index: The index whose voxels do not count, None if there is no such index.

    Returns:
        The target with 0 in place of `ignore_index`, and a mask of the same shape, False where voxels do not
        count; None instead of the mask if all count by definition.
    """
    if ignore_index is None:
        return target, None
    mask = target != ignore_index
    return torch.where(mask, target, 0), mask


def mean_of_counted(values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the mean of voxelwise values over the voxels that count; 0 if none does.

    Args:
        values: (B, 1, *spatial).
        mask: As `split_ignored` returns it.
    """
    if mask is None:
        return values.mean()
    return (values * mask).sum() / mask.sum().clamp_min(1)
