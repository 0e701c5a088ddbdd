"""Cross-entropy and Dice as losses of their own, against dice_ce and closed forms."""

import math

import pytest
import torch

from scanseg.losses import create_loss


def random_case(*, classes: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, classes, 5, 6, 4, generator=generator)
    return logits, torch.randint(0, classes, (2, 1, 5, 6, 4), generator=generator)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_no_idea_costs_the_logarithm_of_the_number_of_classes(classes):
    logits, target = torch.zeros(1, classes, 4, 4), torch.zeros(1, 1, 4, 4)
    assert create_loss("cross_entropy")(logits, target).item() == pytest.approx(math.log(classes))


@pytest.mark.parametrize("ignore_index", [None, 1])
@pytest.mark.parametrize("batch_dice", [True, False])
def test_dice_and_cross_entropy_add_up_to_dice_ce(batch_dice, ignore_index):
    logits, target = random_case()
    facts = {"batch_dice": batch_dice, "ignore_index": ignore_index}
    parts = create_loss("dice", negative=True, **facts), create_loss("cross_entropy", **facts)
    whole = create_loss("dice_ce", **facts)(logits, target)
    torch.testing.assert_close(sum(part(logits, target) for part in parts), whole)


def test_dice_is_one_minus_the_score():
    logits, target = random_case()
    score = -create_loss("dice", negative=True)(logits, target)
    assert 0 < score < 1
    torch.testing.assert_close(create_loss("dice")(logits, target), 1 - score)
    perfect = 100.0 * torch.nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1)
    assert create_loss("dice")(perfect, target).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_ignored_voxels_are_as_if_they_were_not_there(name):
    logits, target = random_case()
    target[:, :, 2:] = 9
    logits.requires_grad_()
    loss = create_loss(name, ignore_index=9)(logits, target)
    torch.testing.assert_close(loss, create_loss(name)(logits[:, :, :2], target[:, :, :2]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[:, :, 2:].abs().max() == 0
    assert create_loss(name, ignore_index=9)(logits, torch.full_like(target, 9)).item() == 0
