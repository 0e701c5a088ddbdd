"""create_network and list_networks: what is refused, and how lightly the package loads."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import scanseg
from scanseg.errors import UsageError
from scanseg.networks import NETWORKS, count_parameters, create_network, list_networks

_ARGUMENTS: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "patch_size": (32, 32),
    "base_features": 4,
}


def test_the_networks_of_the_main_job_are_registered() -> None:
    expected = {"umamba_bot", "umamba_enc", "umamba_bot_v1", "umamba_enc_v1", "nnunet_plain", "nnunet_resenc"}
    assert expected <= set(list_networks())
    assert expected <= set(list_networks(spatial_dims=3, plan_driven=True))
    assert list_networks(spatial_dims=7) == []


def test_every_entry_carries_what_people_ask_for() -> None:
    for name, entry in NETWORKS.items():
        assert entry.name == name
        assert entry.summary
        assert entry.source
        assert any(year in entry.paper for year in map(str, range(2015, 2030)))
        assert all(option.summary for option in entry.options.values())


def test_default_strides_make_a_network_from_a_patch_alone() -> None:
    network: Any = create_network(
        "umamba_enc", spatial_dims=3, in_channels=1, out_channels=2, patch_size=(32, 64, 64), base_features=2
    )
    assert network.total_stride == (8, 16, 16)


def test_unknown_names_list_their_neighbours() -> None:
    with pytest.raises(UsageError, match="Did you mean umamba_bot") as caught:
        create_network("umamba_bott", **_ARGUMENTS)
    assert caught.value.code == "E-NETWORK-UNKNOWN"


def test_unknown_options_list_their_neighbours() -> None:
    with pytest.raises(UsageError, match="Did you mean base_features") as caught:
        create_network("umamba_bot", **{**_ARGUMENTS, "base_feature": 3})
    assert caught.value.code == "E-NETWORK-OPTION"
    assert "d_state" in caught.value.hint


@pytest.mark.parametrize("name", list_networks())
def test_documented_defaults_are_the_builders_own(name: str) -> None:
    """Stating every option at its documented default changes nothing."""
    arguments = {key: value for key, value in _ARGUMENTS.items() if key != "base_features"}
    dims = NETWORKS[name].spatial_dims[0]
    # Large enough for every network.
    arguments |= {"spatial_dims": dims, "patch_size": (64,) * dims}
    defaults = {key: option.default for key, option in NETWORKS[name].options.items()}
    with torch.device("meta"):
        plain, stated = create_network(name, **arguments), create_network(name, **arguments, **defaults)
    shapes = [
        {key: value.shape for key, value in network.state_dict().items()} for network in (plain, stated)
    ]
    assert shapes[0] == shapes[1]


def test_networks_refuse_dims_they_do_not_have() -> None:
    with pytest.raises(UsageError, match="2 or 3, got 4"):
        create_network("umamba_bot", **{**_ARGUMENTS, "spatial_dims": 4})


def test_the_same_seed_gives_the_same_weights() -> None:
    torch.manual_seed(3)
    first = create_network("umamba_enc", **_ARGUMENTS).state_dict()
    torch.manual_seed(3)
    second = create_network("umamba_enc", **_ARGUMENTS).state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_shared_and_frozen_parameters_are_counted_right() -> None:
    shared = nn.Linear(3, 3, bias=False)
    assert count_parameters(nn.Sequential(shared, shared)) == 9
    shared.requires_grad_(False)
    assert count_parameters(shared) == 0


def test_the_package_exports_them_without_loading_torch() -> None:
    assert scanseg.create_network is create_network
    assert scanseg.list_networks is list_networks
    code = "import scanseg, sys; assert 'torch' not in sys.modules; assert 'create_network' in dir(scanseg)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_making_networks_loads_no_timm_and_no_torchvision() -> None:
    code = (
        "import sys\n"
        "from scanseg.networks import NETWORKS, create_network\n"
        "for name, entry in NETWORKS.items():\n"
        "    wanted = {'base_features': 12, 'pad_to_fit': True, 'hidden_size': 24, 'num_heads': 3}\n"
        "    options = {key: value for key, value in wanted.items() if key in entry.options}\n"
        "    dims = entry.spatial_dims[0]\n"
        "    create_network(name, spatial_dims=dims, in_channels=1, out_channels=2,\n"
        "                   patch_size=(16,) * dims, **options)\n"
        "assert not {'timm', 'torchvision', 'nnunetv2'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
