"""The forward scan for processors, in Numba."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scanseg.kernels.cpu.functions import exp_minus_abs, sigmoid_from, softplus_from
from scanseg.kernels.cpu.jobs import Inputs, Place, Sizes, pack_parameters, place_of
from scanseg.kernels.cpu.recurrence import scan
from scanseg.kernels.cpu.simd import (
    F32,
    LANES,
    entry,
    inlined,
    load,
    outlined,
    store,
)
from scanseg.kernels.cpu.tiles import (
    TILE,
    Strided,
    add_tile,
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
    """Memory of a thread: parameters and states of a run of channels, one tile of everything else."""

    rates: Any
    skip: Any
    bias: Any
    h: Any
    dt: Any
    dtu: Any
    y: Any
    z: Any
    B: Any
    C: Any
    at: Any


@outlined
def _prepare(dt: Any, dtu: Any, y: Any, skip: Any, bias: Any, steps: int, softplus: int) -> None:
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
def _apply_gate(y: Any, z: Any, steps: int) -> None:
    """y *= silu(z)."""
    for t in range(steps):
        i = t * LANES
        x = load(z, i)
        store(y, i, load(y, i) * x * sigmoid_from(x, exp_minus_abs(x)))


@inlined
def _new_scratch(states: int, width: int) -> Scratch:
    return Scratch(
        np.empty(width * states, F32),
        np.empty(width, F32),
        np.empty(width, F32),
        np.empty(width * states, F32),
        np.empty(TILE * LANES, F32),
        np.empty(TILE * LANES, F32),
        np.empty(TILE * LANES, F32),
        np.empty(TILE * LANES, F32),
        np.empty(TILE * states, F32),
        np.empty(TILE * states, F32),
        np.empty(TILE, np.int64),
    )


@outlined
def _scan_group(
    place: Place, group: int, sizes: Sizes, inputs: Inputs, outputs: Outputs, scratch: Scratch
) -> None:
    """Scans the place's channels of one group."""
    states, batch = sizes.states, place.batch
    rates, skip, bias, h, dt, dtu, y, z, B, C, at = scratch
    pack_parameters(place, group, sizes, inputs, rates, skip, bias)
    h[:] = F32(0.0)
    tiles, dim = (sizes.length + TILE - 1) // TILE, sizes.groups * sizes.channels
    for tile in range(tiles):
        count = min(TILE, sizes.length - tile * TILE)
        steps = steps_of(at, inputs.order, batch, group, tile * TILE, count)
        read_projection(B, inputs.B, batch, group, steps, states)
        read_projection(C, inputs.C, batch, group, steps, states)
        for channel in range(place.first, place.last, LANES):
            channels = min(LANES, place.last - channel)
            c = channel - place.first
            r = c * states
            if outputs.states:
                row = (batch * tiles + tile) * states * dim + group * sizes.channels + channel
                save_states(h[r:], outputs.states + 4 * row, dim, states, channels)
            read_tile(y, inputs.u, batch, group, channel, steps, channels)
            read_tile(dt, inputs.delta, batch, group, channel, steps, channels)
            _prepare(dt, dtu, y, skip[c:], bias[c:], count, inputs.softplus)
            for n in range(states):
                scan(count, n, states, rates[r:], h[r:], B, C, dt, dtu, y)
            if inputs.z.address:
                read_tile(z, inputs.z, batch, group, channel, steps, channels)
                _apply_gate(y, z, count)
            if group > place.group:
                add_tile(y, outputs.y, batch, group, channel, steps, channels)
            else:
                write_tile(y, outputs.y, batch, group, channel, steps, channels)


@entry
def forward_jobs(first: int, last: int, sizes: Sizes, inputs: Inputs, outputs: Outputs) -> None:
    """Scans the channels of the jobs [first, last), one job after the other, without the interpreter lock."""
    scratch = _new_scratch(sizes.states, sizes.run * LANES)
    for job in range(first, last):
        place = place_of(job, sizes)
        for group in range(place.group, place.last_group):
            _scan_group(place, group, sizes, inputs, outputs, scratch)
