"""The backward scan for GPUs, in Triton: tiles from last to first, states recomputed inside each.

`gradients_kernel` alone does it if there is one chunk. With several, `laters_kernel` finds what each chunk
adds to the gradient that leaves it at its start, the forward's `carry_kernel` combines that, from the last
chunk to the first, into the gradient that enters each chunk at its end, and `gradients_kernel` starts from
there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

from scanseg.kernels.gpu.steps import (
    STEPS,
    Given,
    Place,
    Strided,
    Tile,
    compiled,
    place_of,
    read_parameter,
    read_projection,
    read_rate,
    read_tile,
    row_at,
    run,
    run_back,
    sigmoid,
    step_sizes,
    sum_at,
    tile_at,
    tiles_of,
    write_tile,
)

_LN_2 = tl.constexpr(0.6931471805599453)


class Gradients(NamedTuple):
    """Where gradients go. What is a sum over programs leaves in parts, which are added up afterwards.

    Attributes:
        u, delta, z: Like what they belong to; z None without a gate.
        A: Rows (batch, chunk, state, dim).
        B, C: Sums over the channels of a block, (block, batch, group, state, length) float32.
        D, bias: (batch, chunk, dim) float32, or None.
    """

    u: Strided
    delta: Strided
    z: Strided
    A: Any
    B: Any
    C: Any
    D: Any
    bias: Any


@compiled
def laters_kernel(
    given: Given,
    dy: Strided,
    laters: tl.tensor,
    elapsed: tl.tensor,
    SOFTPLUS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Fills what leaves each chunk at its start if nothing enters at its end, and how long chunks take.

    Args:
        given: Of which u, B and skip are not read.
        dy: Gradient of the output.
        laters: Written: decay * g of the chunk's first step, rows (batch, chunk, state, dim).
        elapsed: Written: the sum of dt, (batch, chunk, dim).
    """
    sizes = given.sizes
    place = place_of(sizes, BLOCK)
    shift = read_parameter(given.bias, sizes, place)
    first, last = tiles_of(sizes, place.chunk)
    time = tl.zeros([BLOCK], tl.float32)
    for back in range(0, last - first):
        # Gradients are written by one tile and read by the one before.
        tl.debug_barrier()
        tile = tile_at(given, place, last - 1 - back)
        dt = step_sizes(read_tile(given.delta, place, tile) + shift[None, :], tile, SOFTPLUS)
        time += tl.sum(dt, axis=0)
        dout = read_tile(dy, place, tile)
        if given.z.pointer is not None:
            gate = read_tile(given.z, place, tile)
            dout *= gate * sigmoid(gate)
        for n in range(sizes.states):
            decay = tl.exp2(dt * read_rate(given, place, n)[None, :])
            row = laters + row_at(sizes, place, sizes.chunks, place.chunk, n)
            later = tl.load(row, mask=place.present & (back > 0), other=0.0)
            _, later = run_back(later, decay, dout * read_projection(given.C, place, tile, n)[:, None])
            tl.store(row, later, mask=place.present)
    tl.store(elapsed + sum_at(sizes, place), time, mask=place.present)


