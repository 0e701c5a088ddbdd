"""What the GPU kernels share: how a program finds its work, reads and writes it, and takes its steps.

A program works on one batch element, one group, one chunk of the length and BLOCK channels. It goes through
its chunk in tiles of STEPS steps, (STEPS, BLOCK) float32, and within a tile through the states one by one. A
warp has 32 channels side by side and BLOCK is 32 times the number of warps, so a thread holds every step of
its channel, and the recurrence stays in its registers.

Arrays that only the kernels see are contiguous float32 with channels last. A row is one state of all
channels: "rows (batch, slot, state, dim)".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import triton
import triton.language as tl

from scanseg.kernels.arguments import KEPT_EVERY

STEPS = tl.constexpr(KEPT_EVERY)
_LOG2_E = tl.constexpr(1.4426950408889634)


def compiled(function: Callable[..., Any]) -> Any:
    """Has Triton compile the function, or interpret it if TRITON_INTERPRET=1 was set before its import."""
    return triton.jit(function)


class Strided(NamedTuple):
    """A sequence (batch, group, channel, step): tensor, or None if there is none, and strides in bytes.

    In bytes, because Triton compiles a kernel anew for an argument of 1. Knew it that channels lie side by
    side, it would give several to a thread and spread the steps over threads, and the recurrence would have
    to go through shared memory. A warp reads whole lines without that.
    """

    pointer: Any
    batch: int
    group: int
    channel: int
    step: int


class Grouped(NamedTuple):
    """B or C, (batch, group, state, step): tensor and strides in elements."""

    pointer: Any
    batch: int
    group: int
    state: int
    step: int


class Order(NamedTuple):
    """The position read at each step, (batch, group, step): tensor and strides, or None: the step itself."""

    pointer: Any
    batch: int
    group: int
    step: int


class Sizes(NamedTuple):
    """The sizes of a scan. `channels` counts those of one group; a chunk is `tiles` tiles long."""

    batch: int
    groups: int
    channels: int
    length: int
    states: int
    tiles: int
    chunks: int


class Given(NamedTuple):
    """What is scanned; rates is A * log2(e), (state, dim), skip and bias (dim,) or None, all float32."""

    u: Strided
    delta: Strided
    z: Strided
    B: Grouped
    C: Grouped
    order: Order
    rates: Any
    skip: Any
    bias: Any
    sizes: Sizes


class Place(NamedTuple):
    """Where a program works: batch element, group, chunk, number of its block, channels, and which exist."""

    batch: Any
    group: Any
    chunk: Any
    block: Any
    channels: Any
    present: Any


class Tile(NamedTuple):
    """Where the steps of a tile lie, start + offsets, (STEPS,); which exist; which values do, (STEPS, BLOCK).

    In two parts, because the offsets of neighbouring steps fit 32 bits, and addresses take registers.
    """

    start: Any
    offsets: Any
    inside: Any
    mask: Any


@compiled
def place_of(sizes: Sizes, BLOCK: tl.constexpr) -> Any:
    """Returns the place of this program; blocks of channels turn fastest.

    So programs that run side by side read the same B and C, which come from memory but once.
    """
    blocks = (sizes.channels + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    pair = program // blocks // sizes.chunks
    channels = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return Place(
        batch=(pair // sizes.groups).to(tl.int64),
        group=(pair % sizes.groups).to(tl.int64),
        chunk=program // blocks % sizes.chunks,
        block=program % blocks,
        channels=channels,
        present=channels < sizes.channels,
    )


@compiled
def tiles_of(sizes: Sizes, chunk: tl.tensor) -> Any:
    """Returns the first tile of a chunk and the one behind its last."""
    first = chunk * sizes.tiles
    return first, tl.minimum(first + sizes.tiles, (sizes.length + STEPS - 1) // STEPS)


@compiled
def tile_at(given: Given, place: Place, number: tl.tensor) -> Any:
    """Returns tile `number` of the sequence."""
    offsets = tl.arange(0, STEPS)
    start = place.batch * 0 + number * STEPS
    inside = number * STEPS + offsets < given.sizes.length
    order = given.order
    if order.pointer is not None:
        steps = place.batch * order.batch + place.group * order.group + (start + offsets) * order.step
        start = place.batch * 0
        offsets = tl.load(order.pointer + steps, mask=inside, other=0).to(tl.int64)
    return Tile(start=start, offsets=offsets, inside=inside, mask=inside[:, None] & place.present[None, :])


@compiled
def offsets_of(sequence: Strided, place: Place, tile: Tile) -> Any:
    """Returns the offset of every value of a tile, (STEPS, BLOCK), in elements."""
    size = sequence.pointer.dtype.element_ty.primitive_bitwidth // 8
    step = sequence.step // size
    start = (
        place.batch * (sequence.batch // size) + place.group * (sequence.group // size) + tile.start * step
    )
    columns = place.channels.to(tl.int64) * (sequence.channel // size)
    return (start + columns)[None, :] + (tile.offsets * step)[:, None]


@compiled
def read_tile(sequence: Strided, place: Place, tile: Tile) -> Any:
    """Returns a tile of a sequence, (STEPS, BLOCK) float32, 0 where there is nothing."""
    pointers = sequence.pointer + offsets_of(sequence, place, tile)
    return tl.load(pointers, mask=tile.mask, other=0.0).to(tl.float32)


@compiled
def write_tile(sequence: Strided, place: Place, tile: Tile, values: tl.tensor) -> None:
    """Writes a tile of a sequence, rounded to its dtype."""
    pointers = sequence.pointer + offsets_of(sequence, place, tile)
    tl.store(pointers, values.to(sequence.pointer.dtype.element_ty), mask=tile.mask)


@compiled
def read_projection(projection: Grouped, place: Place, tile: Tile, n: tl.tensor) -> Any:
    """Returns state n of B or C over a tile, (STEPS,) float32, 0 where there is nothing."""
    start = place.batch * projection.batch + place.group * projection.group + n * projection.state
    pointers = projection.pointer + start + tile.start * projection.step + tile.offsets * projection.step
    return tl.load(pointers, mask=tile.inside, other=0.0).to(tl.float32)


@compiled
def read_parameter(pointer: tl.tensor, sizes: Sizes, place: Place) -> Any:
    """Returns a parameter (dim,) of the program's channels, (BLOCK,); zeros if it is None."""
    values = tl.zeros(place.channels.shape, tl.float32)
    if pointer is not None:
        pointers = pointer + place.group * sizes.channels + place.channels
        values = tl.load(pointers, mask=place.present, other=0.0)
    return values


