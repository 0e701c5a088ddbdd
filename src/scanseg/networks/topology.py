"""What a plan says about the shape of a network, checked once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from numbers import Integral

from scanseg.errors import UsageError

Steps = tuple[tuple[int, ...], ...]
MIN_MAP_EDGE = 4


@dataclass(frozen=True)
class Topology:
    """The facts of a plan that shape a network.

    Attributes:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes, background included.
        patch_size: Spatial size the network is planned for.
        strides: One entry per stage, one number per axis; the first all ones.
        kernel_sizes: As `strides`, odd numbers.
    """

    spatial_dims: int
    in_channels: int
    out_channels: int
    patch_size: tuple[int, ...]
    strides: Steps
    kernel_sizes: Steps

    @property
    def n_stages(self) -> int:
        """Number of encoder stages."""
        return len(self.strides)

    @property
    def map_sizes(self) -> Steps:
        """Spatial size of each encoder stage's output at the planned patch."""
        sizes, size = [], self.patch_size
        for stride in self.strides:
            size = tuple(edge // step for edge, step in zip(size, stride, strict=True))
            sizes.append(size)
        return tuple(sizes)

    def features(
        self,
        features_per_stage: Sequence[int] | None = None,
        *,
        base_features: int = 32,
        max_features: int | None = None,
    ) -> tuple[int, ...]:
        """Returns the channels of each stage: as given, or doubling from `base_features` to `max_features`.

        `max_features` None is nnU-Net's limit: 320 in 3D, 512 in 2D.

        Raises:
            UsageError: Wrong number of entries, or entries that are not positive integers.
        """
        if features_per_stage is not None:
            return per_stage("features_per_stage", features_per_stage, self.n_stages)
        limit = (320 if self.spatial_dims == 3 else 512) if max_features is None else max_features
        for name, value in (("base_features", base_features), ("max_features", limit)):
            positive_integer(name, value)
        return tuple(min(base_features * 2**stage, limit) for stage in range(self.n_stages))


def positive_integer(name: str, value: object) -> int:
    """Returns `value` as a plain int if it is a positive integer (numpy's are welcome).

    Raises:
        UsageError: It is not.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} must be a positive integer, got {value!r}.", code="E-NETWORK-ARGUMENT")
    return int(value)


def per_stage(name: str, value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Returns one positive integer per stage; a single integer stands for all of them.

    Raises:
        UsageError: Wrong number of entries, or entries that are not positive integers.
    """
    if isinstance(value, Integral):
        return (positive_integer(name, value),) * count
    entries = tuple(positive_integer(name, entry) for entry in _sequence(name, value))
    if len(entries) != count:
        raise UsageError(
            f"{name} needs {count} entries here, got {len(entries)}: {entries}.", code="E-NETWORK-ARGUMENT"
        )
    return entries


def make_topology(
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    patch_size: Sequence[int],
    strides: Sequence[Sequence[int]] | None,
    kernel_sizes: Sequence[Sequence[int]] | None,
    plan_driven: bool = True,
) -> Topology:
    """Returns the checked topology; missing strides and kernels follow nnU-Net's rule for isotropic spacing.

    For networks that are not plan-driven, missing strides and kernels stay empty.

    Raises:
        UsageError: Anything is of the wrong length, not positive, or does not fit the patch size.
    """
    if spatial_dims not in (2, 3):
        raise UsageError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}.", code="E-NETWORK-DIMS")
    inputs = positive_integer("in_channels", in_channels)
    classes = positive_integer("out_channels", out_channels)
    patch = _axes("patch_size", patch_size, spatial_dims)
    if not plan_driven and strides is None:
        return Topology(spatial_dims, inputs, classes, patch, (), ())
    steps = isotropic_strides(patch) if strides is None else _steps("strides", strides, spatial_dims)
    kernels = (
        ((3,) * spatial_dims,) * len(steps)
        if kernel_sizes is None
        else _steps("kernel_sizes", kernel_sizes, spatial_dims)
    )
    topology = Topology(spatial_dims, inputs, classes, patch, steps, kernels)
    _check_stages(topology)
    _check_patch(topology, given=strides is not None)
    return topology


