"""The recurrence of one state over one tile: LANES channels, at most TILE steps, the state in registers.

Scratch is float32 at addresses. With t the step, n the state, i = t * LANES, r = n * LANES and
j = t * states + n:

    rates[r], h[r], g[r], dA[r]     A * log2(e), the state, its gradient, the gradient of A
    B[j], C[j]                      projections
    dB[k], dC[k]                    their gradients, not yet summed over channels, k = (n * TILE + t) * HALF
    everything else [i]             see `Tile`

One state at a time is enough: nothing but one multiply-add links a step to the next, so the processor runs
the exponentials of many steps at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from scanseg.kernels.arguments import KEPT_EVERY
from scanseg.kernels.cpu.simd import (
    F32,
    HALF,
    LANES,
    absolute,
    all_at_most,
    fill,
    fma,
    fold_fma,
    inlined,
    larger,
    load,
    load_half,
    splat,
    store,
)

TILE = KEPT_EVERY


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

    u: int
    dt: int
    slope: int
    dtu: int
    z: int
    y: int
    dout: int
    dy: int
    decay: int
    carried: int
    gB: int
    gA: int


@inlined
def fits(steps: int, dt: int, steepest: int) -> Any:
    """Whether |dt A log2(e)| is at most 126 for all steps and states, so that `exp2_within` may be used.

    A NaN among the step sizes or rates does not count: either power of it is NaN.
    """
    peak = fill(F32(0.0))
    for t in range(steps):
        peak = larger(absolute(load(dt, t * LANES)), peak)
    return all_at_most(peak * load(steepest, 0), fill(F32(126.0)))


@inlined
def scan(
    power: Any,
    steps: int,
    n: int,
    states: int,
    rates: int,
    h: int,
    B: int,
    C: int,
    dt: int,
    dtu: int,
    y: int,
) -> None:
    """Advances state n over the tile and adds its part to y; `power` is `exp2` or `exp2_within`."""
    rate, state = load(rates, n * LANES), load(h, n * LANES)
    for t in range(steps):
        i, j = t * LANES, t * states + n
        state = fma(power(load(dt, i) * rate), state, load(dtu, i) * splat(B, j))
        store(y, i, fma(state, splat(C, j), load(y, i)))
    store(h, n * LANES, state)


@inlined
def rescan(
    power: Any,
    steps: int,
    n: int,
    states: int,
    rates: int,
    h: int,
    B: int,
    C: int,
    dC: int,
    tile: Tile,
    y: int | None,
) -> None:
    """Recomputes state n from the start of the tile, keeps what `reverse` needs and adds to dC.

    `power` as in `scan`. `y` is None, or the scratch to add the state's part of the output to, which only a
    gate needs again.
    """
    rate, state = load(rates, n * LANES), load(h, n * LANES)
    for t in range(steps):
        i, j, k = t * LANES, t * states + n, (n * TILE + t) * HALF
        decay = power(load(tile.dt, i) * rate)
        carried = decay * state
        state = fma(load(tile.dtu, i), splat(B, j), carried)
        store(tile.decay, i, decay)
        store(tile.carried, i, carried)
        store(dC, k, fold_fma(state, load(tile.dy, i), load_half(dC, k)))
        if y is not None:
            store(y, i, fma(state, splat(C, j), load(y, i)))


@inlined
def reverse(
    steps: int, n: int, states: int, rates: int, g: int, dA: int, B: int, C: int, dB: int, tile: Tile
) -> None:
    """Carries the gradient of state n back over the tile and adds its parts to dA, dB, gB and gA."""
    rate, later, total = load(rates, n * LANES), load(g, n * LANES), load(dA, n * LANES)
    for back in range(steps):
        t = steps - 1 - back
        i, j, k = t * LANES, t * states + n, (n * TILE + t) * HALF
        gradient = fma(splat(C, j), load(tile.dy, i), later)
        store(tile.gB, i, fma(gradient, splat(B, j), load(tile.gB, i)))
        store(dB, k, fold_fma(gradient, load(tile.dtu, i), load_half(dB, k)))
        through = gradient * load(tile.carried, i)
        store(tile.gA, i, fma(through, rate, load(tile.gA, i)))
        total = fma(through, load(tile.dt, i), total)
        later = gradient * load(tile.decay, i)
    store(g, n * LANES, later)
    store(dA, n * LANES, total)
