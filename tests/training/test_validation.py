"""The pseudo Dice on patches."""

import math

import pytest
import torch

from scanseg.training.validation import PatchScores, confusion, dice_per_class


def logits_of(classes: torch.Tensor, count: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(classes[:, 0].long(), count).movedim(-1, 1).float()


def test_dice_of_random_label_maps_is_the_textbooks():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (2, 1, 5, 6, 7), generator=generator)
    guess = torch.randint(0, 4, (2, 1, 5, 6, 7), generator=generator)
    expected = [
        2 * ((truth == k) & (guess == k)).sum() / ((truth == k).sum() + (guess == k).sum()) for k in (1, 2, 3)
    ]
    counts = confusion(logits_of(guess, 4), truth.to(torch.int16))
    assert counts.sum() == truth.numel()
    assert dice_per_class(counts) == pytest.approx([value.item() for value in expected])


def test_absent_classes_do_not_count():
    truth = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    truth[..., :2] = 1
    dice = dice_per_class(confusion(logits_of(truth, 3), truth))
    assert dice[0] == 1.0
    assert math.isnan(dice[1])
    assert PatchScores(0.0, dice).mean_dice == 1.0


def test_a_missed_class_is_zero():
    truth = torch.ones(1, 1, 4, 4, dtype=torch.long)
    assert dice_per_class(confusion(logits_of(torch.zeros_like(truth), 2), truth)) == (0.0,)


def test_no_foreground_at_all():
    empty = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    assert math.isnan(PatchScores(0.0, dice_per_class(confusion(logits_of(empty, 3), empty))).mean_dice)
    assert math.isnan(PatchScores(math.nan, ()).mean_dice)
