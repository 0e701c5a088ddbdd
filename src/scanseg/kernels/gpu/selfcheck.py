"""A small scan on the GPU at hand, compared with the law before anything relies on the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scanseg.kernels.arguments import KEPT_EVERY, Arguments
from scanseg.kernels.reference import ordered_scan_reference, selective_scan_reference

# Largest difference from float64, relative to the largest value of a tensor.
TOLERANCE = 1e-4


def fault(device: torch.device | str) -> str:
    """Returns what is wrong with the kernels on `device`, or an empty string; takes a compilation of seconds.

    Scans all options of both operators, forward and backward, over several chunks and an odd rest.
    """
    try:
        found = [_difference(torch.device(device), ordered=ordered) for ordered in (False, True)]
        worst = torch.stack(found).max().item()
    except Exception as error:  # Compilers and drivers raise errors of many kinds; each means: do not use it.
        first_line = (str(error).strip() or "no message").splitlines()[0]
        return f"its kernels do not run on this GPU ({type(error).__name__}: {first_line})"
    # NaN is a fault too.
    if not worst < TOLERANCE:
        return f"its results on this GPU differ from the reference by {worst:.1e} (accepted: {TOLERANCE:.0e})"
    return ""


def _difference(device: torch.device, *, ordered: bool) -> Tensor:
    """Returns the largest relative difference of output and gradients; NaN if there is any."""
    from scanseg.kernels.gpu import launch

    given, dy = _example(ordered=ordered)
    law = [None if t is None else t.double().requires_grad_() for t in given[:8]]
    u, delta, A, B, C, D, z, bias = law
    if ordered:
        truth = ordered_scan_reference(u, delta, A, B, C, D, bias, True, order=given.order)  # type: ignore[arg-type]
    else:
        truth = selective_scan_reference(u, delta, A, B, C, D, z, bias, True)  # type: ignore[arg-type]
    present = [t for t in law if t is not None]
    expected = [truth.detach(), *torch.autograd.grad(truth, present, dy.double())]

    there: dict[str, Any] = {
        name: t.to(device) for name, t in given._asdict().items() if isinstance(t, Tensor)
    }
    moved = given._replace(**there)
    batch, dim, length = moved.delta.shape
    y = torch.empty_like(moved.u)
    tiles = (length + KEPT_EVERY - 1) // KEPT_EVERY
    states = torch.empty(batch, tiles, moved.A.shape[1], dim, dtype=torch.float32, device=device)
    launch.forward(moved, y, states)
    gradients = launch.backward(moved, dy.to(device), states)
    found = [y, *(g for g, t in zip(gradients, law, strict=True) if t is not None and g is not None)]
    differences = [
        (value.cpu().double() - true).abs().max() / true.abs().max()
        for value, true in zip(found, expected, strict=True)
    ]
    return torch.stack(differences).max()


def _example(*, ordered: bool, length: int = 83) -> tuple[Arguments, Tensor]:
    """Returns a scan with channels side by side in memory, 2 groups of 3 channels, 5 states."""
    generator = torch.Generator().manual_seed(0)
    batch, groups, channels, state = 2, 2, 3, 5

    def sequence(*shape: int) -> Tensor:
        return torch.randn(*shape[:-2], shape[-1], shape[-2], generator=generator).mT

    dim = groups * channels
    width = channels if ordered else dim
    order = torch.rand(batch, groups, length, generator=generator).argsort(-1) if ordered else None
    given = Arguments(
        sequence(batch, width, length),
        sequence(batch, dim, length),
        -torch.rand(dim, state, generator=generator) - 0.5,
        sequence(batch, groups, state, length),
        sequence(batch, groups, state, length),
        torch.randn(dim, generator=generator),
        None if ordered else sequence(batch, dim, length),
        torch.randn(dim, generator=generator),
        True,
        order,
    )
    return given, sequence(batch, width, length)
