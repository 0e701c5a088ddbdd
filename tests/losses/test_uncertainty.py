"""The uncertainty-aware loss: values, slopes and optima in closed form, and what the floor does."""

import math

import pytest
import torch
from torch import nn

from scanseg.errors import UsageError
from scanseg.losses import LOSSES, UncertaintyAware, create_loss, deep_supervision_weights

LOGITS, TARGET = torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)
PUBLISHED = {
    "learn_sigmas": False,
    "components": {
        "dice": {"negative": True},
        "cross_entropy": {},
        "focal": {"gamma": 2.0, "alpha": 0.5, "label_smoothing": 1e-5, "softmax_twice": True},
    },
}


class Fixed(nn.Module):
    """Always the same value."""

    def __init__(self, *, ignore_index=None, value: float = 0.0) -> None:
        super().__init__()
        self.value = value

    def forward(self, logits, target):
        return logits.new_tensor(self.value)


def with_fixed(monkeypatch, *values: float, **options) -> UncertaintyAware:
    monkeypatch.setitem(LOSSES._entries, "fixed", Fixed)
    components = {f"part{i}": {"loss": "fixed", "value": value} for i, value in enumerate(values)}
    return UncertaintyAware(batch_dice=False, components=components, **options)


def random_case(classes: int = 3, *, seed: int = 0, size: int = 8):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, size, size, generator=generator)
    return logits, torch.randint(0, classes, (2, 1, size, size), generator=generator)


@pytest.mark.parametrize(("values", "expected"), [((0, 0, 0), 2.0794415), ((1, 1, 1), 3.5794415)])
def test_value_at_the_start(monkeypatch, values, expected):
    loss = with_fixed(monkeypatch, *values)(LOGITS, TARGET)
    assert loss.item() == pytest.approx(expected, abs=2e-7)


