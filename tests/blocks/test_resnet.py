"""Residual blocks of ResNets: standardized kernels, shortcuts, sizes, published counts."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from scanseg.blocks.resnet import BasicBlock, StandardizedBottleneck, StandardizedConv2d, group_norm


def test_standardized_kernels_have_mean_zero_and_variance_one() -> None:
    torch.manual_seed(0)
    layer = StandardizedConv2d(3, 4, 3, padding=1).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    kernels = torch.stack([(k - k.mean()) / (k.var(unbiased=False) + 1e-5).sqrt() for k in layer.weight])
    expected = functional.conv2d(x, kernels, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    y = layer(x)
    with torch.no_grad():
        layer.weight.add_(7)
    torch.testing.assert_close(layer(x), y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("in_channels", "stride", "plain"), [(16, 1, True), (8, 1, False), (16, 2, False)])
def test_shortcuts_are_learned_where_the_shape_changes(in_channels: int, stride: int, plain: bool) -> None:
    torch.manual_seed(0)
    for block in (
        StandardizedBottleneck(in_channels, 4, stride=stride),
        BasicBlock(in_channels, 16, stride=stride),
    ):
        x = torch.randn(2, in_channels, 7, 6)
        assert block(x).shape == (2, 16, -(-7 // stride), -(-6 // stride))
        assert isinstance(block.shortcut, nn.Identity) == plain


def test_a_block_whose_branch_is_zero_passes_what_is_positive() -> None:
    torch.manual_seed(0)
    basic, bottleneck = BasicBlock(16, 16), StandardizedBottleneck(16, 4)
    x = torch.randn(2, 16, 4, 4)
    for block, branch in ((basic, basic.second), (bottleneck, bottleneck.wide)):
        for parameter in branch[1].parameters():
            nn.init.zeros_(parameter)
        assert torch.equal(block(x), x.relu())


def test_the_stages_of_resnet_34_have_their_published_parameters() -> None:
    count, width = 0, 64
    for features, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        for index in range(blocks):
            block = BasicBlock(width, features, stride=2 if index == 0 and features > 64 else 1)
            count += sum(parameter.numel() for parameter in block.parameters())
            width = features
    # 21,797,672 of ResNet-34 without its first convolution and norm and its classifier.
    assert count == 21_797_672 - (3 * 64 * 49 + 2 * 64) - (512 + 1) * 1000


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (4, 4), (7, 1)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups
