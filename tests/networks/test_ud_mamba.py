"""UD-Mamba: parameters by group, operations, alphas, orders and what its consistency loss sees."""

from typing import Any

import pytest
import torch
from torch import nn

from scanseg.blocks.ss2d import SS2D
from scanseg.errors import UsageError
from scanseg.losses.consistency import cosine_consistency
from scanseg.networks import count_parameters, create_network, describe_network
from scanseg.scans import SCANS, CrossScan, UncertaintyScan

PAPER: dict[str, Any] = {"spatial_dims": 2, "in_channels": 3, "out_channels": 4, "patch_size": (256, 256)}
PUBLISHED = {"uncertainty": "mad", "alpha": "after_encoder", "consistency_layer": "all"}
SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "patch_size": (32, 64),
    "base_features": 8,
    "drop_path_rate": 0.0,
}


def _meta(**arguments: Any) -> Any:
    with torch.device("meta"):
        return create_network("ud_mamba", **arguments)


def _small(**options: Any) -> Any:
    torch.manual_seed(0)
    network = create_network("ud_mamba", **SMALL | options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 19_121_724),
        (PUBLISHED, 19_121_724),
        ({"out_channels": 2}, 19_121_532),
        ({"out_channels": 9}, 19_122_204),
        ({"in_channels": 1}, 19_121_724),
        ({"in_channels": 1, "repeat_gray": False}, 19_118_652),
        ({"alpha": "off"}, 19_121_664),
    ],
)
def test_parameter_counts_are_those_of_the_released_code(changes: dict[str, Any], expected: int) -> None:
    assert count_parameters(_meta(**PAPER | changes)) == expected


@pytest.mark.parametrize("options", [{}, PUBLISHED])
def test_the_parameters_of_each_group(options: dict[str, Any]) -> None:
    network = _meta(**PAPER, **options)
    body, encoder = network.body, network.body.encoder

    def count(*modules: nn.Module) -> int:
        return sum(count_parameters(module) for module in modules)

    merges = [*((merge,) for merge in encoder.merges), ()]
    assert count(encoder.patch_embed) == 4_896
    stages = [count(stage, *merge) for stage, merge in zip(encoder.stages, merges, strict=True)]
    assert stages == [285_320, 976_136, 3_574_280, 8_911_880]
    # The released code counts each expanding layer with the decoder stage before it.
    decoder = [count(body.expands[0])]
    decoder += [count(body.stages[0], body.expands[1]), count(body.stages[1], body.expands[2])]
    assert [*decoder, count(body.stages[2])] == [1_180_416, 2_686_856, 753_608, 210_824]
    assert [count(join) for join in body.joins] == [295_296, 73_920, 18_528]
    assert [count(part) for part in (body.norm, body.norm_up, body.up, body.output)] == [
        1_536,
        192,
        147_648,
        384,
    ]
    assert count(network.shared) == 4


def _layer_norm_operations(edge: int) -> float:
    """Five operations a value, as the counter behind the published figure has it; scaled to 256 x 256."""
    total = 0

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        total += 5 * output.numel()

    network = create_network("ud_mamba", **PAPER | {"patch_size": (edge, edge)})
    for part in network.modules():
        if isinstance(part, nn.LayerNorm):
            part.register_forward_hook(hook)
    with torch.no_grad():
        network(torch.zeros(1, 3, edge, edge))
    return total * (256 / edge) ** 2


def test_operations_are_those_of_the_released_code() -> None:
    macs = describe_network("ud_mamba", **PAPER)["macs"]
    without_scan = macs["linear"] + macs["convolution"]
    assert macs["linear"] / 1e9 == pytest.approx(4.454 + 1.258, abs=1e-3)
    assert macs["convolution"] / 1e9 == pytest.approx(0.095, abs=5e-4)
    assert (without_scan + _layer_norm_operations(32)) / 1e9 == pytest.approx(5.893, abs=1e-3)
    assert macs["total"] / 1e9 == pytest.approx(9.1, abs=0.05)


