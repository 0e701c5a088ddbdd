"""What the selective scan accepts, checked once at the public edge."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scanseg.errors import UsageError

MAX_STATE = 256
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# The forward kernel keeps the state before every 16th step for the backward kernel.
KEPT_EVERY = 16


class Arguments(NamedTuple):
    """The arguments of the scan, named and shaped as in `scanseg.kernels.selective_scan`.

    With an `order` they are those of `scanseg.kernels.ordered_scan`: all groups share the channels of u.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    order: Tensor | None = None


def check_arguments(given: Arguments) -> None:
    """Refuses arguments that the scan is not defined for.

    Raises:
        UsageError: A value is no floating-point tensor, float64 is mixed with other dtypes, tensors lie on
            different devices, a shape does not fit that of `u` (batch, dim, length) and `A` (dim, state), a
            size is zero, or there are more than 256 states.
    """
    for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias"):
        value = getattr(given, name)
        if value is not None or name in ("u", "delta", "A", "B", "C"):
            _check_tensor(name, value, given.u)
    u, A, B = given.u, given.A, given.B
    _check_rank("u", u, 3, "(batch, dim, length)")
    _check_rank("A", A, 2, "(dim, state)")
    batch, dim, length = u.shape
    state = A.shape[1]
    if batch == 0 or dim == 0 or length == 0:
        raise _refusal("u", f"must not be empty, got shape {tuple(u.shape)}", code="E-SCAN-EMPTY")
    if not 1 <= state <= MAX_STATE:
        raise _refusal("A", f"must have 1 to {MAX_STATE} states, got {state}", code="E-SCAN-STATE")
    groups = B.shape[1] if B.dim() == 4 else 1
    if given.order is not None:
        check_order(given.order, batch, length, u.device)
        groups = given.order.shape[-2]
        dim = groups * dim
    elif groups == 0 or dim % groups:
        raise _refusal("B", f"has {groups} groups, which do not divide dim={dim}", code="E-SCAN-GROUPS")
    _check_shape("A", A, (dim, state), "(dim, state)")
    meaning = "the shape of u" if given.order is None else "(batch, scans * dim, length)"
    for name, value in (("delta", given.delta), ("z", given.z)):
        _check_shape(name, value, (batch, dim, length), meaning)
    for name, value in (("D", given.D), ("delta_bias", given.delta_bias)):
        _check_shape(name, value, (dim,), "(dim,)")
    for name, value in (("B", B), ("C", given.C)):
        if value.dim() == 3 and groups == 1 and given.order is None:
            _check_shape(name, value, (batch, state, length), "(batch, state, length)")
        else:
            _check_shape(name, value, (batch, groups, state, length), "(batch, groups, state, length)")


def check_order(order: Tensor, batch: int, length: int, device: torch.device) -> None:
    """Refuses a table that is not (scans, length) or (batch, scans, length) permutations of 0 .. length-1.

    Kernels read memory at these positions, so their values are checked too.

    Raises:
        UsageError: Wrong type, shape, device, or a row that is no permutation.
    """
    if not isinstance(order, Tensor) or order.dtype != torch.int64:
        got = order.dtype if isinstance(order, Tensor) else type(order).__name__
        raise _refusal("order", f"must be an int64 tensor, got {got}", code="E-SCAN-ORDER")
    if order.device != device:
        raise _refusal("order", f"is on {order.device} but u is on {device}", code="E-SCAN-DEVICE")
    shape = tuple(order.shape)
    if len(shape) not in (2, 3) or shape[-1] != length or 0 in shape or shape[:-2] not in ((), (batch,)):
        fault = f"must be (scans, {length}) or ({batch}, scans, {length}), got shape {shape}"
        raise _refusal("order", fault, code="E-SCAN-ORDER")
    # Values are unknown while a graph is traced and on the meta device.
    if torch.compiler.is_compiling() or device.type == "meta":
        return
    inside = order.clamp(0, length - 1)
    met = torch.zeros(shape, dtype=torch.bool, device=device).scatter_(-1, inside, True)
    if not bool(((inside == order) & met).all()):
        fault = f"must hold each position from 0 to {length - 1} once in every row"
        raise _refusal("order", fault, code="E-SCAN-ORDER")


def _check_tensor(name: str, value: object, u: object) -> None:
    if not isinstance(value, Tensor):
        raise _refusal(name, f"must be a torch.Tensor, got {type(value).__name__}", code="E-SCAN-TYPE")
    if value.dtype not in FLOATS:
        accepted = ", ".join(str(kind) for kind in FLOATS)
        raise _refusal(name, f"has dtype {value.dtype}; accepted are {accepted}", code="E-SCAN-DTYPE")
    if not isinstance(u, Tensor):
        return
    if value.device != u.device:
        raise _refusal(name, f"is on {value.device} but u is on {u.device}", code="E-SCAN-DEVICE")
    if (value.dtype == torch.float64) != (u.dtype == torch.float64):
        fault = f"has dtype {value.dtype} but u has {u.dtype}; float64 is accepted for all tensors or none"
        raise _refusal(name, fault, code="E-SCAN-DTYPE")


def _check_rank(name: str, value: Tensor, rank: int, meaning: str) -> None:
    if value.dim() != rank:
        raise _refusal(name, f"must be {meaning}, got shape {tuple(value.shape)}", code="E-SCAN-SHAPE")


def _check_shape(name: str, value: Tensor | None, expected: tuple[int, ...], meaning: str) -> None:
    if value is not None and tuple(value.shape) != expected:
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
