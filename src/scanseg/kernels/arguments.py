"""What the selective scan accepts, checked once at the public edge."""

from __future__ import annotations

import torch
from torch import Tensor

from scanseg.errors import UsageError

MAX_STATE = 256
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_arguments(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    """Refuses arguments that the scan is not defined for.

    Raises:
        UsageError: A value is no floating-point tensor, tensors lie on different devices, a shape does not
            fit that of `u` (batch, dim, length) and `A` (dim, state), a size is zero, or there are more than
            256 states.
    """
    named = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    for name, value in named.items():
        if value is None and name in ("D", "z", "delta_bias"):
            continue
        _check_tensor(name, value, u)
    _check_rank("u", u, 3, "(batch, dim, length)")
    _check_rank("A", A, 2, "(dim, state)")
    batch, dim, length = u.shape
    state = A.shape[1]
    if batch == 0 or dim == 0 or length == 0:
        raise _refusal("u", f"must not be empty, got shape {tuple(u.shape)}", code="E-SCAN-EMPTY")
    if not 1 <= state <= MAX_STATE:
        raise _refusal("A", f"must have 1 to {MAX_STATE} states, got {state}", code="E-SCAN-STATE")
    groups = B.shape[1] if B.dim() == 4 else 1
    if groups == 0 or dim % groups:
        raise _refusal("B", f"has {groups} groups, which do not divide dim={dim}", code="E-SCAN-GROUPS")
    _check_shape("A", A, (dim, state), "(dim, state)")
    _check_shape("delta", delta, (batch, dim, length), "the shape of u")
    for name, value in (("B", B), ("C", C)):
        if value.dim() == 3 and groups == 1:
            _check_shape(name, value, (batch, state, length), "(batch, state, length)")
        else:
            _check_shape(name, value, (batch, groups, state, length), "(batch, groups, state, length)")
    if z is not None:
        _check_shape("z", z, (batch, dim, length), "the shape of u")
    if D is not None:
        _check_shape("D", D, (dim,), "(dim,)")
    if delta_bias is not None:
        _check_shape("delta_bias", delta_bias, (dim,), "(dim,)")


def _check_tensor(name: str, value: object, u: object) -> None:
    if not isinstance(value, Tensor):
        raise _refusal(name, f"must be a torch.Tensor, got {type(value).__name__}", code="E-SCAN-TYPE")
    if value.dtype not in FLOATS:
        accepted = ", ".join(str(kind) for kind in FLOATS)
        raise _refusal(name, f"has dtype {value.dtype}; accepted are {accepted}", code="E-SCAN-DTYPE")
    if isinstance(u, Tensor) and value.device != u.device:
        raise _refusal(name, f"is on {value.device} but u is on {u.device}", code="E-SCAN-DEVICE")


def _check_rank(name: str, value: Tensor, rank: int, meaning: str) -> None:
    if value.dim() != rank:
        raise _refusal(name, f"must be {meaning}, got shape {tuple(value.shape)}", code="E-SCAN-SHAPE")


def _check_shape(name: str, value: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    if tuple(value.shape) != expected:
        raise _refusal(
            name, f"must be {meaning} = {expected}, got shape {tuple(value.shape)}", code="E-SCAN-SHAPE"
        )


def _refusal(name: str, fault: str, *, code: str) -> UsageError:
    return UsageError(
        f"selective_scan: {name} {fault}.",
        code=code,
        hint="u, delta, z: (batch, dim, length); A: (dim, state); B, C: (batch, [groups,] state, length); "
        "D, delta_bias: (dim,).",
    )
