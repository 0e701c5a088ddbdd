"""The causal convolution of a Mamba block, with its activation, and the PyTorch operators behind it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scanseg.errors import UsageError
from scanseg.kernels.arguments import FLOATS
from scanseg.kernels.backends import select

MAX_TAPS = 16


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, silu: bool = False, backend: str | None = None
) -> Tensor:
    """Returns the depthwise causal convolution of a sequence, through SiLU if asked for.

    y_t = bias + sum_k weight_k x_(t - taps + 1 + k), with x = 0 before the first step; the last tap is for
    the present step. Computed in float32, or in float64 if all tensors are.

    Args:
        x: (batch, dim, length), any float dtype, any strides; channel-last is as good as channel-first.
        weight: (dim, taps), at most 16 taps; any length from 1 on, also shorter than the taps.
        bias: (dim,).
        silu: Whether the result is y * sigmoid(y).
        backend: `cuda`, `cpu` or `reference`; None takes the fastest that can run.

    Returns:
        (batch, dim, length), dtype and memory layout of x.

    Raises:
        UsageError: A wrong shape, dtype or device, an empty tensor, or a backend that cannot run.

    Source: Gu and Dao, Mamba (2023), figure 3.
    """
    _check(x, weight, bias)
    if select(x, backend) == "reference":
        return causal_conv1d_reference(x, weight, bias, silu=silu)
    y: Tensor = conv_operator(x, weight, bias, silu)
    return y


def causal_conv1d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, silu: bool = False
) -> Tensor:
    """Returns `causal_conv1d` as a sum of shifted copies, on any device; autograd differentiates it."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    taps, length = weight.shape[1], x.shape[2]
    padded = F.pad(x.to(kind), (taps - 1, 0))
    y = x.new_zeros(x.shape, dtype=kind) if bias is None else bias.to(kind)[:, None].expand(x.shape)
    for tap in range(taps):
        y = torch.addcmul(y, padded[..., tap : tap + length], weight[:, tap, None].to(kind))
    return (F.silu(y) if silu else y).to(x.dtype)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        if name == "bias" and value is None:
            continue
        if not isinstance(value, Tensor) or value.dtype not in FLOATS:
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise _refusal(f"{name} must be a float tensor, got {got}", "E-CONV-DTYPE")
        if value.device != x.device:
            raise _refusal(f"{name} is on {value.device} but x is on {x.device}", "E-CONV-DEVICE")
        if (value.dtype == torch.float64) != (x.dtype == torch.float64):
            raise _refusal(f"{name} has dtype {value.dtype} but x has {x.dtype}", "E-CONV-DTYPE")
    if x.dim() != 3 or x.numel() == 0:
        raise _refusal(f"x must be (batch, dim, length), not empty, got {tuple(x.shape)}", "E-CONV-SHAPE")
    if weight.dim() != 2 or weight.shape[0] != x.shape[1] or not 1 <= weight.shape[1] <= MAX_TAPS:
        fault = f"weight must be ({x.shape[1]}, 1 to {MAX_TAPS} taps), got {tuple(weight.shape)}"
        raise _refusal(fault, "E-CONV-SHAPE")
    if bias is not None and tuple(bias.shape) != (x.shape[1],):
        raise _refusal(f"bias must be ({x.shape[1]},), got {tuple(bias.shape)}", "E-CONV-SHAPE")


def _refusal(fault: str, code: str) -> UsageError:
    return UsageError(
        f"causal_conv1d: {fault}.",
        code=code,
        hint="x: (batch, dim, length); weight: (dim, taps); bias: (dim,); float64 for all tensors or none.",
    )


@torch.library.custom_op("scanseg::causal_conv1d", mutates_args=(), device_types="cpu")
def conv_operator(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Returns the convolution."""
    from scanseg.kernels.cpu import run_conv

    return run_conv.forward(x, weight, bias, silu)


@torch.library.custom_op("scanseg::causal_conv1d_backward", mutates_args=(), device_types="cpu")
def conv_backward_operator(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of x, weight and bias (empty without one)."""
    from scanseg.kernels.cpu import run_conv

    return run_conv.backward(dy, x, weight, bias, silu)


@conv_operator.register_kernel("cuda")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    from scanseg.kernels.gpu import causal_conv

    return causal_conv.forward(x, weight, bias, silu=silu)


@conv_backward_operator.register_kernel("cuda")
def _(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from scanseg.kernels.gpu import causal_conv

    dx, dweight, dbias = causal_conv.backward(dy, x, weight, bias, silu=silu)
    return dx, dweight, x.new_empty(0) if dbias is None else dbias


@conv_operator.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    return torch.empty_like(x)


@conv_backward_operator.register_fake
def _(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dbias = x.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return torch.empty_like(x), weight.new_empty(weight.shape), dbias


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.silu = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    dx, dweight, dbias = conv_backward_operator(dy, x, weight, bias, ctx.silu)
    return dx, dweight, None if bias is None else dbias, None


conv_operator.register_autograd(_backward, setup_context=_setup_context)
