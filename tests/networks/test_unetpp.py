"""U-Net++: parameters and the wiring of its nodes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scanseg.errors import UsageError
from scanseg.networks import count_parameters, create_network, describe_network

SMALL: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 2,
    "out_channels": 3,
    "patch_size": (16, 24),
    "base_features": 2,
}


def test_the_parameter_count_is_that_of_the_peer() -> None:
    with torch.device("meta"):
        network = create_network(
            "unetpp", spatial_dims=2, in_channels=1, out_channels=4, patch_size=(256, 256)
        )
    assert count_parameters(network) == 9_162_852


def test_every_node_reads_its_level_and_the_one_below() -> None:
    torch.manual_seed(0)
    network: Any = create_network("unetpp", **SMALL, levels=4).eval()
    x = torch.randn(1, 2, 16, 24)

    def node(level: int, column: int) -> Tensor:
        if column == 0:
            return network.encoder[level](functional.max_pool2d(node(level - 1, 0), 2) if level else x)
        below = node(level + 1, column - 1)
        size = (16 >> level, 24 >> level)
        doubled = functional.interpolate(below, size=size, mode="bilinear", align_corners=True)
        joined = torch.cat([*(node(level, earlier) for earlier in range(column)), doubled], 1)
        return network.nested[column - 1][level](joined)

    with torch.no_grad():
        torch.testing.assert_close(network(x), network.output(node(0, 3)))


def test_the_table_has_a_row_for_each_node() -> None:
    rows = describe_network("unetpp", **SMALL, levels=3, pad_to_fit=True)["stages"]
    names = [row["name"] for row in rows]
    assert names == ["encoder 0", "encoder 1", "encoder 2", "node 0.1", "node 1.1", "node 0.2", "head"]
    assert [row["size"] for row in rows[:3]] == [[16, 24], [8, 12], [4, 6]]
    assert rows[4]["size"] == [8, 12]
    assert rows[4]["features"] == 4


def test_volumes_and_deep_supervision() -> None:
    arguments = SMALL | {"spatial_dims": 3, "patch_size": (4, 8, 8), "levels": 3}
    network = create_network("unetpp", **arguments, deep_supervision=True).eval()
    (logits,) = network(torch.randn(1, 2, 8, 4, 8))
    assert logits.shape == (1, 3, 8, 4, 8)


def test_odd_sizes_are_padded_on_demand() -> None:
    with pytest.raises(UsageError, match="multiple of 16"):
        create_network("unetpp", **SMALL)
    network = create_network("unetpp", **SMALL, pad_to_fit=True).eval()
    assert network(torch.randn(1, 2, 17, 5)).shape == (1, 3, 17, 5)
