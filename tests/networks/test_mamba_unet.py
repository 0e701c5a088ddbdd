"""Mamba-UNet: parameters, layout, sizes, initialisation and options."""

from typing import Any

import pytest
import torch
from torch import nn

from scanseg.blocks.vss import VSSBlock
from scanseg.errors import UsageError
from scanseg.networks import (
    count_parameters,
    create_network,
    describe_network,
    training_memory_bytes,
)

PAPER: dict[str, Any] = {"spatial_dims": 2, "in_channels": 3, "out_channels": 4, "patch_size": (224, 224)}
SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "patch_size": (32, 64),
    "base_features": 8,
}


def _meta(**arguments: Any) -> Any:
    with torch.device("meta"):
        return create_network("mamba_unet", **arguments)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 19_121_664),
        ({"in_channels": 1}, 19_121_664),
        ({"in_channels": 1, "repeat_gray": False}, 19_118_592),
        ({"depths": (2, 2, 9, 2)}, 35_862_528),
    ],
)
def test_parameter_counts_are_those_of_the_released_code(changes: dict[str, Any], expected: int) -> None:
    assert count_parameters(_meta(**PAPER | changes)) == expected


def test_operations_at_the_paper_size_of_ud_mamba() -> None:
    facts = describe_network("mamba_unet", **PAPER | {"patch_size": (256, 256)})
    assert facts["macs"]["convolution"] / 1e9 == pytest.approx(0.095, abs=5e-4)
    assert facts["macs"]["linear"] / 1e9 == pytest.approx(4.454 + 1.258, abs=1e-3)
    assert facts["macs"]["total"] / 1e9 == pytest.approx(9.1, abs=0.05)


def test_a_single_channel_equals_three_equal_ones() -> None:
    torch.manual_seed(0)
    network = create_network("mamba_unet", **SMALL).eval()
    colour = create_network("mamba_unet", **SMALL | {"in_channels": 3}).eval()
    colour.load_state_dict(network.state_dict())
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(network(x), colour(x.repeat(1, 3, 1, 1)))


def test_sizes_that_do_not_fit_are_refused_or_padded() -> None:
    with pytest.raises(UsageError, match=r"\(40, 64\).*\(64, 64\) or \(32, 64\)"):
        create_network("mamba_unet", **SMALL | {"patch_size": (40, 64)})
    strict = create_network("mamba_unet", **SMALL).eval()
    with pytest.raises(UsageError, match="not divisible by 32"):
        strict(torch.zeros(1, 1, 33, 64))
    padding = create_network("mamba_unet", **SMALL | {"patch_size": (20, 50), "pad_to_fit": True}).eval()
    padding.load_state_dict(strict.state_dict())
    x = torch.randn(1, 1, 20, 50)
    padded = torch.zeros(1, 1, 32, 64)
    padded[..., :20, :50] = x
    assert torch.equal(padding(x), strict(padded)[..., :20, :50])


def test_stochastic_depth_rises_and_the_decoder_mirrors_it() -> None:
    network = _meta(**PAPER)
    rates = [part.drop_path.rate for part in network.modules() if isinstance(part, VSSBlock)]
    rising = [0.2 * block / 7 for block in range(8)]
    assert rates == pytest.approx([*rising, *rising[4:6], *rising[2:4], *rising[:2]])
    quiet = _meta(**PAPER, drop_path_rate=0.0)
    assert not any(part.drop_path.rate for part in quiet.modules() if isinstance(part, VSSBlock))


def test_linear_layers_start_from_a_truncated_normal_and_norms_from_one() -> None:
    torch.manual_seed(0)
    network = create_network("mamba_unet", **SMALL | {"base_features": 32})
    for part in network.modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert part.bias is None or not part.bias.any()
        if isinstance(part, nn.LayerNorm):
            assert (part.weight == 1).all()
            assert not part.bias.any()


def test_the_skips_are_what_enters_the_stages() -> None:
    torch.manual_seed(0)
    network: Any = create_network("mamba_unet", **SMALL).eval()
    x, finest = torch.randn(1, 1, 32, 32), network.joins[-1]
    with torch.no_grad():
        # Cuts what comes from below, so that only the finest skip is left.
        finest.weight[:, : finest.out_features] = 0
        before = network(x)
        for parameter in network.encoder.stages.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        assert torch.equal(network(x), before)
        network.encoder.patch_embed.proj.weight.mul_(2)
        assert not torch.equal(network(x), before)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("depths", (2,)),
        ("depths", "22"),
        ("depths", (2, 0, 2)),
        ("base_features", 0),
        ("d_state", 1.5),
        ("expand", None),
        ("drop_path_rate", 1),
        ("drop_path_rate", "0.1"),
    ],
)
def test_wrong_options_are_refused(option: str, value: object) -> None:
    with pytest.raises(UsageError, match=option):
        create_network("mamba_unet", **SMALL | {option: value})


def test_checkpointing_keeps_less() -> None:
    facts = SMALL | {"patch_size": (64, 64)}
    plain, less = (
        training_memory_bytes("mamba_unet", batch_size=2, **facts, checkpoint=on) for on in (False, True)
    )
    assert less.mamba_bytes == 0
    assert less.activations_bytes < 0.2 * plain.activations_bytes
    assert less.total_bytes < plain.total_bytes


def test_it_exists_in_2d_only() -> None:
    with pytest.raises(UsageError, match="must be 2, got 3"):
        create_network("mamba_unet", spatial_dims=3, in_channels=1, out_channels=2, patch_size=(32, 32, 32))


def test_other_depths_make_other_strides() -> None:
    network = create_network("mamba_unet", **SMALL | {"depths": (1, 1, 1), "patch_size": (16, 48)})
    assert network(torch.randn(1, 1, 16, 48)).shape == (1, 3, 16, 48)
