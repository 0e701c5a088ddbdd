"""One loss for a list of outputs, from fine to coarse."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def deep_supervision_weights(levels: int) -> tuple[float, ...]:
    """Returns the factor of each output: halved from level to level, the coarsest 0, summing to 1.

    A single output has the factor 1.

    Source:
        nnU-Net 2.8.1, nnUNetTrainer._build_loss.

    Example:
        >>> deep_supervision_weights(3)
        (0.6666666666666666, 0.3333333333333333, 0.0)
        >>> deep_supervision_weights(1)
        (1.0,)
    """
    if levels < 1:
        raise ValueError(f"deep supervision needs at least one output, got {levels}")
    raw = [0.5**level for level in range(levels)]
    if levels > 1:
        raw[-1] = 0.0
    return tuple(weight / sum(raw) for weight in raw)


class DeepSupervision(nn.Module):
    """Applies a loss to every output of a network and adds the results with fixed weights.

    Args:
        loss: `forward(logits, target) -> scalar`. What it learns, it learns for all levels together.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]) -> Tensor:
        """Returns the weighted sum over the levels, or the plain loss of a single tensor.

        Args:
            logits: (B, K, *spatial), or a list of them from fine to coarse. bfloat16 and float16 are made
                float32 first: sums over voxels need it.
            target: (B, 1, *spatial) class indices, a list if `logits` is one.

        Raises:
            ValueError: `logits` and `target` differ in the number of levels.
        """
        outputs = [logits] if isinstance(logits, Tensor) else list(logits)
        targets = [target] if isinstance(target, Tensor) else list(target)
        if len(outputs) != len(targets):
            raise ValueError(f"{len(outputs)} outputs but {len(targets)} targets for deep supervision")
        weighted = zip(deep_supervision_weights(len(outputs)), outputs, targets, strict=True)
        terms = [weight * self.loss(_full(one), goal) for weight, one, goal in weighted if weight != 0]
        total: Tensor = sum(terms[1:], start=terms[0])
        return total


def _full(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
