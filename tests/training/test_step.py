"""One step: clipping, skipping, and who is to blame."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from scanseg.kernels.convolution import FastConvolutions
from scanseg.losses import create_loss
from scanseg.optim import OPTIMIZERS, SAM, create_optimizer, parameter_groups
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


class OnPass(nn.Module):
    """Sends its input through another layer in the forward pass of this number only, counted from 0."""

    def __init__(self, number: int, layer: nn.Module) -> None:
        super().__init__()
        self.number, self.layer, self.count = number, layer, -1

    def forward(self, features):
        self.count += 1
        return self.layer(features) if self.count == self.number else features


def everything(network, loss, optimizer) -> dict[str, torch.Tensor]:
    """Copies weights, running statistics, sigmas and the optimiser's state."""
    found = {f"network.{name}": value for name, value in network.state_dict().items()}
    found |= {f"loss.{name}": value for name, value in loss.state_dict().items()}
    for number, slots in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{slot}": torch.as_tensor(value) for slot, value in slots.items()}
    return {name: value.detach().clone() for name, value in found.items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def random_batch(seed: int):
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(2, 1, 8, 8, generator=generator)
    return data, torch.randint(0, 2, (2, 1, 8, 8), generator=generator)


class TestSAM:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_without_a_climb_every_bit_is_that_of_the_optimizer_alone(self, name):
        """20 steps with dropout, batch normalisation and learned sigmas."""
        ends, losses = [], []
        for sam in (None, SAM(rho=0.0), SAM(rho=0.0, adaptive=True)):
            torch.manual_seed(0)
            hidden = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.3))
            network = nn.Sequential(*hidden, nn.Conv2d(4, 2, 3, padding=1))
            loss = create_loss("uncertainty_aware")
            groups = parameter_groups(network, loss, weight_decay=1e-3)
            optimizer = create_optimizer(name, groups, learning_rate=0.01)
            for number in range(20):
                torch.manual_seed(number)
                result = train_step(network, loss, optimizer, *random_batch(number), sam=sam)
                losses.append(result.loss)
            ends.append(everything(network, loss, optimizer))
        assert losses[:20] == losses[20:40] == losses[40:]
        assert_same(ends[1], ends[0])
        assert_same(ends[2], ends[0])

    @pytest.mark.parametrize("clip_norm", [12.0, 0.01])
    @pytest.mark.parametrize("sam", [SAM(0.05), SAM(0.5), SAM(0.5, adaptive=True)], ids=str)
    def test_equals_the_definition(self, sam, clip_norm):
        """Three steps against the climb and the second gradient, written down plainly."""
        network, _, _ = make_case()
        reference, loss = copy.deepcopy(network), create_loss("uncertainty_aware")
        plain_loss = copy.deepcopy(loss)
        optimizer, plain = sgd(network, loss), sgd(reference, plain_loss)
        for number in range(3):
            data, target = random_batch(number)
            result = train_step(network, loss, optimizer, data, target, clip_norm=clip_norm, sam=sam)
            weights = list(reference.parameters())
            value = plain_loss(reference(data), target)
            first = torch.autograd.grad(value, weights)
            scale = [w.detach().abs() if sam.adaptive else torch.ones_like(w) for w in weights]
            norm = sum((s * g).square().sum() for s, g in zip(scale, first, strict=True)).sqrt()
            other = copy.deepcopy(reference)
            with torch.no_grad():
                for weight, s, g in zip(other.parameters(), scale, first, strict=True):
                    weight += sam.rho * s * s * g / norm
            plain.zero_grad()
            plain_loss(other(data), target).backward()
            for weight, displaced in zip(weights, other.parameters(), strict=True):
                weight.grad = displaced.grad
            torch.nn.utils.clip_grad_norm_(weights, clip_norm)
            plain.step()
            assert result.loss == pytest.approx(value.item(), rel=1e-5)
        ours, theirs = everything(network, loss, optimizer), everything(reference, plain_loss, plain)
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("half", [0, 1])
    @pytest.mark.parametrize(
        "bad", [Breaking(math.nan), Breaking(math.inf), Passing(math.nan), Passing(math.inf)], ids=str
    )
    def test_a_bad_pass_leaves_everything_as_it_was(self, bad, half):
        """The step before has filled momentum and moved the sigmas; the step after goes on."""
        network, _, _ = make_case(OnPass(2 + half, bad))
        loss = create_loss("uncertainty_aware")
        optimizer = sgd(network, loss, rate=0.01)
        before, made = [], []
        for number in range(3):
            before.append(everything(network, loss, optimizer))
            made.append(train_step(network, loss, optimizer, *random_batch(number), sam=SAM(0.05)).made)
        assert made == [True, False, True]
        assert not torch.equal(before[1]["loss.loss.sigma"], before[0]["loss.loss.sigma"])
        assert_same(before[2], before[1])
        after = everything(network, loss, optimizer)
        assert not torch.equal(after["network.0.weight"], before[2]["network.0.weight"])
        assert all(bool(torch.isfinite(value).all()) for value in after.values())

    def test_a_bad_gradient_of_the_loss_counts_too(self):
        network, data, target = make_case()
        loss = LearningLoss(factor=math.inf)
        optimizer, before = sgd(network, loss), weights(network)
        assert not train_step(network, loss, optimizer, data, target, sam=SAM(0.05)).made
        assert_unchanged(network, before)
        assert loss.sigma.item() == 1.0
        assert not optimizer.state

    def test_every_parameter_moves(self):
        network, data, target = make_case()
        loss = create_loss("uncertainty_aware")
        before = {**weights(network), **weights(loss)}
        assert train_step(network, loss, sgd(network, loss), data, target, sam=SAM(0.05)).made
        after = {**weights(network), **weights(loss)}
        assert [name for name in before if torch.equal(before[name], after[name])] == []

    def test_running_statistics_are_those_of_the_weights_and_count_once(self):
        networks = [nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)) for _ in range(2)]
        networks[1].load_state_dict(networks[0].state_dict())
        data, target = torch.randn(2, 1, 8, 8), torch.randint(0, 2, (2, 1, 6, 6))
        for network, sam in zip(networks, (None, SAM(5.0)), strict=True):
            loss = create_loss("dice_ce")
            assert train_step(network, loss, sgd(network, loss), data, target, sam=sam).made
        for one, other in zip(networks[0][1].buffers(), networks[1][1].buffers(), strict=True):
            assert torch.equal(one, other)

    def test_both_passes_have_the_fast_convolutions(self):
        seen = []

        class Watching(nn.Module):
            def forward(self, features):
                modes = torch.overrides._get_current_function_mode_stack()
                seen.append(any(isinstance(mode, FastConvolutions) for mode in modes))
                return features

        network, data, target = make_case(Watching())
        loss = create_loss("dice_ce")
        train_step(network, loss, sgd(network, loss), data, target, sam=SAM(0.05))
        assert seen == [True, True]

    def test_bf16_keeps_fp32_weights_and_comes_close(self):
        ends = {}
        for precision in ("fp32", "bf16"):
            network, data, target = make_case()
            loss = create_loss("uncertainty_aware")
            optimizer = sgd(network, loss, rate=0.01)
            for _ in range(3):
                result = train_step(
                    network, loss, optimizer, data, target, precision=precision, sam=SAM(0.05)
                )
            assert {value.dtype for value in [*network.parameters(), *loss.parameters()]} == {torch.float32}
            ends[precision] = result.loss
        assert ends["bf16"] != ends["fp32"]
        assert ends["bf16"] == pytest.approx(ends["fp32"], abs=0.01)

    def test_what_goes_wrong_only_after_the_climb_is_named(self):
        class Homesick(nn.Conv2d):
            """Gives NaN as soon as its weights are not those it began with."""

            def forward(self, features):
                home = torch.equal(self.weight.detach(), self.home)
                return super().forward(features) * (1.0 if home else math.nan)

        layer = Homesick(4, 4, 1)
        layer.register_buffer("home", layer.weight.detach().clone())
        network, data, target = make_case(layer)
        loss, sam = create_loss("dice_ce"), SAM(0.05)
        optimizer, before = sgd(network, loss), weights(network)
        assert not train_step(network, loss, optimizer, data, target, sam=sam).made
        words = blame(network, loss, data, target, precision="fp32", sam=sam)
        assert words == "the output of the layer 1, at the weights that SAM climbs to"
        assert blame(network, loss, data, target, precision="fp32") == "nowhere when the step is repeated"
        assert_unchanged(network, before)
        assert all(value.grad is None for value in network.parameters())


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_make_the_same_steps(tmp_path):
    """Also where only one of them meets an infinite image; gradients are exchanged once a step."""
    script = str(Path(__file__).with_name("two_processes.py"))
    commands = [[sys.executable, script, str(rank), str(tmp_path / "store")] for rank in (0, 1)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        answers = [json.loads(process.communicate(timeout=200)[0]) for process in running]
    finally:
        for process in running:
            process.kill()
    assert answers[0]["ends"] == answers[1]["ends"]
    for answer in answers:
        assert [step["made"] for step in answer["steps"]] == [True, True, False, True]
        assert [step["exchanges"] for step in answer["steps"]] == [1, 1, 0, 1]
        assert answer["steps"][2]["moved"] == []
        assert set(answer["steps"][3]["moved"]) == {"0.weight", "0.bias", "1.weight", "1.bias", "loss.sigma"}