def test_on_a_constant_map_it_is_mamba_unet() -> None:
    ud = _small(alpha="off").eval()
    plain: Any = create_network("mamba_unet", **SMALL).eval()
    plain.load_state_dict({key.removeprefix("body."): value for key, value in ud.state_dict().items()})
    x = torch.randn(1, 1, 32, 32)
    assert not torch.allclose(ud(x), plain(x), atol=1e-4)
    for part in ud.modules():
        if isinstance(part, SS2D):
            part.order = CrossScan()
    torch.testing.assert_close(ud(x), plain(x), rtol=1e-5, atol=1e-6)


def test_standard_deviation_and_variance_give_the_same_and_mad_does_not() -> None:
    std, x = _small().eval(), torch.randn(2, 1, 64, 32)
    outputs = {}
    for measure in ("variance", "mad", "entropy", "range"):
        other = create_network("ud_mamba", **SMALL, uncertainty=measure).eval()
        other.load_state_dict(std.state_dict())
        outputs[measure] = other(x)
    assert torch.equal(outputs["variance"], std(x))
    for measure in ("mad", "entropy", "range"):
        assert not torch.allclose(outputs[measure], std(x), atol=1e-4)


def test_options_reach_every_block() -> None:
    options: dict[str, Any] = {
        "uncertainty": "range",
        "range_sign": -1,
        "scans": SCANS[1::2],
        "region": "inverse",
    }
    network = _meta(**SMALL, **options)
    orders = [part.order for part in network.modules() if isinstance(part, SS2D)]
    regions = [1, 1, 2, 2, 4, 4, 8, 8, 4, 4, 2, 2, 1, 1]
    assert orders == [UncertaintyScan("range", region, -1, SCANS[1::2]) for region in regions]
    regions = [
        part.order.region
        for part in _meta(**SMALL, region="proportional").modules()
        if isinstance(part, SS2D)
    ]
    assert regions == [8, 8, 4, 4, 2, 2, 1, 1, 2, 2, 4, 4, 8, 8]


@pytest.mark.parametrize("region", [2, 8, "proportional", "inverse"])
def test_regions_run_and_matter(region: int | str) -> None:
    pixels = _small().eval()
    network = create_network("ud_mamba", **SMALL, region=region).eval()
    network.load_state_dict(pixels.state_dict())
    x = torch.randn(1, 1, 64, 64)
    assert not torch.allclose(network(x), pixels(x), atol=1e-4)


def test_the_published_alphas_rest_in_the_decoder() -> None:
    network = _small(**PUBLISHED).train()
    logits, aux = network.forward_with_aux(torch.randn(1, 1, 32, 64))
    (logits.square().mean() + cosine_consistency(aux, pairs="same_direction", reduction="sum")).backward()
    idle = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert sum(network.get_parameter(name).numel() for name in idle) == 28
    assert all(name.endswith("alpha") and ("stages" not in name or "encoder" not in name) for name in idle)
    assert network.alphas().shape == (8, 4)


def test_every_alpha_of_the_paper_gets_a_gradient_from_the_consistency_alone() -> None:
    network = _small(consistency_layer="all")
    _, aux = network.forward_with_aux(torch.randn(1, 1, 64, 64))
    cosine_consistency(aux).backward()
    alphas = {name: parameter for name, parameter in network.named_parameters() if name.endswith("alpha")}
    assert len(alphas) == 15
    for name, parameter in alphas.items():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).all(), name


def test_the_weights_of_network_and_block_multiply() -> None:
    network, x = _small().eval(), torch.randn(1, 1, 32, 32)
    expected = network(x)
    with torch.no_grad():
        weights = network.shared["alpha"].clone()
        network.shared["alpha"].fill_(1)
        for part in network.modules():
            if isinstance(part, SS2D):
                assert part.alpha is not None
                part.alpha.mul_(weights)
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-6)
    assert network.alphas().shape == (14, 4)
    assert _small(alpha="off").alphas().shape == (0, 4)


