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
