"""The GPU backend: cuts a scan into programs, describes tensors to the kernels, adds up what they leave.

float32, bfloat16 and float16 are read in place, with any strides. The functions also take tensors in main
memory if Triton interprets, which is how they are tested without a GPU.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scanseg.kernels.arguments import KEPT_EVERY, Arguments
from scanseg.kernels.gpu.backward import Gradients, gradients_kernel, laters_kernel
from scanseg.kernels.gpu.forward import carry_kernel, ends_kernel, outputs_kernel
from scanseg.kernels.gpu.steps import Given, Grouped, Order, Sizes, Strided

_LOG2_E = 1.4426950408889634
_LANES = 32
_WIDEST_BLOCK = 128
_ABSENT = Strided(None, 0, 0, 0, 0)

# A scan in chunks computes every power twice. So the length is cut only where fewer warps than this would
# work, 4 for each of 132 multiprocessors, and then into enough chunks for four times as many.
_ENOUGH_WARPS = 528
_WANTED_WARPS = 2112
# Tiles: in shorter chunks the way of the states from chunk to chunk would outweigh the scan.
_SHORTEST_CHUNK = 4


@dataclass(frozen=True)
class Scan:
    """A scan as it is launched.

    Attributes:
        given: What the kernels are given.
        softplus: Whether dt = softplus(delta + bias), or delta + bias.
        block: Channels of a program.
    """

    given: Given
    softplus: bool
    block: int

    @property
    def blocks(self) -> int:
        """Programs that share a batch element, a group and a chunk."""
        return -(-self.given.sizes.channels // self.block)

    @property
    def programs(self) -> tuple[int]:
        """The grid of the kernels that scan."""
        sizes = self.given.sizes
        return (sizes.batch * sizes.groups * sizes.chunks * self.blocks,)

    @property
    def options(self) -> dict[str, Any]:
        """What the kernels that scan are compiled for."""
        return {"SOFTPLUS": self.softplus, "BLOCK": self.block, "num_warps": self.block // _LANES}

    def new_array(self, *shape: int) -> Tensor:
        """Returns an uninitialised float32 array (batch, *shape, dim)."""
        sizes = self.given.sizes
        array: Tensor = self.given.rates.new_empty((sizes.batch, *shape, sizes.groups * sizes.channels))
        return array


def forward(given: Arguments, y: Tensor, states: Tensor) -> None:
    """Fills `y`, and `states` unless it is empty: (batch, tiles, state, dim) float32, before each tile.

    Without an order `y` is (batch, dim, length). With one it is (batch, dim, length) for the sum over the
    groups, or (batch, group, dim, length). The order is not checked here: a number out of range would reach
    foreign memory.
    """
    with _on(y):
        scan = _described(given)
        if given.order is None:
            _forward(scan, _strided(y, scan.given.sizes.groups), states)
        elif y.dim() == 4:
            _forward(scan, _separate(y), states)
        else:
            parts = _per_group(scan, y)
            _forward(scan, _separate(parts), states)
            y.copy_(parts.sum(1))


def backward(given: Arguments, dy: Tensor, states: Tensor) -> list[Tensor | None]:
    """Returns the gradients of (u, delta, A, B, C, D, z, delta_bias); None where the argument is.

    Args:
        given: What the forward scan was given.
        dy: Gradient of the output, shaped like it.
        states: As filled by `forward`.
    """
    with _on(dy):
        scan = _described(given)
        groups = scan.given.sizes.groups
        if given.order is None:
            received = _strided(dy, groups)
            du, ddelta = torch.empty_like(given.u), torch.empty_like(given.delta)
            target = _strided(du, groups)
        else:
            received = _separate(dy) if dy.dim() == 4 else _shared(dy)
            du, ddelta = (t.new_empty(t.mT.shape).mT for t in (given.u, given.delta))
            parts = _per_group(scan, du)
            target = _separate(parts)
        dz = None if given.z is None else torch.empty_like(given.z)
        targets = [target, _strided(ddelta, groups), _strided(dz, groups)]
        dA, dB, dC, dD, dbias = _backward(scan, given, received, states, targets)
        if given.order is not None:
            du.copy_(parts.sum(1))
    return [du, ddelta, dA, dB, dC, dD, dz, dbias]


def cut(pairs: int, channels: int, length: int) -> tuple[int, int, int]:
    """Returns the channels of a program, the tiles of a chunk and the number of chunks, from sizes alone.

    Args:
        pairs: Batch elements times groups.
        channels: Channels of a group.
        length: Steps.
    """
    block = min(_WIDEST_BLOCK, max(_LANES, 1 << (channels - 1).bit_length()))
    warps = pairs * -(-channels // block) * (block // _LANES)
    tiles = -(-length // KEPT_EVERY)
    if warps >= _ENOUGH_WARPS:
        return block, tiles, 1
    chunk = min(tiles, max(_SHORTEST_CHUNK, -(-tiles * warps // _WANTED_WARPS)))
    return block, chunk, -(-tiles // chunk)


def _forward(scan: Scan, y: Strided, kept: Tensor) -> None:
    """Fills y and, unless it is empty, `kept`."""
    given, sizes, keep = scan.given, scan.given.sizes, kept.numel() > 0
    states = kept if keep else scan.new_array(sizes.chunks, sizes.states)
    if sizes.chunks > 1:
        ends, elapsed = scan.new_array(sizes.chunks, sizes.states), scan.new_array(sizes.chunks)
        ends_kernel[scan.programs](given, ends, elapsed, **scan.options)
        _carry(given, ends, elapsed, states, spacing=sizes.tiles if keep else 1, reverse=False)
    outputs_kernel[scan.programs](given, y, states, KEEP=keep, **scan.options)


def _backward(
    scan: Scan, arguments: Arguments, dy: Strided, states: Tensor, targets: list[Strided]
) -> tuple[Tensor | None, ...]:
    """Fills `targets`, the gradients of u, delta and z; returns those of A, B, C, D and delta_bias."""
    given, sizes = scan.given, scan.given.sizes
    laters = scan.new_array(sizes.chunks, sizes.states)
    if sizes.chunks > 1:
        elapsed = scan.new_array(sizes.chunks)
        laters_kernel[scan.programs](given, dy, laters, elapsed, **scan.options)
        _carry(given, laters, elapsed, laters, spacing=1, reverse=True)
    shared = (scan.blocks, sizes.batch, sizes.groups, sizes.states, sizes.length)
    du, ddelta, dz = targets
    parts = Gradients(
        u=du,
        delta=ddelta,
        z=dz,
        A=scan.new_array(sizes.chunks, sizes.states),
        B=given.rates.new_empty(shared),
        C=given.rates.new_empty(shared),
        D=None if arguments.D is None else scan.new_array(sizes.chunks),
        bias=None if arguments.delta_bias is None else scan.new_array(sizes.chunks),
    )
    gradients_kernel[scan.programs](given, dy, states, laters, parts, **scan.options)
    dA = given.rates.new_empty(arguments.A.shape)
    torch.sum(parts.A, (0, 1), out=dA.t())
    dD = None if arguments.D is None else parts.D.sum((0, 1)).to(arguments.D.dtype)
    bias = arguments.delta_bias
    dbias = None if bias is None else parts.bias.sum((0, 1)).to(bias.dtype)
    return dA.to(arguments.A.dtype), _summed(parts.B, arguments.B), _summed(parts.C, arguments.C), dD, dbias


def _carry(
    given: Given, local: Tensor, elapsed: Tensor, carried: Tensor, *, spacing: int, reverse: bool
) -> None:
    """Fills what enters each chunk, in every `spacing`-th slot of `carried`."""
    sizes, slots = given.sizes, carried.shape[1]
    programs = (sizes.batch * sizes.groups * sizes.states * -(-sizes.channels // _LANES),)
    options = {"REVERSE": reverse, "BLOCK": _LANES, "num_warps": 1}
    carry_kernel[programs](local, elapsed, given.rates, carried, sizes, slots, spacing, **options)


def _summed(parts: Tensor, like: Tensor) -> Tensor:
    """Returns the sum over blocks in the shape and dtype of B or C, its states side by side."""
    total = like.new_empty(like.mT.shape, dtype=torch.float32).mT
    torch.sum(parts, 0, out=total.unsqueeze(1) if like.dim() == 3 else total)
    return total.to(like.dtype)


def _described(arguments: Arguments) -> Scan:
    """Returns the scan as it is launched; with an order, every group reads the same u."""
    u, delta, A, B, C, D, z, bias, softplus, order = arguments
    groups = B.shape[1] if B.dim() == 4 else 1
    dim, states = A.shape
    batch, _, length = u.shape
    block, tiles, chunks = cut(batch * groups, dim // groups, length)
    given = Given(
        u=_strided(u, groups) if order is None else _shared(u),
        delta=_strided(delta, groups),
        z=_strided(z, groups),
        B=_grouped(B),
        C=_grouped(C),
        order=_table(order),
        rates=torch.mul(A.t().float(), _LOG2_E, out=A.new_empty((states, dim), dtype=torch.float32)),
        skip=None if D is None else D.float().contiguous(),
        bias=None if bias is None else bias.float().contiguous(),
        sizes=Sizes(batch, groups, dim // groups, length, states, tiles, chunks),
    )
    return Scan(given, softplus, block)


def _strided(tensor: Tensor | None, groups: int) -> Strided:
    """Describes (batch, dim, length), the groups one after the other along dim."""
    if tensor is None:
        return _ABSENT
    batch, channel, step = (stride * tensor.element_size() for stride in tensor.stride())
    return Strided(tensor, batch, tensor.shape[1] // groups * channel, channel, step)


def _shared(tensor: Tensor) -> Strided:
    """Describes (batch, channels, length) that every group reads."""
    return _separate(tensor.unsqueeze(1))._replace(group=0)


def _separate(tensor: Tensor) -> Strided:
    """Describes (batch, group, channels, length)."""
    return Strided(tensor, *(stride * tensor.element_size() for stride in tensor.stride()))


def _grouped(tensor: Tensor) -> Grouped:
    tensor = tensor.unsqueeze(1) if tensor.dim() == 3 else tensor
    return Grouped(tensor, *tensor.stride())


def _table(order: Tensor | None) -> Order:
    if order is None:
        return Order(None, 0, 0, 0)
    strides = order.stride() if order.dim() == 3 else (0, *order.stride())
    return Order(order, *strides)


def _per_group(scan: Scan, like: Tensor) -> Tensor:
    """Returns a new float32 array (batch, group, dim, length), channels side by side in memory."""
    batch, dim, length = like.shape
    parts: Tensor = like.new_empty((batch, scan.given.sizes.groups, length, dim), dtype=torch.float32).mT
    return parts


def _on(tensor: Tensor) -> AbstractContextManager[Any]:
    """Makes the tensor's GPU the current one, because that is where Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
