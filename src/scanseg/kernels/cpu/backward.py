"""The backward scan for processors, in Numba: tiles from last to first, states recomputed inside each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scanseg.kernels.cpu.functions import exp_minus_abs, sigmoid_from, softplus_from
from scanseg.kernels.cpu.jobs import Inputs, Place, Sizes, pack_parameters, place_of
from scanseg.kernels.cpu.recurrence import Tile, rescan, reverse
from scanseg.kernels.cpu.simd import (
    F32,
    HALF,
    LANES,
    entry,
    fill,
    fma,
    inlined,
    load,
    outlined,
    store,
    sum_lanes,
    write,
)
from scanseg.kernels.cpu.tiles import TILE, Strided, load_states, read_projection, read_tile, write_tile

LN_2 = F32(0.6931471805599453)


class Gradients(NamedTuple):
    """The gradient of the output (y), the kept states, and where the gradients of the inputs go.

    A: (batch, dim, state), D and bias: (batch, dim), B and C: (run, batch, group, length, state), all
    contiguous float32, to be summed over their first dimension.
    """

    y: Strided
    states: int
    u: Strided
    delta: Strided
    z: Strided
    A: int
    B: int
    C: int
    D: int
    bias: int


@inlined
def _new_array() -> Any:
    return np.empty(TILE * LANES, F32)


@inlined
def _new_tile() -> Tile:
    return Tile(
        _new_array(),
        _new_array(),
        _new_array(),
        _new_array(),
        _new_array(),
        _new_array(),
        _new_array(),
        _new_array(),
        _new_array(),
        _new_array(),
        _new_array(),
        _new_array(),
    )


@outlined
def _prepare(tile: Tile, skip: Any, bias: Any, dD: Any, steps: int, softplus: int, gated: bool) -> None:
    """Fills dt, slope, dtu, dy (and y = D * u) from delta (in dt), u, z and dout; adds to dD."""
    shift, weight, total = load(bias, 0), load(skip, 0), load(dD, 0)
    for t in range(steps):
        i = t * LANES
        step, x, gradient = load(tile.dt, i) + shift, load(tile.u, i), load(tile.dout, i)
        if softplus:
            e = exp_minus_abs(step)
            store(tile.slope, i, sigmoid_from(step, e))
            step = softplus_from(step, e)
        store(tile.dt, i, step)
        store(tile.dtu, i, step * x)
        if gated:
            gate = load(tile.z, i)
            gradient = gradient * gate * sigmoid_from(gate, exp_minus_abs(gate))
            store(tile.y, i, weight * x)
        store(tile.dy, i, gradient)
        total = fma(gradient, x, total)
        store(tile.gB, i, fill(F32(0.0)))
        store(tile.gA, i, fill(F32(0.0)))
    store(dD, 0, total)


@outlined
def _finish(tile: Tile, skip: Any, dbias: Any, steps: int, softplus: int, gated: bool) -> None:
    """Replaces u, dt and z by their gradients; adds to dbias."""
    weight, total = load(skip, 0), load(dbias, 0)
    for t in range(steps):
        i = t * LANES
        gB = load(tile.gB, i)
        # gA was summed with A * log2(e), so ln(2) undoes it.
        ddelta = fma(gB, load(tile.u, i), load(tile.gA, i) * fill(LN_2))
        if softplus:
            ddelta = ddelta * load(tile.slope, i)
        store(tile.u, i, fma(gB, load(tile.dt, i), weight * load(tile.dy, i)))
        store(tile.dt, i, ddelta)
        total = total + ddelta
        if gated:
            gate = load(tile.z, i)
            s = sigmoid_from(gate, exp_minus_abs(gate))
            part = load(tile.dout, i) * load(tile.y, i) * s
            store(tile.z, i, fma(part * gate, fill(F32(1.0)) - s, part))
    store(dbias, 0, total)


@outlined
def _write_projection(rows: Any, address: int, steps: int, states: int) -> None:
    """Writes the gradients of B or C of a tile, summed over the channels of the job."""
    for k in range(steps * states):
        write(address + 4 * k, sum_lanes(rows, k * HALF), np.float32)


@outlined
def _write_parameters(place: Place, sizes: Sizes, gradients: Gradients, dA: Any, dD: Any, dbias: Any) -> None:
    """Writes the parts of dA, dD and dbias that belong to the job's channels and batch element."""
    states = sizes.states
    for channel in range(place.last - place.first):
        d = place.batch * sizes.dim + place.first + channel
        block, c = channel // LANES, channel % LANES
        for n in range(states):
            value = dA[(block * states + n) * LANES + c]
            write(gradients.A + 4 * (d * states + n), value, np.float32)
        write(gradients.D + 4 * d, dD[channel], np.float32)
        write(gradients.bias + 4 * d, dbias[channel], np.float32)


