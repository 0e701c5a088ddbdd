"""Dice plus cross-entropy against nnU-Net's own loss and against closed forms."""

import math

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from scanseg.errors import UsageError
from scanseg.losses import LOSSES, create_loss, deep_supervision_weights

SHAPES = {"2d": (12, 9), "3d": (6, 5, 8)}


def nnunet_loss(*, batch_dice: bool, ignore: int | None = None) -> DC_and_CE_loss:
    return DC_and_CE_loss(
        {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        weight_ce=1,
        weight_dice=1,
        ignore_label=ignore,
        dice_class=MemoryEfficientSoftDiceLoss,
    )


def random_case(shape: tuple[int, ...], *, classes: int, seed: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, classes, *shape, generator=generator, dtype=dtype)
    target = torch.randint(0, classes, (3, 1, *shape), generator=generator)
    return logits.requires_grad_(), target


def assert_same(ours, theirs, inputs) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    gradients = torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs)
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("classes", [2, 5])
def test_equals_nnunet(shape, batch_dice, classes):
    logits, target = random_case(shape, classes=classes, seed=classes)
    ours = create_loss("dice_ce", batch_dice=batch_dice)(logits, target.to(torch.int16))
    assert_same(ours, nnunet_loss(batch_dice=batch_dice)(logits, target.float()), [logits])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("batch_dice", [True, False])
def test_equals_nnunet_with_deep_supervision(shape, batch_dice):
    sizes = [shape, tuple(n // 2 for n in shape), tuple(n // 4 for n in shape)]
    pairs = [random_case(size, classes=3, seed=level) for level, size in enumerate(sizes)]
    logits, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    reference = DeepSupervisionWrapper(nnunet_loss(batch_dice=batch_dice), deep_supervision_weights(3))
    ours = create_loss("dice_ce", batch_dice=batch_dice)(logits, targets)
    assert_same(ours, reference(logits, targets), logits[:2])
    assert torch.autograd.grad(create_loss("dice_ce")(logits, targets), logits[2], allow_unused=True) == (
        None,
    )


@pytest.mark.parametrize("batch_dice", [True, False])
def test_equals_nnunet_with_ignored_voxels(batch_dice):
    logits, target = random_case((7, 6), classes=3, seed=0)
    target[:, :, 2:5] = 3
    ours = create_loss("dice_ce", batch_dice=batch_dice, ignore_index=3)(logits, target)
    assert_same(ours, nnunet_loss(batch_dice=batch_dice, ignore=3)(logits, target), [logits])


def test_nothing_counts():
    logits, target = random_case((4, 4), classes=2, seed=0)
    loss = create_loss("dice_ce", ignore_index=2)(logits, torch.full_like(target, 2))
    assert loss.item() == pytest.approx(-1.0)
    assert torch.autograd.grad(loss, logits)[0].abs().max() == 0


def test_closed_form():
    # Zero logits, K classes: every probability is 1/K. Half of the voxels belong to class 1.
    logits, target = torch.zeros(1, 4, 10, 10), torch.zeros(1, 1, 10, 10)
    target[..., :5, :] = 1
    dice = [2 * 50 / 4 / (50 + 25), 0.0, 0.0]
    expected = math.log(4) - sum(dice) / 3
    assert create_loss("dice_ce", smooth=0.0)(logits, target).item() == pytest.approx(expected, abs=1e-6)


def plain_dice(logits, target, *, squared: bool, background: bool, batch_dice: bool) -> float:
    """The mean Dice over classes (and samples), one class after another."""
    p, power = logits.softmax(1), 2 if squared else 1
    groups = [slice(None)] if batch_dice else [slice(n, n + 1) for n in range(len(p))]
    values = []
    for group in groups:
        for label in range(0 if background else 1, p.shape[1]):
            found, wanted = p[group, label], (target[group, 0] == label).double()
            total = (found**power).sum() + (wanted**power).sum()
            values.append((2 * (found * wanted).sum() + 1e-5) / (total + 1e-5))
    return sum(values).item() / len(values)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("batch_dice", [True, False])
def test_every_form_of_dice(squared, background, batch_dice):
    logits, target = random_case((7, 6), classes=3, seed=4, dtype=torch.float64)
    form = {"squared": squared, "background": background, "batch_dice": batch_dice}
    expected = plain_dice(logits, target, **form)
    assert create_loss("dice", **form)(logits, target).item() == pytest.approx(1 - expected, abs=1e-12)
    entropy = create_loss("cross_entropy")(logits, target).item()
    both = create_loss("dice_ce", weight_dice=0.4, weight_ce=0.6, **form)
    assert both(logits, target).item() == pytest.approx(0.6 * entropy - 0.4 * expected, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: both(x, target), [logits])


def test_squares_prefer_certain_answers():
    """Zero logits of two classes, half of the voxels foreground: 2 * 0.25 / (0.25 + 0.5), not 0.5."""
    logits, target = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
    target[..., :2, :] = 1
    for squared, dice in ((False, 0.5), (True, 2 / 3)):
        loss = create_loss("dice", squared=squared, smooth=0.0)
        assert loss(logits, target).item() == pytest.approx(1 - dice, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
def test_gradients_of_every_loss(name, shape):
    logits, target = random_case(shape, classes=3, seed=1, dtype=torch.float64)
    loss = create_loss(name, batch_dice=True).double()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), [logits])


def test_weights_of_levels():
    assert deep_supervision_weights(5) == pytest.approx((8 / 15, 4 / 15, 2 / 15, 1 / 15, 0.0))
    assert deep_supervision_weights(1) == (1.0,)
    with pytest.raises(ValueError, match="at least one"):
        deep_supervision_weights(0)


def test_half_precision_logits_are_summed_in_fp32():
    logits, target = random_case((64, 64), classes=3, seed=2)
    coarse = logits.detach().bfloat16()
    loss = create_loss("dice_ce")(coarse, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, create_loss("dice_ce")(coarse.float(), target))


def test_wrong_use():
    with pytest.raises(UsageError, match=r"no option 'weight_bce'.*weight_dice"):
        create_loss("dice_ce", weight_bce=1)
    with pytest.raises(UsageError, match=r"Unknown loss 'dice_ec'. Did you mean dice_ce"):
        create_loss("dice_ec")
    logits, target = random_case((4, 4), classes=2, seed=0)
    with pytest.raises(ValueError, match="2 outputs but 1 targets"):
        create_loss("dice_ce")([logits, logits], [target])
