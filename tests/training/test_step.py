"""One step: clipping, skipping, and who is to blame."""

import math

import pytest
import torch
from torch import nn

from scanseg.losses import create_loss
from scanseg.optim import create_optimizer, parameter_groups
from scanseg.training.step import blame, train_step


class Passing(nn.Module):
    """Gives its input on; backwards it multiplies the gradient with a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features):
        if features.requires_grad:
            features.register_hook(lambda gradient: gradient * self.factor)
        return features


class Breaking(nn.Module):
    """Puts a number into the first element of its input."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, features):
        mask = torch.zeros_like(features)
        mask[0, 0] = self.value
        return features + mask


class LearningLoss(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.sigma = nn.Parameter(torch.ones(()))
        self.hurt = Passing(factor)

    def forward(self, logits, target):
        return create_loss("dice_ce")(logits, target) + 2 + self.hurt(self.sigma * 1.0)


def make_case(middle: nn.Module | None = None):
    torch.manual_seed(0)
    middle = middle or nn.Identity()
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), middle, nn.Conv2d(4, 2, 3, padding=1))
    data, target = torch.randn(2, 1, 8, 8), torch.randint(0, 2, (2, 1, 8, 8))
    return network, data, target


def sgd(network, loss, rate: float = 0.1):
    return create_optimizer("sgd", parameter_groups(network, loss, weight_decay=0.0), learning_rate=rate)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def assert_unchanged(module: nn.Module, before: dict[str, torch.Tensor]) -> None:
    assert [name for name, value in module.named_parameters() if not torch.equal(value, before[name])] == []


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.01, 0.01), (0.0, None), (1e6, None)])
def test_the_gradient_is_clipped(clip_norm, expected):
    network, data, target = make_case()
    loss, before = create_loss("dice_ce"), weights(network)
    optimizer = create_optimizer(
        "sgd", [{"params": list(network.parameters())}], learning_rate=1.0, momentum=0.0
    )
    result = train_step(network, loss, optimizer, data, target, clip_norm=clip_norm)
    moved = torch.cat([(value - before[name]).flatten() for name, value in network.named_parameters()])
    assert moved.norm().item() == pytest.approx(expected or result.gradient_norm, rel=1e-4)


@pytest.mark.parametrize(
    "middle", [Breaking(math.nan), Breaking(math.inf), Passing(math.nan), Passing(math.inf)]
)
def test_steps_that_are_not_finite_are_not_made(middle):
    network, data, target = make_case(middle)
    loss = create_loss("dice_ce")
    optimizer, before = sgd(network, loss), weights(network)
    result = train_step(network, loss, optimizer, data, target)
    assert not result.made
    assert_unchanged(network, before)
    assert not optimizer.state


def test_an_infinite_loss_with_finite_gradients_is_not_followed():
    network, data, target = make_case()

    class Infinite(nn.Module):
        def forward(self, logits, target):
            return logits.mean() + math.inf

    optimizer, before = sgd(network, Infinite()), weights(network)
    assert not train_step(network, Infinite(), optimizer, data, target).made
    assert_unchanged(network, before)


def test_a_bad_gradient_of_the_loss_counts_too():
    network, data, target = make_case()
    loss = LearningLoss(factor=math.nan)
    optimizer, before = sgd(network, loss), weights(network)
    assert not train_step(network, loss, optimizer, data, target).made
    assert_unchanged(network, before)
    assert loss.sigma.item() == 1.0
    assert blame(network, loss, data, target, precision="fp32") == "the gradient of loss.sigma"


def test_network_and_loss_learn_together():
    network, data, target = make_case()
    loss = LearningLoss()
    before = {**weights(network), **weights(loss)}
    assert train_step(network, loss, sgd(network, loss), data, target).made
    after = {**weights(network), **weights(loss)}
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_bf16_keeps_fp32_weights_and_comes_close():
    losses = {}
    for precision in ("fp32", "bf16"):
        network, data, target = make_case()
        loss = create_loss("dice_ce")
        optimizer = sgd(network, loss, rate=0.01)
        for _ in range(3):
            result = train_step(network, loss, optimizer, data, target, precision=precision)
        assert {value.dtype for value in network.parameters()} == {torch.float32}
        losses[precision] = result.loss
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.01)


@pytest.mark.parametrize(
    ("middle", "words"),
    [
        (Breaking(math.nan), "the output of the layer 1"),
        (Breaking(math.inf), "the output of the layer 1"),
        (Passing(math.nan), "the gradient of 0.bias"),
        (nn.Identity(), "nowhere when the step is repeated"),
    ],
)
def test_the_layer_is_named(middle, words):
    network, data, target = make_case(middle)
    before = weights(network)
    assert blame(network, create_loss("dice_ce"), data, target, precision="fp32") == words
    assert_unchanged(network, before)
    assert all(value.grad is None for value in network.parameters())


def test_images_and_weights_are_looked_at_first():
    network, data, target = make_case()
    loss = create_loss("dice_ce")
    with torch.no_grad():
        network[2].weight[0, 0, 0, 0] = math.nan
    assert blame(network, loss, data, target, precision="fp32") == "the weight 2.weight of the network"
    data[0, 0, 0, 0] = math.inf
    assert blame(network, loss, data, target, precision="fp32") == "the images of the batch"


def test_the_loss_itself_is_named():
    network, data, target = make_case()

    class Bad(nn.Module):
        def forward(self, logits, target):
            return (logits.sum() - logits.sum()) / 0.0

    words = blame(network, Bad(), data, target, precision="fp32")
    assert words == "the loss; the network's output is finite"
