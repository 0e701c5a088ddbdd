"""UNETR's blocks against MONAI's."""

import pytest
import torch
from torch import Tensor, nn

from scanseg.blocks.unetr import UnetrBlock, UnetrUp


def _copied(target: nn.Module, source: nn.Module) -> nn.Module:
    """`target` with the weights of `source`, matched in order."""
    mine, theirs = target.state_dict(), source.state_dict()
    assert [value.shape for value in mine.values()] == [value.shape for value in theirs.values()]
    target.load_state_dict(dict(zip(mine, theirs.values(), strict=True)))
    return target


@pytest.mark.parametrize(("below", "width"), [(3, 8), (8, 8)])
def test_the_residual_block_is_that_of_monai(below: int, width: int) -> None:
    monai = pytest.importorskip("monai.networks.blocks.unetr_block")
    theirs = monai.UnetrBasicBlock(
        2, below, width, kernel_size=3, stride=1, norm_name="instance", res_block=True
    )
    x = torch.randn(2, below, 12, 10)
    torch.testing.assert_close(_copied(UnetrBlock(below, width), theirs)(x), theirs(x))


def test_the_upsampling_block_is_that_of_monai() -> None:
    monai = pytest.importorskip("monai.networks.blocks.unetr_block")
    theirs = monai.UnetrUpBlock(
        2, 6, 4, kernel_size=3, upsample_kernel_size=2, norm_name="instance", res_block=True
    )
    x, skip = torch.randn(2, 6, 5, 4), torch.randn(2, 4, 10, 8)
    y: Tensor = _copied(UnetrUp(6, 4), theirs)(x, skip)
    torch.testing.assert_close(y, theirs(x, skip))
