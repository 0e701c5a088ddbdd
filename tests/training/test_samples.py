"""Which patches are shown, and what of them."""

import numpy as np
import pytest
import torch

from scanseg.nnunet.batches import Batch
from scanseg.training.samples import MOST_SAMPLES, Samples


def batch_of(*truths: torch.Tensor, cases: str, channels: int = 1) -> Batch:
    """One patch for each truth; the values of patch n are n everywhere."""
    target = torch.stack([truth[None] for truth in truths]).to(torch.int16)
    shape = (channels, *truths[0].shape)
    data = torch.stack([torch.full(shape, float(number)) for number in range(len(truths))])
    return Batch(data, [target, target[..., ::2]], tuple(cases))


def flat(foreground: int) -> torch.Tensor:
    truth = torch.zeros(4, 4)
    truth.view(-1)[:foreground] = 1
    return truth


def test_cases_with_foreground_come_first_and_the_network_has_no_say() -> None:
    truths = [flat(0), flat(3), flat(2), flat(1), flat(0), flat(5)]
    batch = batch_of(*truths, cases="aabbcd")
    for seed in range(3):
        samples = Samples()
        logits = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
        samples.take(batch, logits)
        # Foreground of a, b and d, then the second of b; nothing of c, which has none.
        assert [sample.image[0, 0, 0] for sample in samples.kept()] == [1, 2, 5, 3]
        for sample, place in zip(samples.kept(), (1, 2, 5, 3), strict=True):
            assert np.array_equal(sample.truth, truths[place])
            assert np.array_equal(sample.prediction, logits[place].argmax(0))


def test_the_split_into_batches_does_not_matter() -> None:
    truths = [flat(0), flat(3), flat(2), flat(1), flat(0), flat(5)]
    whole, parts = Samples(), Samples()
    whole.take(batch_of(*truths, cases="aabbcd"), torch.zeros(6, 2, 4, 4))
    for truth, case in zip(truths, "aabbcd", strict=True):
        parts.take(batch_of(truth, cases=case), torch.zeros(1, 2, 4, 4))
    found = [[sample.truth.sum() for sample in one.kept()] for one in (whole, parts)]
    assert found == [[3, 2, 5, 1]] * 2


def test_of_a_volume_the_slice_with_most_foreground_is_kept() -> None:
    truth = torch.zeros(5, 4, 4)
    truth[1, 0, 0], truth[3, :2] = 1, 2
    data = torch.arange(5.0)[:, None, None].expand(2, 1, 5, 4, 4)
    batch = Batch(data, torch.stack([truth, torch.zeros(5, 4, 4)])[:, None], ("a", "b"))
    logits = torch.nn.functional.one_hot(torch.stack([truth, truth]).long(), 3).movedim(-1, 1).float()
    samples = Samples()
    samples.take(batch, logits)
    with_foreground, without = samples.kept()
    assert with_foreground.image.tolist() == [[[3.0] * 4] * 4]
    assert np.array_equal(with_foreground.prediction, truth[3])
    assert without.image[0, 0, 0] == 2  # the middle


@pytest.mark.parametrize(("channels", "kept"), [(1, 1), (2, 1), (3, 3), (4, 1)])
def test_three_channels_of_a_plane_are_colours(channels, kept) -> None:
    samples = Samples()
    samples.take(batch_of(flat(1), cases="a", channels=channels), torch.zeros(1, 2, 4, 4))
    assert samples.kept()[0].image.shape == (kept, 4, 4)


def test_samples_do_not_hold_their_batch() -> None:
    batch = batch_of(*[flat(1)] * 9, cases="abcdefghi")
    samples = Samples()
    samples.take(batch, torch.zeros(9, 2, 4, 4))
    batch.data.zero_()
    batch.target[0].zero_()
    assert [sample.image[0, 0, 0] for sample in samples.kept()] == list(range(MOST_SAMPLES))
    assert all(sample.truth.sum() == 1 for sample in samples.kept())
