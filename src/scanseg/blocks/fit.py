"""Which images a network of fixed strides takes: the check at its edge, and padding where it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

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
        smallest: How many elements the map at 1 / multiple of the size must have: 2 where an instance norm
            follows.
        only: The planned patch, for networks whose weights fit no other size; None: any size.
    """

    in_channels: int
    multiple: int
    pad: bool = False
    repeat: int = 1
    spatial_dims: int = 2
    smallest: int = 1
    only: tuple[int, ...] | None = None

    @property
    def channels(self) -> int:
        """Channels that reach the first layer."""
        return self.in_channels * self.repeat

    def padded(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns the smallest size that fits and is not below `size` on any axis."""
        maps = [-(-edge // self.multiple) for edge in self.only or size]
        if prod(maps) < self.smallest:
            maps[-1] = -(-self.smallest // prod(maps[:-1]))
        return tuple(self.multiple * edge for edge in maps)

    def check_patch(self, patch_size: Sequence[int]) -> None:
        """Refuses a planned patch of a size that does not fit.

        Raises:
            UsageError: Names the nearest sizes that fit.
        """
        if not self.pad and self.padded(patch_size) != tuple(patch_size):
            wanted = "does not fit" if any(edge % self.multiple for edge in patch_size) else "is too small"
            raise UsageError(
                f"patch_size {tuple(patch_size)} {wanted}: every side must be a multiple of "
                f"{self.multiple}{self._at_least()}.",
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
        target = self.padded(size)
        if target != size:
            self._check_size(size)
            lacking = [wanted - edge for wanted, edge in zip(target, size, strict=True)]
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

    def check_batch_norm(self, x: Tensor) -> None:
        """Refuses a training batch whose coarsest map has one element in all.

        Args:
            x: As it leaves `enter`.

        Raises:
            UsageError: Names a size that works.
        """
        if x.shape[0] * prod([edge // self.multiple for edge in x.shape[2:]]) < 2:
            raise UsageError(
                f"A batch of {tuple(x.shape)} is too small to train on: the coarsest map has one element, "
                "and batch normalisation needs two.",
                code="E-NETWORK-INPUT",
                hint=f"Use sides of {2 * self.multiple}, or a larger batch.",
            )

    def _check_size(self, size: tuple[int, ...]) -> None:
        if self.only is not None:
            larger = any(edge > limit for edge, limit in zip(size, self.only, strict=True))
            if larger or not self.pad:
                raise UsageError(
                    f"The input size {size} is not the patch size {self.only} that the network was made for, "
                    "and its position embeddings fit no other.",
                    code="E-NETWORK-INPUT",
                    hint=f"Cut patches of {self.only}"
                    + ("." if larger else ", or set pad_to_fit=True, which pads and crops."),
                )
        elif not self.pad:
            divisible = all(edge % self.multiple == 0 for edge in size)
            wrong = f"too small{self._at_least()}" if divisible else f"not divisible by {self.multiple}"
            raise UsageError(
                f"The input size {size} is {wrong}.", code="E-NETWORK-INPUT", hint=self._remedy(size)
            )

    def _at_least(self) -> str:
        if self.smallest == 1:
            return ""
        # A map of one element has no variance.
        return f", and the coarsest map must have {self.smallest} elements for its instance norm"

    def _remedy(self, size: Sequence[int]) -> str:
        larger = self.padded(size)
        smaller = tuple(max(edge // self.multiple, 1) * self.multiple for edge in size)
        fits = larger != smaller and self.padded(smaller) == smaller
        sizes = f"{larger} or {smaller}" if fits else f"{larger}"
        return f"Use {sizes}, or the network option pad_to_fit=True, which pads and crops."
