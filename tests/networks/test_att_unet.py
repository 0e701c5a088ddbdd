"""Attention U-Net: parameters and what its gates do."""

from typing import Any

import pytest
import torch
from torch import nn

from scanseg.errors import UsageError
from scanseg.networks import count_parameters, create_network
from scanseg.networks.att_unet import AttentionGate

SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 2,
    "out_channels": 3,
    "patch_size": (8, 12),
    "base_features": 4,
    "levels": 3,
}


def test_the_parameter_count_is_that_of_the_peer() -> None:
    with torch.device("meta"):
        network = create_network(
            "att_unet", spatial_dims=2, in_channels=1, out_channels=4, patch_size=(256, 256)
        )
    assert count_parameters(network) == 34_877_616


def test_the_gate_has_one_weight_between_0_and_1_for_each_place() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(2, 6).eval()
    skip = torch.rand(2, 6, 5, 4) + 0.1
    weights = gate(torch.randn(2, 6, 5, 4), skip) / skip
    torch.testing.assert_close(weights, weights[:, :1].expand_as(weights))
    assert weights.min() > 0
    assert weights.max() < 1
    assert weights.std() > 0


def test_without_weights_the_gate_scales_by_the_sigmoid_of_its_bias() -> None:
    gate = AttentionGate(3, 4).eval()
    nn.init.zeros_(gate.weight.norm.weight)
    nn.init.constant_(gate.weight.norm.bias, 0.7)
    skip = torch.randn(1, 4, 2, 3, 2)
    expected = skip * torch.sigmoid(torch.tensor(0.7))
    torch.testing.assert_close(gate(torch.randn_like(skip), skip), expected)


def test_closed_gates_cut_every_skip() -> None:
    torch.manual_seed(0)
    network: Any = create_network("att_unet", **SMALL).eval()
    for gate in network.gates:
        nn.init.zeros_(gate.weight.norm.weight)
        nn.init.constant_(gate.weight.norm.bias, -200.0)
    x = torch.randn(1, 2, 8, 12)
    y = x
    for level, block in enumerate(network.encoder):
        y = block(nn.functional.max_pool2d(y, 2) if level else y)
    for up, block in zip(network.ups, network.decoder, strict=True):
        y = up(y)
        y = block(torch.cat((torch.zeros_like(y), y), 1))
    torch.testing.assert_close(network(x), network.output(y))


def test_volumes_keep_their_size() -> None:
    network = create_network("att_unet", **SMALL | {"spatial_dims": 3, "patch_size": (4, 8, 8)}).eval()
    assert network(torch.randn(1, 2, 8, 4, 8)).shape == (1, 3, 8, 4, 8)


def test_odd_sizes_are_padded_on_demand() -> None:
    with pytest.raises(UsageError, match="not divisible by 4"):
        create_network("att_unet", **SMALL)(torch.zeros(1, 2, 9, 12))
    network = create_network("att_unet", **SMALL, pad_to_fit=True).eval()
    assert network(torch.randn(1, 2, 9, 3)).shape == (1, 3, 9, 3)