@compiled
def read_rate(given: Given, place: Place, n: tl.tensor) -> Any:
    """Returns A * log2(e) of state n, (BLOCK,)."""
    return read_parameter(given.rates + n * (given.sizes.groups * given.sizes.channels), given.sizes, place)


@compiled
def row_at(sizes: Sizes, place: Place, slots: tl.tensor, slot: tl.tensor, n: tl.tensor) -> Any:
    """Returns the offsets of the program's channels in rows (batch, slots, state, dim)."""
    row = (place.batch * slots + slot) * sizes.states + n
    return (row * sizes.groups + place.group) * sizes.channels + place.channels


@compiled
def sum_at(sizes: Sizes, place: Place) -> Any:
    """Returns the offsets of the program's channels in an array (batch, chunk, dim)."""
    return (
        (place.batch * sizes.chunks + place.chunk) * sizes.groups + place.group
    ) * sizes.channels + place.channels


@compiled
def step_sizes(shifted: tl.tensor, tile: Tile, SOFTPLUS: tl.constexpr) -> Any:
    """Returns dt from delta + bias; 0 where there is no step, which leaves the state as it is."""
    if SOFTPLUS:
        shifted = softplus(shifted)
    return tl.where(tile.mask, shifted, 0.0)


@compiled
def picked(bits: tl.tensor, here: tl.tensor) -> Any:
    """Returns the step of a tile where `here`, (STEPS, 1), is true, (BLOCK,); the tile comes as integers.

    The compiler knows which register of a thread holds which step, so nothing remains of the choice and the
    sum. Of a sum of floats it would have to keep the additions of zero.
    """
    return tl.sum(tl.where(here, bits, 0), axis=0).to(tl.float32, bitcast=True)


@compiled
def run(h: tl.tensor, decay: tl.tensor, added: tl.tensor) -> Any:
    """Runs h_t = decay_t h_(t-1) + added_t over a tile; returns decay_t h_(t-1) as a tile, and the last h."""
    steps = tl.arange(0, STEPS)[:, None]
    decay_bits, added_bits = decay.to(tl.int32, bitcast=True), added.to(tl.int32, bitcast=True)
    carried = tl.zeros_like(decay)
    for s in tl.static_range(STEPS):
        here = steps == s
        kept = picked(decay_bits, here) * h
        carried = tl.where(here, kept[None, :], carried)
        h = kept + picked(added_bits, here)
    return carried, h


@compiled
def run_back(later: tl.tensor, decay: tl.tensor, pushed: tl.tensor) -> Any:
    """Runs g_t = pushed_t + decay_(t+1) g_(t+1) back over a tile.

    `later` is decay g of the step behind the tile; returns the tile of g, and decay g of its first step.
    """
    steps = tl.arange(0, STEPS)[:, None]
    decay_bits, pushed_bits = decay.to(tl.int32, bitcast=True), pushed.to(tl.int32, bitcast=True)
    gradients = tl.zeros_like(decay)
    for s in tl.static_range(STEPS - 1, -1, -1):
        here = steps == s
        g = picked(pushed_bits, here) + later
        gradients = tl.where(here, g[None, :], gradients)
        later = picked(decay_bits, here) * g
    return gradients, later


@compiled
def decayed(h: tl.tensor, exponent: tl.tensor) -> Any:
    """Returns h * 2**exponent, finite wherever the product is, for exponents of either sign."""
    # The decay of a chunk may overflow where the product does not: at a positive rate and a small state.
    quarter = tl.exp2(0.25 * exponent)
    return tl.where(h == 0.0, h, h * quarter * quarter * quarter * quarter)


@compiled
def sigmoid(x: tl.tensor) -> Any:
    """Returns 1 / (1 + exp(-x))."""
    e = tl.exp2(tl.abs(x) * -_LOG2_E)
    return tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@compiled
def softplus(x: tl.tensor) -> Any:
    """Returns log(1 + exp(x)), good also where it is tiny: max(x, 0) + log(1 + e) with e = exp(-|x|)."""
    e = tl.exp2(tl.abs(x) * -_LOG2_E)
    # log(1 + e) / e on [0, 1], minimax with the constant fixed at 1, relative error 4e-8.
    p = 0.005364824086427689 * e - 0.030065791681408882
    p = p * e + 0.07920453697443008
    p = p * e - 0.13753803074359894
    p = p * e + 0.191536545753479
    p = p * e - 0.24857163429260254
    p = p * e + 0.3332132399082184
    p = p * e - 0.49999648332595825
    p = p * e + 1.0
    return p * e + tl.where(x < 0.0, 0.0, x)
