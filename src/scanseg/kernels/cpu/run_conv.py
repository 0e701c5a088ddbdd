"""The causal convolution on processors: describes tensors to the compiled kernels, shares their jobs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scanseg.kernels.cpu.cache import Kernel
from scanseg.kernels.cpu.convolution import (
    Convolution,
    ConvolutionGradients,
    convolution_backward_jobs,
    convolution_jobs,
)
from scanseg.kernels.cpu.simd import LANES
from scanseg.kernels.cpu.threads import run_jobs, threads_for
from scanseg.kernels.cpu.tiles import Strided

_forward_kernel = Kernel(convolution_jobs)
_backward_kernel = Kernel(convolution_backward_jobs)

# Below this many values (about half a millisecond) a second thread does not pay.
_WORTH_THREADS = 300_000


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Returns the convolution in dtype and layout of `x`; arguments as in `causal_conv1d`."""
    source = x.float() if x.dtype == torch.float16 else x
    y = torch.empty_like(source)
    taps, shift = _parameters(weight, bias)
    given = _described(source, taps, shift, silu)
    _run(lambda first, last: _forward_kernel(first, last, given, _strided(y)), given)
    return y.to(x.dtype)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, weight and bias (empty without one)."""
    source, gradient = (t.float() if t.dtype == torch.float16 else t for t in (x, dy))
    dx = torch.empty_like(source)
    taps, shift = _parameters(weight, bias)
    given = _described(source, taps, shift, silu)
    dweights = torch.empty(given.batch, given.dim, given.taps)
    dbiases = torch.empty(given.batch, given.dim)
    outputs = ConvolutionGradients(_strided(gradient), _strided(dx), dweights.data_ptr(), dbiases.data_ptr())
    _run(lambda first, last: _backward_kernel(first, last, given, outputs), given)
    dweight, dbias = (torch.from_numpy(parts.numpy().sum(0)) for parts in (dweights, dbiases))
    without = x.new_empty(0)
    return dx.to(x.dtype), dweight.to(weight.dtype), without if bias is None else dbias.to(bias.dtype)


def _parameters(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.float().contiguous(), None if bias is None else bias.float().contiguous()


def _described(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Convolution:
    """Returns addresses and strides; the caller keeps the tensors alive until the kernel is done."""
    batch, dim, length = x.shape
    return Convolution(
        batch,
        dim,
        length,
        weight.shape[1],
        int(silu),
        _strided(x),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
    )


def _strided(tensor: Tensor) -> Strided:
    batch, channel, step = tensor.stride()
    return Strided(tensor.data_ptr(), int(tensor.dtype == torch.bfloat16), batch, 0, channel, step)


def _run(kernel: Callable[[int, int], None], given: Convolution) -> None:
    jobs = given.batch * -(-given.dim // LANES)
    worth = given.batch * given.dim * given.length >= _WORTH_THREADS
    run_jobs(kernel, jobs, threads_for(jobs) if worth else 1)
