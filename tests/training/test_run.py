"""Loading a trained network: what is accepted, and everything that is not."""

import json
import math
import shutil

import pytest
import torch

from scanseg.errors import ModelError
from scanseg.files import sha256
from scanseg.training.loop import train_network
from scanseg.training.run import build_network, load_network
from scanseg.training.weights import load_tensors, save_tensors


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    train_network(
        **prepared.arguments(
            run_folder=run, epochs=1, iterations_per_epoch=2, validation_iterations=1, fold=0
        )
    )
    return run


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def change_config(run, **changes) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, **changes}))


def test_config(run, prepared):
    config = json.loads((run / "config.json").read_text())
    assert {
        key: config["network"][key] for key in ("name", "spatial_dims", "in_channels", "out_channels")
    } == {
        "name": "nnunet_plain",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 3,
    }
    assert config["labels"] == [
        {"value": 0, "name": "background"},
        {"value": 1, "name": "Anterior"},
        {"value": 2, "name": "Posterior"},
    ]
    assert (config["orientation"], config["fold"], config["mirror_axes"]) == ("RAS", 0, [0, 1, 2])
    assert config["weights_sha256"] == sha256(run / "model.safetensors")
    assert config["best_weights_sha256"] == sha256(run / "best.safetensors")


@pytest.mark.parametrize("weights", ["final", "best"])
def test_the_network_comes_back(run, prepared, weights):
    network, config, plan = load_network(run, weights=weights)
    file = {"final": "model", "best": "best"}[weights]
    tensors, facts = load_tensors(run / f"{file}.safetensors")
    assert facts == {"epoch": 1}
    assert all(torch.equal(value, tensors[name]) for name, value in network.named_parameters())
    assert plan == prepared.plan
    assert config["weights_sha256"] == sha256(run / f"{file}.safetensors")
    assert not network.training
    assert network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


def test_a_run_can_be_moved(run, tmp_path):
    moved = shutil.move(str(run), tmp_path / "elsewhere")
    load_network(str(moved))


def refused(run, message: str, weights: str = "final") -> None:
    with pytest.raises(ModelError, match=message):
        load_network(run, weights=weights)


def test_missing_things(run, tmp_path):
    refused(tmp_path / "nothing", "is not a run folder")
    refused(run, "Unknown weights 'last'", weights="last")
    (run / "model.safetensors").unlink()
    refused(run, "does not exist")
    (run / "plan.json").unlink()
    refused(run, "plan.json does not exist")


def test_unfinished_runs_have_only_the_best_weights(run):
    change_config(run, weights_sha256=None, best_weights_sha256=None)
    refused(run, "has not finished")
    load_network(run, weights="best")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2, accepted is 1"),
        ({"configuration": "3d_lowres"}, "no configuration '3d_lowres'"),
        ({"network": None}, "cannot be used"),
        ({"network": {"name": "nnunet_plain"}}, "cannot be used"),
        ({"weights_sha256": "0" * 64}, "its SHA-256 is another"),
    ],
)
def test_changed_configs(run, changes, message):
    change_config(run, **changes)
    refused(run, message)


@pytest.mark.parametrize("text", ["", "[]", "{", '"config"', '{"schema_version": 1}'])
def test_configs_of_another_kind(run, text):
    (run / "config.json").write_text(text)
    refused(run, "config.json|not a run")


@pytest.mark.parametrize("name", ["torch.nn.Linear", "os.system", "scanseg.networks.umamba.UMamba", ""])
def test_names_are_looked_up_never_imported(run, name):
    network = json.loads((run / "config.json").read_text())["network"]
    change_config(run, network={**network, "name": name})
    refused(run, f"Unknown network '{name}'")


def test_another_network_of_the_registry(run):
    network = json.loads((run / "config.json").read_text())["network"]
    change_config(run, network={**network, "options": {"base_features": 8}})
    refused(run, r"seg_layers.0.weight: expected \[3, 16, 1, 1, 1\] torch.float32, got \[3, 8, 1, 1, 1\]")


@pytest.mark.faults
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_poisoned_weights(run, value):
    tensors, facts = load_tensors(run / "model.safetensors")
    name = next(iter(tensors))
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[0] = value
    save_tensors(run / "model.safetensors", tensors, facts)
    change_config(run, weights_sha256=sha256(run / "model.safetensors"))
    refused(run, f"not finite: {name}")


@pytest.mark.faults
def test_swapped_weights(run, prepared, tmp_path):
    """Whole weights of another run fit the network, but are not those of this config."""
    description = json.loads((run / "config.json").read_text())["network"]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        other = build_network(description)
    save_tensors(run / "model.safetensors", dict(other.state_dict()), {"epoch": 1})
    refused(run, "its SHA-256 is another")
