"""How much memory the training of a network takes, known before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scanseg.networks.counting import VALUE_BYTES, Counts, count
from scanseg.networks.registry import count_parameters, create_network

_COPIES_OF_PARAMETERS = 3
_LARGEST_GRADIENTS = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """An estimate of the memory that training takes, in bytes.

    Attributes:
        parameters_bytes: Weights, gradients and one momentum buffer (SGD), float32.
        activations_bytes: What is kept for the backward pass, Mamba's part included.
        mamba_bytes: Mamba's part of the activations.
        total_bytes: Parameters, activations and the gradients of the largest maps while they pass through.
            The framework itself, its workspaces and the loss come on top.
    """

    parameters_bytes: int
    activations_bytes: int
    mamba_bytes: int
    total_bytes: int


def training_memory_bytes(
    name: str,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    patch_size: Sequence[int],
    batch_size: int,
    strides: Sequence[Sequence[int]] | None = None,
    kernel_sizes: Sequence[Sequence[int]] | None = None,
    deep_supervision: bool = True,
    bytes_per_value: int = 4,
    **options: Any,
) -> MemoryEstimate:
    """Returns what training needs at a patch and batch, from a forward pass that only knows shapes.

    Args:
        bytes_per_value: 4 for float32, 2 for bfloat16 autocast. Mamba blocks and parameters stay float32.

    Raises:
        UsageError: As `create_network`.

    Example:
        >>> estimate = training_memory_bytes(
        ...     "umamba_bot", spatial_dims=2, in_channels=1, out_channels=2, patch_size=(64, 64), batch_size=2
        ... )
        >>> estimate.mamba_bytes < estimate.activations_bytes < estimate.total_bytes
        True
    """
    parameters, counts = _counted(
        name,
        batch_size,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=out_channels,
        patch_size=patch_size,
        strides=strides,
        kernel_sizes=kernel_sizes,
        deep_supervision=deep_supervision,
        **options,
    )
    kept = counts.saved_bytes * bytes_per_value // VALUE_BYTES
    largest = max(counts.largest_bytes * bytes_per_value // VALUE_BYTES, counts.largest_mamba_bytes)
    parameters_bytes = _COPIES_OF_PARAMETERS * VALUE_BYTES * parameters
    activations = kept + counts.mamba_bytes
    return MemoryEstimate(
        parameters_bytes=parameters_bytes,
        activations_bytes=activations,
        mamba_bytes=counts.mamba_bytes,
        total_bytes=parameters_bytes + activations + _LARGEST_GRADIENTS * largest,
    )


def conv_feature_map_size(name: str, *, deep_supervision: bool = True, **arguments: Any) -> int:
    """Returns how many values leave a network's convolutions for one image, as nnU-Net's planner counts.

    For the nnU-Net networks this is their own `compute_conv_feature_map_size`; for the others the same sum.
    Mamba layers are not in it: `training_memory_bytes` knows them.

    Args:
        name: A registered network.
        deep_supervision: Count the heads of all decoder stages.
        arguments: As `create_network`.

    Raises:
        UsageError: As `create_network`.
    """
    with torch.device("meta"):
        network: Any = create_network(name, deep_supervision=deep_supervision, **arguments)
    patch = tuple(arguments["patch_size"])
    if hasattr(getattr(network, "encoder", None), "compute_conv_feature_map_size"):
        halves = (network.encoder, network.decoder)
        return sum(int(half.compute_conv_feature_map_size(patch)) for half in halves)
    return count(network, (1, arguments["in_channels"], *patch)).convolution_values


def _counted(name: str, batch_size: int, **arguments: Any) -> tuple[int, Counts]:
    with torch.device("meta"):
        network = create_network(name, **arguments)
    parameters = count_parameters(network)
    return parameters, count(network, (batch_size, arguments["in_channels"], *arguments["patch_size"]))
