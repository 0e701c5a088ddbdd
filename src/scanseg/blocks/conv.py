"""Convolution and residual blocks of the U-Net family, and their initialisation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from scanseg.blocks.dims import layers, same_padding

LEAKY_SLOPE = 0.01
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class ConvNorm(nn.Sequential):
    """Convolution, then InstanceNorm, then LeakyReLU unless `activation` is off.

    Maps (B, in_channels, *spatial) to (B, out_channels, *spatial / stride).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: Sequence[int],
        stride: Sequence[int] | int = 1,
        bias: bool = True,
        activation: bool = True,
    ) -> None:
        kinds = layers(spatial_dims)
        kernel = tuple(kernel_size)
        padding = same_padding(kernel)
        steps = stride if isinstance(stride, int) else tuple(stride)
        super().__init__()
        self.conv = kinds.conv(in_channels, out_channels, kernel, steps, padding, bias=bias)
        self.norm = kinds.instance_norm(out_channels, eps=1e-5, affine=True)
        if activation:
            self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut; the sum goes through the last LeakyReLU.

    Args:
        shortcut: `conv`: a strided 1x1 convolution with bias and without norm, always there (ResBlock-A).
            `pool`: average pooling where the block is strided, then a 1x1 convolution without bias and
            InstanceNorm where the channels change; identity where neither (ResBlock-D, after ResNet-D).

    Source: `conv` follows BasicResBlock of the released U-Mamba code (28459e3); `pool` follows BasicBlockD of
        dynamic-network-architectures. The paper's "residual block" is read by some as two blocks of
        conv-norm-activation; the released code adds before the last activation, and so does this.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        shortcut: str,
    ) -> None:
        super().__init__()
        self.block1 = ConvNorm(
            spatial_dims, in_channels, out_channels, kernel_size=kernel_size, stride=tuple(stride)
        )
        self.block2 = ConvNorm(
            spatial_dims, out_channels, out_channels, kernel_size=kernel_size, activation=False
        )
        make = _conv_shortcut if shortcut == "conv" else _pool_shortcut
        self.shortcut = make(spatial_dims, in_channels, out_channels, tuple(stride))
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, *spatial) to (B, out_channels, *spatial / stride)."""
        y: Tensor = self.block2(self.block1(x))
        return self.activation(y + self.shortcut(x))  # type: ignore[no-any-return]


def _conv_shortcut(
    spatial_dims: int, in_channels: int, out_channels: int, stride: tuple[int, ...]
) -> nn.Module:
    return layers(spatial_dims).conv(in_channels, out_channels, 1, stride)


def _pool_shortcut(
    spatial_dims: int, in_channels: int, out_channels: int, stride: tuple[int, ...]
) -> nn.Module:
    parts: list[nn.Module] = []
    if any(step != 1 for step in stride):
        parts.append(layers(spatial_dims).average_pool(stride, stride))
    if in_channels != out_channels:
        parts.append(
            ConvNorm(
                spatial_dims,
                in_channels,
                out_channels,
                kernel_size=(1,) * spatial_dims,
                bias=False,
                activation=False,
            )
        )
    return nn.Sequential(*parts) if parts else nn.Identity()


def residual_stage(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    blocks: int,
    first_shortcut: str,
) -> nn.Sequential:
    """Returns residual blocks in a row: the first strided, with `first_shortcut`, the others with `pool`."""
    ones = (1,) * spatial_dims
    first = ResidualBlock(
        spatial_dims,
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        stride=stride,
        shortcut=first_shortcut,
    )
    rest = [
        ResidualBlock(
            spatial_dims, out_channels, out_channels, kernel_size=kernel_size, stride=ones, shortcut="pool"
        )
        for _ in range(blocks - 1)
    ]
    return nn.Sequential(first, *rest)


def initialize_convolutions(module: nn.Module) -> None:
    """Draws every convolution of `module` from the Kaiming normal for LeakyReLU and sets its bias to zero.

    Linear layers and 1D convolutions (those of a Mamba block) keep their own initialisation.

    Source: InitWeights_He(1e-2) of dynamic-network-architectures.
    """
    for part in module.modules():
        if isinstance(part, _CONVOLUTIONS):
            nn.init.kaiming_normal_(part.weight, a=LEAKY_SLOPE)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def zero_last_norms(module: nn.Module) -> None:
    """Sets the last norm of each residual block to zero, so that each block starts as its shortcut."""
    for part in module.modules():
        if isinstance(part, ResidualBlock):
            for parameter in part.block2.norm.parameters():
                nn.init.zeros_(parameter)
