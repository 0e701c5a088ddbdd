"""The presets of UU-Mamba: what they say, and whole trainings with SAM and learned sigmas."""

import json
import os
import signal

import pytest
import torch

from scanseg.files import sha256
from scanseg.losses import UncertaintyAware
from scanseg.networks import create_network
from scanseg.optim import SAM
from scanseg.training.assemble import assemble
from scanseg.training.checkpoint import Checkpoints
from scanseg.training.loop import train_network
from scanseg.training.recipe import Recipe

ROWS = ("uu_mamba_cross_entropy", "uu_mamba_without_sam", "uu_mamba")
NAMES = ["dice", "cross_entropy", "focal"]
TINY = {"network_options": {"base_features": 4, "max_features": 16}, "batch_size": None}
SHORT = {**TINY, "epochs": 2, "iterations_per_epoch": 2, "validation_iterations": 1}
TIMES = {"seconds", "data_seconds", "elapsed_seconds", "peak_memory_bytes"}


def lines(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def outcome(run) -> tuple:
    facts = [{key: value for key, value in line.items() if key not in TIMES} for line in lines(run)]
    return sha256(run / "model.safetensors"), sha256(run / "best.safetensors"), facts


def arguments(prepared, run, preset: str, changes: dict, **others) -> dict:
    return {**prepared.arguments(run_folder=run, **others), "recipe": Recipe.load(preset).changed(**changes)}


def test_the_preset_is_the_papers():
    recipe = Recipe.load("uu_mamba")
    assert (recipe.network, recipe.learning_rate, recipe.epochs) == ("umamba_enc_v1", 5e-3, 500)
    assert (recipe.batch_size, recipe.create_sam()) == (4, SAM(rho=0.05, adaptive=False))
    loss = recipe.create_loss(batch_dice=False).loss
    assert isinstance(loss, UncertaintyAware)
    assert loss.sigmas() == dict.fromkeys(NAMES, 1.0)
    assert loss.sigma.requires_grad
    dice, _, focal = loss.parts
    assert (dice.negative, focal.gamma, focal.alpha, focal.softmax_twice) == (False, 2.0, None, False)


def test_the_preset_builds_the_network_of_the_paper():
    """58,770,036 parameters at its plan for ACDC."""
    kernels = [(1, 3, 3), *[(3, 3, 3)] * 5]
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)]
    with torch.device("meta"):
        network = create_network(
            Recipe.load("uu_mamba").network,
            spatial_dims=3,
            in_channels=1,
            out_channels=4,
            patch_size=(20, 256, 224),
            strides=strides,
            kernel_sizes=kernels,
        )
    assert sum(value.numel() for value in network.parameters()) == 58_770_036


def test_rows_of_the_ablation_differ_in_loss_and_sam_alone():
    recipes = [Recipe.load(name) for name in ROWS]
    chosen = [(recipe.loss, recipe.sam_rho) for recipe in recipes]
    assert chosen == [("cross_entropy", 0.0), ("uncertainty_aware", 0.0), ("uncertainty_aware", 0.05)]
    assert recipes[1].loss_options == recipes[2].loss_options
    for recipe in recipes:
        same = {"loss": "dice_ce", "loss_options": {}, "sam_rho": 0.0}
        assert recipe.changed(**same) == recipes[0].changed(**same)


def test_the_published_preset_reproduces_the_released_code():
    """Value at the first step for four classes: zero logits, and a perfect answer."""
    recipe = Recipe.load("uu_mamba_published")
    assert (recipe.learning_rate, recipe.epochs, recipe.batch_size) == (0.01, 250, None)
    loss = recipe.create_loss(batch_dice=True)
    target = torch.arange(64).reshape(1, 1, 4, 4, 4) % 4
    perfect = 100.0 * torch.nn.functional.one_hot(target[:, 0], 4).movedim(-1, 1)
    unsure = 0.5 * (-0.25 + torch.tensor(4.0).log().item() + 0.38987) + 2.0794415
    assert loss(torch.zeros_like(perfect), target).item() == pytest.approx(unsure, abs=5e-6)
    assert loss(perfect, target).item() == pytest.approx(0.5 * (-1 + 0.10234) + 2.0794415, abs=5e-6)
    optimizer = recipe.create_optimizer(torch.nn.Linear(1, 1), loss)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


def test_every_parameter_moves_and_sigmas_have_no_weight_decay(prepared):
    recipe = Recipe.load("uu_mamba").changed(**TINY)
    with torch.random.fork_rng():
        training = assemble(prepared.task(recipe), torch.device("cpu"))
        training.network.train()
        parameters = dict(training.network.named_parameters()) | dict(training.loss.named_parameters())
        grouped = [value for group in training.optimizer.param_groups for value in group["params"]]
        assert sorted(map(id, grouped)) == sorted(map(id, parameters.values()))
        assert [group["weight_decay"] for group in training.optimizer.param_groups] == [3e-5, 0.0]
        before = {name: value.detach().clone() for name, value in parameters.items()}
        for number in range(2):
            # In the first step only what stands behind a norm that starts at zero moves.
            batch = training.train.batch(number)
            assert training.step(batch.data, batch.target, number=number, progress=0.0).made
    still = {name for name, value in parameters.items() if torch.equal(before[name], value)}
    assert still == {name for name, value in parameters.items() if value.grad is None}
    assert not torch.equal(parameters["loss.sigma"], before["loss.sigma"])


@pytest.mark.parametrize("preset", [*ROWS, "uu_mamba_published"])
def test_it_trains_on_real_images(prepared, tmp_path, preset):
    """The loss falls; the sigmas move if they are learned, and stay 1 if not."""
    changes = {**TINY, "epochs": 2, "iterations_per_epoch": 5, "validation_iterations": 1, "augment": False}
    train_network(**arguments(prepared, tmp_path, preset, changes))
    records = lines(tmp_path)
    losses = [record["train_loss"] for record in records]
    assert losses[1] < losses[0]
    assert [record["skipped_steps"] for record in records] == [0, 0]
    found = [[record[f"sigma_{name}"] for name in NAMES] for record in records if "sigma_dice" in record]
    if preset == "uu_mamba_cross_entropy":
        assert found == []
    elif preset == "uu_mamba_published":
        assert found == [[1.0] * 3] * 2
    else:
        assert all(value != 1.0 for sigmas in found for value in sigmas)
        assert all(now != then for now, then in zip(*found, strict=True))


def stop_at(step: int):
    """Returns a report that sends SIGTERM to this process once, when a step is reached."""
    sent = []

    def report(progress) -> None:
        if progress.done >= step and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    return report


ADAPTIVE = {"optimizer": "adamw", "sam_adaptive": True, "sam_rho": 0.5}


@pytest.mark.parametrize("changes", [{}, ADAPTIVE], ids=["paper", "adaptive"])
def test_stopped_after_every_step_it_ends_with_the_same_bits(prepared, tmp_path, changes):
    changes = {**SHORT, **changes}
    train_network(**arguments(prepared, tmp_path / "undisturbed", "uu_mamba", changes))
    run = tmp_path / "stopped"
    sigmas = []
    for step in range(1, 4):
        with pytest.raises(SystemExit):
            train_network(**arguments(prepared, run, "uu_mamba", changes, report=stop_at(step)))
        tensors, _ = Checkpoints(run / "checkpoint").newest()
        sigmas.append(tuple(tensors["loss.loss.sigma"].tolist()))
    train_network(**arguments(prepared, run, "uu_mamba", changes))
    assert len(set(sigmas)) == 3
    assert outcome(run) == outcome(tmp_path / "undisturbed")
