"""nnU-Net's networks against dynamic-network-architectures itself."""

from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from scanseg.networks import conv_feature_map_size, count_parameters, create_network

_STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
_KERNELS = ((1, 3, 3), (3, 3, 3), (3, 3, 3))
_ARGUMENTS: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 3,
    "patch_size": (6, 16, 12),
    "strides": _STRIDES,
    "kernel_sizes": _KERNELS,
}


def _original(name: str, *, deep_supervision: bool = True) -> Any:
    common: dict[str, Any] = {
        "input_channels": 2,
        "n_stages": 3,
        "features_per_stage": (4, 8, 16),
        "conv_op": nn.Conv3d,
        "kernel_sizes": _KERNELS,
        "strides": _STRIDES,
        "num_classes": 3,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": deep_supervision,
    }
    if name == "nnunet_plain":
        return PlainConvUNet(n_conv_per_stage=(2, 2, 2), n_conv_per_stage_decoder=(2, 2), **common)
    return ResidualEncoderUNet(n_blocks_per_stage=(1, 3, 4), n_conv_per_stage_decoder=(1, 1), **common)


NAMES = ["nnunet_plain", "nnunet_resenc"]


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_the_original_fit_and_give_its_output(name: str) -> None:
    torch.manual_seed(0)
    original = _original(name)
    for parameter in original.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    network = create_network(name, **_ARGUMENTS, base_features=4, deep_supervision=True)
    theirs, ours = original.state_dict(), network.state_dict()
    assert set(ours) < set(theirs)
    network.load_state_dict({key: theirs[key] for key in ours})
    assert count_parameters(network) == count_parameters(original)
    assert sum(value.numel() for value in ours.values()) == count_parameters(network)
    x = torch.randn(2, 2, 6, 16, 12)
    for mine, other in zip(network(x), original(x), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", NAMES)
def test_our_weights_fit_the_original(name: str) -> None:
    network, original = create_network(name, **_ARGUMENTS, base_features=4), _original(name)
    result = original.load_state_dict(network.state_dict(), strict=False)
    assert not result.unexpected_keys
    original.decoder.deep_supervision = False
    x = torch.randn(1, 2, 6, 16, 12)
    assert torch.equal(network(x), original(x))


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_are_those_of_the_original(name: str) -> None:
    torch.manual_seed(7)
    original = _original(name)
    original.apply(original.initialize)
    torch.manual_seed(7)
    network = create_network(name, **_ARGUMENTS, base_features=4)
    theirs = original.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_feature_map_size_is_that_of_the_original(name: str, deep_supervision: bool) -> None:
    expected = _original(name, deep_supervision=deep_supervision).compute_conv_feature_map_size((6, 16, 12))
    found = conv_feature_map_size(name, **_ARGUMENTS, base_features=4, deep_supervision=deep_supervision)
    assert found == expected


def test_plain_counts_of_the_default_plan() -> None:
    arguments = {**_ARGUMENTS, "patch_size": (128,) * 3, "strides": None, "kernel_sizes": None}
    with torch.device("meta"):
        network: Any = create_network("nnunet_plain", **arguments)
        residual: Any = create_network("nnunet_resenc", **arguments)
    assert len(network.encoder.stages) == 6
    assert [len(stage.blocks) for stage in residual.encoder.stages] == [1, 3, 4, 6, 6, 6]
