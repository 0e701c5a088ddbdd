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
from scanseg.kernels.cpu.tiles import (
    TILE,
    Steps,
    Strided,
    add_tile,
    load_states,
    read_projection,
    read_tile,
    steps_of,
    write_tile,
)

LN_2 = F32(0.6931471805599453)


class Gradients(NamedTuple):
    """The gradient of the output (y), the kept states, and where the gradients of the inputs go.

    A: (batch, dim, state), D and bias: (batch, dim), B and C: (run, batch, group, length, state), all
    contiguous float32, to be summed over their first dimension. That of u is float32 if groups share it.
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


class Scratch(NamedTuple):
    """Memory of a thread: parameters, states, sums of a run of channels; projections of a tile."""

    rates: Any
    skip: Any
    bias: Any
    h: Any
    g: Any
    dA: Any
    dD: Any
    dbias: Any
    B: Any
    C: Any
    dB: Any
    dC: Any
    at: Any


@inlined
def _new_scratch(states: int, width: int) -> Scratch:
    return Scratch(
        np.empty(width * states, F32),
        np.empty(width, F32),
        np.empty(width, F32),
        np.empty(LANES * states, F32),
        np.empty(width * states, F32),
        np.empty(width * states, F32),
        np.empty(width, F32),
        np.empty(width, F32),
        np.empty(TILE * states, F32),
        np.empty(TILE * states, F32),
        np.empty(TILE * states * HALF, F32),
        np.empty(TILE * states * HALF, F32),
        np.empty(TILE, np.int64),
    )


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
def _write_projection(rows: Any, address: int, steps: Steps, states: int) -> None:
    """Writes the gradients of B or C of a tile, summed over the channels of the job."""
    for t in range(steps.number):
        row = address + 4 * steps.at[t] * states
        for n in range(states):
            write(row + 4 * n, sum_lanes(rows, (t * states + n) * HALF), np.float32)


@outlined
def _write_parameters(place: Place, group: int, sizes: Sizes, gradients: Gradients, scratch: Scratch) -> None:
    """Writes the parts of dA, dD and dbias that belong to the job's channels and batch element."""
    states = sizes.states
    row = (place.batch * sizes.groups + group) * sizes.channels + place.first
    for channel in range(place.last - place.first):
        d = row + channel
        block, c = channel // LANES, channel % LANES
        for n in range(states):
            value = scratch.dA[(block * states + n) * LANES + c]
            write(gradients.A + 4 * (d * states + n), value, np.float32)
        write(gradients.D + 4 * d, scratch.dD[channel], np.float32)
        write(gradients.bias + 4 * d, scratch.dbias[channel], np.float32)


@outlined
def _reverse_block(
    place: Place,
    group: int,
    channel: int,
    steps: Steps,
    sizes: Sizes,
    inputs: Inputs,
    gradients: Gradients,
    scratch: Scratch,
    tile: Tile,
) -> None:
    """Carries the gradients of one block of channels, whose states are in scratch.h, back over one tile."""
    rates, skip, bias, h, g, dA, dD, dbias, B, C, dB, dC, _ = scratch
    batch, states, count = place.batch, sizes.states, steps.number
    gated = inputs.z.address != 0
    channels = min(LANES, place.last - channel)
    c = channel - place.first
    r = c * states
    read_tile(tile.u, inputs.u, batch, group, channel, steps, channels)
    read_tile(tile.dt, inputs.delta, batch, group, channel, steps, channels)
    read_tile(tile.dout, gradients.y, batch, group, channel, steps, channels)
    if gated:
        read_tile(tile.z, inputs.z, batch, group, channel, steps, channels)
    _prepare(tile, skip[c:], bias[c:], dD[c:], count, inputs.softplus, gated)
    for n in range(states):
        if gated:
            rescan(count, n, states, rates[r:], h, B, C, dC, tile, tile.y)
        else:
            rescan(count, n, states, rates[r:], h, B, C, dC, tile, None)
        reverse(count, n, states, rates[r:], g[r:], dA[r:], B, C, dB, tile)
    _finish(tile, skip[c:], dbias[c:], count, inputs.softplus, gated)
    if group > place.group:
        add_tile(tile.u, gradients.u, batch, group, channel, steps, channels)
    else:
        write_tile(tile.u, gradients.u, batch, group, channel, steps, channels)
    write_tile(tile.dt, gradients.delta, batch, group, channel, steps, channels)
    if gated:
        write_tile(tile.z, gradients.z, batch, group, channel, steps, channels)


@outlined
def _reverse_group(
    place: Place,
    group: int,
    sizes: Sizes,
    inputs: Inputs,
    gradients: Gradients,
    scratch: Scratch,
    tile: Tile,
) -> None:
    """Carries the gradients of the place's channels of one group back from the last tile to the first."""
    states, length, batch = sizes.states, sizes.length, place.batch
    pack_parameters(place, group, sizes, inputs, scratch.rates, scratch.skip, scratch.bias)
    for sums in (scratch.g, scratch.dA, scratch.dD, scratch.dbias):
        sums[:] = F32(0.0)
    tiles, dim = (length + TILE - 1) // TILE, sizes.groups * sizes.channels
    offset = 4 * ((place.part * sizes.batch + batch) * sizes.groups + group) * length * states
    for number in range(tiles - 1, -1, -1):
        count = min(TILE, length - number * TILE)
        steps = steps_of(scratch.at, inputs.order, batch, group, number * TILE, count)
        read_projection(scratch.B, inputs.B, batch, group, steps, states)
        read_projection(scratch.C, inputs.C, batch, group, steps, states)
        scratch.dB[:] = F32(0.0)
        scratch.dC[:] = F32(0.0)
        for channel in range(place.first, place.last, LANES):
            kept = (batch * tiles + number) * states * dim + group * sizes.channels + channel
            channels = min(LANES, place.last - channel)
            load_states(scratch.h, gradients.states + 4 * kept, dim, states, channels)
            _reverse_block(place, group, channel, steps, sizes, inputs, gradients, scratch, tile)
        _write_projection(scratch.dB, gradients.B + offset, steps, states)
        _write_projection(scratch.dC, gradients.C + offset, steps, states)
    _write_parameters(place, group, sizes, gradients, scratch)


@entry
def backward_jobs(first: int, last: int, sizes: Sizes, inputs: Inputs, gradients: Gradients) -> None:
    """Carries the gradients of the jobs [first, last) from the last step to the first, without the lock."""
    scratch, tile = _new_scratch(sizes.states, sizes.run * LANES), _new_tile()
    for job in range(first, last):
        place = place_of(job, sizes)
        for group in range(place.group, place.last_group):
            _reverse_group(place, group, sizes, inputs, gradients, scratch, tile)
