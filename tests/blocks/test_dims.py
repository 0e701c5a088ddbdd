"""Layer classes by number of spatial axes."""

import pytest
import torch

from scanseg.blocks.dims import layers, same_padding
from scanseg.errors import UsageError


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_layers_take_maps_of_their_dims(spatial_dims: int) -> None:
    kinds = layers(spatial_dims)
    x = torch.randn(1, 3, *(4,) * spatial_dims)
    assert kinds.conv(3, 5, 1)(x).shape == (1, 5, *(4,) * spatial_dims)
    assert kinds.transposed_conv(3, 5, 2, 2)(x).shape == (1, 5, *(8,) * spatial_dims)
    assert kinds.average_pool(2, 2)(x).shape == (1, 3, *(2,) * spatial_dims)
    assert kinds.max_pool(2)(x).shape == (1, 3, *(2,) * spatial_dims)
    assert kinds.instance_norm(3)(x).mean().abs() < 1e-6
    assert kinds.batch_norm(3)(x).mean().abs() < 1e-6
    doubled = torch.nn.functional.interpolate(x, scale_factor=2.0, mode=kinds.linear_mode)
    assert doubled.shape == (1, 3, *(8,) * spatial_dims)


@pytest.mark.parametrize("spatial_dims", [1, 4, "3", None])
def test_other_dims_are_refused(spatial_dims: object) -> None:
    with pytest.raises(UsageError, match="2 or 3"):
        layers(spatial_dims)  # type: ignore[arg-type]


def test_same_padding_keeps_the_size() -> None:
    kernel = (1, 3, 5)
    conv = layers(3).conv(1, 1, kernel, 1, same_padding(kernel))
    assert conv(torch.randn(1, 1, 4, 5, 6)).shape == (1, 1, 4, 5, 6)
