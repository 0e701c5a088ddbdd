"""Which images a network of fixed strides takes: the check at its edge, and padding where it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from scanseg.errors import UsageError


@dataclass(frozen=True)
class Fit:
    """What goes into a network.

    Attributes:
        in_channels: Channels of the image.
        multiple: What every side must be a multiple of.
        pad: Whether other sizes are padded with zeros at the end of each axis, and the logits cropped;
            otherwise they are refused.
        repeat: How often a single channel is repeated, for networks that were made for colour images.
        spatial_dims: 2 or 3.
    """

    in_channels: int
    multiple: int
    pad: bool = False
    repeat: int = 1
    spatial_dims: int = 2

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
                f"patch_size {tuple(patch_size)} does not fit: every side must be a multiple of "
                f"{self.multiple}.",
                code="E-NETWORK-PATCH",
                hint=self._remedy(patch_size),
            )

    def enter(self, x: Tensor) -> Tensor:
        """Returns the image as the first layer takes it, padded and repeated where that is wanted.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        if x.dim() != 2 + self.spatial_dims or x.shape[1] != self.in_channels:
            axes = ", ".join("zyx"[-self.spatial_dims :])
            raise UsageError(
                f"The network takes (batch, {self.in_channels}, {axes}), got {tuple(x.shape)}.",
                code="E-NETWORK-INPUT",
            )
        size = tuple(x.shape[2:])
        lacking = [-edge % self.multiple for edge in size]
        if any(lacking):
            if not self.pad:
                raise UsageError(
                    f"The input size {size} is not divisible by {self.multiple}.",
                    code="E-NETWORK-INPUT",
                    hint=self._remedy(size),
                )
            x = functional.pad(x, [width for end in reversed(lacking) for width in (0, end)])
        return x if self.repeat == 1 else x.expand(-1, self.repeat, *x.shape[2:])

    def leave(self, logits: Tensor, size: Sequence[int], *, stride: int = 1) -> Tensor:
        """Returns logits (B, classes, *spatial) without what was padded.

        Args:
            logits: At 1 / stride of the size of the padded image.
            size: Spatial size of the image.
            stride: Of the logits.
        """
        kept = tuple(slice(-(-edge // stride)) for edge in size)
        return logits[(slice(None), slice(None), *kept)]

    def _remedy(self, size: Sequence[int]) -> str:
        larger = tuple(-(-edge // self.multiple) * self.multiple for edge in size)
        smaller = tuple(max(edge // self.multiple, 1) * self.multiple for edge in size)
        sizes = f"{larger}" if larger == smaller else f"{larger} or {smaller}"
        return f"Use {sizes}, or the network option pad_to_fit=True, which pads and crops."
