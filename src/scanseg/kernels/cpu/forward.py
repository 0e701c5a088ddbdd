"""The forward scan for processors, in Numba."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scanseg.kernels.cpu.functions import exp2, exp2_within, exp_minus_abs, sigmoid_from, softplus_from
from scanseg.kernels.cpu.jobs import Inputs, Place, Sizes, pack_parameters, place_of
from scanseg.kernels.cpu.recurrence import fits, scan
from scanseg.kernels.cpu.simd import (
    CACHE_LINE,
    LANES,
    aligned,
    behind,
    clear,
    entry,
    load,
    outlined,
    store,
)
from scanseg.kernels.cpu.tiles import (
    TILE,
    Steps,
    Strided,
    add_tile,
    prefetch_projection,
    prefetch_tile,
    read_projection,
    read_tile,
    save_states,
    steps_of,
    write_tile,
)

# Copied at once: rows of memory are read in runs of several cache lines.
PIECE = 4 * TILE


class Outputs(NamedTuple):
    """Where the output goes, and the states before each tile, (batch, tiles, state, dim); 0: not kept."""

    y: Strided
    states: int


class Scratch(NamedTuple):
    """Addresses of scratch: parameters and states of a run of channels, a tile of dtu, a piece of others."""

    rates: int
    steepest: int
    skip: int
    bias: int
    h: int
    dtu: int
    dt: int
    y: int
    z: int
    B: int
    C: int
    at: int
    at_next: int
    end: int


@outlined
def _prepare(dt: int, dtu: int, y: int, skip: int, bias: int, steps: int, softplus: int) -> None:
    """Turns delta (in dt) into step sizes, fills dtu, and turns u (in y) into D * u."""
    shift, weight = load(bias, 0), load(skip, 0)
    for t in range(steps):
        i = t * LANES
        step, x = load(dt, i) + shift, load(y, i)
        if softplus:
            step = softplus_from(step, exp_minus_abs(step))
        store(dt, i, step)
        store(dtu, i, step * x)
        store(y, i, weight * x)


@outlined
def _advance(
    count: int, states: int, rates: int, steepest: int, h: int, B: int, C: int, dt: int, dtu: int, y: int
) -> None:
    """Advances all states of a block over the tile and adds their parts to y."""
    if fits(count, dt, steepest):
        for n in range(states):
            scan(exp2_within, count, n, states, rates, h, B, C, dt, dtu, y)
    else:
        for n in range(states):
            scan(exp2, count, n, states, rates, h, B, C, dt, dtu, y)


@outlined
def _apply_gate(y: int, z: int, steps: int) -> None:
    """y *= silu(z)."""
    for t in range(steps):
        i = t * LANES
        x = load(z, i)
        store(y, i, load(y, i) * x * sigmoid_from(x, exp_minus_abs(x)))


@outlined
def _scratch_at(rates: int, states: int, width: int) -> Scratch:
    steepest = behind(rates, width * states)
    skip = behind(steepest, width)
    bias = behind(skip, width)
    h = behind(bias, width)
    dtu = behind(h, width * states)
    dt = behind(dtu, TILE * LANES)
    y = behind(dt, PIECE * LANES)
    z = behind(y, PIECE * LANES)
    B = behind(z, PIECE * LANES)
    C = behind(B, PIECE * states)
    at = behind(C, PIECE * states)
    at_next = behind(at, 2 * PIECE)
    end = behind(at_next, 2 * PIECE)
    return Scratch(rates, steepest, skip, bias, h, dtu, dt, y, z, B, C, at, at_next, end)


@outlined
def _prefetch(inputs: Inputs, batch: int, group: int, channel: int, steps: Steps) -> None:
    prefetch_tile(inputs.u, batch, group, channel, steps)
    prefetch_tile(inputs.delta, batch, group, channel, steps)
    prefetch_tile(inputs.z, batch, group, channel, steps)


@outlined
def _scan_piece(
    block: int, count: int, channels: int, softplus: int, states: int, dim: int, kept: int, scratch: Scratch
) -> None:
    """Scans a block of channels, whose piece has been read, tile by tile.

    The states before each tile go to `kept`, rows of `dim`; 0: nowhere.
    """
    rates, steepest, skip, bias, h, dtu, dt, y, _, B, C, _, _, _ = scratch
    c = 4 * LANES * block
    r = c * states
    for t in range(0, count, TILE):
        i, j, steps = 4 * t * LANES, 4 * t * states, min(TILE, count - t)
        if kept:
            save_states(h + r, kept + 4 * (t // TILE) * states * dim, dim, states, channels)
        _prepare(dt + i, dtu, y + i, skip + c, bias + c, steps, softplus)
        _advance(steps, states, rates + r, steepest + c, h + r, B + j, C + j, dt + i, dtu, y + i)


@outlined
def _scan_group(
    place: Place, group: int, sizes: Sizes, inputs: Inputs, outputs: Outputs, scratch: Scratch
) -> None:
    """Scans the place's channels of one group."""
    states, batch, length = sizes.states, place.batch, sizes.length
    _, _, _, _, _, _, dt, y, z, B, C, at, at_next, _ = scratch
    pack_parameters(place, group, sizes, inputs, scratch.rates, scratch.steepest, scratch.skip, scratch.bias)
    clear(scratch.h, sizes.run * LANES * states)
    tiles, dim = (length + TILE - 1) // TILE, sizes.groups * sizes.channels
    following = steps_of(at_next, inputs.order, batch, group, 0, min(PIECE, length))
    for first in range(0, length, PIECE):
        steps, at, at_next = following, at_next, at
        start = min(first + PIECE, length)
        following = steps_of(at_next, inputs.order, batch, group, start, min(PIECE, length - start))
        read_projection(B, inputs.B, batch, group, steps, states)
        read_projection(C, inputs.C, batch, group, steps, states)
        for channel in range(place.first, place.last, LANES):
            channels = min(LANES, place.last - channel)
            read_tile(y, inputs.u, batch, group, channel, steps, channels)
            read_tile(dt, inputs.delta, batch, group, channel, steps, channels)
            if inputs.z.address:
                read_tile(z, inputs.z, batch, group, channel, steps, channels)
            if channel + LANES < place.last:
                _prefetch(inputs, batch, group, channel + LANES, steps)
            elif following.number:
                _prefetch(inputs, batch, group, place.first, following)
                prefetch_projection(inputs.B, batch, group, following, states)
                prefetch_projection(inputs.C, batch, group, following, states)
            if group > place.group:
                prefetch_tile(outputs.y, batch, group, channel, steps)
            row = (batch * tiles + first // TILE) * states * dim + group * sizes.channels + channel
            kept = outputs.states + 4 * row if outputs.states else 0
            block = (channel - place.first) // LANES
            _scan_piece(block, steps.number, channels, inputs.softplus, states, dim, kept, scratch)
            if inputs.z.address:
                _apply_gate(y, z, steps.number)
            if group > place.group:
                add_tile(y, outputs.y, batch, group, channel, steps, channels)
            else:
                write_tile(y, outputs.y, batch, group, channel, steps, channels)


@entry
def forward_jobs(first: int, last: int, sizes: Sizes, inputs: Inputs, outputs: Outputs) -> None:
    """Scans the channels of the jobs [first, last), one job after the other, without the interpreter lock."""
    width = sizes.run * LANES
    memory = np.empty(_scratch_at(0, sizes.states, width).end + CACHE_LINE, np.uint8)
    scratch = _scratch_at(aligned(memory.ctypes.data), sizes.states, width)
    for job in range(first, last):
        place = place_of(job, sizes)
        for group in range(place.group, place.last_group):
            _scan_group(place, group, sizes, inputs, outputs, scratch)
    # Numba frees an array after its last use; this is the last.
    memory[0] = 0
