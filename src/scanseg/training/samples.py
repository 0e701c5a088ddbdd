"""Patches of the validation that people look at while a network trains: the same ones after every epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from scanseg.nnunet.batches import Batch
from scanseg.types import PatchSample

MOST_SAMPLES = 4
Show = Callable[[int, Sequence[PatchSample]], None]
"""Is told the number of an epoch, from 1, and samples of its validation."""


class Samples:
    """Keeps a few of the patches that pass by.

    First those with foreground, each of another case; then others with foreground; then any. The choice
    depends on the truth alone, so from the same batches the same patches are kept, whatever the network says.
    No random number is drawn.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[int, PatchSample]] = []
        self._cases: set[str] = set()

    def take(self, batch: Batch, logits: Tensor) -> None:
        """Keeps what is wanted of a batch.

        Args:
            batch: As the network got it; with deep supervision its finest target is looked at.
            logits: (B, K, *spatial) of the network for it, on any device.
        """
        target = batch.target if isinstance(batch.target, Tensor) else batch.target[0]
        for place, case_id in enumerate(batch.case_ids):
            rank = self._rank(case_id, target[place])
            if len(self._kept) < MOST_SAMPLES or rank > self._kept[-1][0]:
                self._kept.append((rank, _cut(batch.data[place], target[place, 0], logits[place])))
                self._kept.sort(key=lambda kept: -kept[0])
                del self._kept[MOST_SAMPLES:]

    def kept(self) -> tuple[PatchSample, ...]:
        """Returns at most four samples."""
        return tuple(sample for _, sample in self._kept)

    def _rank(self, case_id: str, truth: Tensor) -> int:
        if not bool((truth > 0).any()):
            return 0
        is_new = case_id not in self._cases
        self._cases.add(case_id)
        return 2 if is_new else 1


def _cut(data: Tensor, truth: Tensor, logits: Tensor) -> PatchSample:
    """Returns a 2D patch, or of a volume the slice across its first axis with the most foreground."""
    is_flat = truth.ndim == 2
    if not is_flat:
        areas = (truth > 0).sum((1, 2))
        index = int(areas.argmax()) if bool(areas.any()) else len(truth) // 2
        data, truth, logits = data[:, index], truth[index], logits[:, index]
    channels = data if is_flat and len(data) == 3 else data[:1]
    # Copies: a view would keep the whole batch in memory.
    image, indices = channels.cpu().numpy().copy(), truth.cpu().numpy().copy()
    return PatchSample(image, indices, logits.argmax(0).cpu().numpy())
