"""An auxiliary loss in a training: values, wrappers, SAM, who is to blame, and exact resume."""

import copy
import json
import math
import os
import signal

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from scanseg.errors import UsageError
from scanseg.files import sha256
from scanseg.losses import cosine_consistency, create_loss
from scanseg.networks import create_network
from scanseg.optim import SAM, create_optimizer, parameter_groups
from scanseg.scans import SCANS
from scanseg.training.abilities import require_abilities
from scanseg.training.auxiliary import Auxiliary, forward_with_aux
from scanseg.training.checkpoint import Checkpoints
from scanseg.training.loop import train_network
from scanseg.training.recipe import Recipe
from scanseg.training.step import blame, train_step
from scanseg.training.weights import save_tensors

SMALL = {"base_features": 8, "depths": [1, 1], "d_state": 4, "drop_path_rate": 0.0, "pad_to_fit": True}
TIMES = {"seconds", "data_seconds", "elapsed_seconds", "peak_memory_bytes"}


def ud_mamba(**options) -> nn.Module:
    torch.manual_seed(0)
    return create_network(
        "ud_mamba",
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        patch_size=(16, 16),
        **{**SMALL, **options},
    )


def batch(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(2, 1, 16, 16, generator=generator)
    return data, torch.randint(0, 2, (2, 1, 16, 16), generator=generator)


def optimizer_of(network, loss, rate: float = 0.1):
    return create_optimizer("sgd", parameter_groups(network, loss, weight_decay=0.0), learning_rate=rate)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sam", [None, SAM(0.05)], ids=["plain", "sam"])
def test_the_gradient_is_that_of_the_sum(sam, precision):
    """Against the sum written down plainly, with SAM at the climbed weights in both terms."""
    network, (data, target), loss = ud_mamba(), batch(), create_loss("dice_ce")
    auxiliary = Auxiliary(cosine_consistency, 0.7)

    def gradient(of: nn.Module):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits, aux = of.forward_with_aux(data)
        values = loss(logits, target), cosine_consistency(aux)
        return values, torch.autograd.grad(values[0] + 0.7 * values[1], list(of.parameters()))

    values, found = gradient(network)
    if sam is not None:
        climbed = copy.deepcopy(network)
        norm = torch.stack([g.square().sum() for g in found]).sum().sqrt()
        with torch.no_grad():
            for weight, g in zip(climbed.parameters(), found, strict=True):
                weight += sam.rho * g / norm
        found = gradient(climbed)[1]
    result = train_step(
        network,
        loss,
        optimizer_of(network, loss),
        data,
        target,
        precision=precision,
        clip_norm=0.0,
        sam=sam,
        auxiliary=auxiliary,
    )
    assert result.made
    assert result.loss == pytest.approx(values[0].item(), rel=1e-5)
    assert result.auxiliary == pytest.approx(values[1].item(), rel=1e-4, abs=1e-6)
    for weight, g in zip(network.parameters(), found, strict=True):
        torch.testing.assert_close(weight.grad, g, rtol=1e-3, atol=1e-5)


def test_without_weight_every_bit_is_that_of_the_loss_alone():
    ends = []
    for auxiliary in (None, Auxiliary(cosine_consistency, 0.0)):
        network, loss = ud_mamba(), create_loss("dice_ce")
        optimizer = optimizer_of(network, loss)
        for number in range(3):
            train_step(network, loss, optimizer, *batch(number), auxiliary=auxiliary)
        ends.append(torch.cat([value.flatten() for value in network.parameters()]))
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-7)


def test_it_makes_the_scans_agree():
    network, loss = ud_mamba(), create_loss("dice_ce")
    with torch.no_grad():
        # At first all scans give on their input, so they agree.
        for name, value in network.named_parameters():
            if name.endswith("Ds"):
                value.normal_()
    optimizer = optimizer_of(network, loss, rate=0.05)
    auxiliary = Auxiliary(cosine_consistency, 1.0)
    found = [train_step(network, loss, optimizer, *batch(), auxiliary=auxiliary).auxiliary for _ in range(8)]
    assert found[-1] < 0.5 * found[0]


def test_the_call_passes_hooks_and_leaves_forward_alone():
    network, (data, _) = ud_mamba().eval(), batch()
    seen = []
    handle = network.register_forward_hook(lambda *_: seen.append("called"))
    logits, aux = forward_with_aux(network, data)
    handle.remove()
    assert seen == ["called"]
    assert aux["scan_names"] == SCANS
    assert "forward" not in vars(network)
    assert torch.equal(network(data), logits)
    with pytest.raises(UsageError):
        forward_with_aux(network, data[:, :0])
    assert "forward" not in vars(network)


def test_a_forward_with_aux_that_uses_forward():
    class Telling(nn.Conv2d):
        def forward_with_aux(self, x):
            return self(x), {"mean": x.mean()}

    network, data = Telling(1, 2, 1), torch.ones(1, 1, 2, 2)
    logits, aux = forward_with_aux(network, data)
    assert torch.equal(logits, network(data))
    assert aux["mean"] == 1


