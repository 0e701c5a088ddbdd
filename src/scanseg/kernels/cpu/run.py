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
from scanseg.kernels.cpu.jobs import Inputs, Sizes, runs_per_group
from scanseg.kernels.cpu.simd import LANES
from scanseg.kernels.cpu.threads import run_jobs, threads_for
from scanseg.kernels.cpu.tiles import Grouped, Strided

_forward_kernel = Kernel(forward_jobs)
_backward_kernel = Kernel(backward_jobs)

_ABSENT = Strided(0, 0, 0, 0, 0)
# Below this many steps x channels x states (about half a millisecond) a second thread does not pay.
_WORTH_THREADS = 1_500_000


def forward(given: Arguments, y: Tensor, states: Tensor) -> None:
    """Fills `y`, and `states` unless it is empty: (batch, tiles, state, dim) float32, before each tile."""
    given = _readable(given)
    target = torch.empty_like(y, dtype=torch.float32) if y.dtype == torch.float16 else y
    sizes = sizes_of(given)
    outputs = Outputs(_strided(target), states.data_ptr() if states.numel() else 0)
    _run(_forward_kernel, sizes, _described(given), outputs)
    if target is not y:
        y.copy_(target)


def backward(given: Arguments, dy: Tensor, states: Tensor) -> list[Tensor | None]:
    """Returns the gradients of (u, delta, A, B, C, D, z, delta_bias); None where the argument is.

    Args:
        given: What the forward scan was given.
        dy: Gradient of the output, (batch, dim, length).
        states: As filled by `forward`.
    """
    readable, dy = _readable(given), dy.float() if dy.dtype == torch.float16 else dy
    sizes = sizes_of(given)
    du, ddelta, dz = (
        None if t is None else torch.empty_like(t) for t in (readable.u, readable.delta, readable.z)
    )
    per_batch = (sizes.batch, sizes.dim)
    per_run = (runs_per_group(sizes), sizes.batch, sizes.groups, sizes.length, sizes.states)
    shapes = ((*per_batch, sizes.states), per_run, per_run, per_batch, per_batch)
    parts = [torch.empty(shape, dtype=torch.float32) for shape in shapes]
    addresses = [part.data_ptr() for part in parts]
    outputs = Gradients(
        _strided(dy), states.data_ptr(), _strided(du), _strided(ddelta), _strided(dz), *addresses
    )
    _run(_backward_kernel, sizes, _described(readable), outputs)
    dA, dB, dC, dD, dbias = (_summed(part) for part in parts)
    dB, dC = dB.mT.view_as(given.B), dC.mT.view_as(given.C)
    return [
        None if argument is None or gradient is None else gradient.to(argument.dtype)
        for argument, gradient in zip(given[:8], (du, ddelta, dA, dB, dC, dD, dz, dbias), strict=True)
    ]


def _summed(parts: Tensor) -> Tensor:
    """Returns the sum over the first dimension, in fixed order.

    NumPy and not PyTorch adds, because OpenMP regions hang in a process forked from one that used them.
    """
    return parts[0] if parts.shape[0] == 1 else torch.from_numpy(parts.numpy().sum(0))


def sizes_of(given: Arguments) -> Sizes:
    """Returns the sizes and the cut into jobs, which depends on nothing else.

    Four blocks per job or more make good use of each load of B and C; eight jobs or more, for the threads,
    come first.
    """
    batch, dim, length = given.u.shape
    groups = given.B.shape[1] if given.B.dim() == 4 else 1
    blocks = -(-(dim // groups) // LANES)
    for_eight, for_many = (blocks // -(-jobs // (batch * groups)) for jobs in (8, 32))
    run = max(1, min(for_eight, max(4, for_many)))
    return Sizes(batch, dim, length, groups, given.A.shape[1], run)


def _run(kernel: Kernel, sizes: Sizes, inputs: Inputs, outputs: Outputs | Gradients) -> None:
    jobs = sizes.batch * sizes.groups * runs_per_group(sizes)
    work = sizes.batch * sizes.dim * sizes.length * sizes.states
    threads = threads_for(jobs) if work >= _WORTH_THREADS else 1
    run_jobs(lambda first, last: kernel(first, last, sizes, inputs, outputs), jobs, threads)


def _readable(given: Arguments) -> Arguments:
    """Returns the arguments in dtypes that the kernels read: parameters as contiguous float32."""

    changed: dict[str, Any] = {}
    for name in ("u", "delta", "B", "C", "z"):
        tensor = getattr(given, name)
        if tensor is not None and tensor.dtype == torch.float16:
            changed[name] = tensor.float()
    for name in ("A", "D", "delta_bias"):
        tensor = getattr(given, name)
        if tensor is not None:
            changed[name] = tensor.float().contiguous()
    return given._replace(**changed)


def _described(given: Arguments) -> Inputs:
    """Returns addresses and strides; the caller keeps the tensors alive until the kernel is done."""
    return Inputs(
        _strided(given.u),
        _strided(given.delta),
        _strided(given.z),
        _grouped(given.B),
        _grouped(given.C),
        given.A.data_ptr(),
        0 if given.D is None else given.D.data_ptr(),
        0 if given.delta_bias is None else given.delta_bias.data_ptr(),
        int(given.delta_softplus),
    )


def _strided(tensor: Tensor | None) -> Strided:
    if tensor is None:
        return _ABSENT
    return Strided(tensor.data_ptr(), int(tensor.dtype == torch.bfloat16), *tensor.stride())


def _grouped(tensor: Tensor) -> Grouped:
    tensor = tensor.unsqueeze(1) if tensor.dim() == 3 else tensor
    return Grouped(tensor.data_ptr(), int(tensor.dtype == torch.bfloat16), *tensor.stride())
