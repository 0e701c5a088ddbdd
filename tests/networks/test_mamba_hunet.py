"""Mamba-HUNet and the light HUNet, interpretation R1: parameters, parts, and what they reduce to."""

from typing import Any

import pytest
import torch
from torch import nn

from scanseg.errors import UsageError
from scanseg.networks import NETWORKS, count_parameters, create_network

COMMON: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "patch_size": (256, 256)}
SMALL: dict[str, Any] = {**COMMON, "patch_size": (32, 64), "base_features": 8}
PLAIN = {"dual_pathway": False, "up_convolutions": False, "head": "expand"}
NAMES = ("mamba_hunet", "hunet_light")


def _meta(name: str, **arguments: Any) -> Any:
    with torch.device("meta"):
        return create_network(name, **arguments)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mamba_hunet", {}, 22_313_402),
        ("mamba_hunet", {"base_features": 48}, 6_031_886),
        ("mamba_hunet", {"base_features": 32}, 2_882_410),
        ("mamba_hunet", {**PLAIN, "out_channels": 4}, 19_118_592),
        ("hunet_light", {}, 1_954_722),
        ("hunet_light", {"base_features": 32}, 7_810_882),
    ],
)
def test_parameter_counts_of_r1(name: str, options: dict[str, Any], expected: int) -> None:
    assert count_parameters(_meta(name, **COMMON | options)) == expected


def test_the_light_network_is_the_smaller() -> None:
    assert count_parameters(_meta("hunet_light", **COMMON)) <= count_parameters(
        _meta("mamba_hunet", **COMMON)
    )


@pytest.mark.parametrize("name", NAMES)
def test_batch_norm_and_dropout_are_there_and_positions_are_not(name: str) -> None:
    network = _meta(name, **COMMON)
    parts = list(network.modules())
    assert any(isinstance(part, nn.BatchNorm2d) for part in parts)
    assert {part.p for part in parts if isinstance(part, nn.Dropout2d)} == {0.1}
    assert not any("position" in key for key in network.state_dict())
    without = _meta(name, **COMMON, dropout=0.0)
    assert not any(isinstance(part, nn.Dropout2d) for part in without.modules())


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    network = create_network(name, **SMALL)
    x = torch.randn(2, 1, 32, 64)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(("name", "multiple"), [("mamba_hunet", 32), ("hunet_light", 16)])
def test_sizes(name: str, multiple: int) -> None:
    network = create_network(name, **SMALL).eval()
    for size in ((multiple, 3 * multiple), (2 * multiple, multiple)):
        assert network(torch.randn(1, 1, *size)).shape == (1, 2, *size)
    with pytest.raises(UsageError, match=f"not divisible by {multiple}"):
        network(torch.randn(1, 1, multiple + 1, multiple))


def test_without_its_own_parts_it_is_mamba_unet() -> None:
    torch.manual_seed(0)
    hunet: Any = create_network("mamba_hunet", **SMALL, **PLAIN).eval()
    plain: Any = create_network("mamba_unet", **SMALL, repeat_gray=False).eval()
    renamed = {}
    for key, value in plain.state_dict().items():
        part, _, rest = key.partition(".")
        if part in ("expands", "joins", "stages"):
            depth, _, rest = rest.partition(".")
            key = f"ups.{depth}.{part[:-1]}.{rest}"
        renamed[key] = value
    hunet.load_state_dict(renamed, strict=True)
    x = torch.randn(2, 1, 64, 32)
    assert torch.equal(hunet(x), plain(x))


def test_both_pathways_are_summed() -> None:
    torch.manual_seed(0)
    up: Any = create_network("mamba_hunet", **SMALL, up_convolutions=False).eval().ups[0]
    x, skip = torch.randn(1, 2, 2, 64), torch.randn(1, 4, 4, 32)
    both = up.expand(x) + up.transposed(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    expected = up.stage(up.join(torch.cat((both, skip), -1)))
    torch.testing.assert_close(up(x, skip), expected)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_a_toy_set(name: str) -> None:
    torch.manual_seed(0)
    arguments = SMALL | {"patch_size": (32, 32), "base_features": 16, "dropout": 0.0}
    network = create_network(name, **arguments)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    target = torch.zeros(2, 32, 32, dtype=torch.long)
    target[0, 4:20, 8:28] = 1
    target[1, 12:30, 2:14] = 1
    images = target[:, None] + 0.3 * torch.randn(2, 1, 32, 32)
    losses = []
    for _ in range(14):
        loss = nn.functional.cross_entropy(network(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_it_says_that_it_is_an_interpretation(name: str) -> None:
    entry = NETWORKS[name]
    assert "our interpretation R1, no reference code" in entry.summary
    assert "no reference code" in entry.source
    assert any("Interpretation R1" in line for line in entry.differences)


def test_one_value_per_channel_cannot_be_normalised_in_training() -> None:
    network = create_network("hunet_light", **SMALL)
    with pytest.raises(UsageError, match="batch normalisation needs two"):
        network(torch.randn(1, 1, 16, 16))
    assert network(torch.randn(2, 1, 16, 16)).shape == (2, 2, 16, 16)
    assert network.eval()(torch.randn(1, 1, 16, 16)).shape == (1, 2, 16, 16)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("mamba_hunet", "dropout", 1.0),
        ("mamba_hunet", "head", "linear"),
        ("hunet_light", "dropout", -0.1),
        ("hunet_light", "base_features", 0),
    ],
)
def test_wrong_options_are_refused(name: str, option: str, value: object) -> None:
    with pytest.raises(UsageError, match=option):
        create_network(name, **SMALL | {option: value})
