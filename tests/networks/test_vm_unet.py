"""VM-UNet: parameters and layout."""

from typing import Any

import pytest
import torch
from torch import nn

from scanseg.blocks.vss import VSSBlock
from scanseg.errors import UsageError
from scanseg.networks import count_parameters, create_network

PAPER: dict[str, Any] = {"spatial_dims": 2, "in_channels": 3, "out_channels": 1, "patch_size": (256, 256)}
SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "patch_size": (32, 64),
    "base_features": 8,
}


def _meta(**arguments: Any) -> Any:
    with torch.device("meta"):
        return create_network("vm_unet", **arguments)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 27_427_561),
        ({"in_channels": 1}, 27_427_561),
        ({"depths": (2, 2, 9, 2), "depths_decoder": (2, 9, 2, 2)}, 44_273_833),
    ],
)
def test_parameter_counts_are_those_of_the_released_code(changes: dict[str, Any], expected: int) -> None:
    assert count_parameters(_meta(**PAPER | changes)) == expected


def test_stochastic_depth_rises_in_the_encoder_and_falls_in_the_decoder() -> None:
    network = _meta(**PAPER)
    rates = [part.drop_path.rate for part in network.modules() if isinstance(part, VSSBlock)]
    rising = torch.linspace(0, 0.2, 8).tolist()
    falling = torch.linspace(0.2, 0, 7).tolist()
    assert rates == pytest.approx([*rising, *falling], abs=1e-7)


def test_the_coarsest_skip_joins_and_the_finest_does_not() -> None:
    torch.manual_seed(0)
    network: Any = create_network("vm_unet", **SMALL).eval()
    for stage in network.stages:
        for block in stage.blocks:
            nn.init.zeros_(block.self_attention.out_proj.weight)
    entering, leaving = network.encoder(network.fit.enter(torch.randn(1, 1, 32, 32)))
    y = leaving[-1]
    for expand, skip in zip(network.expands, entering[:0:-1], strict=True):
        y = expand(y + skip)
    network.encoder.forward = lambda x: (entering, leaving)
    expected = network.output(network.up(y).permute(0, 3, 1, 2))
    torch.testing.assert_close(network(torch.zeros(1, 1, 32, 32)), expected)


def test_the_decoder_needs_a_depth_for_each_stage() -> None:
    with pytest.raises(UsageError, match="depths_decoder needs 4 entries"):
        create_network("vm_unet", **SMALL, depths_decoder=(2, 2, 2))


def test_gray_images_of_any_fitting_size() -> None:
    network = create_network("vm_unet", **SMALL).eval()
    assert network(torch.randn(2, 1, 64, 32)).shape == (2, 3, 64, 32)
    with pytest.raises(UsageError, match="not divisible by 32"):
        network(torch.randn(1, 1, 48, 48))
