"""Learning-rate schedules against nnU-Net's, torch's and closed forms."""

import itertools

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn

from scanseg.errors import UsageError
from scanseg.optim import SCHEDULES, create_schedule

EPOCHS = 40


def reference_rates(make_scheduler) -> list[float]:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.01)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_poly_is_nnunets():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.01)
    scheduler = PolyLRScheduler(optimizer, 0.01, EPOCHS)
    rate = create_schedule("poly", learning_rate=0.01)
    for epoch in range(EPOCHS):
        scheduler.step(epoch)
        assert rate(epoch / EPOCHS) == optimizer.param_groups[0]["lr"]


def test_cosine_is_torchs():
    expected = reference_rates(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS, eta_min=1e-4)
    )
    rate = create_schedule("cosine", learning_rate=0.01, minimum=1e-4)
    assert [rate(epoch / EPOCHS) for epoch in range(EPOCHS)] == pytest.approx(expected, rel=1e-9)


def test_several_halves_are_torchs_in_a_training_longer_than_its_period():
    expected = reference_rates(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS // 5, eta_min=1e-4)
    )
    rate = create_schedule("cosine", learning_rate=0.01, minimum=1e-4, halves=5)
    # The recursion of torch loses some digits at every turn.
    assert [rate(epoch / EPOCHS) for epoch in range(EPOCHS)] == pytest.approx(expected, rel=1e-6)


def test_steps_are_torchs():
    expected = reference_rates(
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [10, 25, 38], gamma=0.3)
    )
    options = {"milestones": [10 / EPOCHS, 25 / EPOCHS, 38 / EPOCHS], "factor": 0.3}
    rate = create_schedule("multi_step", learning_rate=0.01, **options)
    assert [rate(epoch / EPOCHS) for epoch in range(EPOCHS)] == pytest.approx(expected, rel=1e-9)
    assert create_schedule("multi_step", learning_rate=1.0, milestones=[])(0.9) == 1.0


STEPS = [
    {"milestones": [0.0, 0.5]},
    {"milestones": [0.5, 1.0]},
    {"milestones": [0.5, 0.5]},
    {"milestones": ["half"]},
    {"milestones": "0.5"},
    {"milestones": [float("nan")]},
    {"factor": 0.0},
    {"factor": 2.0},
    {"factor": True},
]


@pytest.mark.parametrize("options", STEPS, ids=str)
def test_steps_that_are_refused(options):
    with pytest.raises(
        UsageError, match=r"rising milestones between 0 and 1 and a factor .*, got "
    ) as caught:
        create_schedule("multi_step", learning_rate=1.0, **options)
    assert caught.value.code == "E-SCHEDULE-VALUE"


@pytest.mark.parametrize("halves", [0, -1, 1.5, True, "2"])
def test_halves_that_are_refused(halves):
    with pytest.raises(UsageError, match="halves must be a whole number from 1 on"):
        create_schedule("cosine", learning_rate=1.0, halves=halves)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_fall_and_stay_positive(name):
    rate = create_schedule(name, learning_rate=0.5)
    rates = [rate(step / 100) for step in range(100)]
    assert rates[0] == 0.5
    assert all(0 < after <= before for before, after in itertools.pairwise(rates))


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_rises_linearly_and_then_follows_the_schedule(name):
    plain = create_schedule(name, learning_rate=1.0)
    warmed = create_schedule(name, learning_rate=1.0, warmup=0.2)
    assert [warmed(p) for p in (0.0, 0.05, 0.1)] == pytest.approx([0.01, 0.2575, 0.505])
    assert warmed(0.2) == pytest.approx(1.0)
    assert warmed(0.6) == pytest.approx(plain(0.5))


def test_wrong_use():
    with pytest.raises(UsageError, match=r"Unknown schedule 'polly'. Did you mean poly"):
        create_schedule("polly", learning_rate=1.0)
    with pytest.raises(UsageError, match="'constant' has no option 'minimum'"):
        create_schedule("constant", learning_rate=1.0, minimum=0.1)
