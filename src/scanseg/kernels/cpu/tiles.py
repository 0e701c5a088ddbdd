"""Tiles: TILE steps of LANES channels of a tensor, copied to scratch as float32 and back.

A tile is float32 scratch, step after step, the channels of one step side by side; so one vector holds one
step of LANES channels. Tensors have any strides; two layouts are fast: channels side by side in memory
(channel-last, rows are copied) and steps side by side (squares are transposed in registers). The steps of a
tile follow each other in the tensor, or lie where a table says.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scanseg.kernels.arguments import KEPT_EVERY
from scanseg.kernels.cpu.elements import (
    copy_block,
    prefetch,
    read,
    read_lanes,
    read_position,
    read_transposed,
    write,
    write_lanes,
    write_position,
    write_transposed,
)
from scanseg.kernels.cpu.simd import BLOCK, F32, LANES, inlined, load, outlined, store

TILE = KEPT_EVERY


class Strided(NamedTuple):
    """A tensor (batch, group, channel, position): address in bytes (0 = absent), strides in elements.

    A group stride of 0 makes all groups share their channels.
    """

    address: int
    is_bfloat16: int
    batch: int
    group: int
    channel: int
    step: int


class Grouped(NamedTuple):
    """A tensor (batch, group, state, position): address in bytes, strides in elements."""

    address: int
    is_bfloat16: int
    batch: int
    group: int
    state: int
    step: int


class Order(NamedTuple):
    """A table (batch, group, step) of int64 positions: address in bytes (0 = none), strides in elements.

    Without a table step t is position t.
    """

    address: int
    batch: int
    group: int
    step: int


class Steps(NamedTuple):
    """Some steps of a scan: where their positions stand, how many, and whether they follow each other."""

    at: int
    number: int
    in_row: bool


@outlined
def steps_of(at: int, order: Order, batch: int, group: int, start: int, count: int) -> Steps:
    """Writes the positions of the steps from `start` on to `at`, int64, and returns the steps."""
    for t in range(count):
        position = start + t
        if order.address:
            place = batch * order.batch + group * order.group + (start + t) * order.step
            position = read_position(order.address + 8 * place)
        write_position(at + 8 * t, position)
    return Steps(at, count, order.address == 0)


@inlined
def position_of(steps: Steps, t: int) -> Any:
    """Returns the position of step t."""
    return read_position(steps.at + 8 * t)


@outlined
def _read_tile(
    tile: int, address: int, dtype: Any, size: int, tensor: Strided, steps: Steps, channels: int
) -> None:
    if channels == LANES and tensor.channel == 1:
        for t in range(steps.number):
            store(tile, t * LANES, read_lanes(address + size * position_of(steps, t) * tensor.step, dtype))
        return
    for c0 in range(0, LANES, BLOCK):
        for t0 in range(0, steps.number, BLOCK):
            column = address + size * c0 * tensor.channel
            row = steps.in_row and c0 + BLOCK <= channels and t0 + BLOCK <= steps.number
            if row and tensor.step == 1:
                read_transposed(
                    column + size * position_of(steps, t0),
                    tensor.channel,
                    dtype,
                    tile,
                    t0 * LANES + c0,
                    LANES,
                )
                continue
            for t in range(t0, min(t0 + BLOCK, steps.number)):
                for c in range(BLOCK):
                    x = F32(0.0)
                    if c0 + c < channels:
                        x = read(
                            column + size * (c * tensor.channel + position_of(steps, t) * tensor.step), dtype
                        )
                    write(tile + 4 * (t * LANES + c0 + c), x, np.float32)


@outlined
def _write_tile(
    tile: int, address: int, dtype: Any, size: int, tensor: Strided, steps: Steps, channels: int
) -> None:
    if channels == LANES and tensor.channel == 1:
        for t in range(steps.number):
            write_lanes(address + size * position_of(steps, t) * tensor.step, load(tile, t * LANES), dtype)
        return
    for c0 in range(0, channels, BLOCK):
        for t0 in range(0, steps.number, BLOCK):
            column = address + size * c0 * tensor.channel
            row = steps.in_row and c0 + BLOCK <= channels and t0 + BLOCK <= steps.number
            if row and tensor.step == 1:
                write_transposed(
                    column + size * position_of(steps, t0),
                    tensor.channel,
                    dtype,
                    tile,
                    t0 * LANES + c0,
                    LANES,
                )
                continue
            for t in range(t0, min(t0 + BLOCK, steps.number)):
                for c in range(min(BLOCK, channels - c0)):
                    place = column + size * (c * tensor.channel + position_of(steps, t) * tensor.step)
                    write(place, read(tile + 4 * (t * LANES + c0 + c), np.float32), dtype)


@outlined
def _offset(tensor: Strided, batch: int, group: int, channel: int) -> int:
    return batch * tensor.batch + group * tensor.group + channel * tensor.channel


@outlined
def read_tile(
    tile: int, tensor: Strided, batch: int, group: int, channel: int, steps: Steps, channels: int
) -> None:
    """Fills `tile` with the steps of the channels from (batch, group, channel) on; missing channels are 0."""
    offset = _offset(tensor, batch, group, channel)
    if tensor.is_bfloat16:
        _read_tile(tile, tensor.address + 2 * offset, np.uint16, 2, tensor, steps, channels)
    else:
        _read_tile(tile, tensor.address + 4 * offset, np.float32, 4, tensor, steps, channels)


@outlined
def write_tile(
    tile: int, tensor: Strided, batch: int, group: int, channel: int, steps: Steps, channels: int
) -> None:
    """Writes `tile` to the steps of the channels from (batch, group, channel) on."""
    offset = _offset(tensor, batch, group, channel)
    if tensor.is_bfloat16:
        _write_tile(tile, tensor.address + 2 * offset, np.uint16, 2, tensor, steps, channels)
    else:
        _write_tile(tile, tensor.address + 4 * offset, np.float32, 4, tensor, steps, channels)


@outlined
def add_tile(
    tile: int, tensor: Strided, batch: int, group: int, channel: int, steps: Steps, channels: int
) -> None:
    """Adds `tile` to a float32 tensor; arguments as in `write_tile`."""
    address = tensor.address + 4 * _offset(tensor, batch, group, channel)
    for t in range(steps.number):
        row = address + 4 * position_of(steps, t) * tensor.step
        if channels == LANES and tensor.channel == 1:
            write_lanes(row, read_lanes(row, np.float32) + load(tile, t * LANES), np.float32)
            continue
        for c in range(channels):
            place = row + 4 * c * tensor.channel
            total = read(place, np.float32) + read(tile + 4 * (t * LANES + c), np.float32)
            write(place, total, np.float32)


@outlined
def prefetch_tile(tensor: Strided, batch: int, group: int, channel: int, steps: Steps) -> None:
    """Asks for what `read_tile` will read; nothing if the tensor is absent."""
    if not tensor.address:
        return
    size = 2 if tensor.is_bfloat16 else 4
    address = tensor.address + size * _offset(tensor, batch, group, channel)
    if tensor.channel == 1:
        for t in range(steps.number):
            prefetch(address + size * position_of(steps, t) * tensor.step)
        return
    for c in range(LANES):
        for t in range(0, steps.number, TILE):
            prefetch(address + size * (c * tensor.channel + position_of(steps, t) * tensor.step))
        last = position_of(steps, steps.number - 1)
        prefetch(address + size * (c * tensor.channel + last * tensor.step))


@outlined
def _read_projection(
    rows: int, address: int, dtype: Any, size: int, tensor: Grouped, steps: Steps, states: int
) -> None:
    whole = states // BLOCK * BLOCK
    in_squares = steps.in_row and tensor.step == 1 and steps.number % BLOCK == 0
    if in_squares:
        # A row's cache line is used up before the next rows, a power of two apart, displace it.
        for n0 in range(0, whole, BLOCK):
            for t0 in range(0, steps.number, BLOCK):
                corner = address + size * (n0 * tensor.state + position_of(steps, t0))
                read_transposed(corner, tensor.state, dtype, rows, t0 * states + n0, states)
    for t in range(steps.number):
        step = address + size * position_of(steps, t) * tensor.step
        if tensor.state == 1:
            for n0 in range(0, whole, BLOCK):
                copy_block(step + size * n0, dtype, rows + 4 * (t * states + n0))
        for n in range(whole if in_squares or tensor.state == 1 else 0, states):
            value = read(step + size * n * tensor.state, dtype)
            write(rows + 4 * (t * states + n), value, np.float32)


@outlined
def read_projection(rows: int, tensor: Grouped, batch: int, group: int, steps: Steps, states: int) -> None:
    """Fills rows[t * states + n] with the steps of B or C of (batch, group)."""
    offset = batch * tensor.batch + group * tensor.group
    if tensor.is_bfloat16:
        _read_projection(rows, tensor.address + 2 * offset, np.uint16, 2, tensor, steps, states)
    else:
        _read_projection(rows, tensor.address + 4 * offset, np.float32, 4, tensor, steps, states)


@outlined
def prefetch_projection(tensor: Grouped, batch: int, group: int, steps: Steps, states: int) -> None:
    """Asks for what `read_projection` will read."""
    size = 2 if tensor.is_bfloat16 else 4
    address = tensor.address + size * (batch * tensor.batch + group * tensor.group)
    last = states - 1
    if tensor.state == 1:
        for t in range(steps.number):
            row = address + size * position_of(steps, t) * tensor.step
            prefetch(row)
            prefetch(row + size * last)
    elif steps.number:
        for n in range(states):
            for t in range(0, steps.number, TILE):
                prefetch(address + size * (n * tensor.state + position_of(steps, t) * tensor.step))


@outlined
def save_states(h: int, address: int, dim: int, states: int, channels: int) -> None:
    """Writes the states of a block, h[n * LANES + c], to a float32 array (state, dim) at `address`."""
    for n in range(states):
        if channels == LANES:
            write_lanes(address + 4 * n * dim, load(h, n * LANES), np.float32)
        else:
            for c in range(channels):
                write(address + 4 * (n * dim + c), read(h + 4 * (n * LANES + c), np.float32), np.float32)


@outlined
def load_states(h: int, address: int, dim: int, states: int, channels: int) -> None:
    """The inverse of `save_states`; missing channels become 0."""
    for n in range(states):
        if channels == LANES:
            store(h, n * LANES, read_lanes(address + 4 * n * dim, np.float32))
        else:
            for c in range(LANES):
                value = read(address + 4 * (n * dim + c), np.float32) if c < channels else F32(0.0)
                write(h + 4 * (n * LANES + c), value, np.float32)


@outlined
def prefetch_states(address: int, dim: int, states: int) -> None:
    """Asks for what `load_states` will read."""
    for n in range(states):
        prefetch(address + 4 * n * dim)
