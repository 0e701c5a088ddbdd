"""The cosine consistency: bounds, pairs and closed forms."""

from typing import Any

import pytest
import torch
from torch import Tensor

from scanseg.errors import UsageError
from scanseg.losses.consistency import cosine_consistency
from scanseg.scans import SCANS


def _aux(*blocks: Tensor, names: tuple[str, ...] = SCANS) -> dict[str, Any]:
    return {"scans": [[block] for block in blocks], "scan_names": names}


def _scans(*, seed: int = 0, batch: int = 2, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, 3, 5, generator=generator, dtype=torch.float64)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_equals_the_equation() -> None:
    scans = _scans()
    forward_backward = [(_cosine(s[0], s[2]) + _cosine(s[1], s[3])) / 2 for s in scans]
    same_direction = [(_cosine(s[0], s[1]) + _cosine(s[2], s[3])) / 2 for s in scans]
    for pairs, cosines in (("forward_backward", forward_backward), ("same_direction", same_direction)):
        found = cosine_consistency(_aux(scans), pairs=pairs).item()
        assert found == pytest.approx(1 - sum(cosines) / 2, abs=1e-12)


def test_it_is_0_for_equal_1_for_orthogonal_and_2_for_opposite_scans() -> None:
    half = _scans(count=2)
    assert cosine_consistency(_aux(torch.cat((half, half), 1))).item() == pytest.approx(0, abs=1e-12)
    assert cosine_consistency(_aux(torch.cat((half, -3 * half), 1))).item() == pytest.approx(2, abs=1e-12)
    first, second = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    first[..., 0], second[..., 1] = 1, 1
    assert cosine_consistency(_aux(torch.cat((first, second), 1))).item() == 1
    for seed in range(5):
        assert 0 <= cosine_consistency(_aux(_scans(seed=seed))).item() <= 2


def test_blocks_are_averaged_or_added() -> None:
    blocks = [_scans(seed=seed) for seed in range(3)]
    single = [cosine_consistency(_aux(block)).item() for block in blocks]
    assert cosine_consistency(_aux(*blocks)).item() == pytest.approx(sum(single) / 3)
    assert cosine_consistency(_aux(*blocks), reduction="sum").item() == pytest.approx(sum(single))


def test_pairs_are_found_by_name() -> None:
    scans = _scans()
    swapped = [2, 3, 0, 1]
    names = tuple(SCANS[index] for index in swapped)
    expected = cosine_consistency(_aux(scans))
    torch.testing.assert_close(cosine_consistency(_aux(scans[:, swapped], names=names)), expected)
    only = cosine_consistency(_aux(scans[:, 1::2], names=SCANS[1::2])).item()
    assert only == pytest.approx(1 - sum(_cosine(s[1], s[3]) for s in scans) / 2)


def test_gradients() -> None:
    scans = _scans(batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cosine_consistency(_aux(x)), (scans,))


def test_half_precision_is_widened() -> None:
    assert cosine_consistency(_aux(_scans().bfloat16())).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "names", "word"),
    [
        ({"pairs": "all"}, SCANS, "pairs"),
        ({"reduction": "max"}, SCANS, "reduction"),
        ({}, SCANS[:2], "nothing to compare"),
        ({"pairs": "same_direction"}, SCANS[::2], "nothing to compare"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, str], names: tuple[str, ...], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        cosine_consistency(_aux(_scans(count=len(names)), names=names), **options)
    with pytest.raises(UsageError):
        cosine_consistency({"scans": [], "scan_names": SCANS})
