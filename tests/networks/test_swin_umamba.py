"""Swin-UMamba and Swin-UMamba-D: parameters, deep supervision and initialisation."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from scanseg.blocks.vss import VSSBlock
from scanseg.errors import UsageError
from scanseg.networks import count_parameters, create_network

COMMON: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 14, "patch_size": (320, 320)}
SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 2,
    "out_channels": 3,
    "patch_size": (32, 64),
    "base_features": 8,
    "depths": (1, 1, 2, 1),
}
NAMES = ("swin_umamba", "swin_umamba_d")


def _meta(name: str, **arguments: Any) -> Any:
    with torch.device("meta"):
        return create_network(name, **arguments)


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [("swin_umamba", 14, 59_889_368), ("swin_umamba", 4, 59_882_128), ("swin_umamba_d", 14, 27_497_720)],
)
def test_parameter_counts_are_those_of_the_released_code(name: str, classes: int, expected: int) -> None:
    assert count_parameters(_meta(name, **COMMON | {"out_channels": classes})) == expected


@pytest.mark.parametrize(
    ("name", "strides"), [("swin_umamba", [1, 2, 4, 8]), ("swin_umamba_d", [1, 4, 8, 16])]
)
def test_deep_supervision_goes_from_fine_to_coarse(name: str, strides: list[int]) -> None:
    network = create_network(name, **SMALL, deep_supervision=True).eval()
    outputs = network(torch.randn(1, 2, 32, 64))
    assert [tuple(output.shape) for output in outputs] == [(1, 3, 32 // step, 64 // step) for step in strides]


@pytest.mark.parametrize(
    ("name", "strides"), [("swin_umamba", [1, 2, 4, 8]), ("swin_umamba_d", [1, 4, 8, 16])]
)
def test_padding_crops_every_output(name: str, strides: list[int]) -> None:
    arguments = SMALL | {"patch_size": (40, 36), "pad_to_fit": True}
    network = create_network(name, **arguments, deep_supervision=True).eval()
    outputs = network(torch.randn(1, 2, 40, 36))
    sizes = [(math.ceil(40 / step), math.ceil(36 / step)) for step in strides]
    assert [tuple(output.shape[2:]) for output in outputs] == sizes
    with pytest.raises(UsageError, match="must be a multiple of 32"):
        create_network(name, **SMALL | {"patch_size": (40, 36)})


def test_stochastic_depth() -> None:
    for name in NAMES:
        network = _meta(name, **COMMON)
        rates = [part.drop_path.rate for part in network.modules() if isinstance(part, VSSBlock)]
        expected = torch.linspace(0, 0.2, 15).tolist()
        if name == "swin_umamba_d":
            expected += torch.linspace(0.2, 0, 6).tolist()
        assert rates == pytest.approx(expected, abs=1e-7)


def test_only_the_encoder_starts_from_a_truncated_normal() -> None:
    torch.manual_seed(0)
    network: Any = create_network("swin_umamba_d", **SMALL | {"base_features": 32})
    for part in network.encoder.modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.1)
    for part in (*network.joins, *(expand.expand for expand in network.expands)):
        assert part.weight.std().item() == pytest.approx((3 * part.in_features) ** -0.5, rel=0.05)


def test_convolutions_of_d_start_kaiming_normal() -> None:
    torch.manual_seed(0)
    network: Any = create_network("swin_umamba_d", **SMALL | {"base_features": 32})
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    assert not any(part.bias.any() for part in convolutions if part.bias is not None)
    depthwise = torch.cat([part.weight.flatten() for part in convolutions if part.groups > 1])
    assert depthwise.std().item() == pytest.approx(math.sqrt(2 / (1 + 1e-4) / 9), rel=0.05)
