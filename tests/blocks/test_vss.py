"""VSS blocks: stochastic depth, the residual, the pyramid, and how linear layers start."""

import pytest
import torch
from torch import nn

from scanseg.blocks.vss import (
    DropPath,
    Scanning,
    VSSBlock,
    VSSEncoder,
    VSSStage,
    initialize_linears,
    stochastic_depth,
)
from scanseg.scans import UncertaintyScan


def test_drop_path_leaves_samples_out_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 1, 1)
    y = drop(x)
    kept = y[:, 0, 0, 0] > 0
    assert torch.equal(y, x * kept[:, None, None, None] / 0.75)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(drop.eval()(x), x)
    assert torch.equal(DropPath(0.0)(x), x)


def test_a_block_adds_to_its_input() -> None:
    block = VSSBlock(4, Scanning())
    nn.init.zeros_(block.self_attention.out_proj.weight)
    x = torch.randn(1, 3, 3, 4)
    assert torch.equal(block(x), x)


def test_checkpointing_changes_neither_values_nor_gradients() -> None:
    torch.manual_seed(0)
    order = UncertaintyScan()
    plain = VSSBlock(6, Scanning(order, reweight="before"))
    again = VSSBlock(6, Scanning(order, reweight="before", checkpoint=True))
    again.load_state_dict(plain.state_dict())
    x, factor = torch.randn(2, 4, 3, 6), torch.linspace(0.5, 2, 4, requires_grad=True)
    expected, y = plain(x, factor), again(x, factor)
    assert torch.equal(y, expected)
    wanted = torch.autograd.grad(expected.square().sum(), [factor, *plain.parameters()])
    found = torch.autograd.grad(y.square().sum(), [factor, *again.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_collecting_the_scans_changes_nothing() -> None:
    torch.manual_seed(0)
    stage = VSSStage(6, Scanning(UncertaintyScan()), drop_paths=(0.0, 0.0))
    x = torch.randn(2, 4, 3, 6)
    y, scans = stage.forward_with_scans(x)
    torch.testing.assert_close(y, stage(x), rtol=1e-5, atol=1e-6)
    assert [found.shape for found in scans] == [(2, 4, 12, 12)] * 2


def test_the_rates_of_stochastic_depth_rise_evenly() -> None:
    rates = stochastic_depth(0.2, (2, 2, 2, 2))
    flat = [rate for stage in rates for rate in stage]
    assert flat == pytest.approx(torch.linspace(0, 0.2, 8).tolist())
    assert [len(stage) for stage in rates] == [2, 2, 2, 2]
    assert stochastic_depth(0.5, (1,)) == ((0.0,),)


def test_the_pyramid_halves_maps_and_doubles_widths() -> None:
    encoder = VSSEncoder(1, [Scanning()] * 3, features=4, drop_paths=((0.0,),) * 3, patch=2)
    entering, leaving = encoder(torch.randn(1, 1, 16, 24))
    shapes = [(1, 8, 12, 4), (1, 4, 6, 8), (1, 2, 3, 16)]
    assert [tuple(level.shape) for level in entering] == shapes
    assert [tuple(level.shape) for level in leaving] == shapes


def test_linear_layers_start_from_a_truncated_normal() -> None:
    torch.manual_seed(0)
    stage = VSSStage(64, Scanning(), drop_paths=(0.0,))
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    initialize_linears(stage)
    for name, value in stage.state_dict().items():
        if name.endswith(("in_proj.weight", "out_proj.weight")):
            assert value.std().item() == pytest.approx(0.02, rel=0.05)
        else:
            assert torch.equal(value, before[name]), name
