"""Which images a network of fixed strides takes: the check at its edge, and padding where it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from scanseg.errors import UsageError


@dataclass(frozen=True)
class Fit:
    """What goes into a 2D network.

    Attributes:
        in_channels: Channels of the image.
        multiple: What both sides must be a multiple of.
        pad: Whether other sizes are padded with zeros below and to the right, and the logits cropped;
            otherwise they are refused.
        repeat: How often a single channel is repeated, for networks that were made for colour images.
    """

    in_channels: int
    multiple: int
    pad: bool = False
    repeat: int = 1

    @property
    def channels(self) -> int:
        """Channels that reach the first layer."""
        return self.in_channels * self.repeat

    def check_patch(self, patch_size: Sequence[int]) -> None:
        """Refuses a planned patch of a size that does not fit.

        Raises:
            UsageError: Names the nearest sizes that fit.
        """
        if not self.pad and any(edge % self.multiple for edge in patch_size):
            raise UsageError(
                f"patch_size {tuple(patch_size)} does not fit: both sides must be a multiple of "
                f"{self.multiple}.",
                code="E-NETWORK-PATCH",
                hint=self._remedy(patch_size),
            )

    def enter(self, x: Tensor) -> Tensor:
        """Returns the image as the first layer takes it, padded and repeated where that is wanted.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise UsageError(
                f"The network takes (batch, {self.in_channels}, y, x), got {tuple(x.shape)}.",
                code="E-NETWORK-INPUT",
            )
        height, width = x.shape[2:]
        down, right = -height % self.multiple, -width % self.multiple
        if down or right:
            if not self.pad:
                raise UsageError(
                    f"The input size {(height, width)} is not divisible by {self.multiple}.",
                    code="E-NETWORK-INPUT",
                    hint=self._remedy((height, width)),
                )
            x = functional.pad(x, (0, right, 0, down))
        return x if self.repeat == 1 else x.expand(-1, self.repeat, -1, -1)

    def leave(self, logits: Tensor, size: Sequence[int], *, stride: int = 1) -> Tensor:
        """Returns logits (B, classes, y, x) without what was padded.

        Args:
            logits: At 1 / stride of the size of the padded image.
            size: Spatial size of the image.
            stride: Of the logits.
        """
        height, width = (-(-edge // stride) for edge in size)
        return logits[..., :height, :width]

    def _remedy(self, size: Sequence[int]) -> str:
        larger = tuple(-(-edge // self.multiple) * self.multiple for edge in size)
        smaller = tuple(max(edge // self.multiple, 1) * self.multiple for edge in size)
        sizes = f"{larger}" if larger == smaller else f"{larger} or {smaller}"
        return f"Use {sizes}, or the network option pad_to_fit=True, which pads and crops."