def test_gradients_are_shared_by_distributed_training(tmp_path):
    """One exchange for each step made; the weights are those of a training without the wrapper."""
    plain, loss = ud_mamba(), create_loss("dice_ce")
    auxiliary, sam = Auxiliary(cosine_consistency, 0.3), SAM(0.05)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        exchanges = []
        inner = ud_mamba()
        parallel = DistributedDataParallel(inner)
        parallel.register_comm_hook(
            None, lambda _, bucket: exchanges.append(1) or allreduce_hook(None, bucket)
        )
        for network in (plain, parallel):
            optimizer = optimizer_of(network, loss)
            for number in range(2):
                result = train_step(network, loss, optimizer, *batch(number), sam=sam, auxiliary=auxiliary)
                assert result.made
        assert len(exchanges) == 2
    finally:
        torch.distributed.destroy_process_group()
    for one, other in zip(plain.parameters(), inner.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sam", [None, SAM(0.05)], ids=["plain", "sam"])
def test_a_bad_auxiliary_loss_is_not_followed_and_named(sam):
    network, loss = ud_mamba(), create_loss("dice_ce")
    optimizer = optimizer_of(network, loss)
    before = copy.deepcopy(network.state_dict())
    auxiliary = Auxiliary(lambda aux: cosine_consistency(aux) * math.nan, 0.3)
    result = train_step(network, loss, optimizer, *batch(), sam=sam, auxiliary=auxiliary)
    assert not result.made
    assert math.isnan(result.loss)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    words = blame(network, loss, *batch(), precision="fp32", sam=sam, auxiliary=auxiliary)
    assert words == "the auxiliary loss; the network's output is finite"
    healthy = Auxiliary(cosine_consistency, 0.3)
    words = blame(network, loss, *batch(), precision="fp32", sam=sam, auxiliary=healthy)
    assert words == "nowhere when the step is repeated"


def test_networks_without_auxiliary_results_are_refused():
    recipe = Recipe(network="ud_mamba", auxiliary_loss="cosine_consistency")
    with pytest.raises(UsageError, match="needs more than logits"):
        require_abilities(recipe, nn.Conv2d(1, 2, 1))
    require_abilities(recipe, ud_mamba())
    before = torch.random.get_rng_state()
    Recipe(network="ud_mamba", auxiliary_loss="cosine_consistency")
    assert torch.equal(torch.random.get_rng_state(), before)


def changes(**others) -> dict:
    return {
        "network": "ud_mamba",
        "network_options": SMALL,
        "auxiliary_loss": "cosine_consistency",
        "epochs": 2,
        "iterations_per_epoch": 2,
        "validation_iterations": 1,
        **others,
    }


def outcome(run) -> tuple:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    facts = [{key: value for key, value in record.items() if key not in TIMES} for record in records]
    return sha256(run / "model.safetensors"), sha256(run / "best.safetensors"), facts


def stop_at(step: int):
    """Returns a report that sends SIGTERM to this process once, when a step is reached."""
    sent = []

    def report(progress) -> None:
        if progress.done >= step and not sent:
            sent.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    return report


@pytest.fixture(scope="module")
def undisturbed(prepared_2d, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed")
    train_network(**prepared_2d.arguments(run_folder=run, **changes()))
    return run


def test_stopped_after_every_step_it_ends_with_the_same_bits(undisturbed, prepared_2d, tmp_path):
    for step in range(1, 4):
        with pytest.raises(SystemExit):
            train_network(**prepared_2d.arguments(run_folder=tmp_path, report=stop_at(step), **changes()))
    train_network(**prepared_2d.arguments(run_folder=tmp_path, **changes()))
    assert outcome(tmp_path) == outcome(undisturbed)


def test_metrics_tell_the_auxiliary_loss_and_the_weights_of_the_scans(undisturbed, prepared_2d, tmp_path):
    records = outcome(undisturbed)[2]
    assert all(0 <= record["auxiliary_loss"] <= 2 for record in records)
    columns = [key.removeprefix("alpha_") for key in records[0] if key.startswith("alpha_")]
    assert tuple(columns) == SCANS
    weights = [[record[f"alpha_{name}"] for name in SCANS] for record in records]
    assert all(value not in (0.0, 1.0) for values in weights for value in values)
    assert weights[0] != weights[1]
    off = changes(auxiliary_loss=None, network_options={**SMALL, "alpha": "off"}, epochs=1)
    train_network(**prepared_2d.arguments(run_folder=tmp_path, **off))
    (record,) = outcome(tmp_path)[2]
    assert not [key for key in record if key.startswith(("alpha_", "auxiliary"))]


def test_the_validation_loss_is_that_of_the_logits(undisturbed, prepared_2d, tmp_path):
    """With a hundred times the weight and a rate near 0, nothing but the training changes."""
    runs = []
    for weight in (0.0, 100.0):
        run = tmp_path / str(weight)
        slow = changes(auxiliary_weight=weight, learning_rate=1e-12, epochs=1)
        train_network(**prepared_2d.arguments(run_folder=run, **slow))
        runs.append(outcome(run)[2][0])
    for name in ("validation_loss", "train_loss", "auxiliary_loss"):
        assert runs[0][name] == pytest.approx(runs[1][name], abs=1e-6)


def test_a_run_from_before_a_field_existed_goes_on(undisturbed, prepared_2d, tmp_path):
    """It is told from a run with another value of that field."""
    arguments = prepared_2d.arguments(run_folder=tmp_path, **changes())
    with pytest.raises(SystemExit):
        train_network(**arguments, report=stop_at(1))
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    tensors, facts = checkpoints.newest()
    for name in ("auxiliary_weight", "auxiliary_options", "mirror"):
        del facts["identity"]["recipe"][name]
    (path,) = (tmp_path / "checkpoint").glob("step-*")
    save_tensors(path, tensors, facts)
    with pytest.raises(UsageError, match=r"recipe.auxiliary_weight: 0.3 -> 0.5"):
        train_network(**prepared_2d.arguments(run_folder=tmp_path, **changes(auxiliary_weight=0.5)))
    train_network(**arguments)
    assert outcome(tmp_path) == outcome(undisturbed)
