"""What a plan says, checked, and nnU-Net's stride rule against nnU-Net's own code."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from scanseg.errors import UsageError
from scanseg.networks.topology import isotropic_strides, make_topology, per_stage

_GOOD: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "patch_size": (16, 24),
    "strides": ((1, 1), (2, 2), (1, 2)),
    "kernel_sizes": ((1, 3), (3, 3), (3, 3)),
}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=3))
def test_default_strides_are_those_of_nnunet(patch_size: list[int]) -> None:
    expected = get_pool_and_conv_props([1.0] * len(patch_size), patch_size, 4, 999999)[1]
    assert isotropic_strides(patch_size) == tuple(tuple(stride) for stride in expected)


def test_topology_of_a_plan() -> None:
    topology = make_topology(**_GOOD)
    assert topology.n_stages == 3
    assert topology.map_sizes == ((16, 24), (8, 12), (8, 6))
    assert topology.features() == (32, 64, 128)
    assert topology.features(base_features=8, max_features=20) == (8, 16, 20)
    assert topology.features([5, 6, 7]) == (5, 6, 7)


def test_feature_limits_are_those_of_nnunet() -> None:
    flat = make_topology(**{**_GOOD, "patch_size": (512, 512), "strides": None, "kernel_sizes": None})
    assert flat.features() == (32, 64, 128, 256, 512, 512, 512, 512)
    deep = make_topology(
        **{**_GOOD, "spatial_dims": 3, "patch_size": (128,) * 3, "strides": None, "kernel_sizes": None}
    )
    assert deep.features() == (32, 64, 128, 256, 320, 320)


def test_lists_and_numpy_numbers_are_welcome() -> None:
    listed = {
        key: np.array(value).tolist() if key == "strides" else np.array(value)
        for key, value in _GOOD.items()
        if key not in ("spatial_dims", "in_channels", "out_channels")
    }
    topology = make_topology(spatial_dims=2, in_channels=np.int64(1), out_channels=2, **listed)
    assert topology == make_topology(**_GOOD)
    assert type(topology.in_channels) is int


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"spatial_dims": 4}, "E-NETWORK-DIMS", "2 or 3"),
        ({"in_channels": 0}, "E-NETWORK-ARGUMENT", "in_channels"),
        ({"out_channels": 2.0}, "E-NETWORK-ARGUMENT", "out_channels"),
        ({"out_channels": True}, "E-NETWORK-ARGUMENT", "out_channels"),
        ({"patch_size": (16, 24, 8)}, "E-NETWORK-ARGUMENT", "2 axes"),
        ({"patch_size": 16}, "E-NETWORK-ARGUMENT", "sequence"),
        ({"patch_size": "16"}, "E-NETWORK-ARGUMENT", "sequence"),
        ({"patch_size": (16, 26)}, "E-NETWORK-PATCH", r"\(16, 28\) or \(16, 24\)"),
        ({"patch_size": (2, 1)}, "E-NETWORK-PATCH", "not divisible"),
        ({"patch_size": (2, 4)}, "E-NETWORK-PATCH", r"too small.*\(4, 8\)"),
        ({"strides": ()}, "E-NETWORK-ARGUMENT", "strides"),
        ({"strides": ((1, 1),), "kernel_sizes": ((3, 3),)}, "E-NETWORK-PATCH", "two stages"),
        ({"strides": ((2, 1), (2, 2), (1, 2))}, "E-NETWORK-ARGUMENT", "first stride"),
        ({"strides": ((1, 1), (2, 2, 2), (1, 2))}, "E-NETWORK-ARGUMENT", r"strides\[1\]"),
        ({"strides": (1, 2, 2)}, "E-NETWORK-ARGUMENT", r"strides\[0\]"),
        ({"strides": ((1, 1), (2, 0), (1, 2))}, "E-NETWORK-ARGUMENT", r"strides\[1\]"),
        ({"kernel_sizes": ((3, 3), (3, 3))}, "E-NETWORK-ARGUMENT", "3 stages, got 2"),
        ({"kernel_sizes": ((2, 3), (3, 3), (3, 3))}, "E-NETWORK-ARGUMENT", "odd"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(change: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        make_topology(**{**_GOOD, **change})
    assert caught.value.code == code


@pytest.mark.parametrize("patch_size", [(8, 8, 6), (7, 7, 7), (11, 4, 4)])
def test_a_patch_too_small_for_two_stages_is_refused(patch_size: tuple[int, ...]) -> None:
    facts = {**_GOOD, "spatial_dims": 3, "patch_size": patch_size, "strides": None, "kernel_sizes": None}
    if patch_size == (8, 8, 6):
        assert make_topology(**facts).n_stages == 2
        return
    with pytest.raises(UsageError, match="two stages"):
        make_topology(**facts)


def test_derived_strides_name_a_patch_that_works() -> None:
    with pytest.raises(UsageError, match=r"\(56, 56\) or \(48, 48\), or give strides"):
        make_topology(**{**_GOOD, "patch_size": (50, 50), "strides": None, "kernel_sizes": None})
    assert (
        make_topology(**{**_GOOD, "patch_size": (56, 56), "strides": None, "kernel_sizes": None}).n_stages
        == 4
    )


def test_networks_that_no_plan_shapes_need_no_strides() -> None:
    topology = make_topology(**{**_GOOD, "patch_size": (7, 9), "strides": None}, plan_driven=False)
    assert topology.strides == ()


@pytest.mark.parametrize("value", [(1, 2), (1, 0, 2), 0, "123", None, (1, 2, 2.5)])
def test_per_stage_refuses_wrong_lists(value: object) -> None:
    with pytest.raises(UsageError, match="blocks"):
        per_stage("blocks", value, 3)  # type: ignore[arg-type]
    assert per_stage("blocks", 2, 3) == (2, 2, 2)
