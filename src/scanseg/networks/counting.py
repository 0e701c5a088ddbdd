"""What a network computes and keeps, counted without computing it: one forward pass on the meta device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from scanseg.blocks.mamba import MambaBlock

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
VALUE_BYTES = 4


@dataclass
class Counts:
    """Counts of one forward pass in float32.

    Attributes:
        macs: Multiply-accumulates per kind (`convolution`, `linear`, `scan`) and per module.
        convolution_values: Values that leave the convolutions.
        saved_bytes: What autograd keeps for the backward pass outside the Mamba blocks, parameters left out.
        mamba_bytes: What it keeps inside the Mamba blocks.
        largest_bytes: The largest single tensor kept outside the Mamba blocks.
        largest_mamba_bytes: The largest inside.
    """

    macs: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    convolution_values: int = 0
    saved_bytes: int = 0
    mamba_bytes: int = 0
    largest_bytes: int = 0
    largest_mamba_bytes: int = 0

    def total(self, kind: str, modules: Sequence[str] = ("",)) -> int:
        """Returns the multiply-accumulates of a kind in the given modules and below them; all by default."""
        return sum(
            count
            for name, count in self.macs[kind].items()
            if any(not module or name == module or name.startswith(f"{module}.") for module in modules)
        )


class _ShapeOnly(nn.Module):
    """Stands for a Mamba block: same shape out, a dependence on the input, no computation."""

    def __init__(self, block: MambaBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x.neg()


def count(network: nn.Module, shape: Sequence[int]) -> Counts:
    """Returns the counts of a forward pass on an input (B, C, *spatial).

    The network must lie on the meta device and is not usable afterwards.
    """
    counts = Counts()
    for name, module in list(network.named_modules()):
        if isinstance(module, MambaBlock):
            parent, _, child = name.rpartition(".")
            stand_in, owner = _ShapeOnly(module), network.get_submodule(parent)
            recomputed = bool(getattr(owner, "checkpoint", False))
            stand_in.register_forward_hook(_mamba_hook(counts, name, recomputed=recomputed))
            setattr(owner, child, stand_in)
        elif isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)):
            module.register_forward_hook(_layer_hook(counts, name))
    keeper = _Keeper({parameter.untyped_storage()._cdata for parameter in network.parameters()})
    with saved_tensors_hooks(keeper.pack, keeper.unpack):
        network(torch.empty(*shape, device="meta"))
    sizes = [storage.nbytes() for storage in keeper.kept.values()]
    counts.saved_bytes, counts.largest_bytes = sum(sizes), max(sizes, default=0)
    return counts


class _Keeper:
    """Collects the distinct storages that autograd saves; holding them keeps their addresses distinct."""

    def __init__(self, ignored: set[int]) -> None:
        self._ignored = ignored
        self.kept: dict[int, torch.UntypedStorage] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._ignored:
            self.kept[storage._cdata] = storage
        return tensor

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor


def _layer_hook(counts: Counts, name: str) -> Any:
    def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            counts.macs["linear"][name] += output.numel() * layer.in_features
            return
        counts.convolution_values += output.numel()
        if isinstance(layer, _TRANSPOSED):
            per_value = layer.out_channels // layer.groups * prod(layer.kernel_size)
            counts.macs["convolution"][name] += inputs[0].numel() * per_value
        else:
            per_value = layer.in_channels // layer.groups * prod(layer.kernel_size)
            counts.macs["convolution"][name] += output.numel() * per_value

    return hook


def _mamba_hook(counts: Counts, name: str, *, recomputed: bool) -> Any:
    def hook(stand_in: _ShapeOnly, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        batch, length, _ = inputs[0].shape
        macs = stand_in.block.macs(length)
        counts.macs["linear"][name] += batch * macs["linear"]
        counts.macs["convolution"][name] += batch * macs["conv"]
        counts.macs["scan"][name] += batch * macs["scan"]
        kept = VALUE_BYTES * batch * stand_in.block.saved_values(length)
        widest = VALUE_BYTES * batch * length * 2 * stand_in.block.d_inner
        if recomputed:
            # Kept only while the backward pass is in this block.
            kept, widest = 0, widest + kept
        counts.mamba_bytes += kept
        counts.largest_mamba_bytes = max(counts.largest_mamba_bytes, widest)

    return hook
