"""Facts about networks: operations against published figures and against PyTorch's counter."""

import json
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scanseg.errors import UsageError
from scanseg.networks import NETWORKS, create_network, describe_network, list_networks
from scanseg.networks.counting import SCANNING

_CT: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 14,
    "patch_size": (40, 224, 192),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)),
    "kernel_sizes": ((1, 3, 3), *((3, 3, 3),) * 5),
}
_FLAT: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 14, "patch_size": (320, 320)}


def _saved_by_enlarging_last(facts: dict[str, Any]) -> int:
    """MACs the released order (enlarge, then 1x1 convolution) has on top of ours."""
    rows = {row["name"]: row for row in facts["stages"]}
    extra, stage = 0, 0
    while f"decoder {stage}" in rows:
        fine, coarse = rows[f"encoder {stage}"], rows[f"encoder {stage + 1}"]
        voxels = _product(fine["size"]) - _product(coarse["size"])
        extra += voxels * fine["features"] * coarse["features"]
        stage += 1
    return extra


def _product(sizes: list[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


@pytest.mark.parametrize(
    ("config", "convolution", "mamba", "scan", "first_generation"),
    [(_CT, 788.6, 37.5, 26.4, 895.7), (_FLAT, 41.0, 2.1, 1.2, 45.3)],
)
def test_operations_are_those_measured_on_the_released_code(
    config: dict[str, Any], convolution: float, mamba: float, scan: float, first_generation: float
) -> None:
    bot, enc = describe_network("umamba_bot", **config), describe_network("umamba_enc", **config)
    released = (bot["macs"]["convolution"] + _saved_by_enlarging_last(bot)) / 1e9
    assert released == pytest.approx(convolution, abs=0.06)
    causal = enc["macs"]["convolution"] - bot["macs"]["convolution"]
    assert (enc["macs"]["linear"] + causal) / 1e9 == pytest.approx(mamba, abs=0.06)
    assert enc["macs"]["scan"] / 1e9 == pytest.approx(scan, abs=0.06)
    v1 = describe_network("umamba_bot_v1", **config)
    assert v1["macs"]["convolution"] / 1e9 == pytest.approx(first_generation, abs=0.06)


def _toy(name: str, spatial_dims: int) -> dict[str, Any]:
    wanted = {"base_features": 4, "pad_to_fit": True, "hidden_size": 24, "mlp_dim": 48, "num_heads": 3}
    # Its width must be a multiple of 12.
    wanted["base_features"] = 12 if name == "swin_unetr" else 4
    return {
        "spatial_dims": spatial_dims,
        "in_channels": 2,
        "out_channels": 3,
        "patch_size": (16, 24, 16)[:spatial_dims],
        **{key: value for key, value in wanted.items() if key in NETWORKS[name].options},
    }


_EACH = [(name, dims) for name, entry in NETWORKS.items() for dims in entry.spatial_dims]


@pytest.mark.parametrize(("name", "spatial_dims"), _EACH)
def test_operations_agree_with_the_flop_counter(name: str, spatial_dims: int) -> None:
    arguments = _toy(name, spatial_dims)
    facts = describe_network(name, **arguments)
    network = create_network(name, deep_supervision=True, **arguments)
    counter = FlopCounterMode(display=False)
    # PyTorch's counter does not see the fused attention of the CPU.
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network(torch.randn(1, 2, *arguments["patch_size"]))
    counted: dict[str, int] = {}
    for operation, flops in counter.get_flop_counts()["Global"].items():
        kind = "convolution" if "convolution" in str(operation) else "linear"
        if "scan" not in str(operation):
            counted[kind] = counted.get(kind, 0) + flops
    scanning = [type(part).__name__ for part in network.modules() if isinstance(part, SCANNING)]
    assert counted["convolution"] <= 2 * facts["macs"]["convolution"]
    # PyTorch's counter does not see the causal convolution of Mamba blocks.
    if "MambaBlock" not in scanning:
        assert counted["convolution"] == 2 * facts["macs"]["convolution"]
    assert counted.get("linear", 0) == 2 * (facts["macs"]["linear"] + facts["macs"]["attention"])
    assert (facts["macs"]["scan"] > 0) == bool(scanning)


@pytest.mark.parametrize("name", list_networks())
def test_stages_add_up(name: str) -> None:
    facts = describe_network(name, **_toy(name, NETWORKS[name].spatial_dims[0]))
    stages = facts["stages"]
    assert sum(stage["parameters"] for stage in stages) == facts["parameters"]
    for kind, macs in facts["macs"].items():
        assert sum(stage["macs"][kind] for stage in stages) == macs
    kinds = ("convolution", "linear", "attention", "scan")
    assert facts["macs"]["total"] == sum(facts["macs"][kind] for kind in kinds)


def test_attention_of_unetr_is_counted_in_closed_form() -> None:
    facts = describe_network("unetr", spatial_dims=3, patch_size=(32, 64, 96), hidden_size=48, num_heads=4)
    tokens = 2 * 4 * 6
    # Twelve layers, each queries by keys and weights by values.
    assert facts["macs"]["attention"] == 12 * 2 * tokens**2 * 48


def test_attention_of_swin_unetr_is_counted_in_closed_form() -> None:
    facts = describe_network("swin_unetr", spatial_dims=2, patch_size=(128, 192))
    expected = 0
    for stage in range(4):
        # Windows of 7 by 7 on a map padded to whole windows; a map below 7 is its own window.
        windows = [(min(7, edge), -(-edge // 7)) for edge in (64 >> stage, 96 >> stage)]
        tokens = _product([side for side, _ in windows])
        expected += 2 * _product([n for _, n in windows]) * 2 * tokens**2 * 48 * 2**stage
    assert facts["macs"]["attention"] == expected


def test_networks_without_attention_have_no_macs_of_it() -> None:
    assert describe_network("umamba_enc", spatial_dims=2, patch_size=(64, 64))["macs"]["attention"] == 0


def test_facts_are_json_and_name_the_stages() -> None:
    facts = json.loads(json.dumps(describe_network("umamba_enc", **_CT)))
    assert facts["parameters"] == 42_842_798
    rows = {row["name"]: row for row in facts["stages"]}
    assert next(iter(rows)) == "stem"
    assert list(rows)[-1] == "decoder 0"
    assert rows["encoder 5"]["mamba"] == "channel"
    assert rows["encoder 5"]["size"] == [5, 7, 6]
    assert rows["decoder 4"]["stride"] == [1, 2, 2]
    assert facts["options"]["d_state"]["default"] == 16
    assert "arXiv" in facts["paper"]


def test_defaults_describe_a_network_by_name_alone() -> None:
    assert describe_network("umamba_enc")["arguments"]["patch_size"] == [128, 128, 128]
    assert describe_network("umamba_enc", spatial_dims=2)["arguments"]["patch_size"] == [512, 512]
    with pytest.raises(UsageError, match="spatial_dims"):
        describe_network("umamba_enc", spatial_dims=5)
