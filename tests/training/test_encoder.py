"""Pretrained weights and a frozen encoder in whole trainings."""

import json
import logging
import math
import os
import signal

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scanseg.errors import UsageError
from scanseg.files import sha256
from scanseg.networks import create_network
from scanseg.networks.pretrained import vss_encoder
from scanseg.optim import SAM
from scanseg.training.assemble import assemble, borrowed_torch
from scanseg.training.checkpoint import Checkpoints
from scanseg.training.encoder import freeze_encoder, load_pretrained
from scanseg.training.loop import train_network
from scanseg.training.recipe import Recipe

OPTIONS = {"base_features": 8, "depths": [1, 1], "pad_to_fit": True, "drop_path_rate": 0.0}
TIMES = {"seconds", "data_seconds", "elapsed_seconds", "peak_memory_bytes"}
RENAMED = (("stages.", "layers."), ("merges.0.", "layers.0.downsample."))


def create(name: str = "ud_mamba", **options) -> nn.Module:
    return create_network(
        name,
        spatial_dims=2,
        in_channels=1,
        out_channels=3,
        patch_size=(24, 24),
        **{**OPTIONS, **options},
    )


def encoder_of(weights: dict) -> dict:
    return {name.partition("encoder.")[2]: value for name, value in weights.items() if "encoder." in name}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Random weights under the names of VMamba's file."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        found = {}
        for name, value in vss_encoder(create()).named_parameters():
            if not name.endswith("alpha"):
                for ours, theirs in RENAMED:
                    name = name.replace(ours, theirs)
                found[name] = torch.randn_like(value) * 0.1
        return found


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("vmamba") / "vmamba.safetensors"
    save_file(weights, path)
    return path


def changes(file=None, **others) -> dict:
    chosen = {"pretrained": str(file)} if file else {}
    return {
        "network": "ud_mamba",
        "network_options": OPTIONS,
        "learning_rate": 0.05,
        "epochs": 2,
        "iterations_per_epoch": 2,
        "validation_iterations": 1,
        **chosen,
        **others,
    }


def start(prepared, recipe_changes: dict) -> dict[str, torch.Tensor]:
    """The weights before the first step."""
    recipe = prepared.recipe.changed(**recipe_changes)
    with borrowed_torch(1):
        network = assemble(prepared.task(recipe), torch.device("cpu")).network
        load_pretrained(network, recipe)
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def stop_at(step: int, *, validating: bool = False):
    """Returns a report that sends SIGTERM to this process once, when a step is reached."""
    sent = []

    def report(progress) -> None:
        if progress.done >= step and (not validating or "validating" in progress.message) and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    return report


def weights_after(run) -> dict[str, torch.Tensor]:
    tensors, _ = Checkpoints(run / "checkpoint").newest()
    return {
        name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")
    }


def outcome(run) -> tuple:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    facts = [{key: value for key, value in record.items() if key not in TIMES} for record in records]
    return sha256(run / "model.safetensors"), sha256(run / "best.safetensors"), facts


def test_every_weight_arrives(weights, file):
    network = create()
    recipe = Recipe(network="ud_mamba", pretrained=str(file))
    assert load_pretrained(network, recipe) == sha256(file)
    encoder = dict(vss_encoder(network).named_parameters())
    for name, value in weights.items():
        for ours, theirs in reversed(RENAMED):
            name = name.replace(theirs, ours)
        assert torch.equal(encoder[name], value)
    assert load_pretrained(network, Recipe(network="ud_mamba")) is None


def test_the_patch_embedding_is_left_where_it_cannot_fit(file):
    network = create(repeat_gray=False)
    fresh = vss_encoder(network).patch_embed.proj.weight.detach().clone()
    load_pretrained(network, Recipe(network="ud_mamba", pretrained=str(file)))
    assert torch.equal(vss_encoder(network).patch_embed.proj.weight, fresh)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_a_frozen_encoder_stays_bit_by_bit_and_then_learns(prepared_2d, file, tmp_path, optimizer, sam):
    chosen = changes(file, freeze_encoder_epochs=1, optimizer=optimizer, sam_rho=sam)
    before = start(prepared_2d, chosen)
    arguments = prepared_2d.arguments(run_folder=tmp_path, **chosen)
    with pytest.raises(SystemExit):
        train_network(**arguments, report=stop_at(2, validating=True))
    after = weights_after(tmp_path)
    still = {name for name, value in before.items() if torch.equal(value, after[name])}
    frozen = {name for name in before if ".encoder." in name and not name.endswith(".alpha")}
    assert still == frozen
    # One more step begins the second epoch.
    with pytest.raises(SystemExit):
        train_network(**arguments, report=stop_at(3))
    after = weights_after(tmp_path)
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []


