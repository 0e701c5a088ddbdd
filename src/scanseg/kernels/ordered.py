"""Scans of the same tokens in several orders, and the PyTorch operators behind them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scanseg.kernels.arguments import KEPT_EVERY, Arguments, check_arguments
from scanseg.kernels.backends import select
from scanseg.kernels.reference import ordered_scan_reference


def ordered_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    order: Tensor,
    merge: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Returns K selective scans of the same tokens, each in its own order, at the tokens' own places.

    Scan k reads token order[k, t] at step t and leaves its output there, so neither inputs nor outputs are
    copied into an order. VMamba's cross scan and UD-Mamba's sorted scans are tables for this function.

    Args:
        u: Tokens, (batch, dim, length), shared by all scans; channel-last memory is fastest.
        delta: Step sizes before bias and softplus, (batch, K * dim, length); channel k * dim + d is scan k's.
        A: Decay rates, (K * dim, state), negative; at most 256 states.
        B: (batch, K, state, length).
        C: Same shape as B.
        D: Skip weights, (K * dim,).
        delta_bias: Added to delta before the softplus, (K * dim,).
        delta_softplus: Whether the softplus is applied.
        order: int64 (K, length), or (batch, K, length) for orders of each image; every row is a permutation
            of 0 .. length-1. No gradient.
        merge: Sum over the scans, in float32; otherwise they are returned side by side.
        backend: `cuda`, `cpu` or `reference`; None takes the fastest that can run.

    Returns:
        (batch, dim, length), or (batch, K, dim, length) without merging; dtype of u.

    Raises:
        UsageError: A wrong shape, dtype or device, an empty tensor, a row of `order` that is no permutation,
            or a backend that cannot run.

    Example:
        >>> u, delta = torch.ones(1, 2, 3), torch.ones(1, 4, 3)
        >>> A, B = -torch.ones(4, 1), torch.ones(1, 2, 1, 3)
        >>> there_and_back = torch.tensor([[0, 1, 2], [2, 1, 0]])
        >>> y = ordered_scan(u, delta, A, B, B, order=there_and_back)
        >>> torch.equal(y, y.flip(-1))
        True

    Source: SS2D of VMamba (2024); UD-SSM of UD-Mamba, equations 5 to 10.
    """
    given = Arguments(u, delta, A, B, C, D, None, delta_bias, delta_softplus, order)
    check_arguments(given)
    if select(u, backend) == "reference":
        return ordered_scan_reference(
            u, delta, A, B, C, D, delta_bias, delta_softplus, order=order, merge=merge
        )
    keep = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (u, delta, A, B, C, D, delta_bias)
    )
    y: Tensor = ordered_operator(u, delta, A, B, C, D, delta_bias, delta_softplus, order, merge, keep)[0]
    return y


@torch.library.custom_op("scanseg::ordered_scan", mutates_args=(), device_types="cpu")
def ordered_operator(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    order: Tensor,
    merge: bool,
    keep_states: bool,
) -> tuple[Tensor, Tensor]:
    """Returns the output, and the states that the backward operator needs, or an empty tensor."""
    from scanseg.kernels.cpu import run

    y, states = _new_outputs(u, delta, A, order, merge, keep_states)
    run.forward(Arguments(u, delta, A, B, C, D, None, delta_bias, delta_softplus, order), y, states)
    return y, states


@torch.library.custom_op("scanseg::ordered_scan_backward", mutates_args=(), device_types="cpu")
def ordered_backward_operator(
    dy: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    order: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of (u, delta, A, B, C, D, delta_bias), empty where the argument is None."""
    from scanseg.kernels.cpu import run

    given = Arguments(u, delta, A, B, C, D, None, delta_bias, delta_softplus, order)
    du, ddelta, dA, dB, dC, dD, _, dbias = (
        u.new_empty(0) if gradient is None else gradient for gradient in run.backward(given, dy, states)
    )
    return du, ddelta, dA, dB, dC, dD, dbias


@ordered_operator.register_kernel("cuda")
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    from scanseg.kernels.gpu import launch

    u, delta, A, B, C, D, delta_bias, delta_softplus, order, merge, keep_states = arguments
    y, states = _new_outputs(u, delta, A, order, merge, keep_states)
    launch.forward(Arguments(u, delta, A, B, C, D, None, delta_bias, delta_softplus, order), y, states)
    return y, states


@ordered_backward_operator.register_kernel("cuda")
def _(dy: Tensor, states: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    from scanseg.kernels.gpu import launch

    u, delta, A, B, C, D, delta_bias, delta_softplus, order = arguments
    given = Arguments(u, delta, A, B, C, D, None, delta_bias, delta_softplus, order)
    du, ddelta, dA, dB, dC, dD, _, dbias = (
        u.new_empty(0) if gradient is None else gradient for gradient in launch.backward(given, dy, states)
    )
    return du, ddelta, dA, dB, dC, dD, dbias


@ordered_operator.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    order: Tensor,
    merge: bool,
    keep_states: bool,
) -> tuple[Tensor, Tensor]:
    return _new_outputs(u, delta, A, order, merge, keep_states)


@ordered_backward_operator.register_fake
def _(
    dy: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    order: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    du, ddelta, dB, dC = (tensor.new_empty(tensor.mT.shape).mT for tensor in (u, delta, B, C))
    dA, dD, dbias = (u.new_empty(0) if t is None else t.new_empty(t.shape) for t in (A, D, delta_bias))
    return du, ddelta, dA, dB, dC, dD, dbias


def _new_outputs(
    u: Tensor, delta: Tensor, A: Tensor, order: Tensor, merge: bool, keep_states: bool
) -> tuple[Tensor, Tensor]:
    """Returns uninitialised outputs of the forward operator, channels side by side in memory."""
    batch, dim, length = u.shape
    side_by_side = (batch, length, dim) if merge else (batch, order.shape[-2], length, dim)
    tiles = (length + KEPT_EVERY - 1) // KEPT_EVERY
    shape = (batch, tiles, A.shape[1], delta.shape[1]) if keep_states else (0,)
    return u.new_empty(side_by_side).mT, u.new_empty(shape, dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, order, _, ctx.keep_states = inputs
    ctx.save_for_backward(*tensors, order, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, dstates: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, order, states = ctx.saved_tensors
    if dy is None:
        return (None,) * 11
    if not ctx.keep_states:
        raise RuntimeError("scanseg::ordered_scan was called with keep_states=False; it has no backward")
    gradients = ordered_backward_operator(dy, states, *tensors, ctx.delta_softplus, order)
    found = (g if t is not None else None for g, t in zip(gradients, tensors, strict=True))
    return (*found, None, None, None, None)


ordered_operator.register_autograd(_backward, setup_context=_setup_context)