@pytest.mark.parametrize(("layer", "stages"), [("last", 1), ("all", 3)])
def test_aux_carries_the_scans_of_the_decoder(layer: str, stages: int) -> None:
    network, x = _small(consistency_layer=layer).eval(), torch.randn(2, 1, 32, 64)
    logits, aux = network.forward_with_aux(x)
    torch.testing.assert_close(logits, network(x), rtol=1e-5, atol=1e-6)
    assert aux["scan_names"] == SCANS
    assert len(aux["scans"]) == stages
    assert [tuple(found.shape) for found in aux["scans"][-1]] == [(2, 4, 16, 128)] * 2
    assert 0 <= cosine_consistency(aux).item() <= 2
    network.deep_supervision = True
    listed, _ = network.forward_with_aux(x)
    assert torch.equal(listed[0], logits)


def test_readings_show_what_each_block_sorts_by() -> None:
    network, x = _small().train(), torch.randn(2, 1, 32, 64)
    readings = network.read(x)
    assert len(readings) == 14
    assert readings[0].name == "body.encoder.stages.0.blocks.0.self_attention"
    assert readings[0].uncertainty.shape == (2, 8, 16)
    for reading in readings:
        down = reading.uncertainty.flatten(1).gather(1, reading.order[:, 0])
        assert (down.diff(dim=1) <= 0).all()
        assert torch.equal(reading.order[:, 2], reading.order[:, 0].flip(1))
    assert not any(part._forward_pre_hooks for part in network.modules())


def test_at_the_start_forward_and_backward_agree() -> None:
    torch.manual_seed(0)
    network: Any = create_network("ud_mamba", **SMALL | {"base_features": 32}).eval()
    _, aux = network.forward_with_aux(torch.randn(1, 1, 32, 32))
    assert 0 <= cosine_consistency(aux).item() < 1e-3


def test_a_subset_of_scans_has_parameters_for_those_only() -> None:
    whole, half = _meta(**PAPER), _meta(**PAPER, scans=("skip_down", "skip_up"))
    for part in half.modules():
        if isinstance(part, SS2D):
            assert part.scans == part.x_proj_weight.shape[0] == 2
    assert count_parameters(half) < count_parameters(whole)
    network = _small(scans=["sequential_up"])
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 3, 32, 32)
    _, aux = network.forward_with_aux(torch.randn(1, 1, 32, 32))
    with pytest.raises(UsageError, match="nothing to compare"):
        cosine_consistency(aux)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("alpha", "before"),
        ("uncertainty", "spread"),
        ("region", 0),
        ("scans", ["diagonal"]),
        ("scans", []),
        ("consistency_layer", "first"),
        ("range_sign", 2),
    ],
)
def test_wrong_options_are_refused(option: str, value: object) -> None:
    with pytest.raises(UsageError, match=option):
        create_network("ud_mamba", **SMALL | {option: value})


VOLUME: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "patch_size": (16, 32, 16)}


def test_volumes() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"base_features": 4, "depths": (1, 1, 1), "region": "inverse"}
    network: Any = create_network("ud_mamba", **VOLUME, **options).eval()
    x = torch.randn(1, 1, 16, 32, 16)
    logits, aux = network.forward_with_aux(x)
    assert logits.shape == (1, 2, 16, 32, 16)
    assert aux["scans"][0][0].shape == (1, 4, 8, 128)
    (logits.mean() + cosine_consistency(aux)).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with pytest.raises(UsageError, match=r"\(16, 24, 16\).*\(16, 32, 16\) or \(16, 16, 16\)"):
        create_network("ud_mamba", **VOLUME | {"patch_size": (16, 24, 16)}, **options)


def test_a_block_of_volumes_has_a_larger_convolution_only() -> None:
    with torch.device("meta"):
        flat, deep = SS2D(96, order=UncertaintyScan()), SS2D(96, order=UncertaintyScan(), spatial_dims=3)
    assert count_parameters(deep) - count_parameters(flat) == 2 * 96 * (27 - 9)
