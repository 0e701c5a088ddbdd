"""What the networks built on VSS blocks share: their sizes, options and rows of the stage table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scanseg.blocks.fit import Fit
from scanseg.blocks.unet import Stage
from scanseg.blocks.vss import Scanning, VSSEncoder, stochastic_depth
from scanseg.errors import UsageError
from scanseg.networks.registry import Option
from scanseg.networks.topology import Topology, positive_integer

FIT_OPTIONS = {
    "pad_to_fit": Option(
        False, "pad images that do not fit with zeros and crop the result; otherwise they are refused"
    ),
}
REPEAT_OPTION = {
    "repeat_gray": Option(True, "repeat a single channel three times, as the released code does"),
}
PYRAMID_OPTIONS = {
    "base_features": Option(96, "width of the first stage; it doubles from stage to stage"),
    "depths": Option((2, 2, 2, 2), "VSS blocks per encoder stage, finest first"),
    "d_state": Option(16, "states per channel of the scans"),
    "expand": Option(2, "inner width of a VSS block relative to its input"),
    "drop_path_rate": Option(0.2, "highest rate of stochastic depth while training; it rises from 0"),
    "checkpoint": Option(False, "compute each VSS block again in the backward pass: less memory, more time"),
    **FIT_OPTIONS,
}


@dataclass(frozen=True)
class Pyramid:
    """Sizes of a network on VMamba's pyramid.

    Attributes:
        fit: Which images it takes.
        patch: Side of the patches.
        widths: Of the encoder stages, finest first.
        depths: Blocks of the encoder stages.
        drop_paths: Rate of each block of each encoder stage.
        scanning: What all its VSS blocks share.
    """

    fit: Fit
    patch: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    drop_paths: tuple[tuple[float, ...], ...]
    scanning: Scanning

    def encoder(self, scannings: Sequence[Scanning] | None = None, *, in_channels: int = 0) -> VSSEncoder:
        """Returns the encoder; `scannings` None: the pyramid's own in every stage."""
        return VSSEncoder(
            in_channels or self.fit.channels,
            (self.scanning,) * len(self.depths) if scannings is None else scannings,
            features=self.widths[0],
            drop_paths=self.drop_paths,
            patch=self.patch,
        )


def make_pyramid(
    topology: Topology,
    *,
    base_features: int = 96,
    depths: Sequence[int] = (2, 2, 2, 2),
    d_state: int = 16,
    expand: int = 2,
    drop_path_rate: float = 0.2,
    repeat_gray: bool = False,
    checkpoint: bool = False,
    pad_to_fit: bool = False,
    patch: int = 4,
    stem_stride: int = 1,
) -> Pyramid:
    """Returns the checked sizes.

    Args:
        stem_stride: By how much the map shrinks before the patch embedding.

    Raises:
        UsageError: An option is wrong, or the patch of the plan does not fit.
    """
    blocks = block_counts("depths", depths)
    width = positive_integer("base_features", base_features)
    rate = drop_rate("drop_path_rate", drop_path_rate)
    fit = Fit(
        topology.in_channels,
        stem_stride * patch * 2 ** (len(blocks) - 1),
        pad=bool(pad_to_fit),
        repeat=3 if repeat_gray and topology.in_channels == 1 else 1,
        spatial_dims=topology.spatial_dims,
    )
    fit.check_patch(topology.patch_size)
    return Pyramid(
        fit=fit,
        patch=patch,
        widths=tuple(width * 2**stage for stage in range(len(blocks))),
        depths=blocks,
        drop_paths=stochastic_depth(rate, blocks),
        scanning=Scanning(
            d_state=positive_integer("d_state", d_state),
            expand=positive_integer("expand", expand),
            spatial_dims=topology.spatial_dims,
            checkpoint=bool(checkpoint),
        ),
    )


def block_counts(name: str, value: object, *, count: int | None = None) -> tuple[int, ...]:
    """Returns one positive integer per stage.

    Raises:
        UsageError: Not a sequence of positive integers, fewer than two, or not `count` of them.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UsageError(f"{name} must be a sequence of integers, got {value!r}.", code="E-NETWORK-ARGUMENT")
    entries = tuple(positive_integer(name, entry) for entry in value)
    if len(entries) < 2 or (count is not None and len(entries) != count):
        wanted = "two entries at least" if count is None else f"{count} entries"
        raise UsageError(f"{name} needs {wanted} here, got {entries}.", code="E-NETWORK-ARGUMENT")
    return entries


def drop_rate(name: str, value: Any) -> float:
    """Returns a rate of dropping something.

    Raises:
        UsageError: It is not a number from 0 up to, not including, 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise UsageError(f"{name} must be a number in [0, 1), got {value!r}.", code="E-NETWORK-ARGUMENT")
    return float(value)


def one_of(name: str, value: object, accepted: Sequence[object]) -> Any:
    """Returns `value` if it is accepted.

    Raises:
        UsageError: It is not; names what is.
    """
    if value not in accepted:
        listed = ", ".join(map(str, accepted))
        raise UsageError(f"{name} must be one of {listed}, got {value!r}.", code="E-NETWORK-ARGUMENT")
    return value


def row(
    name: str,
    topology: Topology,
    features: int,
    modules: Sequence[str],
    *,
    reduction: int,
    stride: int = 1,
    kernel: int = 1,
    blocks: int = 0,
    scans: bool = False,
) -> Stage:
    """Returns a row of the stage table of a network whose axes are all alike.

    Args:
        reduction: How much smaller than the image its output is.
        stride: By how much it shrinks (encoder) or enlarges (decoder) its input.
        scans: Whether it holds VSS blocks.
    """
    size = tuple(-(-edge // reduction) for edge in topology.patch_size)
    strides, kernels = (stride,) * len(size), (kernel,) * len(size)
    return Stage(name, features, size, strides, kernels, blocks, "patch" if scans else "", tuple(modules))


def encoder_rows(topology: Topology, pyramid: Pyramid, *, prefix: str, stem: Sequence[str]) -> list[Stage]:
    """Returns the rows of a VSSEncoder: the stem, and each stage with the merging that leads to it.

    Args:
        prefix: The encoder's name in the network.
        stem: Further modules of the stem.
    """
    finest = pyramid.fit.multiple // 2 ** (len(pyramid.depths) - 1)
    modules = (*stem, f"{prefix}.patch_embed")
    rows = [
        row(
            "stem",
            topology,
            pyramid.widths[0],
            modules,
            reduction=finest,
            stride=finest,
            kernel=pyramid.patch,
        )
    ]
    for stage, (width, depth) in enumerate(zip(pyramid.widths, pyramid.depths, strict=True)):
        merge = (f"{prefix}.merges.{stage - 1}",) if stage else ()
        rows.append(
            row(
                f"encoder {stage}",
                topology,
                width,
                (*merge, f"{prefix}.stages.{stage}"),
                reduction=finest * 2**stage,
                stride=2 if stage else 1,
                kernel=3,
                blocks=depth,
                scans=True,
            )
        )
    return rows
