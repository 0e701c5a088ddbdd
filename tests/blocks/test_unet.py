"""The halves of the U-Net: order of maps, the two ways of enlarging, the checks at the edge."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scanseg.blocks.unet import Decoder, Encoder, NearestUpsample, UNet
from scanseg.errors import UsageError


@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (1, 1), (3, 2), (1, 2, 2), (2, 2, 2)])
def test_enlarging_after_the_convolution_equals_enlarging_before(stride: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    upsample = NearestUpsample(len(stride), 3, 5, stride=stride)
    x = torch.randn(2, 3, *(2, 3, 4)[-len(stride) :])
    larger = x
    for axis, step in enumerate(stride, start=2):
        larger = larger.repeat_interleave(step, dim=axis)
    convolve = F.conv2d if len(stride) == 2 else F.conv3d
    expected = convolve(larger, upsample.conv.weight, upsample.conv.bias)
    torch.testing.assert_close(upsample(x), expected)


class _Plus(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.value


def test_skips_are_the_maps_behind_the_mixers() -> None:
    encoder = Encoder(_Plus(1), [_Plus(10), _Plus(100)], [_Plus(0.5), nn.Identity()])
    skips = encoder(torch.zeros(1, 1, 2, 2))
    assert [skip.unique().item() for skip in skips] == [11.5, 111.5]


def _decoder(*, deep_supervision: bool, concatenate: tuple[bool, bool] = (True, True)) -> Decoder:
    sums = [nn.Conv2d(2 if joined else 1, 1, 1, bias=False) for joined in concatenate]
    for conv in sums:
        nn.init.ones_(conv.weight)
    enlarge = [nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2)]
    return Decoder(
        enlarge,
        sums,
        [_Plus(0.25), _Plus(0.75)],
        concatenate=concatenate,
        deep_supervision=deep_supervision,
    )


_SKIPS = [torch.full((1, 1, 8, 8), 1.0), torch.full((1, 1, 4, 4), 10.0), torch.full((1, 1, 2, 2), 100.0)]


def test_decoder_joins_the_skip_of_each_stage_and_lists_fine_to_coarse() -> None:
    outputs = _decoder(deep_supervision=True)(_SKIPS)
    assert [tuple(output.shape[2:]) for output in outputs] == [(8, 8), (4, 4)]
    assert [output.unique().item() for output in outputs] == [111.75, 110.25]


def test_without_deep_supervision_only_the_finest_comes_out() -> None:
    decoder = _decoder(deep_supervision=False)
    output = decoder(_SKIPS)
    assert isinstance(output, torch.Tensor)
    assert output.unique().item() == 111.75


def test_a_skip_that_is_not_joined_has_no_effect() -> None:
    output = _decoder(deep_supervision=False, concatenate=(True, False))(_SKIPS)
    assert isinstance(output, torch.Tensor)
    assert output.unique().item() == 110.75


def _unet() -> UNet:
    encoder = Encoder(nn.Identity(), [nn.Identity(), nn.AvgPool2d((2, 1))], [nn.Identity()] * 2)
    decoder = Decoder(
        [nn.Upsample(scale_factor=(2.0, 1.0))],
        [nn.Conv2d(4, 2, 1)],
        [nn.Conv2d(2, 3, 1)],
        concatenate=(True,),
        deep_supervision=False,
    )
    return UNet(encoder, decoder, in_channels=2, strides=((1, 1), (2, 1)), stage_table=())


def test_unet_takes_what_its_strides_divide() -> None:
    assert _unet()(torch.zeros(1, 2, 6, 5)).shape == (1, 3, 6, 5)


@pytest.mark.parametrize("shape", [(1, 2, 5, 4), (1, 2, 2, 1), (1, 1, 4, 4), (1, 2, 4), (1, 2, 4, 4, 4)])
def test_unet_refuses_other_inputs(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        _unet()(torch.zeros(shape))
    assert caught.value.code == "E-NETWORK-INPUT"
    assert str(shape) in str(caught.value) or str(shape[2:]) in str(caught.value)


def test_deep_supervision_can_be_switched_at_any_time() -> None:
    network, x = _unet(), torch.zeros(1, 2, 4, 4)
    assert isinstance(network(x), torch.Tensor)
    network.deep_supervision = True
    outputs = network(x)
    assert isinstance(outputs, list)
    network.deep_supervision = False
    assert torch.equal(network(x), outputs[0])
