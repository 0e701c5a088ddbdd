"""Sharpness-aware minimisation against hand computations, and that it leaves no trace."""

import math

import pytest
import torch
from torch import nn

from scanseg.optim import SAM


class Point(nn.Module):
    """Weights at given places."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def with_gradient(values: tuple[float, ...], gradient: tuple[float, ...]) -> Point:
    point = Point(*values)
    point.weight.grad = torch.tensor(gradient, dtype=torch.float64)
    return point


def climb(sam: SAM, point: nn.Module) -> list[float]:
    before = point.weight.detach().clone()
    with sam.climbed(point, sam.norm(point)):
        return (point.weight.detach() - before).tolist()


def test_the_quadratic_of_the_paper_by_hand():
    """0.5 w^2 at 1: the gradient at 1 + 0.05 is 1.05, so a step of 0.1 ends at 0.895."""
    point, sam = Point(1.0), SAM(rho=0.05)
    optimizer = torch.optim.SGD(point.parameters(), 0.1)
    (0.5 * point.weight.square()).sum().backward()
    with sam.climbed(point, sam.norm(point)):
        optimizer.zero_grad()
        (0.5 * point.weight.square()).sum().backward()
    optimizer.step()
    assert point.weight.item() == pytest.approx(0.895, abs=1e-12)


def test_the_climb_by_hand():
    # |g| = 13, so e = 0.26 g / 13.
    point = with_gradient((1.0, 2.0, -3.0), (3.0, -4.0, 12.0))
    assert SAM(0.26).norm(point) == pytest.approx(13)
    assert climb(SAM(0.26), point) == pytest.approx([0.06, -0.08, 0.24])


def test_the_adaptive_climb_by_hand():
    # |w| g = (3, 8, 0), of norm sqrt(73); e = rho w^2 g / sqrt(73) with w^2 g = (3, -16, 0).
    point, sam = with_gradient((1.0, -2.0, 0.0), (3.0, -4.0, 12.0)), SAM(0.1, adaptive=True)
    assert sam.norm(point) == pytest.approx(math.sqrt(73))
    assert climb(sam, point) == pytest.approx([0.3 / math.sqrt(73), -1.6 / math.sqrt(73), 0.0])


def test_the_adaptive_climb_does_not_depend_on_the_scale_of_the_weights():
    """Twice the weights and half the gradient, as behind a norm layer: twice the climb."""
    sam = SAM(0.1, adaptive=True)
    small = climb(sam, with_gradient((1.0, -2.0, 0.5), (3.0, -4.0, 12.0)))
    large = climb(sam, with_gradient((2.0, -4.0, 1.0), (1.5, -2.0, 6.0)))
    assert large == pytest.approx([2 * step for step in small])


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    norm, activation = nn.BatchNorm2d(3), nn.ReLU()
    return nn.Sequential(nn.Conv2d(1, 3, 3), norm, activation, nn.Conv2d(3, 2, 1), nn.Conv2d(2, 1, 1))


@pytest.mark.parametrize("adaptive", [False, True])
def test_one_norm_over_all_weights(adaptive):
    network, sam = small_network(), SAM(0.3, adaptive)
    network(torch.randn(2, 1, 6, 6)).square().mean().backward()
    weights = torch.cat([p.detach().flatten() for p in network.parameters()]).double()
    gradient = torch.cat([p.grad.flatten() for p in network.parameters()]).double()
    scale = weights.abs() if adaptive else torch.ones_like(weights)
    expected = 0.3 * scale.square() * gradient / (scale * gradient).norm()
    with sam.climbed(network, sam.norm(network)):
        moved = torch.cat([p.detach().flatten() for p in network.parameters()]).double() - weights
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-7)


def test_the_loss_rises_along_the_climb():
    network, data = small_network(), torch.randn(2, 1, 6, 6)
    loss = network(data).square().mean()
    loss.backward()
    slope = SAM(1.0).norm(network)
    with SAM(1e-3).climbed(network, slope):
        higher = network(data).square().mean()
    assert higher.item() - loss.item() == pytest.approx(1e-3 * slope, rel=0.1)


def test_weights_and_running_statistics_come_back_bit_by_bit():
    network, sam = small_network(), SAM(0.7)
    network(torch.randn(2, 1, 6, 6)).square().mean().backward()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with sam.climbed(network, sam.norm(network)):
        network.zero_grad(set_to_none=True)
        network(torch.randn(2, 1, 6, 6)).square().mean().backward()
        assert not torch.equal(network[0].weight, before["0.weight"])
        assert not torch.equal(network[1].running_mean, before["1.running_mean"])
    after = network.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_weights_come_back_after_an_error():
    network, sam = small_network(), SAM(0.7)
    network(torch.randn(2, 1, 6, 6)).square().mean().backward()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), sam.climbed(network, sam.norm(network)):
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_has_no_gradient_stays():
    network, sam = small_network(), SAM(0.1)
    assert sam.norm(network) == 0
    network[4].requires_grad_(False)
    network(torch.randn(2, 1, 6, 6)).square().mean().backward()
    before = [value.detach().clone() for value in network[4].parameters()]
    with sam.climbed(network, sam.norm(network)):
        assert all(torch.equal(a, b) for a, b in zip(before, network[4].parameters(), strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_norm_tells_of_bad_gradients(value, adaptive):
    assert not math.isfinite(SAM(0.1, adaptive).norm(with_gradient((1.0, 2.0), (1.0, value))))


def test_a_gradient_of_zero_climbs_nowhere():
    assert climb(SAM(0.1), with_gradient((1.0, 2.0), (0.0, 0.0))) == [0.0, 0.0]
