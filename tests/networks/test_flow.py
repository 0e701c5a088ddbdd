"""Which stage feeds which, read from the graph: known skips, and none where the network has none."""

import pytest

from scanseg.networks import NETWORKS, describe_network

SMALL = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "patch_size": (64, 64)}


def _flow(name: str, **changes: object) -> set[tuple[str, str]]:
    facts = describe_network(name, **{**SMALL, **changes})
    names = [stage["name"] for stage in facts["stages"]]
    return {(names[source], names[target]) for source, target in facts["flow"]}


def _skips(name: str, **changes: object) -> set[tuple[str, str]]:
    facts = describe_network(name, **{**SMALL, **changes})
    names = [stage["name"] for stage in facts["stages"]]
    return {(names[source], names[target]) for source, target in facts["flow"] if target != source + 1}


@pytest.mark.parametrize("name", ["nnunet_plain", "nnunet_resenc", "umamba_bot_v1", "umamba_enc_v1"])
def test_a_u_net_joins_maps_of_equal_size(name: str) -> None:
    assert _skips(name) == {(f"encoder {stage}", f"decoder {stage}") for stage in range(4)}


def test_umamba_of_march_2024_has_no_skip_at_full_resolution_in_2d() -> None:
    assert ("encoder 0", "decoder 0") not in _flow("umamba_enc")
    assert ("encoder 1", "decoder 1") in _flow("umamba_enc")
    volumes = {"spatial_dims": 3, "patch_size": (16, 16, 16)}
    assert ("encoder 0", "decoder 0") in _flow("umamba_enc", **volumes)


def test_mamba_unet_takes_what_enters_a_stage_swin_umamba_d_what_leaves_it() -> None:
    assert ("stem", "decoder 0") in _skips("mamba_unet")
    assert ("encoder 0", "decoder 0") in _skips("swin_umamba_d")


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_stage_is_on_the_way(name: str) -> None:
    size = (256, 256) if 2 in NETWORKS[name].spatial_dims else (64, 64, 64)
    facts = describe_network(name, spatial_dims=len(size), patch_size=size)
    if facts["stages"]:
        reached = {target for _, target in facts["flow"]}
        assert reached >= set(range(1, len(facts["stages"])))
