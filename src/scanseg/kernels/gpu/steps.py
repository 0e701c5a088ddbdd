"""What the GPU kernels share: how a program finds its work, reads and writes it, and takes its steps.

A program works on one batch element, one group, one chunk of the length and BLOCK channels. It goes through its
chunk in tiles of STEPS steps, (STEPS, BLOCK) float32, and within a tile through the states one by one. A warp
has 32 channels side by side and BLOCK is 32 times the number of warps, so a thread holds every step of its
channel, and the recurrence stays in its registers.

Arrays that only the kernels see are contiguous float32 with channels last. A row is one state of all channels:
"rows (batch, slot, state, dim)".
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
    """Makes a function that Triton compiles, or interprets if TRITON_INTERPRET=1 was set before its import."""
    return triton.jit(function)


class Strided(NamedTuple):
    """A sequence (batch, group, channel, step): tensor, or None if there is none, and strides in elements."""

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
    """The position read at each step, (batch, group, step): tensor and strides; None if it is the step itself."""

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
    """What is scanned. `rates` is A * log2(e), (state, dim) float32; skip and bias are (dim,) float32 or None."""

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
    """The positions of a tile's steps, which steps exist, (STEPS,), and which values do, (STEPS, BLOCK)."""

    positions: Any
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
def tiles_of(sizes: Sizes, chunk: Any) -> Any:
    """Returns the first tile of a chunk and the one behind its last."""
    first = chunk * sizes.tiles
    return first, tl.minimum(first + sizes.tiles, (sizes.length + STEPS - 1) // STEPS)


@compiled
def tile_at(given: Given, place: Place, number: Any) -> Any:
    """Returns tile `number` of the sequence."""
    steps = number * STEPS + tl.arange(0, STEPS)
    inside = steps < given.sizes.length
    positions = steps.to(tl.int64)
    order = given.order
    if order.pointer is not None:
        start = place.batch * order.batch + place.group * order.group
        positions = tl.load(order.pointer + start + positions * order.step, mask=inside, other=0).to(tl.int64)
    return Tile(positions=positions, inside=inside, mask=inside[:, None] & place.present[None, :])


@compiled
def offsets_of(sequence: Strided, place: Place, tile: Tile) -> Any:
    """Returns the offset of every value of a tile, (STEPS, BLOCK)."""
    start = place.batch * sequence.batch + place.group * sequence.group
    columns = place.channels.to(tl.int64) * sequence.channel
    return start + tile.positions[:, None] * sequence.step + columns[None, :]


@compiled
def read_tile(sequence: Strided, place: Place, tile: Tile) -> Any:
    """Returns a tile of a sequence, (STEPS, BLOCK) float32, 0 where there is nothing."""
    # Knew the compiler of neighbours in memory, it would spread the steps over threads. Where channels lie side
    # by side, a warp reads whole lines without that.
    offsets = tl.max_contiguous(offsets_of(sequence, place, tile), [1, 1])
    return tl.load(sequence.pointer + offsets, mask=tile.mask, other=0.0).to(tl.float32)


@compiled
def write_tile(sequence: Strided, place: Place, tile: Tile, values: Any) -> None:
    """Writes a tile of a sequence, rounded to its dtype."""
    offsets = offsets_of(sequence, place, tile)
    tl.store(sequence.pointer + offsets, values.to(sequence.pointer.dtype.element_ty), mask=tile.mask)


@compiled
def read_projection(projection: Grouped, place: Place, tile: Tile, n: Any) -> Any:
    """Returns state n of B or C over a tile, (STEPS,) float32, 0 where there is nothing."""
    start = place.batch * projection.batch + place.group * projection.group + n * projection.state
    pointers = projection.pointer + start + tile.positions * projection.step
    return tl.load(pointers, mask=tile.inside, other=0.0).to(tl.float32)


@compiled
def read_parameter(pointer: Any, sizes: Sizes, place: Place) -> Any:
    """Returns a parameter (dim,) of the program's channels, (BLOCK,); zeros if it is None."""
    values = tl.zeros(place.channels.shape, tl.float32)
    if pointer is not None:
        pointers = pointer + place.group * sizes.channels + place.channels
        values = tl.load(pointers, mask=place.present, other=0.0)
    return values


@compiled
def read_rate(given: Given, place: Place, n: Any) -> Any:
    """Returns A * log2(e) of state n, (BLOCK,)."""
    return read_parameter(given.rates + n * (given.sizes.groups * given.sizes.channels), given.sizes, place)


@compiled
def row_at(sizes: Sizes, place: Place, slots: Any, slot: Any, n: Any) -> Any:
    """Returns the offsets of the program's channels in rows (batch, slots, state, dim)."""
    row = (place.batch * slots + slot) * sizes.states + n
    return (row * sizes.groups + place.group) * sizes.channels + place.channels


@compiled
def sum_at(sizes: Sizes, place: Place) -> Any:
    """Returns the offsets of the program's channels in an array (batch, chunk, dim)."""
    return ((place.batch * sizes.chunks + place.chunk) * sizes.groups + place.group) * sizes.channels + place.channels


@compiled
def step_sizes(shifted: Any, tile: Tile, SOFTPLUS: tl.constexpr) -> Any:
    """Returns dt from delta + bias; 0 where there is no step, which leaves the state as it is."""
    if SOFTPLUS:
        shifted = softplus(shifted)
    return tl.where(tile.mask, shifted, 0.0)


@compiled
def pick(values: Any, s: tl.constexpr) -> Any:
    """Returns step s of a tile, (BLOCK,).

    The compiler knows which register of a thread holds which step, so nothing remains of the choice and the sum;
    of a sum of floats it would have to keep the additions of zero.
    """
    here = tl.arange(0, STEPS)[:, None] == s
    bits = tl.where(here, values.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, axis=0).to(tl.float32, bitcast=True)


@compiled
def put(values: Any, s: tl.constexpr, row: Any) -> Any:
    """Returns the tile with step s replaced by `row`, (BLOCK,)."""
    return tl.where(tl.arange(0, STEPS)[:, None] == s, row[None, :], values)


@compiled
def run(h: Any, decay: Any, added: Any) -> Any:
    """Runs h_t = decay_t h_(t-1) + added_t over a tile; returns the tile of decay_t h_(t-1), and the last h."""
    carried = tl.zeros_like(decay)
    for s in tl.static_range(STEPS):
        kept = pick(decay, s) * h
        carried = put(carried, s, kept)
        h = kept + pick(added, s)
    return carried, h


@compiled
def run_back(later: Any, decay: Any, pushed: Any) -> Any:
    """Runs g_t = pushed_t + decay_(t+1) g_(t+1) back over a tile.

    `later` is decay g of the step behind the tile; returns the tile of g, and decay g of its first step.
    """
    gradients = tl.zeros_like(decay)
    for s in tl.static_range(STEPS - 1, -1, -1):
        g = pick(pushed, s) + later
        gradients = put(gradients, s, g)
        later = pick(decay, s) * g
    return gradients, later


@compiled
def decayed(h: Any, exponent: Any) -> Any:
    """Returns h * 2**exponent, finite wherever the product is, for exponents of either sign."""
    # The decay of a chunk may overflow where the product does not: at a positive rate and a small state.
    quarter = tl.exp2(0.25 * exponent)
    return tl.where(h == 0.0, h, h * quarter * quarter * quarter * quarter)


@compiled
def sigmoid(x: Any) -> Any:
    """Returns 1 / (1 + exp(-x))."""
    e = tl.exp2(-_LOG2_E * tl.abs(x))
    return tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@compiled
def softplus(x: Any) -> Any:
    """Returns log(1 + exp(x)), good also where it is tiny: max(x, 0) + log(1 + e) with e = exp(-|x|)."""
    e = tl.exp2(-_LOG2_E * tl.abs(x))
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
