"""The parts of a training, and what decides its random numbers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from scanseg.training.assemble import assemble, borrowed_torch, derived_seed, measure_pace, output_scales

CPU = torch.device("cpu")


def test_the_seed_decides_the_weights(prepared):
    def first_weight(seed: int) -> torch.Tensor:
        with borrowed_torch(1):
            network = assemble(prepared.task(prepared.recipe.changed(seed=seed)), CPU).network
        return next(network.parameters())

    assert torch.equal(first_weight(0), first_weight(0))
    assert not torch.equal(first_weight(0), first_weight(1))


def test_dropout_depends_on_the_step_alone(prepared):
    """A continued training must drop what an undisturbed one would have dropped."""
    dropping = nn.Sequential(nn.Conv3d(1, 4, 1), nn.Dropout(0.5), nn.Conv3d(4, 3, 1))
    start = {name: value.clone() for name, value in dropping.state_dict().items()}
    results = []
    with borrowed_torch(1):
        training = assemble(prepared.task(prepared.recipe.changed(deep_supervision=False)), CPU)
        training = replace(
            training,
            network=dropping,
            optimizer=prepared.recipe.create_optimizer(dropping, training.loss),
        )
        batch = training.train.batch(0)
        for number in (3, 3, 4):
            torch.rand(number + len(results))
            dropping.load_state_dict(start)
            training.optimizer.state.clear()
            training.step(batch.data, batch.target, number=number, progress=0.0)
            results.append(dropping[2].weight.detach().clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_seeds_differ_between_uses():
    seeds = {derived_seed(s, p, n) for s in range(3) for p in ("step", "weights") for n in range(20)}
    assert len(seeds) == 120
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_schedule_sets_the_rate_of_every_group(prepared):
    with borrowed_torch(1):
        training = assemble(prepared.task(), CPU)
        batch = training.train.batch(0)
        training.step(batch.data, batch.target, number=0, progress=0.5)
    rates = {group["lr"] for group in training.optimizer.param_groups}
    assert list(rates) == pytest.approx([0.01 * 0.5**0.9])


def test_scales_of_outputs():
    class Pyramid(nn.Module):
        def forward(self, image):
            return [image, image[..., ::2, ::4]]

    assert output_scales(Pyramid(), (1, 8, 16), CPU) == [[1.0, 1.0], [0.5, 0.25]]
    assert output_scales(nn.Conv2d(1, 2, 1), (1, 8, 16), CPU) is None


def test_measuring_the_pace_changes_nothing(prepared):
    with borrowed_torch(1):
        training = assemble(prepared.task(), CPU)
        before = {name: value.clone() for name, value in training.network.state_dict().items()}
        pace = measure_pace(training, seconds=0.0)
    assert pace.step_s > 0
    assert pace.validation_s > 0
    assert all(torch.equal(value, before[name]) for name, value in training.network.state_dict().items())
    assert not training.optimizer.state
