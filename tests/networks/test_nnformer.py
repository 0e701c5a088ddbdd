"""nnFormer: parameters, cost, layout, sizes."""

import re
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scanseg.blocks.attention import TransformerBlock, WindowAttention
from scanseg.errors import UsageError
from scanseg.networks import count_parameters, create_network, describe_network
from scanseg.networks.nnformer import ConvExpanding, ConvMerging, ConvStem

ACDC: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 4,
    "patch_size": (14, 160, 160),
}
SYNAPSE: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 14,
    "patch_size": (64, 128, 128),
    "configuration": "synapse",
}
SMALL: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 3,
    "patch_size": (6, 32, 64),
    "base_features": 8,
}


def _meta(**arguments: Any) -> Any:
    with torch.device("meta"):
        return create_network("nnformer", **arguments)


@pytest.mark.parametrize(
    ("arguments", "expected", "with_heads"),
    [(ACDC, 37_160_200, 37_197_072), (SYNAPSE, 149_538_086, 150_054_210)],
)
def test_parameter_counts_are_those_of_the_released_code(
    arguments: dict[str, Any], expected: int, with_heads: int
) -> None:
    assert count_parameters(_meta(**arguments, auxiliary_heads=False)) == expected
    assert count_parameters(_meta(**arguments)) == with_heads


def test_windows_heads_and_stochastic_depth_are_those_of_the_configuration() -> None:
    network = _meta(**ACDC)
    attentions = [part for part in network.modules() if isinstance(part, WindowAttention)]
    windows = [(3, 5, 5), (3, 5, 5), (7, 10, 10), (3, 5, 5), (7, 10, 10), (3, 5, 5), (3, 5, 5)]
    assert [part.window for part in attentions] == [window for window in windows for _ in range(2)]
    assert [part.shifted for part in attentions] == [False, True] * 7
    assert [part.heads for part in attentions[::2]] == [3, 6, 12, 24, 12, 6, 3]
    rates = [part.drop_path.rate for part in network.modules() if isinstance(part, TransformerBlock)]
    expected = [*torch.linspace(0, 0.2, 8).tolist(), *torch.linspace(0, 0.2, 6).tolist()]
    assert rates == pytest.approx(expected, abs=1e-7)
    assert {part.window for part in _meta(**SYNAPSE).encoder[2].modules() if hasattr(part, "window")} == {
        (8, 8, 8)
    }


def test_attention_is_counted_in_closed_form() -> None:
    facts = describe_network("nnformer", **ACDC)
    sizes = {row["name"]: tuple(row["size"]) for row in facts["stages"]}
    assert [sizes[f"encoder {level}"] for level in range(4)] == [
        (14, 40, 40),
        (14, 20, 20),
        (7, 10, 10),
        (3, 5, 5),
    ]
    # Tokens of maps padded to whole windows, tokens of a window, width, blocks.
    stages = [
        (15 * 40 * 40, 75, 96, 4),
        (15 * 20 * 20, 75, 192, 4),
        (700, 700, 384, 4),
        (75, 75, 768, 2),
    ]
    expected = sum(2 * tokens * window * width * blocks for tokens, window, width, blocks in stages)
    assert facts["macs"]["attention"] == expected


def test_deep_supervision_goes_from_fine_to_coarse() -> None:
    torch.manual_seed(0)
    network = create_network("nnformer", **SMALL, deep_supervision=True).eval()
    outputs = network(torch.randn(1, 2, 6, 32, 64))
    assert [tuple(output.shape[2:]) for output in outputs] == [(6, 32, 64), (6, 16, 32), (3, 8, 16)]
    network = create_network("nnformer", **SMALL, deep_supervision=True, auxiliary_heads=False).eval()
    assert [tuple(one.shape) for one in network(torch.randn(1, 2, 6, 32, 64))] == [(1, 3, 6, 32, 64)]


