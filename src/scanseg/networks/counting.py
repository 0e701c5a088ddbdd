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
from torch.utils._python_dispatch import TorchDispatchMode

from scanseg.blocks.mamba import MambaBlock
from scanseg.blocks.ss2d import SS2D

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
# Blocks with a scan: they know their own counts, and do not run on the meta device.
SCANNING = (MambaBlock, SS2D)
VALUE_BYTES = 4
# What attention's products of two activations become; layers with weights are counted by their shapes.
_PRODUCTS = (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default)


@dataclass
class Counts:
    """Counts of one forward pass in float32.

    Attributes:
        macs: Multiply-accumulates per kind (`convolution`, `linear`, `attention`, `scan`) and per module.
            Of attention these are the products of queries with keys and of weights with values.
        convolution_values: Values that leave the convolutions.
        saved_bytes: What autograd keeps outside the blocks with scans, parameters left out.
        mamba_bytes: What it keeps inside the blocks with scans.
        largest_bytes: The largest single tensor kept outside them.
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
    """Stands for a block with scans: same shape out, a dependence on the input, no computation."""

    def __init__(self, block: MambaBlock | SS2D) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        return x.neg()


def count(network: nn.Module, shape: Sequence[int]) -> Counts:
    """Returns the counts of a forward pass on an input (B, C, *spatial).

    The network must lie on the meta device and is not usable afterwards.
    """
    counts = Counts()
    for name, module in list(network.named_modules()):
        if isinstance(module, SCANNING):
            parent, _, child = name.rpartition(".")
            stand_in, owner = _ShapeOnly(module), network.get_submodule(parent)
            recomputed = bool(getattr(owner, "checkpoint", False))
            stand_in.register_forward_hook(_mamba_hook(counts, name, recomputed=recomputed))
            setattr(owner, child, stand_in)
        elif isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)):
            module.register_forward_hook(_layer_hook(counts, name))
    products = _Products(counts)
    products.follow(network)
    keeper = _Keeper({parameter.untyped_storage()._cdata for parameter in network.parameters()})
    with saved_tensors_hooks(keeper.pack, keeper.unpack), products:
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


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products of two activations under the module that makes them."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts = counts
        self._inside: list[tuple[str, nn.Module]] = []

    def follow(self, network: nn.Module) -> None:
        """Keeps track of the module that runs, from now on."""
        for name, module in network.named_modules():
            module.register_forward_pre_hook(self._entered(name))
            module.register_forward_hook(lambda *_: self._inside.pop() and None)

    def _entered(self, name: str) -> Any:
        return lambda module, _: self._inside.append((name, module))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name, module = self._inside[-1] if self._inside else ("", None)
        if func in _PRODUCTS and not isinstance(module, nn.Linear):
            self._counts.macs["attention"][name] += output.numel() * args[-1].shape[1]
        return output


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
        block = stand_in.block
        batch, length = inputs[0].shape[0], prod(inputs[0].shape[1:-1])
        macs = block.macs(length)
        counts.macs["linear"][name] += batch * macs["linear"]
        counts.macs["convolution"][name] += batch * macs["conv"]
        counts.macs["scan"][name] += batch * macs["scan"]
        if isinstance(block, SS2D):
            values, width = block.saved_values(length, batch), block.scans * block.d_inner
        else:
            values, width = batch * block.saved_values(length), 2 * block.d_inner
        kept, widest = VALUE_BYTES * values, VALUE_BYTES * batch * length * width
        if recomputed:
            # Kept only while the backward pass is in this block.
            kept, widest = 0, widest + kept
        counts.mamba_bytes += kept
        counts.largest_mamba_bytes = max(counts.largest_mamba_bytes, widest)

    return hook