def isotropic_strides(patch_size: Sequence[int]) -> Steps:
    """Returns nnU-Net's strides for isotropic spacing.

    Of the axes with a map edge of at least 8, each stage halves those that have been halved least often; a
    lone axis needs an edge of 12.

    Source: get_pool_and_conv_props of nnU-Net 2.8 with equal spacings.

    Example:
        >>> isotropic_strides((32, 64, 64))
        ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    """
    size, halved = list(patch_size), [0] * len(patch_size)
    strides = [(1,) * len(size)]
    while True:
        axes = [axis for axis, edge in enumerate(size) if edge >= 2 * MIN_MAP_EDGE]
        least = min((halved[axis] for axis in axes), default=0)
        axes = [axis for axis in axes if halved[axis] == least]
        if not axes or (len(axes) == 1 and size[axes[0]] < 3 * MIN_MAP_EDGE):
            return tuple(strides)
        for axis in axes:
            size[axis] = ceil(size[axis] / 2)
            halved[axis] += 1
        strides.append(tuple(2 if axis in axes else 1 for axis in range(len(size))))


def _sequence(name: str, value: object) -> Iterable[object]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UsageError(f"{name} must be a sequence of integers, got {value!r}.", code="E-NETWORK-ARGUMENT")
    return value


def _axes(name: str, value: object, spatial_dims: int) -> tuple[int, ...]:
    entries = tuple(positive_integer(name, entry) for entry in _sequence(name, value))
    if len(entries) != spatial_dims:
        raise UsageError(
            f"{name} needs one number for each of the {spatial_dims} axes, got {entries}.",
            code="E-NETWORK-ARGUMENT",
        )
    return entries


def _steps(name: str, value: object, spatial_dims: int) -> Steps:
    steps = tuple(
        _axes(f"{name}[{stage}]", entry, spatial_dims) for stage, entry in enumerate(_sequence(name, value))
    )
    if not steps:
        raise UsageError(f"{name} needs one entry for each stage, got none.", code="E-NETWORK-ARGUMENT")
    return steps


def _check_stages(topology: Topology) -> None:
    if topology.n_stages < 2:
        raise UsageError(
            f"A U-Net needs two stages at least, but the patch {topology.patch_size} with strides "
            f"{topology.strides} gives one.",
            code="E-NETWORK-PATCH",
            hint="Use a patch with an edge of 12 at least, or two of 8, or give strides.",
        )
    if len(topology.kernel_sizes) != topology.n_stages:
        raise UsageError(
            f"kernel_sizes needs one entry for each of the {topology.n_stages} stages, got "
            f"{len(topology.kernel_sizes)}.",
            code="E-NETWORK-ARGUMENT",
        )
    if any(step != 1 for step in topology.strides[0]):
        raise UsageError(
            f"The first stride must be all ones, got {topology.strides[0]}.",
            code="E-NETWORK-ARGUMENT",
            hint="The first stage works at full resolution; strides[1] is the first to shrink.",
        )
    if any(size % 2 == 0 for kernel in topology.kernel_sizes for size in kernel):
        raise UsageError(f"kernel_sizes must be odd, got {topology.kernel_sizes}.", code="E-NETWORK-ARGUMENT")


def _check_patch(topology: Topology, *, given: bool) -> None:
    total = tuple(prod(axis) for axis in zip(*topology.strides, strict=True))
    if any(edge % step for edge, step in zip(topology.patch_size, total, strict=True)):
        pairs = list(zip(topology.patch_size, total, strict=True))
        smaller = tuple(max(edge // step, 1) * step for edge, step in pairs)
        larger = tuple(-(-edge // step) * step for edge, step in pairs)
        raise UsageError(
            f"patch_size {topology.patch_size} is not divisible by the total stride {total}"
            f"{'' if given else ' that it leads to'}.",
            code="E-NETWORK-PATCH",
            hint=f"Use {larger} or {smaller}{'' if given else ', or give strides'}.",
        )
    if prod(topology.map_sizes[-1]) < 2:
        raise UsageError(
            f"The patch {topology.patch_size} is too small: the coarsest map has one element, and instance "
            f"normalisation needs two.",
            code="E-NETWORK-PATCH",
            hint=f"Use fewer stages or a patch of at least {tuple(2 * step for step in total)}.",
        )
