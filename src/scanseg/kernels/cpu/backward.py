"""The backward scan for processors, in Numba: tiles from last to first, states recomputed inside each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scanseg.kernels.cpu.elements import read, write
from scanseg.kernels.cpu.functions import exp2, exp2_within, exp_minus_abs, sigmoid_from, softplus_from
from scanseg.kernels.cpu.jobs import Inputs, Place, Sizes, pack_parameters, place_of
from scanseg.kernels.cpu.recurrence import Tile, fits, rescan, reverse
from scanseg.kernels.cpu.simd import (
    CACHE_LINE,
    F32,
    HALF,
    LANES,
    aligned,
    behind,
    clear,
    entry,
    fill,
    fma,
    load,
    outlined,
    store,
    sum_lanes,
    sum_rows,
)
from scanseg.kernels.cpu.tiles import (
    TILE,
    Steps,
    Strided,
    add_tile,
    load_states,
    position_of,
    prefetch_projection,
    prefetch_states,
    prefetch_tile,
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
    """Addresses of scratch: parameters, states and sums of a run of channels, one tile of everything else."""

    rates: int
    steepest: int
    skip: int
    bias: int
    h: int
    g: int
    dA: int
    dD: int
    dbias: int
    B: int
    C: int
    dB: int
    dC: int
    at: int
    at_next: int
    tile: Tile
    end: int


@outlined
def _tile_at(u: int) -> Tile:
    dt = behind(u, TILE * LANES)
    slope = behind(dt, TILE * LANES)
    dtu = behind(slope, TILE * LANES)
    z = behind(dtu, TILE * LANES)
    y = behind(z, TILE * LANES)
    dout = behind(y, TILE * LANES)
    dy = behind(dout, TILE * LANES)
    decay = behind(dy, TILE * LANES)
    carried = behind(decay, TILE * LANES)
    gB = behind(carried, TILE * LANES)
    return Tile(u, dt, slope, dtu, z, y, dout, dy, decay, carried, gB, behind(gB, TILE * LANES))


@outlined
def _scratch_at(rates: int, states: int, width: int) -> Scratch:
    steepest = behind(rates, width * states)
    skip = behind(steepest, width)
    bias = behind(skip, width)
    h = behind(bias, width)
    g = behind(h, LANES * states)
    dA = behind(g, width * states)
    dD = behind(dA, width * states)
    dbias = behind(dD, width)
    B = behind(dbias, width)
    C = behind(B, TILE * states)
    dB = behind(C, TILE * states)
    dC = behind(dB, TILE * states * HALF)
    at = behind(dC, TILE * states * HALF)
    at_next = behind(at, 2 * TILE)
    tile = _tile_at(behind(at_next, 2 * TILE))
    end = behind(tile.gA, TILE * LANES)
    return Scratch(rates, steepest, skip, bias, h, g, dA, dD, dbias, B, C, dB, dC, at, at_next, tile, end)


@outlined
def _prepare(tile: Tile, skip: int, bias: int, dD: int, steps: int, softplus: int, gated: bool) -> None:
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
def _finish(tile: Tile, skip: int, dbias: int, steps: int, softplus: int, gated: bool) -> None:
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
def _write_projection(rows: int, address: int, steps: Steps, states: int) -> None:
    """Writes the gradients of B or C of a tile, summed over the channels of the job."""
    whole = states // HALF * HALF
    for t in range(steps.number):
        row = address + 4 * position_of(steps, t) * states
        for n in range(0, whole, HALF):
            sum_rows(rows, (n * TILE + t) * HALF, TILE * HALF, row + 4 * n)
        for n in range(whole, states):
            write(row + 4 * n, sum_lanes(rows, (n * TILE + t) * HALF), np.float32)


@outlined
def _write_parameters(place: Place, group: int, sizes: Sizes, gradients: Gradients, scratch: Scratch) -> None:
    """Writes the parts of dA, dD and dbias that belong to the job's channels and batch element."""
    states = sizes.states
    row = (place.batch * sizes.groups + group) * sizes.channels + place.first
    for channel in range(place.last - place.first):
        d = row + channel
        block, c = channel // LANES, channel % LANES
        for n in range(states):
            value = read(scratch.dA + 4 * ((block * states + n) * LANES + c), np.float32)
            write(gradients.A + 4 * (d * states + n), value, np.float32)
        write(gradients.D + 4 * d, read(scratch.dD + 4 * channel, np.float32), np.float32)
        write(gradients.bias + 4 * d, read(scratch.dbias + 4 * channel, np.float32), np.float32)


@outlined
def _prefetch(
    inputs: Inputs, gradients: Gradients, batch: int, group: int, channel: int, steps: Steps
) -> None:
    prefetch_tile(inputs.u, batch, group, channel, steps)
    prefetch_tile(inputs.delta, batch, group, channel, steps)
    prefetch_tile(inputs.z, batch, group, channel, steps)
    prefetch_tile(gradients.y, batch, group, channel, steps)


@outlined
def _read_block(
    inputs: Inputs,
    gradients: Gradients,
    tile: Tile,
    batch: int,
    group: int,
    channel: int,
    steps: Steps,
    channels: int,
) -> None:
    read_tile(tile.u, inputs.u, batch, group, channel, steps, channels)
    read_tile(tile.dt, inputs.delta, batch, group, channel, steps, channels)
    read_tile(tile.dout, gradients.y, batch, group, channel, steps, channels)
    if inputs.z.address:
        read_tile(tile.z, inputs.z, batch, group, channel, steps, channels)


