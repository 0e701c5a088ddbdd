"""The parts of the U-Nets with batch normalisation."""

import pytest
import torch
from torch import nn

from scanseg.blocks.double_conv import ConvBatchNorm, DoubleConv, LinearUpsample


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_doubling_keeps_corners_and_ramps(spatial_dims: int) -> None:
    axes = [torch.arange(edge, dtype=torch.float64) for edge in (3, 4, 2)[:spatial_dims]]
    ramp = sum(grid * (axis + 1) for axis, grid in enumerate(torch.meshgrid(*axes, indexing="ij")))
    finer = [torch.linspace(0, len(axis) - 1, 2 * len(axis), dtype=torch.float64) for axis in axes]
    expected = sum(grid * (axis + 1) for axis, grid in enumerate(torch.meshgrid(*finer, indexing="ij")))
    assert isinstance(ramp, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(LinearUpsample(spatial_dims)(ramp[None, None]), expected[None, None])


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_double_convolution_ends_normalised_and_rectified(spatial_dims: int) -> None:
    torch.manual_seed(0)
    block = DoubleConv(spatial_dims, 2, 5, activation=nn.LeakyReLU)
    y = block(torch.randn(3, 2, *(6, 4, 5)[:spatial_dims]))
    assert y.shape == (3, 5, *(6, 4, 5)[:spatial_dims])
    before = torch.where(y < 0, y / 0.01, y)
    axes = (0, *range(2, 2 + spatial_dims))
    torch.testing.assert_close(before.mean(axes), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(before.var(axes, unbiased=False), torch.ones(5), atol=1e-3, rtol=0)


def test_dropout_lies_between_the_convolutions() -> None:
    assert [name for name, _ in DoubleConv(2, 1, 1, dropout=0.3).named_children()] == [
        "first",
        "dropout",
        "second",
    ]
    assert [name for name, _ in DoubleConv(2, 1, 1).named_children()] == ["first", "second"]


def test_a_convolution_without_activation_is_not_rectified() -> None:
    torch.manual_seed(0)
    y = ConvBatchNorm(2, 1, 2, kernel_size=1, activation=None)(torch.randn(2, 1, 4, 4))
    assert y.min() < 0
