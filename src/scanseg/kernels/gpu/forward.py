"""The forward scan for GPUs, in Triton.

`outputs_kernel` alone scans if there is one chunk. With several, `ends_kernel` finds what each chunk adds to
the state, `carry_kernel` combines that into the state before each chunk, and `outputs_kernel` starts from
there.
"""

from __future__ import annotations

import triton.language as tl

from scanseg.kernels.gpu.steps import (
    STEPS,
    Given,
    Place,
    Sizes,
    Strided,
    compiled,
    decayed,
    place_of,
    read_parameter,
    read_projection,
    read_rate,
    read_tile,
    row_at,
    run,
    sigmoid,
    step_sizes,
    sum_at,
    tile_at,
    tiles_of,
    write_tile,
)


@compiled
def ends_kernel(
    given: Given, ends: tl.tensor, elapsed: tl.tensor, SOFTPLUS: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Fills the state behind each chunk if it is 0 before, and how long each chunk takes.

    Args:
        given: Of which z, C and skip are not read.
        ends: Written: rows (batch, chunk, state, dim).
        elapsed: Written: the sum of dt, (batch, chunk, dim).
    """
    sizes = given.sizes
    place = place_of(sizes, BLOCK)
    shift = read_parameter(given.bias, sizes, place)
    first, last = tiles_of(sizes, place.chunk)
    time = tl.zeros([BLOCK], tl.float32)
    for number in range(first, last):
        # States are written by one tile and read by the next.
        tl.debug_barrier()
        tile = tile_at(given, place, number)
        x = read_tile(given.u, place, tile)
        dt = step_sizes(read_tile(given.delta, place, tile) + shift[None, :], tile, SOFTPLUS)
        time += tl.sum(dt, axis=0)
        dtu = dt * x
        for n in range(sizes.states):
            decay = tl.exp2(dt * read_rate(given, place, n)[None, :])
            row = ends + row_at(sizes, place, sizes.chunks, place.chunk, n)
            h = tl.load(row, mask=place.present & (number > first), other=0.0)
            _, h = run(h, decay, dtu * read_projection(given.B, place, tile, n)[:, None])
            tl.store(row, h, mask=place.present)
    tl.store(elapsed + sum_at(sizes, place), time, mask=place.present)


@compiled
def carry_kernel(
    local: tl.tensor,
    elapsed: tl.tensor,
    rates: tl.tensor,
    carried: tl.tensor,
    sizes: Sizes,
    slots: int,
    spacing: int,
    REVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Combines what each chunk adds into what enters each chunk; a program takes one state of BLOCK channels.

    Args:
        local: What leaves a chunk if nothing enters it, rows (batch, chunk, state, dim).
        elapsed: The sum of dt of each chunk, (batch, chunk, dim).
        rates: A * log2(e), (state, dim).
        carried: Written: what enters a chunk, rows (batch, slots, state, dim), at slot chunk * spacing. May
            be `local`.
        sizes: Sizes and cut.
        slots: Slots of `carried`.
        spacing: Slots from one chunk to the next.
        REVERSE: Whether the last chunk comes first, as for gradients.
    """
    blocks = (sizes.channels + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    n = program // blocks % sizes.states
    pair = program // blocks // sizes.states
    batch, group = (pair // sizes.groups).to(tl.int64), (pair % sizes.groups).to(tl.int64)
    channels = program % blocks * BLOCK + tl.arange(0, BLOCK)
    present = channels < sizes.channels
    rate_at = (n * sizes.groups + group) * sizes.channels + channels
    rate = tl.load(rates + rate_at, mask=present, other=0.0)
    value = tl.zeros([BLOCK], tl.float32)
    for i in tl.range(0, sizes.chunks, num_stages=4):
        chunk = sizes.chunks - 1 - i if REVERSE else i
        place = Place(batch=batch, group=group, chunk=chunk, block=0, channels=channels, present=present)
        added = tl.load(local + row_at(sizes, place, sizes.chunks, chunk, n), mask=present, other=0.0)
        time = tl.load(elapsed + sum_at(sizes, place), mask=present, other=0.0)
        tl.store(carried + row_at(sizes, place, slots, chunk * spacing, n), value, mask=present)
        value = decayed(value, rate * time) + added


@compiled
def outputs_kernel(
    given: Given,
    y: Strided,
    states: tl.tensor,
    SOFTPLUS: tl.constexpr,
    KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Fills y from the states before each chunk.

    Args:
        given: The scan.
        y: Written.
        states: If KEEP, the states before each tile, rows (batch, tile, state, dim); those before the first
            tile of each later chunk are read, the others written. Else rows (batch, chunk, state, dim),
            overwritten. What enters the first chunk is 0 and not read.
    """
    sizes = given.sizes
    place = place_of(sizes, BLOCK)
    weight, shift = read_parameter(given.skip, sizes, place), read_parameter(given.bias, sizes, place)
    first, last = tiles_of(sizes, place.chunk)
    slots = (sizes.length + STEPS - 1) // STEPS if KEEP else sizes.chunks
    for number in range(first, last):
        # States are written by one tile and read by the next.
        tl.debug_barrier()
        tile = tile_at(given, place, number)
        x = read_tile(given.u, place, tile)
        dt = step_sizes(read_tile(given.delta, place, tile) + shift[None, :], tile, SOFTPLUS)
        dtu, out = dt * x, weight[None, :] * x
        for n in range(sizes.states):
            added = dtu * read_projection(given.B, place, tile, n)[:, None]
            decay = tl.exp2(dt * read_rate(given, place, n)[None, :])
            before = states + row_at(sizes, place, slots, number if KEEP else place.chunk, n)
            h = tl.load(before, mask=place.present & (number > 0), other=0.0)
            if KEEP:
                tl.store(before, h, mask=place.present & (number == 0))
            carried, h = run(h, decay, added)
            out += read_projection(given.C, place, tile, n)[:, None] * (carried + added)
            if KEEP:
                # What follows the chunk was found before, by `carry_kernel`.
                behind = states + row_at(sizes, place, slots, number + 1, n)
                tl.store(behind, h, mask=place.present & (number + 1 < last))
            else:
                tl.store(before, h, mask=place.present)
        if given.z.pointer is not None:
            gate = read_tile(given.z, place, tile)
            out *= gate * sigmoid(gate)
        write_tile(y, place, tile, out)
