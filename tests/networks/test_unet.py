"""The U-Net peer: parameters, levels, dropout, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scanseg.errors import UsageError
from scanseg.networks import count_parameters, create_network

FLAT: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 4, "patch_size": (256, 256)}
SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 2,
    "out_channels": 3,
    "patch_size": (16, 24),
    "base_features": 4,
    "levels": 3,
}


def _double(below: int, width: int, taps: int) -> int:
    """Two convolutions with bias, each with the weight and bias of a batch norm."""
    return below * width * taps + width**2 * taps + 2 * 3 * width


def _expected(dims: int, base: int, levels: int, channels: int, classes: int) -> int:
    taps, widths = 3**dims, [base * 2**level for level in range(levels)]
    total = sum(
        _double(below, width, taps) for below, width in zip([channels, *widths], widths, strict=False)
    )
    for width in widths[:-1]:
        total += 2 * width * width + width + _double(2 * width, width, taps)
    return total + base * classes * taps + classes


@pytest.mark.parametrize(("dims", "patch"), [(2, (256, 256)), (3, (64, 64, 64))])
def test_parameter_counts(dims: int, patch: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = create_network("unet", **FLAT | {"spatial_dims": dims, "patch_size": patch})
    assert count_parameters(network) == _expected(dims, 16, 5, 1, 4)
    if dims == 2:
        assert count_parameters(network) == 1_813_764


def test_levels_and_width_are_options() -> None:
    assert count_parameters(create_network("unet", **SMALL)) == _expected(2, 4, 3, 2, 3)


def test_volumes_keep_their_size() -> None:
    arguments = SMALL | {"spatial_dims": 3, "patch_size": (4, 8, 12)}
    network = create_network("unet", **arguments).eval()
    assert network(torch.randn(2, 2, 4, 8, 12)).shape == (2, 3, 4, 8, 12)


@pytest.mark.parametrize(
    ("dropout", "rates"),
    [(None, [0.05, 0.1, 0.2]), (0.25, [0.25, 0.25, 0.25]), ((0.5, 0, 0.1), [0.5, 0.1]), (0.0, [])],
)
def test_only_the_encoder_drops(dropout: Any, rates: list[float]) -> None:
    network: Any = create_network("unet", **SMALL, dropout=dropout)
    found = [part.p for part in network.modules() if isinstance(part, nn.Dropout)]
    assert found == rates
    assert not any(isinstance(part, nn.Dropout) for part in network.decoder.modules())


def test_a_padded_image_is_the_image_with_zeros_around_it() -> None:
    torch.manual_seed(0)
    network: Any = create_network("unet", **SMALL, pad_to_fit=True).eval()
    x = torch.randn(1, 2, 13, 22)
    padded = torch.zeros(1, 2, 16, 24)
    padded[..., :13, :22] = x
    assert torch.equal(network(x), network(padded)[..., :13, :22])


def test_odd_sizes_are_refused_with_those_that_work() -> None:
    with pytest.raises(UsageError, match="not divisible by 4") as caught:
        create_network("unet", **SMALL)(torch.zeros(1, 2, 13, 24))
    assert "(16, 24) or (12, 24)" in caught.value.hint
    with pytest.raises(UsageError, match="multiple of 4"):
        create_network("unet", **SMALL | {"patch_size": (13, 24)})


def test_one_element_can_be_predicted_but_not_trained_on() -> None:
    network: Any = create_network("unet", **SMALL)
    x = torch.randn(1, 2, 4, 4)
    with pytest.raises(UsageError, match="batch normalisation needs two") as caught:
        network(x)
    assert "sides of 8" in caught.value.hint
    assert network(torch.cat((x, x))).shape == (2, 3, 4, 4)
    assert network.eval()(x).shape == (1, 3, 4, 4)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("levels", 1, "2 or more, got 1"),
        ("levels", 2.5, "positive integer"),
        ("base_features", 0, "positive integer"),
        ("dropout", 1.0, r"in \[0, 1\)"),
        ("dropout", (0.1, 0.2), "or 3 here"),
    ],
)
def test_wrong_options_are_refused(option: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_network("unet", **SMALL | {option: value})


def test_the_decoder_sees_skip_and_doubled_map() -> None:
    torch.manual_seed(0)
    network: Any = create_network("unet", **SMALL | {"levels": 2}).eval()
    x = torch.randn(1, 2, 8, 8)
    fine: Tensor = network.encoder[0](x)
    coarse = network.encoder[1](nn.functional.max_pool2d(fine, 2))
    doubled = nn.functional.interpolate(
        network.ups[0][0](coarse), size=(8, 8), mode="bilinear", align_corners=True
    )
    expected = network.output(network.decoder[0](torch.cat((fine, doubled), 1)))
    torch.testing.assert_close(network(x), expected)