@outlined
def _write_block(
    inputs: Inputs,
    gradients: Gradients,
    tile: Tile,
    batch: int,
    group: int,
    channel: int,
    steps: Steps,
    channels: int,
    add: bool,
) -> None:
    if add:
        add_tile(tile.u, gradients.u, batch, group, channel, steps, channels)
    else:
        write_tile(tile.u, gradients.u, batch, group, channel, steps, channels)
    write_tile(tile.dt, gradients.delta, batch, group, channel, steps, channels)
    if inputs.z.address:
        write_tile(tile.z, gradients.z, batch, group, channel, steps, channels)


@outlined
def _reverse_block(block: int, count: int, gated: bool, softplus: int, states: int, scratch: Scratch) -> None:
    """Carries the gradients of a block of channels, whose tile has been read, back over the tile."""
    rates, steepest, skip, bias, h, g, dA, dD, dbias, B, C, dB, dC, _, _, tile, _ = scratch
    c = 4 * LANES * block
    r = c * states
    _prepare(tile, skip + c, bias + c, dD + c, count, softplus, gated)
    within = fits(count, tile.dt, steepest + c)
    for n in range(states):
        if not within:
            # Rare; without a gate nobody reads y.
            rescan(exp2, count, n, states, rates + r, h, B, C, dC, tile, tile.y)
        elif gated:
            rescan(exp2_within, count, n, states, rates + r, h, B, C, dC, tile, tile.y)
        else:
            rescan(exp2_within, count, n, states, rates + r, h, B, C, dC, tile, None)
        reverse(count, n, states, rates + r, g + r, dA + r, B, C, dB, tile)
    _finish(tile, skip + c, dbias + c, count, softplus, gated)


@outlined
def _reverse_group(
    place: Place, group: int, sizes: Sizes, inputs: Inputs, gradients: Gradients, scratch: Scratch
) -> None:
    """Carries the gradients of the place's channels of one group back from the last tile to the first."""
    states, length, batch, width = sizes.states, sizes.length, place.batch, sizes.run * LANES
    at, at_next = scratch.at, scratch.at_next
    pack_parameters(place, group, sizes, inputs, scratch.rates, scratch.steepest, scratch.skip, scratch.bias)
    clear(scratch.g, width * states)
    clear(scratch.dA, width * states)
    clear(scratch.dD, width)
    clear(scratch.dbias, width)
    tiles, dim = (length + TILE - 1) // TILE, sizes.groups * sizes.channels
    offset = 4 * ((place.part * sizes.batch + batch) * sizes.groups + group) * length * states
    start = (tiles - 1) * TILE
    following = steps_of(at_next, inputs.order, batch, group, start, length - start)
    for number in range(tiles - 1, -1, -1):
        steps, at, at_next = following, at_next, at
        start = max(number - 1, 0) * TILE
        following = steps_of(at_next, inputs.order, batch, group, start, min(TILE, length - start))
        read_projection(scratch.B, inputs.B, batch, group, steps, states)
        read_projection(scratch.C, inputs.C, batch, group, steps, states)
        prefetch_projection(inputs.B, batch, group, following, states)
        prefetch_projection(inputs.C, batch, group, following, states)
        clear(scratch.dB, TILE * states * HALF)
        clear(scratch.dC, TILE * states * HALF)
        for channel in range(place.first, place.last, LANES):
            kept = (batch * tiles + number) * states * dim + group * sizes.channels + channel
            channels = min(LANES, place.last - channel)
            load_states(scratch.h, gradients.states + 4 * kept, dim, states, channels)
            _read_block(inputs, gradients, scratch.tile, batch, group, channel, steps, channels)
            if channel + LANES < place.last:
                _prefetch(inputs, gradients, batch, group, channel + LANES, steps)
                prefetch_states(gradients.states + 4 * (kept + LANES), dim, states)
            elif number:
                _prefetch(inputs, gradients, batch, group, place.first, following)
                before = kept - states * dim - (channel - place.first)
                prefetch_states(gradients.states + 4 * before, dim, states)
            if group > place.group:
                prefetch_tile(gradients.u, batch, group, channel, steps)
            block, gated = (channel - place.first) // LANES, inputs.z.address != 0
            _reverse_block(block, steps.number, gated, inputs.softplus, states, scratch)
            add = group > place.group
            _write_block(inputs, gradients, scratch.tile, batch, group, channel, steps, channels, add)
        _write_projection(scratch.dB, gradients.B + offset, steps, states)
        _write_projection(scratch.dC, gradients.C + offset, steps, states)
    _write_parameters(place, group, sizes, gradients, scratch)


@entry
def backward_jobs(first: int, last: int, sizes: Sizes, inputs: Inputs, gradients: Gradients) -> None:
    """Carries the gradients of the jobs [first, last) from the last step to the first, without the lock."""
    width = sizes.run * LANES
    memory = np.empty(_scratch_at(0, sizes.states, width).end + CACHE_LINE, np.uint8)
    scratch = _scratch_at(aligned(memory.ctypes.data), sizes.states, width)
    for job in range(first, last):
        place = place_of(job, sizes)
        for group in range(place.group, place.last_group):
            _reverse_group(place, group, sizes, inputs, gradients, scratch)
    # Numba frees an array after its last use; this is the last.
    memory[0] = 0
