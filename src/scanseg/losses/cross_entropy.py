"""Cross-entropy, the mean over voxels."""

from torch import Tensor, nn
from torch.nn import functional

from scanseg.losses.ignored import mean_of_counted, split_ignored


def cross_entropy(logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns the mean of -log p of the true class over the voxels that count; 0 if none does.

    Args:
        logits: (B, K, *spatial).
        target: Class indices in 0..K-1, (B, 1, *spatial), any numeric type.
        mask: (B, 1, *spatial), False where voxels do not count.
    """
    if mask is None:
        return functional.cross_entropy(logits, target[:, 0].long())
    voxelwise = functional.cross_entropy(logits, target[:, 0].long(), reduction="none")
    return mean_of_counted(voxelwise[:, None], mask)


class CrossEntropy(nn.Module):
    """Cross-entropy of the softmax.

    Args:
        ignore_index: Class index in the target whose voxels do not count; None if there is no such class.

    Source:
        UU-Mamba (arXiv 2405.17496), eq. 6, with the mean instead of the sum over voxels, as in its released
        code and in nnU-Net.
    """

    def __init__(self, *, ignore_index: int | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of one output.

        Args:
            logits: (B, K, *spatial), float32 or float64.
            target: Class indices, (B, 1, *spatial), any numeric type.
        """
        return cross_entropy(logits, *split_ignored(target, self.ignore_index))
