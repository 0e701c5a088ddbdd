"""The law: the selective scan as a plain PyTorch loop, which every other backend is tested against.

Glossary (README.md in this folder has the mathematics): u input, delta step size before bias and softplus,
A decay rates, B input projection, C output projection, D skip, z gate, h state.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Longer scans keep one state per chunk and recompute the rest in the backward pass.
_CHUNK = 256


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Returns the selective scan of `u`, step by step, on any device; autograd differentiates it.

    Shapes and meaning as in `scanseg.kernels.selective_scan`; nothing is checked here. The state is float64
    if any argument is float64, else float32. Memory of the backward pass: one state (batch, dim, state) for
    every 256 steps, plus about four per step of the chunk at work.

    Source: Gu and Dao, Mamba (2023), algorithm 2, with the step sizes as released: zero-order hold for A,
    Euler for B.
    """
    given = [t for t in (u, delta, A, B, C, D, z, delta_bias) if t is not None]
    state_type = torch.float64 if any(t.dtype == torch.float64 for t in given) else torch.float32
    batch, dim, length = u.shape
    groups = B.shape[1] if B.dim() == 4 else 1
    grouped = (batch, groups, dim // groups, length)

    step = delta.to(state_type)
    if delta_bias is not None:
        step = step + delta_bias.to(state_type)[:, None]
    if delta_softplus:
        step = functional.softplus(step)
    x = u.to(state_type)
    rates = A.to(state_type).view(groups, dim // groups, -1)
    inputs = (
        step.reshape(grouped),
        (step * x).reshape(grouped),
        B.to(state_type).reshape(batch, groups, -1, length),
        C.to(state_type).reshape(batch, groups, -1, length),
    )
    h = x.new_zeros(batch, *rates.shape)
    chunks = []
    for start in range(0, length, _CHUNK):
        part = [tensor[..., start : start + _CHUNK] for tensor in inputs]
        if length > _CHUNK and torch.is_grad_enabled():
            y, h = checkpoint(_scan, h, rates, *part, use_reentrant=False, preserve_rng_state=False)
        else:
            y, h = _scan(h, rates, *part)
        chunks.append(y)
    y = torch.cat(chunks, -1).reshape(batch, dim, length)
    if D is not None:
        y = y + D.to(state_type)[:, None] * x
    if z is not None:
        y = y * functional.silu(z.to(state_type))
    return y.to(u.dtype)


def ordered_scan_reference(
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
    scan: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Returns `scanseg.kernels.ordered_scan` by gathering, scanning and scattering, on any device.

    Args are those of `ordered_scan`; `scan` is the scan between gather and scatter, by default the loop.
    """
    batch, dim, length = u.shape
    scans = order.shape[-2]
    table = order.expand(batch, scans, length)
    kind = torch.promote_types(u.dtype, torch.float32)

    def gathered(tensor: Tensor) -> Tensor:
        """Puts (batch, scans, rows, length) in scan order."""
        return tensor.gather(-1, table[:, :, None].expand_as(tensor))

    y = (scan or selective_scan_reference)(
        gathered(u[:, None].expand(batch, scans, dim, length)).flatten(1, 2),
        gathered(delta.reshape(batch, scans, dim, length)).flatten(1, 2),
        A,
        gathered(B),
        gathered(C),
        D=D,
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
    ).reshape(batch, scans, dim, length)
    inverse = table.argsort(-1)[:, :, None].expand_as(y)
    placed = y.gather(-1, inverse)
    return placed.to(kind).sum(1).to(u.dtype) if merge else placed


def _scan(
    h: Tensor, rates: Tensor, step: Tensor, step_u: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the outputs (batch, groups, channels, length) and the last state.

    Args:
        h: State before the first step, (batch, groups, channels, state).
        rates: A, (groups, channels, state).
        step: Step sizes, (batch, groups, channels, length).
        step_u: Step sizes times input, same shape.
        B: (batch, groups, state, length).
        C: Same shape.
    """
    outputs = []
    # unbind, not indexing: the backward of an index is a full-size tensor of zeros for every step.
    for dt, dtu, b, c in zip(step.unbind(-1), step_u.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True):
        h = torch.exp(dt[..., None] * rates) * h + dtu[..., None] * b[:, :, None]
        outputs.append((h * c[:, :, None]).sum(-1))
    return torch.stack(outputs, -1), h
