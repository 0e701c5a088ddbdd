"""The recurrence of one state over one tile: LANES channels, at most TILE steps, the state in registers.

Scratch is flat float32. With t the step, n the state, i = t * LANES, r = n * LANES, j = t * states + n:

    rates[r], h[r], g[r], dA[r]     A * log2(e), the state, its gradient, the gradient of A
    B[j], C[j]                      projections
    dB[j * HALF], dC[j * HALF]      their gradients, not yet summed over channels
    everything else [i]             see `Tile`

One state at a time is enough: nothing but one multiply-add links a step to the next, so the processor runs
the exponentials of many steps at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from scanseg.kernels.cpu.functions import exp2
from scanseg.kernels.cpu.simd import (
    HALF,
    LANES,
    fma,
    fold_fma,
    inlined,
    load,
    load_half,
    splat,
    store,
)


class Tile(NamedTuple):
    """Scratch of the backward scan for one tile of LANES channels, each TILE * LANES values.

    Attributes:
        u: Input, in the end its gradient.
        dt: delta, then the step size, in the end the gradient of delta.
        slope: Derivative of the step size by delta.
        dtu: Step size times input.
        z: Gate, in the end its gradient.
        y: Output before the gate.
        dout: Gradient of the output behind the gate.
        dy: Gradient of the output before the gate.
        decay: exp(dt A).
        carried: exp(dt A) h_(t-1).
        gB: Sum over states of g B.
        gA: Sum over states of g exp(dt A) h_(t-1) A * log2(e).
    """

    u: Any
    dt: Any
    slope: Any
    dtu: Any
    z: Any
    y: Any
    dout: Any
    dy: Any
    decay: Any
    carried: Any
    gB: Any
    gA: Any


@inlined
def scan(
    steps: int, n: int, states: int, rates: Any, h: Any, B: Any, C: Any, dt: Any, dtu: Any, y: Any
) -> None:
    """Advances state n over the tile and adds its part to y."""
    rate, state = load(rates, n * LANES), load(h, n * LANES)
    for t in range(steps):
        i, j = t * LANES, t * states + n
        state = fma(exp2(load(dt, i) * rate), state, load(dtu, i) * splat(B, j))
        store(y, i, fma(state, splat(C, j), load(y, i)))
    store(h, n * LANES, state)


@inlined
def rescan(
    steps: int, n: int, states: int, rates: Any, h: Any, B: Any, C: Any, dC: Any, tile: Tile, y: Any
) -> None:
    """Recomputes state n from the start of the tile, keeps what `reverse` needs and adds to dC.

    `y` is None, or the array to add the state's part of the output to, which only a gate needs again.
    """
    rate, state = load(rates, n * LANES), load(h, n * LANES)
    for t in range(steps):
        i, j = t * LANES, t * states + n
        decay = exp2(load(tile.dt, i) * rate)
        carried = decay * state
        state = fma(load(tile.dtu, i), splat(B, j), carried)
        store(tile.decay, i, decay)
        store(tile.carried, i, carried)
        store(dC, j * HALF, fold_fma(state, load(tile.dy, i), load_half(dC, j * HALF)))
        if y is not None:
            store(y, i, fma(state, splat(C, j), load(y, i)))


@inlined
def reverse(
    steps: int, n: int, states: int, rates: Any, g: Any, dA: Any, B: Any, C: Any, dB: Any, tile: Tile
) -> None:
    """Carries the gradient of state n back over the tile and adds its parts to dA, dB, gB and gA."""
    rate, later, total = load(rates, n * LANES), load(g, n * LANES), load(dA, n * LANES)
    for back in range(steps):
        t = steps - 1 - back
        i, j = t * LANES, t * states + n
        gradient = fma(splat(C, j), load(tile.dy, i), later)
        store(tile.gB, i, fma(gradient, splat(B, j), load(tile.gB, i)))
        store(dB, j * HALF, fold_fma(gradient, load(tile.dtu, i), load_half(dB, j * HALF)))
        through = gradient * load(tile.carried, i)
        store(tile.gA, i, fma(through, rate, load(tile.gA, i)))
        total = fma(through, load(tile.dt, i), total)
        later = gradient * load(tile.decay, i)
    store(g, n * LANES, later)
    store(dA, n * LANES, total)
