"""Focal loss: cross-entropy that counts voxels less, the better they are classified."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scanseg.errors import UsageError
from scanseg.losses.ignored import mean_of_counted, split_ignored
from scanseg.losses.numbers import require_number


class Focal(nn.Module):
    """The mean over voxels of -alpha (1 - p)^gamma log p, where p is the probability of the true class.

    With `gamma` 0 it is the cross-entropy. A voxel that is classified perfectly costs nothing.

    Args:
        ignore_index: Class index in the target whose voxels do not count; None if there is no such class.
            A batch in which no voxel counts has the value 0.
        gamma: How much less well-classified voxels count, not negative.
        alpha: Factor of every voxel, or a list with one factor per class; None for 1.
        label_smoothing: e in [0, 1): p becomes (1 - e) p + e (1 - p) / (K - 1) + e for K classes.
        softmax_twice: Takes the softmax of the softmax, as the code of UU-Mamba does. A perfect voxel then
            has p = e / (e + K - 1), 0.475 for four classes, and is never free.

    Raises:
        UsageError: An option is out of range.

    Source:
        Lin et al. 2017 (arXiv 1708.02002), eq. 5; UU-Mamba (arXiv 2405.17496), eq. 7, with the mean instead
        of the sum. Its code (uumamba/nnunetv2/training/loss_functions/focal_loss.py) is reproduced by
        `alpha=0.5, label_smoothing=1e-5, softmax_twice=True`.

    Example:
        >>> logits, target = torch.zeros(1, 4, 2, 2), torch.ones(1, 1, 2, 2)
        >>> round(Focal()(logits, target).item(), 5)  # 0.75^2 log 4
        0.77979
    """

    alpha: Tensor | None

    def __init__(
        self,
        *,
        ignore_index: int | None = None,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        softmax_twice: bool = False,
    ) -> None:
        super().__init__()
        factors = [1.0] if alpha is None else list(alpha) if isinstance(alpha, Sequence) else [alpha]
        require_number("gamma", gamma)
        require_number("label_smoothing", label_smoothing, below=1.0)
        for factor in factors:
            require_number("alpha", factor)
        self.ignore_index, self.gamma = ignore_index, gamma
        self.label_smoothing, self.softmax_twice = label_smoothing, softmax_twice
        stored = None if alpha is None else torch.tensor(factors, dtype=torch.float32)
        self.register_buffer("alpha", stored, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of one output.

        Args:
            logits: (B, K, *spatial), float32 or float64.
            target: Class indices, (B, 1, *spatial), any numeric type.

        Raises:
            UsageError: `alpha` is a list of another length than K.
        """
        known, mask = split_ignored(target, self.ignore_index)
        classes = known.long()
        log_p = self._log_probability(logits, classes)
        # 1 - p without cancellation; the bound keeps the slope finite where p is 1 and gamma below 1.
        missing = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
        voxelwise = -(missing**self.gamma) * log_p
        if self.alpha is not None:
            voxelwise = voxelwise * _factors(self.alpha, logits.shape[1])[classes]
        return mean_of_counted(voxelwise, mask)

    def _log_probability(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Returns log p of the true class, (B, 1, *spatial)."""
        every = logits.log_softmax(1)
        if self.softmax_twice:
            every = every.exp().log_softmax(1)
        log_p, e = every.gather(1, classes), self.label_smoothing
        if e == 0:
            return log_p
        p = log_p.exp()
        return ((1 - e) * p + e * (1 - p) / (logits.shape[1] - 1) + e).log()


def _factors(alpha: Tensor, classes: int) -> Tensor:
    """Returns one factor per class."""
    if alpha.numel() not in (1, classes):
        raise UsageError(
            f"The focal loss's alpha has {alpha.numel()} factors for {classes} classes.",
            code="E-LOSS-ALPHA",
            hint="Give one number for all classes, or one for each, the background first.",
        )
    return alpha.expand(classes)
