"""Our networks in stock nnU-Net, by nothing but the plans file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scanseg.networks import create_network
from scanseg.nnunet.batches import deep_supervision_scales
from scanseg.nnunet.bridge import PLANS_NAME, BridgedNetwork, stock_plans, write_stock_plans
from scanseg.nnunet.plan import make_plan

from .conftest import Prepared


def from_stock_plans(
    plans: dict[str, Any], configuration: str, channels: int, classes: int
) -> torch.nn.Module:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    chosen = PlansManager(plans).get_configuration(configuration)
    return get_network_from_plans(
        chosen.network_arch_class_name,
        chosen.network_arch_init_kwargs,
        chosen.network_arch_init_kwargs_req_import,
        channels,
        classes,
        deep_supervision=True,
    )


@pytest.mark.parametrize("name", ["hippocampus", "sagittal", "nuclei"])
@pytest.mark.parametrize("network", ["umamba_bot", "nnunet_plain"])
def test_nnunet_builds_our_network(name: str, network: str, request: pytest.FixtureRequest) -> None:
    prepared: Prepared = request.getfixturevalue(name)
    plans = json.loads(json.dumps(stock_plans(prepared.plan, network=network)))
    for configuration, planned in prepared.plan.configurations.items():
        torch.manual_seed(3)
        made = from_stock_plans(plans, configuration, 1, prepared.plan.out_channels)
        assert isinstance(made, BridgedNetwork)
        torch.manual_seed(3)
        ours = create_network(
            network,
            spatial_dims=planned.spatial_dims,
            in_channels=1,
            out_channels=prepared.plan.out_channels,
            patch_size=planned.patch_size,
            strides=planned.strides,
            kernel_sizes=planned.kernel_sizes,
            features_per_stage=planned.features_per_stage,
        )
        weights = made.network.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in ours.state_dict().items())


def test_stock_switches_deep_supervision(nuclei: Prepared) -> None:
    """Stock nnU-Net sets `decoder.deep_supervision`, and derives the scales of the targets from the plan."""
    plans = stock_plans(nuclei.plan, network="nnunet_plain")
    planned = nuclei.plan.configuration()
    made = from_stock_plans(plans, "2d", 1, 2)
    image = torch.zeros(1, 1, *planned.patch_size)
    outputs = made(image)
    scales = deep_supervision_scales(planned)
    assert [output.shape[2:] for output in outputs] == [
        tuple(np.array(planned.patch_size) * scale) for scale in scales
    ]
    made.decoder.deep_supervision = False
    assert made(image).shape == (1, 2, *planned.patch_size)


def test_plans_carry_the_overrides(hippocampus: Prepared) -> None:
    changed = make_plan(
        hippocampus.dataset,
        hippocampus.fingerprint,
        orientation=None,
        overrides={"patch_size": [32, 32, 32], "batch_size": 4},
    )
    plans = stock_plans(changed, dataset_name="Dataset004_Hippocampus")
    full = plans["configurations"]["3d_fullres"]
    assert full["patch_size"] == full["architecture"]["arch_kwargs"]["patch_size"] == [32, 32, 32]
    assert full["batch_size"] == 4
    assert plans["dataset_name"] == "Dataset004_Hippocampus"
    assert plans["plans_name"] == PLANS_NAME
    assert changed.nnunet["configurations"]["3d_fullres"]["patch_size"] == [40, 56, 40], (
        "the plan is untouched"
    )


def test_written_plans_train_in_the_stock_trainer(nuclei: Prepared, stock: Any, tmp_path: Path) -> None:
    """One real step of the unmodified nnUNetTrainer."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    theirs = stock(nuclei.dataset)
    small = make_plan(
        nuclei.dataset,
        nuclei.fingerprint,
        orientation=None,
        overrides={"patch_size": [32, 32], "batch_size": 2},
    )
    write_stock_plans(tmp_path / "plans.json", small, dataset_name=theirs.name)
    plans = json.loads((tmp_path / "plans.json").read_text())
    folder = tmp_path / "preprocessed" / theirs.name / plans["configurations"]["2d"]["data_identifier"]
    folder.mkdir(parents=True)
    (folder / "case.b2nd").touch()
    trainer = nnUNetTrainer(
        {**plans, "continue_training": False}, "2d", "all", theirs.dataset_json, torch.device("cpu")
    )
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    scales = trainer._get_deep_supervision_scales()
    target = [torch.zeros(2, 1, *(int(32 * scale) for scale in pair), dtype=torch.int16) for pair in scales]
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    loss = trainer.train_step({"data": torch.randn(2, 1, 32, 32), "target": target})["loss"]
    assert np.isfinite(loss)
    assert any(
        not torch.equal(old, new) for old, new in zip(before, trainer.network.parameters(), strict=True)
    )


def test_networks_for_2d_only_get_2d_configurations_only(hippocampus: Prepared) -> None:
    from scanseg.networks import NETWORKS

    flat = [name for name, entry in NETWORKS.items() if entry.spatial_dims == (2,)]
    assert set(stock_plans(hippocampus.plan, network=flat[0])["configurations"]) == {"2d"}
