"""The table of networks and the one way to make one of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from scanseg.errors import UsageError
from scanseg.networks.published import Printed, published_facts
from scanseg.networks.topology import Topology, make_topology
from scanseg.registry import Registry


@dataclass(frozen=True)
class Option:
    """A keyword of a network beyond the common ones: its default and what it does."""

    default: Any
    summary: str


@dataclass(frozen=True)
class NetworkEntry:
    """A registered network.

    Attributes:
        name: Registry name.
        build: Called as build(topology, deep_supervision=..., **options), returns the module.
        summary: One sentence.
        paper: Citation.
        spatial_dims: Where it exists.
        plan_driven: Whether the plan's strides and kernels shape it.
        source: What it follows.
        differences: Where it leaves paper or released code, and why.
        options: Further keywords by name.
        licence: Of the released code that it follows.
        weights: Which trained weights others have published, and under which licence.
        printed: Counts in the paper or of the released code, to be compared with ours.
    """

    name: str
    build: Callable[..., nn.Module]
    summary: str
    paper: str
    spatial_dims: tuple[int, ...] = (2, 3)
    plan_driven: bool = True
    source: str = ""
    differences: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    licence: str = ""
    weights: str = ""
    printed: tuple[Printed, ...] = ()


NETWORKS: Registry[NetworkEntry] = Registry("network")


def register_network(
    name: str, **facts: Any
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Returns a decorator that files a builder under `name`; `facts` are the other fields of NetworkEntry.

    What was published about the network is taken from `published`, unless `facts` has it.
    """

    def decorate(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        NETWORKS.register(name)(NetworkEntry(name=name, build=build, **{**published_facts(name), **facts}))
        return build

    return decorate


def create_network(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    patch_size: Sequence[int],
    strides: Sequence[Sequence[int]] | None = None,
    kernel_sizes: Sequence[Sequence[int]] | None = None,
    deep_supervision: bool = False,
    **options: Any,
) -> nn.Module:
    """Returns a freshly initialised network; the arguments are never changed.

    The module maps (B, in_channels, *spatial) to logits (B, out_channels, *spatial). Its attribute
    `deep_supervision` may be set at any time; while it is on, forward returns a list, fine to coarse.
    Weights are drawn from torch's global generator: `torch.manual_seed` makes them repeatable.

    Args:
        name: A name of `list_networks()`.
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        out_channels: Classes, background included.
        patch_size: Spatial size of training patches, (z, y, x) or (y, x).
        strides: Of the plan, one entry per stage, the first all ones. None: nnU-Net's rule for isotropic
            spacing.
        kernel_sizes: Of the plan, one entry per stage. None: 3 everywhere.
        deep_supervision: Start with deep supervision on.
        options: Those of the network; `describe_network(name)["options"]` lists them.

    Raises:
        UsageError: Unknown name or option, or arguments that do not fit each other; the hint says what would.

    Example:
        >>> import torch
        >>> network = create_network(
        ...     "umamba_bot", spatial_dims=2, in_channels=1, out_channels=2, patch_size=(32, 32)
        ... )
        >>> network(torch.zeros(1, 1, 32, 32)).shape
        torch.Size([1, 2, 32, 32])
    """
    entry = NETWORKS[name]
    topology = checked_topology(
        entry,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        patch_size=patch_size,
        strides=strides,
        kernel_sizes=kernel_sizes,
    )
    check_options(entry, options)
    return entry.build(topology, deep_supervision=bool(deep_supervision), **options)


def checked_topology(entry: NetworkEntry, *, spatial_dims: int, **facts: Any) -> Topology:
    """Returns the topology for a network.

    Raises:
        UsageError: The network does not exist in these dimensions, or the facts do not fit each other.
    """
    if spatial_dims not in entry.spatial_dims:
        accepted = " or ".join(map(str, entry.spatial_dims))
        raise UsageError(
            f"spatial_dims of {entry.name} must be {accepted}, got {spatial_dims!r}.",
            code="E-NETWORK-DIMS",
        )
    return make_topology(spatial_dims=spatial_dims, plan_driven=entry.plan_driven, **facts)


def check_options(entry: NetworkEntry, options: Mapping[str, Any]) -> None:
    """Refuses options the network does not have.

    Raises:
        UsageError: Names the option, its near matches and the options there are.
    """
    known = entry.options
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=3, cutoff=0.5)
            suggestion = f"Did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(
                f"The network {entry.name} has no option {option!r}.",
                code="E-NETWORK-OPTION",
                hint=f"{suggestion}Options: {', '.join(known) or 'none'}.",
            )


def list_networks(*, spatial_dims: int | None = None, plan_driven: bool | None = None) -> list[str]:
    """Returns the names of the registered networks that fit the given filters, in alphabetical order.

    Example:
        >>> "umamba_enc" in list_networks(spatial_dims=3)
        True
    """
    return [
        name
        for name, entry in sorted(NETWORKS.items())
        if (spatial_dims is None or spatial_dims in entry.spatial_dims)
        and (plan_driven is None or plan_driven == entry.plan_driven)
    ]


def count_parameters(module: nn.Module) -> int:
    """Returns the number of trainable values, each shared tensor counted once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
