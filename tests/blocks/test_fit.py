"""The edge of the 2D networks: what is refused, padded, cropped and repeated."""

import re

import pytest
import torch

from scanseg.blocks.fit import Fit
from scanseg.errors import UsageError


def test_sizes_that_fit_pass_unchanged() -> None:
    x = torch.randn(2, 3, 64, 32)
    fit = Fit(3, 32)
    assert fit.enter(x) is x
    assert torch.equal(fit.leave(x, (64, 32)), x)


def test_other_sizes_are_refused_with_those_that_work() -> None:
    with pytest.raises(UsageError, match="not divisible") as caught:
        Fit(1, 32).enter(torch.zeros(1, 1, 40, 64))
    assert "(64, 64) or (32, 64)" in caught.value.hint
    assert "pad_to_fit" in caught.value.hint
    with pytest.raises(UsageError, match=re.escape("(20, 32)")) as caught:
        Fit(1, 32).check_patch((20, 32))
    assert "(32, 32)" in caught.value.hint


@pytest.mark.parametrize("shape", [(1, 2, 32, 32), (1, 1, 4, 32, 32), (1, 32, 32)])
def test_wrong_channels_and_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="The network takes"):
        Fit(1, 32).enter(torch.zeros(shape))


def test_padding_adds_zeros_that_cropping_takes_away() -> None:
    fit = Fit(1, 8, pad=True)
    fit.check_patch((5, 9))
    x = torch.randn(1, 1, 5, 9)
    padded = fit.enter(x)
    assert padded.shape == (1, 1, 8, 16)
    assert torch.equal(fit.leave(padded, (5, 9)), x)
    assert padded.count_nonzero() == x.count_nonzero()
    assert fit.leave(padded[..., ::4, ::4], (5, 9), stride=4).shape == (1, 1, 2, 3)


def test_a_single_channel_is_repeated() -> None:
    fit = Fit(1, 8, repeat=3)
    x = torch.randn(1, 1, 8, 8)
    assert fit.channels == 3
    assert torch.equal(fit.enter(x), torch.cat([x, x, x], 1))


def test_volumes_are_padded_at_the_end_of_each_axis() -> None:
    fit = Fit(2, 4, pad=True, spatial_dims=3)
    x = torch.randn(1, 2, 3, 4, 5)
    padded = fit.enter(x)
    assert padded.shape == (1, 2, 4, 4, 8)
    assert torch.equal(padded[:, :, :3, :, :5], x)
    assert torch.equal(fit.leave(padded, (3, 4, 5)), x)
    with pytest.raises(UsageError, match="z, y, x"):
        fit.enter(torch.zeros(1, 2, 4, 4))


def test_a_coarsest_map_of_one_element_is_refused_or_padded() -> None:
    fit = Fit(1, 32, smallest=2)
    with pytest.raises(UsageError, match=re.escape("(32, 32) is too small")) as caught:
        fit.enter(torch.zeros(1, 1, 32, 32))
    assert "(32, 64)" in caught.value.hint
    with pytest.raises(UsageError, match="instance norm") as caught:
        fit.check_patch((32, 32))
    assert "(32, 64)" in caught.value.hint
    with pytest.raises(UsageError, match="not divisible") as caught:
        fit.enter(torch.zeros(1, 1, 40, 32))
    assert "Use (64, 32), or" in caught.value.hint
    assert fit.padded((64, 32)) == (64, 32)
    padding = Fit(1, 32, pad=True, smallest=2)
    assert padding.enter(torch.ones(1, 1, 5, 7)).shape == (1, 1, 32, 64)


def test_a_network_of_one_size_takes_no_other() -> None:
    fit = Fit(1, 16, only=(32, 48))
    x = torch.zeros(1, 1, 32, 48)
    assert fit.enter(x) is x
    for size in ((16, 48), (48, 48)):
        with pytest.raises(UsageError, match=re.escape("not the patch size (32, 48)")):
            fit.enter(torch.zeros(1, 1, *size))


def test_smaller_images_are_padded_to_the_one_size() -> None:
    fit = Fit(1, 16, pad=True, only=(20, 48))
    x = torch.ones(1, 1, 9, 48)
    padded = fit.enter(x)
    assert padded.shape == (1, 1, 32, 48)
    assert torch.equal(fit.leave(padded, (9, 48)), x)
    with pytest.raises(UsageError, match=re.escape("not the patch size (20, 48)")) as caught:
        fit.enter(torch.zeros(1, 1, 21, 48))
    assert "pad" not in caught.value.hint
