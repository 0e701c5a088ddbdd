"""Contenders of the scan in several orders: fused, and gather, scan, scatter one after the other."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from scanseg.benchmarking.parity import Function
from scanseg.benchmarking.peers import Contender, no_kernel
from scanseg.kernels import ordered_scan, selective_scan
from scanseg.kernels.reference import selective_scan_reference
from scanseg.registry import Registry


def fused(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, order: Tensor
) -> Tensor:
    """Returns the sum of the scans by the fused operator."""
    return ordered_scan(u, delta, A, B, C, D, delta_bias, True, order=order, backend="cpu")


def gathered(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, order: Tensor
) -> Tensor:
    """Returns the sum of the scans: gather along the length, one scan of all directions, scatter, add."""
    ways = order.shape[-2]
    batch, dim, length = u.shape
    index = order.expand(batch, ways, length)[:, :, None]
    wide = index.expand(-1, -1, dim, -1)
    y = _scan(u)(
        u[:, None].expand_as(wide).gather(-1, wide).flatten(1, 2),
        delta.view(batch, ways, dim, length).gather(-1, wide).flatten(1, 2),
        A,
        B.gather(-1, index.expand_as(B)),
        C.gather(-1, index.expand_as(C)),
        D,
        None,
        delta_bias,
        True,
    )
    y = y.view(batch, ways, dim, length)
    return torch.zeros_like(y).scatter(-1, wide, y).sum(1)


def gathered_rows(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor, order: Tensor
) -> Tensor:
    """Returns the same from channel-last memory, where a gather copies whole rows of channels."""
    batch, dim, length = u.shape
    ways = order.shape[-2]
    start = torch.arange(batch)[:, None, None] * length
    # Row numbers in (batch, length), and in (batch, length, way): (batch, length, way), flat.
    tokens = (order.expand(batch, ways, length).mT + start).reshape(-1)
    own = tokens * ways + torch.arange(ways).repeat(batch * length)

    def rows(x: Tensor, index: Tensor) -> Tensor:
        width = x.shape[-1]
        return x.reshape(-1, width).index_select(0, index).view(batch, length, -1)

    def projection(x: Tensor) -> Tensor:
        taken = rows(x.permute(0, 3, 1, 2), own)
        return taken.view(batch, length, ways, -1).permute(0, 2, 3, 1)

    y = _scan(u)(
        rows(u.mT, tokens).mT,
        rows(delta.mT.reshape(batch, length * ways, dim), own).mT,
        A,
        projection(B),
        projection(C),
        D,
        None,
        delta_bias,
        True,
    )
    summed = u.new_zeros(batch * length, dim).index_add(0, tokens, y.mT.reshape(-1, dim))
    return summed.view(batch, length, dim).mT


def _scan(u: Tensor) -> Function:
    return selective_scan_reference if u.dtype == torch.float64 else partial(selective_scan, backend="cpu")


ORDER_CONTENDERS: Registry[Contender] = Registry("contender")
for _contender in (
    Contender("fused", "our fused kernel", fused, why_not=no_kernel),
    Contender(
        "fused_channel_last", "our fused kernel, channels side by side", fused, "last", why_not=no_kernel
    ),
    Contender("fused_all_cores", "our fused kernel, all cores", fused, all_cores=True, why_not=no_kernel),
    Contender("unfused", "gather, our kernel, scatter, add", gathered, why_not=no_kernel),
    Contender(
        "unfused_channel_last",
        "gather rows, our kernel, add rows",
        gathered_rows,
        "last",
        why_not=no_kernel,
    ),
):
    ORDER_CONTENDERS.register(_contender.name)(_contender)
