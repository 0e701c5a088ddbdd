"""The focal loss against closed forms, the cross-entropy, a plain loop, and the values of UU-Mamba's code."""

import math

import pytest
import torch

from scanseg.errors import UsageError
from scanseg.losses import create_loss

PUBLISHED = {"gamma": 2.0, "alpha": 0.5, "label_smoothing": 1e-5, "softmax_twice": True}


def random_case(*shape: int, classes: int = 4, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, *shape, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(0, classes, (2, 1, *shape), generator=generator)


def perfect_case(*, classes: int):
    target = torch.arange(12).reshape(1, 1, 3, 4) % classes
    return 100.0 * torch.nn.functional.one_hot(target[:, 0], classes).movedim(-1, 1), target


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5)])
def test_without_focus_it_is_the_cross_entropy(shape):
    logits, target = random_case(*shape)
    ours, reference = create_loss("focal", gamma=0.0), create_loss("cross_entropy")
    values = [loss(logits, target) for loss in (ours, reference)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in values))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_perfect_is_free_and_no_idea_has_a_price(gamma, classes):
    logits, target = perfect_case(classes=classes)
    logits.requires_grad_()
    loss = create_loss("focal", gamma=gamma)(logits, target)
    assert loss.item() == 0
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()
    price = (1 - 1 / classes) ** gamma * math.log(classes)
    value = create_loss("focal", gamma=gamma)(torch.zeros_like(logits), target)
    assert value.item() == pytest.approx(price, rel=1e-6)


def test_paper_and_released_code_for_four_classes():
    logits, target = perfect_case(classes=4)
    paper, code = create_loss("focal"), create_loss("focal", **PUBLISHED)
    assert paper(torch.zeros_like(logits), target).item() == pytest.approx(0.77979, abs=5e-6)
    assert code(torch.zeros_like(logits), target).item() == pytest.approx(0.38987, abs=5e-6)
    assert code(logits, target).item() == pytest.approx(0.1023, abs=5e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 2.0},
        {"gamma": 1.5, "alpha": [0.1, 0.2, 0.3, 0.4]},
        {"gamma": 3.0, "alpha": 0.25, "label_smoothing": 0.1},
        PUBLISHED,
    ],
    ids=["paper", "class factors", "smoothed", "code"],
)
def test_equals_a_loop_over_voxels(options):
    logits, target = random_case(3, 2, 4)
    alpha, e = options.get("alpha", 1.0), options.get("label_smoothing", 0.0)
    values = []
    for sample, z, y, x in torch.cartesian_prod(*(torch.arange(n) for n in (2, 3, 2, 4))).tolist():
        p = torch.softmax(logits[sample, :, z, y, x].detach(), 0)
        p = torch.softmax(p, 0) if options.get("softmax_twice") else p
        true = target[sample, 0, z, y, x].item()
        wanted = torch.full((4,), e / 3)
        wanted[true] = 1 - e
        mixed = (wanted * p).sum().item() + e
        factor = alpha[true] if isinstance(alpha, list) else alpha
        values.append(-factor * (1 - mixed) ** options["gamma"] * math.log(mixed))
    loss = create_loss("focal", **options).double()
    assert loss(logits, target).item() == pytest.approx(sum(values) / len(values), rel=1e-6)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), [logits])


def test_a_confident_mistake_keeps_its_slope():
    logits = torch.tensor([[200.0, 0.0]]).reshape(1, 2, 1, 1).requires_grad_()
    loss = create_loss("focal")(logits, torch.ones(1, 1, 1, 1))
    assert loss.item() == pytest.approx(200)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0].flatten(), torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -0.1}, "gamma must be a number from 0 "),
        ({"gamma": math.nan}, "gamma must be a number"),
        ({"gamma": "2"}, "gamma must be a number .*got '2'"),
        ({"alpha": [0.5, -1]}, "alpha must be a number"),
        ({"label_smoothing": 1.0}, "label_smoothing must be a number from 0 to below 1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        create_loss("focal", **options)


def test_factors_must_fit_the_classes():
    logits, target = random_case(2, 2)
    with pytest.raises(UsageError, match="alpha has 3 factors for 4 classes"):
        create_loss("focal", alpha=[1, 2, 3])(logits, target)
