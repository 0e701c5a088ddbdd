"""The forward scan for processors, in Numba."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scanseg.kernels.cpu.functions import exp_minus_abs, sigmoid_from, softplus_from
from scanseg.kernels.cpu.jobs import Inputs, Sizes, pack_parameters, place_of
from scanseg.kernels.cpu.recurrence import scan
from scanseg.kernels.cpu.simd import (
    F32,
    LANES,
    entry,
    load,
    outlined,
    store,
)
from scanseg.kernels.cpu.tiles import TILE, Strided, read_projection, read_tile, save_states, write_tile


class Outputs(NamedTuple):
    """Where the output goes, and the states before each tile, (batch, tiles, state, dim); 0: not kept."""

    y: Strided
    states: int


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


@entry
def forward_jobs(first: int, last: int, sizes: Sizes, inputs: Inputs, outputs: Outputs) -> None:
    """Scans the channels of the jobs [first, last), one job after the other, without the interpreter lock."""
    states, length, width = sizes.states, sizes.length, sizes.run * LANES
    rates, skip, bias = np.empty(width * states, F32), np.empty(width, F32), np.empty(width, F32)
    h = np.empty(width * states, F32)
    dt, dtu = np.empty(TILE * LANES, F32), np.empty(TILE * LANES, F32)
    y, z = np.empty(TILE * LANES, F32), np.empty(TILE * LANES, F32)
    B, C = np.empty(TILE * states, F32), np.empty(TILE * states, F32)
    tiles = (length + TILE - 1) // TILE
    for job in range(first, last):
        place = place_of(job, sizes)
        pack_parameters(place, sizes, inputs, rates, skip, bias)
        h[:] = F32(0.0)
        for tile in range(tiles):
            start = tile * TILE
            steps = min(TILE, length - start)
            read_projection(B, inputs.B, place.batch, place.group, start, steps, states)
            read_projection(C, inputs.C, place.batch, place.group, start, steps, states)
            for channel in range(place.first, place.last, LANES):
                channels = min(LANES, place.last - channel)
                c = channel - place.first
                r = c * states
                if outputs.states:
                    row = (place.batch * tiles + tile) * states
                    address = outputs.states + 4 * (row * sizes.dim + channel)
                    save_states(h[r:], address, sizes.dim, states, channels)
                read_tile(y, inputs.u, place.batch, channel, start, steps, channels)
                read_tile(dt, inputs.delta, place.batch, channel, start, steps, channels)
                _prepare(dt, dtu, y, skip[c:], bias[c:], steps, inputs.softplus)
                for n in range(states):
                    scan(steps, n, states, rates[r:], h[r:], B, C, dt, dtu, y)
                if inputs.z.address:
                    read_tile(z, inputs.z, place.batch, channel, start, steps, channels)
                    _apply_gate(y, z, steps)
                write_tile(y, outputs.y, place.batch, channel, start, steps, channels)
