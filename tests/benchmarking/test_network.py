"""Whole networks."""

import pytest

from scanseg.benchmarking.network import NetworkCase, _convolutions, _options
from scanseg.errors import UsageError
from scanseg.networks import describe_network
from scanseg.pipeline import bench_network

PATCH = (32, 32)


@pytest.fixture(scope="module")
def document():
    return bench_network(
        ["umamba_bot", "nnunet_resenc"],
        patch_size=PATCH,
        batch_size=2,
        base_features=4,
        same="blocks",
        threads=1,
        minutes=0.01,
    )


def test_both_are_timed_against_the_baseline(document) -> None:
    first, second = document.cases[0].results
    assert (first.contender, second.contender) == ("umamba_bot", "nnunet_resenc")
    assert second.ratios["training step"] == 1
    assert set(first.timings) == {"forward", "training step"}
    assert first.timings["training step"].median_ms > first.timings["forward"].median_ms
    assert first.peak_extra_bytes is None or first.peak_extra_bytes > 2**20


def test_parameters_and_operations_are_those_of_the_description(document) -> None:
    facts = describe_network(
        "umamba_bot", spatial_dims=2, in_channels=1, out_channels=2, patch_size=PATCH, base_features=4
    )
    counted = document.cases[0].results[0].facts
    assert counted == {"parameters": facts["parameters"], "macs": 2 * facts["macs"]["total"]}


def test_the_same_blocks_are_given_to_the_other(document) -> None:
    options = document.cases[0].sizes["options"]
    facts = describe_network(
        "umamba_bot", spatial_dims=2, in_channels=1, out_channels=2, patch_size=PATCH, base_features=4
    )
    own = {
        f"n_blocks_{half}": [row["blocks"] for row in facts["stages"] if row["name"].startswith(half)]
        for half in ("encoder", "decoder")
    }
    assert options["nnunet_resenc"] == {"base_features": 4, **own}
    assert options["umamba_bot"] == {"base_features": 4}


def test_the_same_convolutions_are_given_to_the_other() -> None:
    case = NetworkCase((32, 64, 64), 1, same="convolutions")
    options = _options("nnunet_resenc", "umamba_enc", case)
    # U-Mamba's stem of two residual blocks and its first stage have eight convolutions; a stem of one and
    # three blocks seven. Its decoder has residual blocks of two convolutions, nnU-Net's single ones.
    assert options == {"n_blocks_encoder": [3, 2, 2, 1, 1], "n_blocks_decoder": [4, 4, 4, 2]}
    counts = _convolutions("nnunet_resenc", case, options)
    assert counts == {"encoder": [7, 4, 4, 2, 2], "decoder": [4, 4, 4, 2]}


def test_refusals() -> None:
    with pytest.raises(UsageError, match="blocks or convolutions"):
        bench_network(["umamba_bot"], same="stages")
    with pytest.raises(UsageError, match="umamba_enc"):
        bench_network(["umamba_end"])
    with pytest.raises(UsageError, match="do not agree"):
        bench_network(["umamba_bot"], spatial_dims=3, patch_size=PATCH)