def test_stopped_after_every_step_it_ends_with_the_same_bits(prepared_2d, file, tmp_path):
    """Also across the epoch in which the encoder begins to learn; the file is not needed again."""
    chosen = changes(file, freeze_encoder_epochs=1, optimizer="adamw", learning_rate=0.001)
    train_network(**prepared_2d.arguments(run_folder=tmp_path / "undisturbed", **chosen))
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    arguments = prepared_2d.arguments(run_folder=tmp_path / "run", **{**chosen, "pretrained": str(copy)})
    for step in range(1, 4):
        with pytest.raises(SystemExit):
            train_network(**arguments, report=stop_at(step))
        copy.unlink(missing_ok=True)
    train_network(**arguments)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")
    for run in ("run", "undisturbed"):
        config = json.loads((tmp_path / run / "config.json").read_text())
        assert config["pretrained_sha256"] == sha256(file)


def test_a_killed_beginning_reads_the_file_again(prepared_2d, file, tmp_path):
    """Before the first checkpoint there is nothing to continue."""
    arguments = prepared_2d.arguments(run_folder=tmp_path, **changes(file))

    def fail(progress) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train_network(**arguments, report=fail)
    train_network(**arguments)
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_sha256"] == sha256(file)


def test_freezing_without_pretrained_weights_is_told(prepared_2d, tmp_path, caplog):
    chosen = changes(freeze_encoder_epochs=1, epochs=1)
    with caplog.at_level(logging.WARNING):
        train_network(**prepared_2d.arguments(run_folder=tmp_path, **chosen))
    assert "frozen for 1 epochs at random weights" in caplog.text
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["pretrained_sha256"] is None


def test_a_frozen_encoder_is_no_part_of_norm_and_climb():
    network = create()
    freeze_encoder(network, True)
    network(torch.ones(2, 1, 24, 24)).square().mean().backward()
    wanted = [value for name, value in network.named_parameters() if value.requires_grad]
    norm = torch.stack([value.grad.square().sum() for value in wanted]).sum().sqrt().item()
    assert SAM(0.05).norm(network) == pytest.approx(norm, rel=1e-5)
    freeze_encoder(network, False)
    assert all(value.requires_grad for value in network.parameters())


def refused(path, message: str, code: str, **fields) -> None:
    network = create()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recipe = Recipe(network="ud_mamba", pretrained=str(path), **fields)
    with pytest.raises(UsageError, match=message) as caught:
        load_pretrained(network, recipe)
    assert caught.value.code == code
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_files_that_are_refused(weights, file, tmp_path):
    refused(tmp_path / "no.safetensors", "cannot be read .*No such file", "E-PRETRAINED-FILE")
    refused(file, "has the SHA-256 .*the recipe says 000", "E-PRETRAINED-HASH", pretrained_sha256="0" * 64)
    load_pretrained(
        create(), Recipe(network="ud_mamba", pretrained=str(file), pretrained_sha256=sha256(file))
    )
    bad = tmp_path / "bad.safetensors"
    for content in (b"", b"PK\x03\x04", file.read_bytes()[:-1], b"\x80\x02}q\x00."):
        bad.write_bytes(content)
        refused(bad, "is damaged or no safetensors file", "E-PRETRAINED-FORMAT")
    poisoned = {name: value.clone() for name, value in weights.items()}
    poisoned["layers.0.blocks.0.ln_1.weight"][0] = math.nan
    save_file(poisoned, bad)
    refused(bad, r"not finite: layers.0.blocks.0.ln_1.weight", "E-PRETRAINED-NONFINITE")
    del poisoned["layers.0.blocks.0.ln_1.weight"]
    save_file(poisoned, bad)
    refused(bad, "do not fit: 1 missing", "E-PRETRAINED-FIT")


@pytest.mark.parametrize("name", ["vmamba.pth", "vmamba.pt", "vmamba.bin", "vmamba"])
def test_pickles_are_never_read(name):
    with pytest.raises(UsageError, match=r"is not a safetensors file\. Convert it once.*weights_only=True"):
        Recipe(network="ud_mamba", pretrained=name)


def test_a_wrong_file_stops_a_training_before_its_first_step(prepared_2d, tmp_path):
    chosen = changes(tmp_path / "absent.safetensors")
    with pytest.raises(UsageError, match="cannot be read"):
        train_network(**prepared_2d.arguments(run_folder=tmp_path / "run", **chosen))
    assert not list((tmp_path / "run").glob("checkpoint/*"))