@entry
def backward_jobs(first: int, last: int, sizes: Sizes, inputs: Inputs, gradients: Gradients) -> None:
    """Carries the gradients of the jobs [first, last) from the last step to the first, without the lock."""
    states, length, width = sizes.states, sizes.length, sizes.run * LANES
    gated = inputs.z.address != 0
    rates, skip, bias = np.empty(width * states, F32), np.empty(width, F32), np.empty(width, F32)
    g, dA = np.empty(width * states, F32), np.empty(width * states, F32)
    dD, dbias = np.empty(width, F32), np.empty(width, F32)
    h = np.empty(LANES * states, F32)
    B, C = np.empty(TILE * states, F32), np.empty(TILE * states, F32)
    dB, dC = np.empty(TILE * states * HALF, F32), np.empty(TILE * states * HALF, F32)
    tile = _new_tile()
    tiles = (length + TILE - 1) // TILE
    for job in range(first, last):
        place = place_of(job, sizes)
        pack_parameters(place, sizes, inputs, rates, skip, bias)
        for sums in (g, dA, dD, dbias):
            sums[:] = F32(0.0)
        row = (place.part * sizes.batch + place.batch) * sizes.groups + place.group
        for number in range(tiles - 1, -1, -1):
            start = number * TILE
            steps = min(TILE, length - start)
            read_projection(B, inputs.B, place.batch, place.group, start, steps, states)
            read_projection(C, inputs.C, place.batch, place.group, start, steps, states)
            dB[:] = F32(0.0)
            dC[:] = F32(0.0)
            for channel in range(place.first, place.last, LANES):
                channels = min(LANES, place.last - channel)
                c = channel - place.first
                r = c * states
                kept = (place.batch * tiles + number) * states * sizes.dim + channel
                load_states(h, gradients.states + 4 * kept, sizes.dim, states, channels)
                read_tile(tile.u, inputs.u, place.batch, channel, start, steps, channels)
                read_tile(tile.dt, inputs.delta, place.batch, channel, start, steps, channels)
                read_tile(tile.dout, gradients.y, place.batch, channel, start, steps, channels)
                if gated:
                    read_tile(tile.z, inputs.z, place.batch, channel, start, steps, channels)
                _prepare(tile, skip[c:], bias[c:], dD[c:], steps, inputs.softplus, gated)
                for n in range(states):
                    if gated:
                        rescan(steps, n, states, rates[r:], h, B, C, dC, tile, tile.y)
                    else:
                        rescan(steps, n, states, rates[r:], h, B, C, dC, tile, None)
                    reverse(steps, n, states, rates[r:], g[r:], dA[r:], B, C, dB, tile)
                _finish(tile, skip[c:], dbias[c:], steps, inputs.softplus, gated)
                write_tile(tile.u, gradients.u, place.batch, channel, start, steps, channels)
                write_tile(tile.dt, gradients.delta, place.batch, channel, start, steps, channels)
                if gated:
                    write_tile(tile.z, gradients.z, place.batch, channel, start, steps, channels)
            offset = 4 * (row * length + start) * states
            _write_projection(dB, gradients.B + offset, steps, states)
            _write_projection(dC, gradients.C + offset, steps, states)
        _write_parameters(place, sizes, gradients, dA, dD, dbias)
