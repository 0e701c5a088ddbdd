"""H2Former: parameters, gates, tokens of several scales, layout, sizes."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from scanseg.blocks.attention import TransformerBlock, WindowAttention
from scanseg.errors import UsageError
from scanseg.networks import count_parameters, create_network
from scanseg.networks.h2former import ChannelGate, GatedFeedForward, MultiScaleConvolutions

RELEASED: dict[str, Any] = {"spatial_dims": 2, "in_channels": 4, "out_channels": 4, "patch_size": (224, 224)}
SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "patch_size": (32, 48),
    "base_features": 8,
    "resnet_depths": (1, 1, 2, 1),
}


def _meta(**arguments: Any) -> Any:
    with torch.device("meta"):
        return create_network("h2former", **arguments)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 33_684_928),
        ({"patch_size": (256, 256)}, 33_698_848),
        # One channel less: 7 x 7 kernels of the stem and 2, 4, 8, 16 of the tokens.
        ({"in_channels": 3}, 33_684_928 - 64 * 49 - (32 * 4 + 16 * 16 + 8 * 64 + 8 * 256)),
    ],
)
def test_parameter_counts_are_those_of_the_released_code(changes: dict[str, Any], expected: int) -> None:
    assert count_parameters(_meta(**RELEASED | changes)) == expected


def test_windows_heads_and_stochastic_depth() -> None:
    network = _meta(**RELEASED)
    attentions = [part for part in network.modules() if isinstance(part, WindowAttention)]
    assert [part.heads for part in attentions] == [2, 2, 4, 4, 8, 8, 16, 16]
    assert {part.window for part in attentions} == {(14, 14)}
    rates = [part.drop_path.rate for part in network.modules() if isinstance(part, TransformerBlock)]
    assert rates == pytest.approx(torch.linspace(0, 0.1, 8).tolist(), abs=1e-7)
    assert {
        part.window for part in _meta(**RELEASED, window_size=7).modules() if hasattr(part, "window")
    } == {(7, 7)}


def test_a_gate_weighs_each_channel_by_its_neighbours() -> None:
    torch.manual_seed(0)
    gate, x = ChannelGate(), torch.randn(2, 3, 4, 5)
    left, centre, right = gate.mix.weight.flatten()
    means = functional.pad(x.mean((1, 2)), (1, 1))
    factor = 1 + (left * means[:, :-2] + centre * means[:, 1:-1] + right * means[:, 2:]).sigmoid()
    torch.testing.assert_close(gate(x), x * factor[:, None, None])


def test_a_gate_does_not_know_where_tokens_are() -> None:
    torch.manual_seed(0)
    part, x = GatedFeedForward(6), torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(part(x.flip(1, 2)), part(x).flip(1, 2))
    torch.testing.assert_close(part(x.transpose(1, 2)), part(x).transpose(1, 2))


@pytest.mark.parametrize(
    ("features", "widths"), [(64, [32, 16, 8, 8]), (8, [4, 2, 1, 1]), (4, [2, 1, 1]), (1, [1])]
)
def test_small_kernels_make_more_channels(features: int, widths: list[int]) -> None:
    part = MultiScaleConvolutions(3, features, (2, 4, 8, 16))
    assert [convolve.out_channels for convolve in part.convolutions] == widths
    assert part(torch.zeros(1, 3, 6, 10)).shape == (1, 3, 5, features)


def test_scales_are_centred_on_the_same_tokens() -> None:
    part = MultiScaleConvolutions(1, 8, (2, 4, 8, 16))
    x = torch.zeros(1, 1, 32, 32, requires_grad=True)
    for index, kernel in enumerate((2, 4, 8, 16)):
        y = part.convolutions[index](x)[0, 0, 8, 8]
        (gradient,) = torch.autograd.grad(y, x)
        rows = gradient[0, 0].abs().sum(1).nonzero().flatten()
        assert (rows[0].item(), rows[-1].item()) == (17 - kernel // 2, 16 + kernel // 2)


def test_stages_add_tokens_to_residual_maps() -> None:
    torch.manual_seed(0)
    network: Any = create_network("h2former", **SMALL | {"depths": (1, 1), "resnet_depths": (1, 1)}).eval()
    x = torch.randn(1, 1, 32, 48)
    fine = functional.max_pool2d(network.stem(x), 3, 2, 1)
    tokens = network.norm(network.embed(x))
    fine = network.attention[0](network.residual[0](fine).permute(0, 2, 3, 1) + tokens)
    coarse = network.residual[1](fine.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    coarse = network.attention[1](coarse + network.merges[0](fine)).permute(0, 3, 1, 2)
    y = network.decoder[0](coarse, fine.permute(0, 3, 1, 2))
    y = functional.interpolate(y, (32, 48), mode="bilinear", align_corners=True)
    torch.testing.assert_close(network(x), network.output(y))


def test_other_sizes_run_on_the_same_weights() -> None:
    torch.manual_seed(0)
    network = create_network("h2former", **SMALL, deep_supervision=True).eval()
    for size in ((32, 48), (48, 32), (16, 80)):
        (logits,) = network(torch.randn(2, 1, *size))
        assert logits.shape == (2, 3, *size)
    with pytest.raises(UsageError, match="not divisible by 16"):
        network(torch.zeros(1, 1, 40, 48))
    padded = create_network("h2former", **SMALL | {"patch_size": (40, 33)}, pad_to_fit=True).eval()
    assert padded(torch.randn(1, 1, 40, 33)).shape == (1, 3, 40, 33)


def test_a_single_element_cannot_be_normed_in_training() -> None:
    network = create_network("h2former", **SMALL)
    with pytest.raises(UsageError, match="batch normalisation needs two"):
        network(torch.zeros(1, 1, 16, 16))
    assert network(torch.zeros(2, 1, 16, 16)).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resnet_depths": (3, 4)}, "resnet_depths needs 4 entries"),
        ({"heads": (3, 3, 3, 3)}, "heads must divide"),
        ({"window_size": (7, 7)}, "one entry for each of the 4 stages"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        create_network("h2former", **SMALL | options)


def test_each_stage_has_attention_and_residual_blocks() -> None:
    network = _meta(**RELEASED)
    assert [len(stage) for stage in network.residual] == [3, 4, 6, 3]
    assert [len(stage) for stage in network.attention] == [2, 2, 2, 2]
    convolutions = [part for part in network.residual.modules() if isinstance(part, nn.Conv2d)]
    # Two a block, and a shortcut where the width changes: ResNet-34 without its first convolution.
    assert len(convolutions) == 2 * 16 + 3
