"""The public selective scan."""

from __future__ import annotations

from torch import Tensor

from scanseg.kernels.arguments import check_arguments
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
    y_t = C_t . h_t + D u_t, and the result is y * silu(z).

    Args:
        u: Input, (batch, dim, length), any float dtype.
        delta: Step sizes before bias and softplus, same shape.
        A: Decay rates, (dim, state), negative; at most 256 states.
        B: (batch, state, length) or (batch, groups, state, length); channel d reads group d * groups // dim.
        C: Same shape as B.
        D: Skip weights, (dim,).
        z: Gate, same shape as u.
        delta_bias: Added to delta before the softplus, (dim,).
        delta_softplus: Whether the softplus is applied.
        backend: `reference` or `cpu`; None takes the fastest that can run.

    Raises:
        UsageError: A wrong shape, dtype or device, an empty tensor, or a backend that cannot run.
    """
    check_arguments(u, delta, A, B, C, D, z, delta_bias)
    return selective_scan_reference(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
