"""The public selective scan, and the PyTorch operators behind it.

The operators `scanseg::selective_scan` and `scanseg::selective_scan_backward` are opaque to autograd,
autocast and the compiler: they take tensors of whatever dtype arrives and compute in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scanseg.kernels.arguments import KEPT_EVERY, Arguments, check_arguments
from scanseg.kernels.backends import select
from scanseg.kernels.reference import selective_scan_reference


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    backend: str | None = None,
) -> Tensor:
    """Returns the output of a diagonal, input-dependent state-space model, (batch, dim, length).

    With dt = softplus(delta + delta_bias): h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t, h_(-1) = 0,
    y_t = C_t . h_t + D u_t, and the result is y * silu(z). The state is float32 whatever the dtypes are, also
    under autocast, or float64 if all tensors are; the result has the dtype of `u` and its memory layout. Any
    strides are read in place, so channel-last input is as good as channel-first.

    Args:
        u: Input, (batch, dim, length), any float dtype.
        delta: Step sizes before bias and softplus, same shape.
        A: Decay rates, (dim, state), negative; at most 256 states.
        B: (batch, state, length) or (batch, groups, state, length); channel d reads group d * groups // dim.
        C: (batch, [groups,] state, length), as many groups as B.
        D: Skip weights, (dim,).
        z: Gate, same shape as u.
        delta_bias: Added to delta before the softplus, (dim,).
        delta_softplus: Whether the softplus is applied.
        backend: `cuda`, `cpu` or `reference`; None takes the fastest that can run
            (`scanseg.kernels.backends`). Only the reference has second derivatives.

    Raises:
        UsageError: A wrong shape, dtype or device, an empty tensor, or a backend that cannot run.

    Example:
        >>> u = torch.ones(1, 2, 5)
        >>> y = selective_scan(u, 0.1 * u, -torch.ones(2, 4), torch.ones(1, 4, 5), torch.ones(1, 4, 5))
        >>> y.shape
        torch.Size([1, 2, 5])

    Source: Gu and Dao, Mamba (2023), algorithm 2; grouped B and C as in VMamba (2024). Zero-order hold for A
    but Euler's rule for B, as the released code computes and the papers' formula does not.
    """
    given = Arguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    check_arguments(given)
    if select(u, backend) == "reference":
        return selective_scan_reference(*given[:9])
    keep = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (u, delta, A, B, C, D, z, delta_bias)
    )
    y: Tensor = scan_operator(*given[:9], keep)[0]
    return y


@torch.library.custom_op("scanseg::selective_scan", mutates_args=(), device_types="cpu")
def scan_operator(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    keep_states: bool,
) -> tuple[Tensor, Tensor]:
    """Returns the output, and the states that the backward operator needs, or an empty tensor."""
    from scanseg.kernels.cpu import run

    y, states = _new_outputs(u, A, keep_states)
    run.forward(Arguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus), y, states)
    return y, states


@scan_operator.register_kernel("cuda")
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    from scanseg.kernels.gpu import launch

    given, keep_states = Arguments(*arguments[:-1]), arguments[-1]
    y, states = _new_outputs(given.u, given.A, keep_states)
    launch.forward(given, y, states)
    return y, states


@torch.library.custom_op("scanseg::selective_scan_backward", mutates_args=(), device_types="cpu")
def backward_operator(
    dy: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of (u, delta, A, B, C, D, z, delta_bias), empty where the argument is None."""
    from scanseg.kernels.cpu import run

    given = Arguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    du, ddelta, dA, dB, dC, *optional = (
        u.new_empty(0) if gradient is None else gradient for gradient in run.backward(given, dy, states)
    )
    dD, dz, dbias = optional
    return du, ddelta, dA, dB, dC, dD, dz, dbias


@backward_operator.register_kernel("cuda")
def _(dy: Tensor, states: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    from scanseg.kernels.gpu import launch

    given = Arguments(*arguments)
    gradients = launch.backward(given, dy, states)
    return tuple(given.u.new_empty(0) if gradient is None else gradient for gradient in gradients)


@scan_operator.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    keep_states: bool,
) -> tuple[Tensor, Tensor]:
    return _new_outputs(u, A, keep_states)


@backward_operator.register_fake
def _(
    dy: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    # As in projections, the states of B and C lie side by side.
    dB, dC = (tensor.new_empty(tensor.mT.shape).mT for tensor in (B, C))
    dA, dD, dbias = (u.new_empty(0) if t is None else t.new_empty(t.shape) for t in (A, D, delta_bias))
    dz = u.new_empty(0) if z is None else torch.empty_like(z)
    return torch.empty_like(u), torch.empty_like(delta), dA, dB, dC, dD, dz, dbias


def _new_outputs(u: Tensor, A: Tensor, keep_states: bool) -> tuple[Tensor, Tensor]:
    """Returns uninitialised outputs of the forward operator; real and fake tensors share their layout so."""
    batch, dim, length = u.shape
    shape = (batch, (length + KEPT_EVERY - 1) // KEPT_EVERY, A.shape[1], dim) if keep_states else (0,)
    return torch.empty_like(u), u.new_empty(shape, dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, ctx.keep_states = inputs
    ctx.save_for_backward(*tensors, output[1])
    # The states have no gradient; without this a full tensor of zeros would be made for them.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, dstates: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, states = ctx.saved_tensors
    if dy is None:
        return (None,) * 10
    if not ctx.keep_states:
        raise RuntimeError("scanseg::selective_scan was called with keep_states=False; it has no backward")
    gradients = backward_operator(dy, states, *tensors, ctx.delta_softplus)
    return (*(g if t is not None else None for g, t in zip(gradients, tensors, strict=True)), None, None)


scan_operator.register_autograd(_backward, setup_context=_setup_context)
