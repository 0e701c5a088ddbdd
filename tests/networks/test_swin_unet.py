"""Swin-Unet: parameters, layout, sizes."""

from typing import Any

import pytest
import torch
from torch import nn

from scanseg.blocks.attention import TransformerBlock, WindowAttention
from scanseg.errors import UsageError
from scanseg.networks import count_parameters, create_network, describe_network

PAPER: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 4, "patch_size": (224, 224)}
SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "patch_size": (32, 64),
    "base_features": 8,
    "window_size": 2,
}


def _meta(**arguments: Any) -> Any:
    with torch.device("meta"):
        return create_network("swin_unet", **arguments)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 27_168_420),
        ({"in_channels": 3}, 27_168_420),
        ({"patch_size": (256, 256), "window_size": 8}, 27_175_812),
    ],
)
def test_parameter_counts_are_those_of_the_released_code(changes: dict[str, Any], expected: int) -> None:
    assert count_parameters(_meta(**PAPER | changes)) == expected


def test_windows_heads_and_stochastic_depth() -> None:
    network = _meta(**PAPER)
    attentions = [part for part in network.modules() if isinstance(part, WindowAttention)]
    assert [part.heads for part in attentions] == [3, 3, 6, 6, 12, 12, 24, 24, 12, 12, 6, 6, 3, 3]
    assert [part.shifted for part in attentions] == [False, True] * 7
    assert {part.window for part in attentions} == {(7, 7)}
    rates = [part.drop_path.rate for part in network.modules() if isinstance(part, TransformerBlock)]
    rising = torch.linspace(0, 0.2, 8).tolist()
    mirrored = [rising[index] for index in (4, 5, 2, 3, 0, 1)]
    assert rates == pytest.approx([*rising, *mirrored], abs=1e-7)


def test_attention_is_counted_in_closed_form() -> None:
    macs = describe_network("swin_unet", **PAPER)["macs"]
    # Two blocks a stage; each token by the 49 of its window, queries by keys and weights by values.
    stages = [(56, 96, 4), (28, 192, 4), (14, 384, 4), (7, 768, 2)]
    assert macs["attention"] == sum(2 * side**2 * 49 * width * blocks for side, width, blocks in stages)


def test_windows_are_not_larger_than_the_planned_map() -> None:
    network = _meta(**SMALL | {"window_size": 7})
    assert [stage[0].attention.window for stage in network.encoder] == [(7, 7), (4, 7), (2, 4), (1, 2)]


def test_other_sizes_run_on_the_same_weights() -> None:
    torch.manual_seed(0)
    network = create_network("swin_unet", **SMALL, deep_supervision=True).eval()
    for size in ((32, 64), (64, 32), (96, 160)):
        (logits,) = network(torch.randn(2, 1, *size))
        assert logits.shape == (2, 3, *size)


def test_sizes_that_do_not_fit_are_refused_or_padded() -> None:
    with pytest.raises(UsageError, match="multiple of 32"):
        create_network("swin_unet", **SMALL | {"patch_size": (40, 36)})
    with pytest.raises(UsageError, match="not divisible by 32") as caught:
        create_network("swin_unet", **SMALL)(torch.zeros(1, 1, 40, 36))
    assert "(64, 64) or (32, 32)" in caught.value.hint
    padded = create_network("swin_unet", **SMALL | {"patch_size": (40, 36)}, pad_to_fit=True).eval()
    assert padded(torch.randn(1, 1, 40, 36)).shape == (1, 3, 40, 36)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": (1, 2)}, "heads needs 4 entries"),
        ({"heads": (3, 3, 3, 3)}, "heads must divide the width of each stage"),
        ({"window_size": (2, 2)}, "window_size must be an integer or one entry for each of the 4 stages"),
        ({"window_size": 0}, "window_size must be a positive integer, got 0"),
        ({"window_size": "7"}, "window_size must be"),
        ({"window_size": (2, 2, (2, 2, 2), 2)}, "a number for each of the 2 axes"),
        ({"drop_path_rate": 1}, "drop_path_rate must be"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        create_network("swin_unet", **SMALL | options)


def test_linear_layers_and_biases_of_position_start_small() -> None:
    torch.manual_seed(0)
    network = create_network("swin_unet", **SMALL | {"base_features": 64, "window_size": 7})
    linear = torch.cat([part.weight.flatten() for part in network.modules() if isinstance(part, nn.Linear)])
    bias = torch.cat([part.bias.flatten() for part in network.modules() if isinstance(part, WindowAttention)])
    assert linear.std().item() == pytest.approx(0.02, rel=0.05)
    assert bias.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_skip_is_what_enters_a_stage() -> None:
    torch.manual_seed(0)
    network: Any = create_network("swin_unet", **SMALL | {"depths": (1, 1)}).eval()
    x = torch.randn(1, 1, 32, 64)
    entered = network.patch_embed(x.expand(-1, 3, -1, -1))
    coarse = network.norm(network.encoder[1](network.merges[0](network.encoder[0](entered))))
    y = network.decoder[0](network.joins[0](torch.cat((network.expands[0](coarse), entered), -1)))
    expected = network.output(network.up(network.norm_up(y)).permute(0, 3, 1, 2))
    torch.testing.assert_close(network(x), expected)