@compiled
def state_gradients(
    given: Given,
    place: Place,
    tile: Tile,
    number: tl.tensor,
    last: tl.tensor,
    n: tl.tensor,
    dt: tl.tensor,
    dtu: tl.tensor,
    dout: tl.tensor,
    states: tl.tensor,
    laters: tl.tensor,
    gradients: Gradients,
) -> Any:
    """Takes one state back over a tile and adds to the gradients of A, B and C.

    Returns:
        What the state adds to the output, to the sum of g B and to that of g a h_(t-1) A * log2(e), each
        (STEPS, BLOCK).
    """
    sizes = given.sizes
    b, c = read_projection(given.B, place, tile, n), read_projection(given.C, place, tile, n)
    rate = read_rate(given, place, n)
    decay = tl.exp2(dt * rate[None, :])
    added = dtu * b[:, None]
    kept = states + row_at(sizes, place, (sizes.length + STEPS - 1) // STEPS, number, n)
    carried, _ = run(tl.load(kept, mask=place.present, other=0.0), decay, added)
    h = carried + added

    row = row_at(sizes, place, sizes.chunks, place.chunk, n)
    known = (number + 1 < last) | (place.chunk + 1 < sizes.chunks)
    later = tl.load(laters + row, mask=place.present & known, other=0.0)
    g, later = run_back(later, decay, dout * c[:, None])
    tl.store(laters + row, later, mask=place.present)

    through = g * carried
    dA = tl.load(gradients.A + row, mask=place.present & (number + 1 < last), other=0.0)
    dA += tl.sum(through * dt, axis=0)
    tl.store(gradients.A + row, dA, mask=place.present)
    line = ((place.block * sizes.batch + place.batch) * sizes.groups + place.group) * sizes.states + n
    start = line * sizes.length + tile.start
    tl.store(gradients.B + start + tile.offsets, tl.sum(g * dtu, axis=1), mask=tile.inside)
    tl.store(gradients.C + start + tile.offsets, tl.sum(h * dout, axis=1), mask=tile.inside)
    return c[:, None] * h, g * b[:, None], through * rate[None, :]


@compiled
def gradients_kernel(
    given: Given,
    dy: Strided,
    states: tl.tensor,
    laters: tl.tensor,
    gradients: Gradients,
    SOFTPLUS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Fills all gradients from the states before each tile and the gradient that enters each chunk.

    Args:
        given: The scan.
        dy: Gradient of the output.
        states: Rows (batch, tile, state, dim).
        laters: Rows (batch, chunk, state, dim), overwritten; that of the last chunk is not read.
        gradients: Written.
    """
    sizes = given.sizes
    place = place_of(sizes, BLOCK)
    weight, shift = read_parameter(given.skip, sizes, place), read_parameter(given.bias, sizes, place)
    first, last = tiles_of(sizes, place.chunk)
    dD, dbias = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for back in range(0, last - first):
        # Gradients are written by one tile and read by the one before.
        tl.debug_barrier()
        number = last - 1 - back
        tile = tile_at(given, place, number)
        x = read_tile(given.u, place, tile)
        shifted = read_tile(given.delta, place, tile) + shift[None, :]
        dt = step_sizes(shifted, tile, SOFTPLUS)
        dtu, out = dt * x, weight[None, :] * x
        dout = read_tile(dy, place, tile)
        if given.z.pointer is not None:
            gate = read_tile(given.z, place, tile)
            opened = sigmoid(gate)
            slope = dout * opened * (1.0 + gate * (1.0 - opened))
            dout *= gate * opened
        gB, gA = tl.zeros_like(dt), tl.zeros_like(dt)
        for n in range(sizes.states):
            part, part_B, part_A = state_gradients(
                given, place, tile, number, last, n, dt, dtu, dout, states, laters, gradients
            )
            out += part
            gB += part_B
            gA += part_A
        ddelta = x * gB + gA * _LN_2
        if SOFTPLUS:
            ddelta *= sigmoid(shifted)
        ddelta = tl.where(tile.mask, ddelta, 0.0)
        write_tile(gradients.u, place, tile, weight[None, :] * dout + dt * gB)
        write_tile(gradients.delta, place, tile, ddelta)
        if given.z.pointer is not None:
            write_tile(gradients.z, place, tile, slope * out)
        dD += tl.sum(dout * x, axis=0)
        dbias += tl.sum(ddelta, axis=0)
    if gradients.D is not None:
        tl.store(gradients.D + sum_at(sizes, place), dD, mask=place.present)
    if gradients.bias is not None:
        tl.store(gradients.bias + sum_at(sizes, place), dbias, mask=place.present)