def test_slope_at_the_start_is_one_minus_the_loss(monkeypatch):
    values = (0.0, 0.3, 1.0, 2.5)
    loss = with_fixed(monkeypatch, *values)
    loss(LOGITS, TARGET).backward()
    assert loss.sigma.grad.tolist() == pytest.approx([1 - value for value in values], abs=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_descent_finds_the_best_sigmas(monkeypatch, momentum):
    values = (0.05, 0.1, 0.5, 1.0, 2.0)
    loss = with_fixed(monkeypatch, *values).double()
    optimizer = torch.optim.SGD(loss.parameters(), 0.01, momentum=momentum)
    for _ in range(1500):
        optimizer.zero_grad()
        loss(LOGITS.double(), TARGET).backward()
        optimizer.step()
    best = [(value + math.sqrt(value**2 + 8 * value)) / 4 for value in values]
    assert best[1:] == pytest.approx([0.25, 0.6404, 1.0, 1.618], abs=5e-5)
    assert [sigma**2 for sigma in loss.sigmas().values()] == pytest.approx(best, rel=1e-4)


def test_gradients_of_sigma_and_logits():
    logits, target = random_case(size=4)
    logits = logits.double().requires_grad_()
    loss = UncertaintyAware(batch_dice=True).double()
    for start in ((1.0, 1.0, 1.0), (0.03, -0.6, 2.0)):
        sigma = torch.tensor(start, dtype=torch.float64, requires_grad=True)

        def value(x, s):
            return torch.func.functional_call(loss, {"sigma": s}, (x, target))

        assert torch.autograd.gradcheck(value, [logits, sigma])


def test_the_components_are_the_losses_of_these_names():
    logits, target = random_case()
    names = ("dice", "cross_entropy", "focal")
    parts = [create_loss(name, batch_dice=True)(logits, target).item() for name in names]
    loss = create_loss("uncertainty_aware", batch_dice=True)(logits, target)
    assert loss.item() == pytest.approx(sum(parts) / 2 + 3 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("names", [("dice",), ("dice", "cross_entropy"), ("dice_ce", "a", "b", "focal")])
def test_any_number_of_components(names):
    logits, target = random_case()
    components = {name: {} if name in LOSSES else {"loss": "focal", "gamma": 3.0} for name in names}
    loss = UncertaintyAware(batch_dice=False, components=components)
    assert list(loss.sigmas()) == list(names)
    values = [create_loss(n)(logits, target).item() if n in LOSSES else None for n in names]
    sharp = create_loss("focal", gamma=3.0)(logits, target).item()
    expected = sum(sharp if value is None else value for value in values) / 2 + len(names) * math.log(2)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_with_deep_supervision_the_logarithms_count_once(levels):
    cases = [random_case(seed=level, size=16 // 2**level) for level in range(levels)]
    outputs, targets = [case[0] for case in cases], [case[1] for case in cases]
    loss = create_loss("uncertainty_aware", batch_dice=True)
    with torch.no_grad():
        loss.loss.sigma.copy_(torch.tensor([0.5, 1.0, 2.0]))
    weights = deep_supervision_weights(levels)
    expected = sum(math.log(1 + sigma**2) for sigma in (0.5, 1.0, 2.0))
    for name, sigma in (("dice", 0.5), ("cross_entropy", 1.0), ("focal", 2.0)):
        part = create_loss(name, batch_dice=True)(outputs, targets).item()
        expected += part / (2 * sigma**2)
    assert sum(weights) == pytest.approx(1)
    assert loss(outputs, targets).item() == pytest.approx(expected, rel=1e-5)


def test_published_values():
    """Half of -Dice + cross-entropy + focal, and 3 log 2; four classes, all of which occur."""
    target = torch.arange(16).reshape(1, 1, 4, 4) % 4
    logits = 100.0 * torch.nn.functional.one_hot(target[:, 0], 4).movedim(-1, 1)
    loss = create_loss("uncertainty_aware", batch_dice=True, **PUBLISHED)
    assert loss(logits, target).item() == pytest.approx(0.5 * (-1 + 0 + 0.10234) + 2.0794415, abs=5e-6)
    dice = 2 * 4 * 0.25 / (4 + 4)
    unsure = 0.5 * (-dice + math.log(4) + 0.38987) + 2.0794415
    assert loss(torch.zeros_like(logits), target).item() == pytest.approx(unsure, abs=5e-6)
    assert [parameter.requires_grad for parameter in loss.parameters()] == [False]


class TestFloor:
    def test_it_does_nothing_from_twice_its_size_on(self, monkeypatch):
        loss = with_fixed(monkeypatch, 1.0, 1.0, 1.0, 1.0, floor=0.05)
        with torch.no_grad():
            loss.sigma.copy_(torch.tensor([0.1, -0.1, 0.7, -3.0]))
        assert list(loss.sigmas().values()) == torch.tensor([0.1, 0.1, 0.7, 3.0]).tolist()

    def test_value_and_slope_do_not_jump(self, monkeypatch):
        loss = with_fixed(monkeypatch, 0.2, floor=0.05).double()
        found = []
        for sigma in (0.1 - 1e-9, 0.1 + 1e-9):
            with torch.no_grad():
                loss.sigma.fill_(sigma)
            value = loss(LOGITS.double(), TARGET)
            found.append((value.item(), torch.autograd.grad(value, loss.sigma)[0].item()))
        assert found[0] == pytest.approx(found[1], rel=1e-6)

    @pytest.mark.parametrize("sigma", [0.0, 1e-30, -1e-3, 0.02])
    def test_sigma_stays_above_it(self, monkeypatch, sigma):
        loss = with_fixed(monkeypatch, 3.0, floor=0.05)
        with torch.no_grad():
            loss.sigma.fill_(sigma)
        value = loss(LOGITS, TARGET)
        value.backward()
        assert 0.05 - 1e-7 <= loss.sigmas()["part0"] < 0.1
        assert value.item() <= 3.0 / (2 * 0.05**2) * 1.001 + 0.01
        assert torch.isfinite(loss.sigma.grad).all()

    @pytest.mark.parametrize("start", [0.001, -0.001, 0.04])
    def test_descent_leads_back_from_below(self, monkeypatch, start):
        loss = with_fixed(monkeypatch, 1.0, floor=0.05)
        with torch.no_grad():
            loss.sigma.fill_(start)
        # Only the sign counts for it: the first slopes are thousands of times those near the optimum.
        optimizer = torch.optim.Rprop(loss.parameters(), 0.01)
        for _ in range(200):
            optimizer.zero_grad()
            loss(LOGITS, TARGET).backward()
            optimizer.step()
        assert loss.sigmas()["part0"] == pytest.approx(1.0, abs=1e-3)
        assert loss.sigma.item() * start > 0

    def test_it_bounds_components_that_are_zero_or_negative(self, monkeypatch):
        loss = with_fixed(monkeypatch, 0.0, -1.0, floor=0.05)
        optimizer = torch.optim.Adam(loss.parameters(), 0.02)
        for _ in range(600):
            optimizer.zero_grad()
            value = loss(LOGITS, TARGET)
            value.backward()
            optimizer.step()
        assert all(0.05 - 1e-7 <= sigma < 0.1 for sigma in loss.sigmas().values())
        assert value.item() >= -1 / (2 * 0.05**2)


WRONG = [
    ({"components": {}}, "must be a table of losses, got {}"),
    ({"components": ["dice"]}, "must be a table of losses"),
    ({"components": {"dice": 1.0}}, "must be a table of losses"),
    ({"components": {"dise": {}}}, r"Unknown loss 'dise'. Did you mean dice"),
    ({"components": {"focal": {"gama": 1}}}, "'focal' has no option 'gama'"),
    ({"components": {"dice": {"ignore_index": 2}}}, "'dice' has no option 'ignore_index'"),
    ({"floor": 0.0}, "floor must be a number"),
    ({"sigma": 0.01}, "sigma must be a number from 0.1 "),
    ({"sigma": math.inf}, "sigma must be a number"),
    ({"weights": [1]}, "'uncertainty_aware' has no option 'weights'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[str(options) for options, _ in WRONG])
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        create_loss("uncertainty_aware", **options)
