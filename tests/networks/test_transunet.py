"""TransUNet: parameters, cost, layout, sizes."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from scanseg.errors import UsageError
from scanseg.networks import count_parameters, create_network, describe_network

PAPER: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 4, "patch_size": (224, 224)}
SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "patch_size": (32, 48),
    "base_features": 8,
    "depths": (1, 1, 2),
    "transformer_depth": 2,
}


def _meta(**arguments: Any) -> Any:
    with torch.device("meta"):
        return create_network("transunet", **arguments)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, 105_276_356), ({"in_channels": 3}, 105_276_356), ({"patch_size": (256, 256)}, 105_322_436)],
)
def test_parameter_counts_are_those_of_the_released_code(changes: dict[str, Any], expected: int) -> None:
    assert count_parameters(_meta(**PAPER | changes)) == expected


def test_operations_are_those_published() -> None:
    macs = describe_network("transunet", **PAPER | {"patch_size": (256, 256)})["macs"]
    # Twelve blocks, each queries by keys and weights by values, for 16 x 16 tokens.
    assert macs["attention"] == 12 * 2 * 256**2 * 768
    # 38.55 were counted with norms and interpolation.
    assert macs["total"] / 1e9 == pytest.approx(38.55, abs=0.15)


def test_every_position_has_an_embedding_of_its_own() -> None:
    network = _meta(**PAPER | {"patch_size": (224, 96)})
    assert network.transformer.position.shape == (1, 14 * 6, 768)
    start: Any = create_network("transunet", **SMALL)
    assert not start.transformer.position.any()


def test_only_the_planned_size_is_taken() -> None:
    network = create_network("transunet", **SMALL, deep_supervision=True).eval()
    (logits,) = network(torch.randn(2, 1, 32, 48))
    assert logits.shape == (2, 3, 32, 48)
    for size in ((64, 96), (32, 64), (31, 48)):
        with pytest.raises(UsageError, match=re.escape("(32, 48) that the network was made for")) as caught:
            network(torch.zeros(1, 1, *size))
        assert "Cut patches of (32, 48)" in caught.value.hint


def test_padding_takes_smaller_sizes() -> None:
    network = create_network("transunet", **SMALL | {"patch_size": (30, 41)}, pad_to_fit=True).eval()
    for size in ((30, 41), (17, 33), (5, 7)):
        assert network(torch.randn(1, 1, *size)).shape == (1, 3, *size)
    with pytest.raises(UsageError, match="made for"):
        network(torch.zeros(1, 1, 64, 41))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": (40, 48)}, "every side must be a multiple of 16"),
        ({"patch_size": (16, 16)}, "too small"),
        ({"heads": 5}, "heads must divide the width"),
        ({"hidden_features": 0}, "hidden_features must be a positive integer"),
        ({"depths": (3,)}, "depths needs two entries at least"),
        ({"dropout": 1.0}, "dropout must be a number"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        create_network("transunet", **SMALL | changes)


def test_wrong_axes_and_channels_are_refused() -> None:
    network = create_network("transunet", **SMALL)
    for shape in ((1, 2, 32, 48), (1, 1, 4, 32, 48)):
        with pytest.raises(UsageError, match="The network takes"):
            network(torch.zeros(shape))


def test_skips_are_the_maps_of_the_resnet() -> None:
    torch.manual_seed(0)
    network: Any = create_network("transunet", **SMALL).eval()
    x = torch.randn(1, 1, 32, 48)
    maps = network.encoder(x.expand(-1, 3, -1, -1))
    assert [tuple(one.shape[1:]) for one in maps] == [(8, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3)]
    # The pooling has no padding: the last row and column of the next map are zeros.
    assert not maps[1][:, :, -1].any()
    assert not maps[1][..., -1].any()
    y = network.bridge(network.transformer(maps[3]))
    for block, skip in zip(network.decoder, (maps[2], maps[1], maps[0], None), strict=True):
        size = [2 * edge for edge in y.shape[2:]]
        y = functional.interpolate(y, size, mode="bilinear", align_corners=True)
        y = block(y if skip is None else torch.cat((y, skip), 1))
    torch.testing.assert_close(network(x), network.output(y))


def test_feed_forward_parts_start_as_in_vit() -> None:
    torch.manual_seed(0)
    network: Any = create_network("transunet", **SMALL)
    layers = [block.feed_forward.wide for block in network.transformer.blocks]
    weight = torch.cat([layer.weight.flatten() for layer in layers])
    assert weight.std().item() == pytest.approx((2 / (96 + 384)) ** 0.5, rel=0.03)
    assert all(0 < layer.bias.abs().max() < 1e-5 for layer in layers)
    dropouts = [part.p for part in network.modules() if isinstance(part, nn.Dropout)]
    assert set(dropouts) == {0.1}
