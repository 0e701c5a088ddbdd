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


class Outputs(NamedTuple):
    """Where the output goes, and the states before each tile, (batch, tiles, state, dim); 0: not kept."""

    y: Strided
    states: int


class Scratch(NamedTuple):
    """Addresses of scratch: parameters and states of a run of channels, one tile of everything else."""

    rates: int
    steepest: int
    skip: int
    bias: int
    h: int
    dt: int
    dtu: int
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
    dt = behind(h, width * states)
    dtu = behind(dt, TILE * LANES)
    y = behind(dtu, TILE * LANES)
    z = behind(y, TILE * LANES)
    B = behind(z, TILE * LANES)
    C = behind(B, TILE * states)
    at = behind(C, TILE * states)
    at_next = behind(at, 2 * TILE)
    end = behind(at_next, 2 * TILE)
    return Scratch(rates, steepest, skip, bias, h, dt, dtu, y, z, B, C, at, at_next, end)


@outlined
def _prefetch(inputs: Inputs, batch: int, group: int, channel: int, steps: Steps) -> None:
    prefetch_tile(inputs.u, batch, group, channel, steps)
    prefetch_tile(inputs.delta, batch, group, channel, steps)
    prefetch_tile(inputs.z, batch, group, channel, steps)


@outlined
def _scan_group(
    place: Place, group: int, sizes: Sizes, inputs: Inputs, outputs: Outputs, scratch: Scratch
) -> None:
    """Scans the place's channels of one group."""
    states, batch, length = sizes.states, place.batch, sizes.length
    rates, steepest, skip, bias, h, dt, dtu, y, z, B, C, at, at_next, _ = scratch
    pack_parameters(place, group, sizes, inputs, rates, steepest, skip, bias)
    clear(h, sizes.run * LANES * states)
    tiles, dim = (length + TILE - 1) // TILE, sizes.groups * sizes.channels
    following = steps_of(at_next, inputs.order, batch, group, 0, min(TILE, length))
    for tile in range(tiles):
        steps, at, at_next = following, at_next, at
        start = min((tile + 1) * TILE, length)
        following = steps_of(at_next, inputs.order, batch, group, start, min(TILE, length - start))
        count = steps.number
        read_projection(B, inputs.B, batch, group, steps, states)
        read_projection(C, inputs.C, batch, group, steps, states)
        for channel in range(place.first, place.last, LANES):
            channels = min(LANES, place.last - channel)
            c = 4 * (channel - place.first)
            r = c * states
            if outputs.states:
                row = (batch * tiles + tile) * states * dim + group * sizes.channels + channel
                save_states(h + r, outputs.states + 4 * row, dim, states, channels)
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
            _prepare(dt, dtu, y, skip + c, bias + c, count, inputs.softplus)
            _advance(count, states, rates + r, steepest + c, h + r, B, C, dt, dtu, y)
            if inputs.z.address:
                _apply_gate(y, z, count)
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
