"""Tiles: TILE steps of LANES channels of a tensor, copied to scratch as float32 and back.

A tile is a flat float32 array, step after step, the channels of one step side by side; so one vector holds
one step of LANES channels. Tensors have any strides; two layouts are fast: channels side by side in memory
(channel-last, rows are copied) and steps side by side (squares are transposed in registers).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scanseg.kernels.arguments import KEPT_EVERY
from scanseg.kernels.cpu.simd import (
    BLOCK,
    F32,
    LANES,
    load,
    outlined,
    read,
    read_lanes,
    read_transposed,
    store,
    write,
    write_lanes,
    write_transposed,
)

TILE = KEPT_EVERY


class Strided(NamedTuple):
    """A tensor (batch, channel, step): address in bytes (0 = absent), strides in elements."""

    address: int
    is_bfloat16: int
    batch: int
    channel: int
    step: int


class Grouped(NamedTuple):
    """A tensor (batch, group, state, step): address in bytes, strides in elements."""

    address: int
    is_bfloat16: int
    batch: int
    group: int
    state: int
    step: int


@outlined
def _read_tile(
    tile: Any, address: int, dtype: Any, size: int, tensor: Strided, steps: int, channels: int
) -> None:
    full = channels == LANES
    if full and tensor.channel == 1:
        for t in range(steps):
            store(tile, t * LANES, read_lanes(address + size * t * tensor.step, dtype))
        return
    for c0 in range(0, LANES, BLOCK):
        for t0 in range(0, steps, BLOCK):
            corner = address + size * (c0 * tensor.channel + t0 * tensor.step)
            if tensor.step == 1 and c0 + BLOCK <= channels and t0 + BLOCK <= steps:
                read_transposed(corner, tensor.channel, dtype, tile, t0 * LANES + c0)
                continue
            for t in range(min(BLOCK, steps - t0)):
                for c in range(BLOCK):
                    x = F32(0.0)
                    if c0 + c < channels:
                        x = read(corner + size * (c * tensor.channel + t * tensor.step), dtype)
                    tile[(t0 + t) * LANES + c0 + c] = x


@outlined
def _write_tile(
    tile: Any, address: int, dtype: Any, size: int, tensor: Strided, steps: int, channels: int
) -> None:
    full = channels == LANES
    if full and tensor.channel == 1:
        for t in range(steps):
            write_lanes(address + size * t * tensor.step, load(tile, t * LANES), dtype)
        return
    for c0 in range(0, channels, BLOCK):
        for t0 in range(0, steps, BLOCK):
            corner = address + size * (c0 * tensor.channel + t0 * tensor.step)
            if tensor.step == 1 and c0 + BLOCK <= channels and t0 + BLOCK <= steps:
                write_transposed(corner, tensor.channel, dtype, tile, t0 * LANES + c0)
                continue
            for t in range(min(BLOCK, steps - t0)):
                for c in range(min(BLOCK, channels - c0)):
                    x = tile[(t0 + t) * LANES + c0 + c]
                    write(corner + size * (c * tensor.channel + t * tensor.step), x, dtype)


@outlined
def read_tile(
    tile: Any, tensor: Strided, batch: int, channel: int, step: int, steps: int, channels: int
) -> None:
    """Fills `tile` with steps x channels values from (batch, channel, step) on; missing channels are 0."""
    offset = batch * tensor.batch + channel * tensor.channel + step * tensor.step
    if tensor.is_bfloat16:
        _read_tile(tile, tensor.address + 2 * offset, np.uint16, 2, tensor, steps, channels)
    else:
        _read_tile(tile, tensor.address + 4 * offset, np.float32, 4, tensor, steps, channels)


@outlined
def write_tile(
    tile: Any, tensor: Strided, batch: int, channel: int, step: int, steps: int, channels: int
) -> None:
    """Writes steps x channels values of `tile` to (batch, channel, step) on."""
    offset = batch * tensor.batch + channel * tensor.channel + step * tensor.step
    if tensor.is_bfloat16:
        _write_tile(tile, tensor.address + 2 * offset, np.uint16, 2, tensor, steps, channels)
    else:
        _write_tile(tile, tensor.address + 4 * offset, np.float32, 4, tensor, steps, channels)


@outlined
def read_projection(
    rows: Any, tensor: Grouped, batch: int, group: int, step: int, steps: int, state: int
) -> None:
    """Fills rows[t * state + n] with `steps` steps of B or C from (batch, group, 0, step) on."""
    offset = batch * tensor.batch + group * tensor.group + step * tensor.step
    for t in range(steps):
        for n in range(state):
            element = offset + n * tensor.state + t * tensor.step
            if tensor.is_bfloat16:
                rows[t * state + n] = read(tensor.address + 2 * element, np.uint16)
            else:
                rows[t * state + n] = read(tensor.address + 4 * element, np.float32)


@outlined
def save_states(h: Any, address: int, dim: int, states: int, channels: int) -> None:
    """Writes the states of a block, h[n * LANES + c], to a float32 array (state, dim) at `address`."""
    for n in range(states):
        if channels == LANES:
            write_lanes(address + 4 * n * dim, load(h, n * LANES), np.float32)
        else:
            for c in range(channels):
                write(address + 4 * (n * dim + c), h[n * LANES + c], np.float32)


@outlined
def load_states(h: Any, address: int, dim: int, states: int, channels: int) -> None:
    """The inverse of `save_states`; missing channels become 0."""
    for n in range(states):
        if channels == LANES:
            store(h, n * LANES, read_lanes(address + 4 * n * dim, np.float32))
        else:
            for c in range(LANES):
                h[n * LANES + c] = read(address + 4 * (n * dim + c), np.float32) if c < channels else F32(0.0)
