"""The layer classes of 2D and 3D networks, chosen by `spatial_dims`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from scanseg.errors import UsageError


@dataclass(frozen=True)
class Layers:
    """Layer classes that share a number of spatial axes, and the name of their linear interpolation."""

    conv: Callable[..., nn.Module]
    transposed_conv: Callable[..., nn.Module]
    instance_norm: Callable[..., nn.Module]
    average_pool: Callable[..., nn.Module]
    batch_norm: Callable[..., nn.Module]
    max_pool: Callable[..., nn.Module]
    linear_mode: str


_LAYERS = {
    2: Layers(
        nn.Conv2d,
        nn.ConvTranspose2d,
        nn.InstanceNorm2d,
        nn.AvgPool2d,
        nn.BatchNorm2d,
        nn.MaxPool2d,
        "bilinear",
    ),
    3: Layers(
        nn.Conv3d,
        nn.ConvTranspose3d,
        nn.InstanceNorm3d,
        nn.AvgPool3d,
        nn.BatchNorm3d,
        nn.MaxPool3d,
        "trilinear",
    ),
}


def layers(spatial_dims: int) -> Layers:
    """Returns the layer classes for 2 or 3 spatial axes.

    Raises:
        UsageError: `spatial_dims` is neither 2 nor 3.

    Example:
        >>> layers(3).conv.__name__
        'Conv3d'
    """
    if spatial_dims not in _LAYERS:
        raise UsageError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}.", code="E-NETWORK-DIMS")
    return _LAYERS[spatial_dims]


def same_padding(kernel_size: Sequence[int]) -> tuple[int, ...]:
    """Returns the padding per axis that keeps the size of a map under an odd kernel."""
    return tuple(size // 2 for size in kernel_size)
