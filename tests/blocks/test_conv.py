"""Residual blocks against dynamic-network-architectures and against plain functions; initialisation."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from torch import nn

from scanseg.blocks.conv import (
    ConvNorm,
    ResidualBlock,
    initialize_convolutions,
    residual_stage,
    zero_last_norms,
)


def _reference_block(inputs: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if len(kernel) == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    return BasicBlockD(
        conv,
        inputs,
        outputs,
        kernel,
        stride,
        conv_bias=True,
        norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def _randomize(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.3, 0.5)


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride"),
    [
        (4, 4, (3, 3), (1, 1)),
        (4, 6, (3, 3), (1, 1)),
        (4, 4, (1, 3), (1, 2)),
        (3, 6, (3, 3), (2, 2)),
        (4, 4, (3, 3, 3), (1, 1, 1)),
        (3, 5, (1, 3, 3), (1, 2, 2)),
    ],
)
def test_pool_shortcut_equals_basic_block_d(
    inputs: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    reference = _reference_block(inputs, outputs, kernel, stride)
    block = ResidualBlock(len(kernel), inputs, outputs, kernel_size=kernel, stride=stride, shortcut="pool")
    _randomize(reference)
    pairs = [
        (reference.conv1.conv, block.block1.conv),
        (reference.conv1.norm, block.block1.norm),
        (reference.conv2.conv, block.block2.conv),
        (reference.conv2.norm, block.block2.norm),
    ]
    if inputs != outputs:
        projection, ours = reference.skip[-1], block.shortcut[-1]
        pairs += [(projection.conv, ours.conv), (projection.norm, ours.norm)]
    for theirs, mine in pairs:
        mine.load_state_dict(theirs.state_dict())
    assert sum(p.numel() for p in block.parameters()) == sum(p.numel() for p in reference.parameters())
    x = torch.randn(2, inputs, *(4, 6, 8)[-len(kernel) :])
    torch.testing.assert_close(block(x), reference(x))


def test_conv_shortcut_equals_its_formula() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(2, 3, 5, kernel_size=(3, 3), stride=(2, 1), shortcut="conv")
    _randomize(block)
    x = torch.randn(2, 3, 6, 5)
    y = x
    for part, stride in ((block.block1, (2, 1)), (block.block2, (1, 1))):
        y = F.conv2d(y, part.conv.weight, part.conv.bias, stride, padding=1)
        y = (y - y.mean((2, 3), keepdim=True)) / (
            y.var((2, 3), correction=0, keepdim=True) + 1e-5
        ).sqrt() * part.norm.weight[:, None, None] + part.norm.bias[:, None, None]
        if part is block.block1:
            y = torch.where(y > 0, y, 0.01 * y)
    y = y + F.conv2d(x, block.shortcut.weight, block.shortcut.bias, (2, 1))
    torch.testing.assert_close(block(x), torch.where(y > 0, y, 0.01 * y), rtol=1e-4, atol=1e-4)


def test_the_conv_shortcut_is_always_there() -> None:
    block = ResidualBlock(2, 4, 4, kernel_size=(3, 3), stride=(1, 1), shortcut="conv")
    assert isinstance(block.shortcut, nn.Conv2d)
    assert block.shortcut.bias is not None


def test_a_stage_is_strided_once() -> None:
    stage = residual_stage(2, 2, 4, kernel_size=(3, 3), stride=(2, 2), blocks=3, first_shortcut="conv")
    assert len(stage) == 3
    assert isinstance(stage[0].shortcut, nn.Conv2d)
    assert all(isinstance(block.shortcut, nn.Identity) for block in stage[1:])
    assert stage(torch.randn(1, 2, 8, 8)).shape == (1, 4, 4, 4)


def test_blocks_do_not_change_their_input() -> None:
    x = torch.randn(1, 4, 6, 6)
    before = x.clone()
    for shortcut in ("conv", "pool"):
        ResidualBlock(2, 4, 4, kernel_size=(3, 3), stride=(1, 1), shortcut=shortcut)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d])
def test_convolutions_are_kaiming_normal_with_zero_bias(kind: Any) -> None:
    torch.manual_seed(0)
    conv = kind(32, 32, 3)
    initialize_convolutions(nn.Sequential(conv))
    fan_in = 32 * math.prod(conv.kernel_size)
    expected = math.sqrt(2 / (1 + 1e-4) / fan_in)
    assert conv.weight.std().item() == pytest.approx(expected, rel=0.03)
    assert abs(conv.weight.mean().item()) < 4 * expected / math.sqrt(conv.weight.numel())
    assert not conv.bias.any()


def test_linear_and_1d_convolutions_keep_their_own_initialisation() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 3))
    before = [parameter.clone() for parameter in network.parameters()]
    initialize_convolutions(network)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_zeroed_last_norms_leave_the_shortcut_alone() -> None:
    block = ResidualBlock(2, 4, 4, kernel_size=(3, 3), stride=(1, 1), shortcut="pool")
    zero_last_norms(block)
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(block(x), F.leaky_relu(x, 0.01))
    assert block.block1.norm.weight.all()


def test_conv_norm_without_activation_has_zero_mean_and_unit_variance() -> None:
    y = ConvNorm(3, 2, 4, kernel_size=(3, 3, 3), activation=False)(torch.randn(1, 2, 6, 6, 6))
    torch.testing.assert_close(y.mean((2, 3, 4)), torch.zeros(1, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((2, 3, 4), correction=0), torch.ones(1, 4), atol=1e-3, rtol=0)
