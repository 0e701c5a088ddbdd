"""The stages of the U-Nets with batch normalisation, and their linear upsampling, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from scanseg.blocks.dims import layers


class ConvBatchNorm(nn.Sequential):
    """Convolution with bias that keeps the size of the map, batch norm, and an activation if one is given.

    Maps (B, in_channels, *spatial) to (B, out_channels, *spatial).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        kinds = layers(spatial_dims)
        super().__init__()
        self.conv = kinds.conv(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.norm = kinds.batch_norm(out_channels)
        if activation is not None:
            self.activation = activation()


class DoubleConv(nn.Sequential):
    """Two 3x3 (x3) convolutions, each with batch norm and activation; dropout of values between them.

    Maps (B, in_channels, *spatial) to (B, out_channels, *spatial).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.first = ConvBatchNorm(spatial_dims, in_channels, out_channels, activation=activation)
        if dropout:
            self.dropout = nn.Dropout(dropout)
        self.second = ConvBatchNorm(spatial_dims, out_channels, out_channels, activation=activation)


class LinearUpsample(nn.Module):
    """Doubles a map by bilinear (trilinear) interpolation that keeps the corners where they are."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.mode = layers(spatial_dims).linear_mode

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, *spatial) to (B, C, *spatial * 2)."""
        return nn.functional.interpolate(x, scale_factor=2.0, mode=self.mode, align_corners=True)