@pytest.mark.parametrize("size", [(14, 40, 36), (7, 32, 44), (5, 52, 32)])
def test_crops_of_any_depth_and_multiples_of_the_patch_work(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = create_network("nnformer", **SMALL).eval()
    assert network(torch.randn(1, 2, *size)).shape == (1, 3, *size)


def test_sizes_that_do_not_fit_are_refused_or_padded() -> None:
    for size, wanted in (((6, 30, 64), "(6, 32, 64)"), ((3, 32, 32), "(4, 32, 32)")):
        with pytest.raises(UsageError, match=re.escape("multiples of (1, 4, 4), at least (4, 32, 32)")):
            create_network("nnformer", **SMALL | {"patch_size": size})
        with pytest.raises(UsageError, match="does not fit") as caught:
            create_network("nnformer", **SMALL)(torch.zeros(1, 2, *size))
        assert wanted in caught.value.hint
    network: Any = create_network("nnformer", **SMALL, pad_to_fit=True, deep_supervision=True).eval()
    outputs = network(torch.randn(1, 2, 3, 30, 41))
    assert [tuple(output.shape[2:]) for output in outputs] == [(3, 30, 41), (3, 15, 19), (2, 8, 8)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"configuration": "brats"}, "configuration must be one of acdc, synapse"),
        ({"window_size": (4, 4)}, "one entry for each of the 4 stages"),
        ({"heads": (3, 3, 3, 3)}, "heads must divide"),
        ({"base_features": 0}, "base_features must be a positive integer"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        create_network("nnformer", **SMALL | options)


def test_five_stages_go_on_as_the_last_one() -> None:
    network = _meta(**ACDC | {"depths": (1,) * 5, "patch_size": (16, 128, 128)})
    assert network.stage_table[5].size == (2, 2, 2)
    assert network.encoder[4][0].attention.window == (2, 2, 2)


def _reach(module: nn.Module, x: Tensor) -> Tensor:
    """How much each token of a map matters to the output."""
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad((module(x) * torch.randn_like(module(x))).sum(), x)
    return gradient.abs().sum((0, -1))


@pytest.mark.parametrize(("size", "halved"), [((4, 6, 8), (2, 3, 4)), ((7, 5, 3), (3, 2, 1))])
def test_merging_reaches_every_token(size: tuple[int, ...], halved: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    merge, x = ConvMerging(4, (2, 2, 2)), torch.randn(1, *size, 4)
    assert merge(x).shape == (1, *halved, 8)
    assert (_reach(merge, x) > 0).all()
    expand = ConvExpanding(8, (2, 2, 2))
    assert expand(merge(x), size).shape == x.shape


def test_merging_of_even_sides_is_a_padded_convolution() -> None:
    torch.manual_seed(0)
    for stride, padding in (((2, 2, 2), 1), ((1, 2, 2), (0, 1, 1))):
        merge, x = ConvMerging(4, stride), torch.randn(1, 4, 6, 8, 4)
        y = merge.norm(functional.gelu(x)).permute(0, 4, 1, 2, 3)
        weight, bias = merge.reduction.weight, merge.reduction.bias
        expected = functional.conv3d(y, weight, bias, stride, padding)  # type: ignore[arg-type]
        torch.testing.assert_close(merge(x), expected.permute(0, 2, 3, 4, 1))


def test_the_stem_norms_what_its_convolutions_give() -> None:
    torch.manual_seed(0)
    stem: Any = ConvStem(2, 8, ((2, 2, 2), (1, 2, 2)))
    y = torch.randn(1, 2, 4, 8, 12)
    tokens = stem(y)
    assert tokens.shape == (1, 2, 2, 3, 8)
    for index in range(4):
        y = stem.convolutions[index](y)
        y = y if index == 3 else functional.gelu(y)
        y = functional.layer_norm(y.permute(0, 2, 3, 4, 1), y.shape[1:2]).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(tokens, y.permute(0, 2, 3, 4, 1))


def test_skip_attention_asks_with_the_expanded_map() -> None:
    torch.manual_seed(0)
    network: Any = create_network("nnformer", **SMALL | {"depths": (1, 1)}).eval()
    stage = network.decoder[0]
    coarse, skip = torch.randn(1, 6, 4, 8, 16), torch.randn(1, 6, 8, 16, 8)
    y = stage.expand(coarse, skip.shape[1:-1])
    block = stage.join
    z = y + skip + block.attention(block.norm1(skip), block.norm1(y))
    expected = z + block.feed_forward(block.norm2(z))
    torch.testing.assert_close(stage(coarse, skip), expected)
    assert prod(block.attention.inner.weight.shape) == 8 * 16
