"""Which images a network takes whose axes shrink by different factors, with padding where it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from scanseg.errors import UsageError


@dataclass(frozen=True)
class AxisFit:
    """What goes into a network, axis by axis; `Fit` is the same for axes that are all alike.

    Attributes:
        in_channels: Channels of the image.
        multiples: What the side along each axis must be a multiple of.
        smallest: The smallest side along each axis.
        pad: Whether other sizes are padded with zeros at the end of each axis, and the logits cropped;
            otherwise they are refused.
    """

    in_channels: int
    multiples: tuple[int, ...]
    smallest: tuple[int, ...]
    pad: bool = False

    def padded(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns the smallest size that fits and is not below `size` on any axis."""
        axes = zip(size, self.multiples, self.smallest, strict=True)
        return tuple(max(-(-edge // step) * step, least) for edge, step, least in axes)

    def check_patch(self, patch_size: Sequence[int]) -> None:
        """Refuses a planned patch of a size that does not fit.

        Raises:
            UsageError: Names the nearest size that fits.
        """
        if not self.pad and self.padded(patch_size) != tuple(patch_size):
            raise self._refused("patch_size", patch_size, "E-NETWORK-PATCH")

    def enter(self, x: Tensor) -> Tensor:
        """Returns the image as the first layer takes it, padded where that is wanted.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        if x.dim() != 2 + len(self.multiples) or x.shape[1] != self.in_channels:
            axes = ", ".join("zyx"[-len(self.multiples) :])
            raise UsageError(
                f"The network takes (batch, {self.in_channels}, {axes}), got {tuple(x.shape)}.",
                code="E-NETWORK-INPUT",
            )
        size = tuple(x.shape[2:])
        wanted = self.padded(size)
        if wanted == size:
            return x
        if not self.pad:
            raise self._refused("The input size", size, "E-NETWORK-INPUT")
        lacking = [full - edge for full, edge in zip(wanted, size, strict=True)]
        return functional.pad(x, [width for end in reversed(lacking) for width in (0, end)])

    def leave(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Returns logits (B, classes, *spatial) without what was padded.

        Args:
            logits: Of the padded image, at any scale.
            size: Spatial size of the image.
        """
        axes = zip(size, self.padded(size), logits.shape[2:], strict=True)
        kept = tuple(slice(-(-edge * have // full)) for edge, full, have in axes)
        return logits[(slice(None), slice(None), *kept)]

    def _refused(self, what: str, size: Sequence[int], code: str) -> UsageError:
        return UsageError(
            f"{what} {tuple(size)} does not fit: the sides must be multiples of {self.multiples}, at least "
            f"{self.smallest}.",
            code=code,
            hint=f"Use {self.padded(size)}, or the network option pad_to_fit=True, which pads and crops.",
        )
