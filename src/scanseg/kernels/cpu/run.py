"""The processor backend: describes tensors to the compiled kernels and shares their jobs among threads.

float32 and bfloat16 are read in place, with any strides; float16 is converted first. State, parameters and
sums are float32 throughout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scanseg.kernels.arguments import Arguments
from scanseg.kernels.cpu.backward import Gradients, backward_jobs
from scanseg.kernels.cpu.cache import Kernel
from scanseg.kernels.cpu.forward import Outputs, forward_jobs
from scanseg.kernels.cpu.jobs import Inputs, Sizes, count_jobs, runs_per_group
from scanseg.kernels.cpu.simd import LANES
from scanseg.kernels.cpu.threads import run_jobs, threads_for
from scanseg.kernels.cpu.tiles import Grouped, Order, Strided

_forward_kernel = Kernel(forward_jobs)
_backward_kernel = Kernel(backward_jobs)

_ABSENT = Strided(0, 0, 0, 0, 0, 0)
# Below this many steps x channels x states (about half a millisecond) a second thread does not pay.
_WORTH_THREADS = 1_500_000


def forward(given: Arguments, y: Tensor, states: Tensor) -> None:
    """Fills `y`, and `states` unless it is empty: (batch, tiles, state, dim) float32, before each tile.

    Without an order `y` is (batch, dim, length). With one it is (batch, dim, length) for the sum over the
    groups, or (batch, group, dim, length).
    """
    given = _readable(given)
    summed = given.order is not None and y.dim() == 3
    narrow = y.dtype == torch.float16 or (summed and y.dtype != torch.float32)
    target = torch.empty_like(y, dtype=torch.float32) if narrow else y
    sizes = sizes_of(given, serial=summed)
    outputs = Outputs(_output_strides(target, given, sizes), states.data_ptr() if states.numel() else 0)
    _run(_forward_kernel, sizes, _described(given, sizes), outputs)
    if target is not y:
        y.copy_(target)


def backward(given: Arguments, dy: Tensor, states: Tensor) -> list[Tensor | None]:
    """Returns the gradients of (u, delta, A, B, C, D, z, delta_bias); None where the argument is.

    Args:
        given: What the forward scan was given.
        dy: Gradient of the output, shaped like it.
        states: As filled by `forward`.
    """
    readable, dy = _readable(given), dy.float() if dy.dtype == torch.float16 else dy
    sizes = sizes_of(given, serial=given.order is not None)
    if sizes.serial:
        dy = _channels_side_by_side(dy)
    # Several groups are summed into the gradient of u in an order, which bfloat16 would round too often.
    du = _new_like(readable.u, given, dtype=torch.float32 if sizes.serial else None)
    ddelta = _new_like(readable.delta, given)
    dz = None if readable.z is None else torch.empty_like(readable.z)
    dim = sizes.groups * sizes.channels
    per_run = (runs_per_group(sizes), sizes.batch, sizes.groups, sizes.length, sizes.states)
    shapes = ((sizes.batch, dim, sizes.states), per_run, per_run, (sizes.batch, dim), (sizes.batch, dim))
    parts = [torch.empty(shape, dtype=torch.float32) for shape in shapes]
    addresses = [part.data_ptr() for part in parts]
    outputs = Gradients(
        _output_strides(dy, given, sizes),
        states.data_ptr(),
        _strided(du, 0 if sizes.serial else sizes.channels),
        _strided(ddelta, sizes.channels),
        _strided(dz, sizes.channels),
        *addresses,
    )
    _run(_backward_kernel, sizes, _described(readable, sizes), outputs)
    dA, dB, dC, dD, dbias = (_summed(part) for part in parts)
    dB, dC = dB.mT.view_as(given.B), dC.mT.view_as(given.C)
    return [
        None if argument is None or gradient is None else gradient.to(argument.dtype)
        for argument, gradient in zip(given[:8], (du, ddelta, dA, dB, dC, dD, dz, dbias), strict=True)
    ]


def _channels_side_by_side(tensor: Tensor) -> Tensor:
    """Returns a (..., channel, length) tensor whose channels are neighbours in memory, itself if they are.

    PyTorch turns a plane in squares, and a batch of planes element by element in less than half the speed.
    """
    if tensor.stride(-2) == 1:
        return tensor
    turned = tensor.new_empty(tensor.mT.shape)
    for target, plane in zip(turned.flatten(0, -3), tensor.flatten(0, -3), strict=True):
        target.copy_(plane.t())
    return turned.mT


def _new_like(tensor: Tensor, given: Arguments, *, dtype: torch.dtype | None = None) -> Tensor:
    """Returns uninitialised memory for a gradient: in the layout of `tensor`, channel-last in an order."""
    if given.order is None:
        return torch.empty_like(tensor, dtype=dtype)
    return tensor.new_empty(tensor.mT.shape, dtype=dtype).mT


def _summed(parts: Tensor) -> Tensor:
    """Returns the sum over the first dimension, in fixed order.

    NumPy and not PyTorch adds, because OpenMP regions hang in a process forked from one that used them.
    """
    return parts[0] if parts.shape[0] == 1 else torch.from_numpy(parts.numpy().sum(0))


def sizes_of(given: Arguments, *, serial: bool = False) -> Sizes:
    """Returns the sizes and the cut into jobs, which depends on nothing else.

    Four blocks per job or more make good use of each load of B and C; eight jobs or more, for the threads,
    come first, or four where a job takes all groups and so is long.

    Args:
        given: What is scanned.
        serial: Whether one job takes all groups.
    """
    batch, dim, length = given.delta.shape
    groups = given.B.shape[1] if given.B.dim() == 4 else 1
    blocks = -(-(dim // groups) // LANES)
    sharing = batch * (1 if serial else groups)
    for_few, for_many = (blocks // -(-jobs // sharing) for jobs in (4 if serial else 8, 32))
    run = max(1, min(for_few, max(4, for_many)))
    return Sizes(batch, dim // groups, length, groups, given.A.shape[1], run, int(serial))


def _run(kernel: Kernel, sizes: Sizes, inputs: Inputs, outputs: Outputs | Gradients) -> None:
    jobs = count_jobs(sizes)
    work = sizes.batch * sizes.groups * sizes.channels * sizes.length * sizes.states
    threads = threads_for(jobs) if work >= _WORTH_THREADS else 1
    run_jobs(lambda first, last: kernel(first, last, sizes, inputs, outputs), jobs, threads)


def _readable(given: Arguments) -> Arguments:
    """Returns the arguments in dtypes that the kernels read: parameters as contiguous float32.

    In an order of their own, steps are far apart; channels then must lie side by side.
    """
    changed: dict[str, Any] = {}
    for name in ("u", "delta", "B", "C", "z"):
        tensor = getattr(given, name)
        if tensor is not None and tensor.dtype == torch.float16:
            changed[name] = tensor.float()
    if given.order is not None:
        for name in ("u", "delta"):
            tensor = changed.get(name, getattr(given, name))
            changed[name] = _channels_side_by_side(tensor)
    for name in ("A", "D", "delta_bias"):
        tensor = getattr(given, name)
        if tensor is not None:
            changed[name] = tensor.float().contiguous()
    return given._replace(**changed)


def _described(given: Arguments, sizes: Sizes) -> Inputs:
    """Returns addresses and strides; the caller keeps the tensors alive until the kernel is done."""
    return Inputs(
        _strided(given.u, 0 if given.order is not None else sizes.channels),
        _strided(given.delta, sizes.channels),
        _strided(given.z, sizes.channels),
        _grouped(given.B),
        _grouped(given.C),
        _table(given.order),
        given.A.data_ptr(),
        0 if given.D is None else given.D.data_ptr(),
        0 if given.delta_bias is None else given.delta_bias.data_ptr(),
        int(given.delta_softplus),
    )


def _strided(tensor: Tensor | None, channels: int) -> Strided:
    """Describes (batch, dim, length), whose groups are `channels` channels apart; 0 if they share them."""
    if tensor is None:
        return _ABSENT
    batch, channel, step = tensor.stride()
    narrow = int(tensor.dtype == torch.bfloat16)
    return Strided(tensor.data_ptr(), narrow, batch, channels * channel, channel, step)


def _output_strides(tensor: Tensor, given: Arguments, sizes: Sizes) -> Strided:
    """Describes the output or its gradient; not summed it is (batch, group, dim, length)."""
    if tensor.dim() == 4:
        return Strided(tensor.data_ptr(), int(tensor.dtype == torch.bfloat16), *tensor.stride())
    return _strided(tensor, 0 if given.order is not None else sizes.channels)


def _grouped(tensor: Tensor) -> Grouped:
    tensor = tensor.unsqueeze(1) if tensor.dim() == 3 else tensor
    return Grouped(tensor.data_ptr(), int(tensor.dtype == torch.bfloat16), *tensor.stride())


def _table(order: Tensor | None) -> Order:
    if order is None:
        return Order(0, 0, 0, 0)
    shared = order.unsqueeze(0) if order.dim() == 2 else order
    batch, group, step = shared.stride()
    return Order(order.data_ptr(), batch if order.dim() == 3 else 0, group, step)
