"""The edge of networks whose axes shrink differently: what is refused, padded and cropped."""

import re

import pytest
import torch

from scanseg.blocks.axis_fit import AxisFit
from scanseg.errors import UsageError

FIT = AxisFit(2, (1, 4, 4), (2, 8, 16))
PADDING = AxisFit(2, (1, 4, 4), (2, 8, 16), pad=True)


def test_sizes_that_fit_pass_unchanged() -> None:
    x = torch.randn(1, 2, 5, 12, 16)
    assert FIT.enter(x) is x
    FIT.check_patch((5, 12, 16))
    assert torch.equal(FIT.leave(x, (5, 12, 16)), x)


@pytest.mark.parametrize(
    ("size", "wanted"), [((3, 10, 16), (3, 12, 16)), ((1, 8, 16), (2, 8, 16)), ((3, 4, 4), (3, 8, 16))]
)
def test_other_sizes_are_refused_with_one_that_works(size: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    words = "multiples of (1, 4, 4), at least (2, 8, 16)"
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        FIT.enter(torch.zeros(1, 2, *size))
    assert f"Use {wanted}" in caught.value.hint
    with pytest.raises(UsageError, match=re.escape(f"patch_size {size}")):
        FIT.check_patch(size)


def test_padding_adds_zeros_that_cropping_takes_away() -> None:
    PADDING.check_patch((1, 5, 5))
    x = torch.randn(1, 2, 3, 10, 17)
    padded = PADDING.enter(x)
    assert padded.shape == (1, 2, 3, 12, 20)
    assert torch.equal(PADDING.leave(padded, (3, 10, 17)), x)
    assert padded.count_nonzero() == x.count_nonzero()
    coarse = PADDING.leave(padded[:, :, :2, ::2, ::2], (3, 10, 17))
    assert coarse.shape == (1, 2, 2, 5, 9)


@pytest.mark.parametrize("shape", [(1, 1, 3, 8, 16), (1, 2, 8, 16), (2, 3, 8, 16)])
def test_wrong_channels_and_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=re.escape("takes (batch, 2, z, y, x)")):
        FIT.enter(torch.zeros(shape))
