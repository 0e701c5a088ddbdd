"""The depthwise causal convolution for processors, in Numba: tiles of steps, vectors of channels.

A window holds a tile of the input and the taps - 1 steps before it. The backward recomputes the sums before
the activation, and takes the tiles from last to first, because a step's gradient needs the steps after it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from scanseg.kernels.cpu.functions import exp_minus_abs, sigmoid_from
from scanseg.kernels.cpu.simd import F32, LANES, entry, fill, fma, inlined, load, outlined, read, store, write
from scanseg.kernels.cpu.tiles import TILE, Order, Steps, Strided, read_tile, steps_of, write_tile


class Convolution(NamedTuple):
    """Sizes, and addresses of contiguous float32 weights (dim, taps) and biases (dim); 0 means no bias."""

    batch: int
    dim: int
    length: int
    taps: int
    silu: int
    x: Strided
    weight: int
    bias: int


class ConvolutionGradients(NamedTuple):
    """Gradient of the output; where those of x, weight (batch, dim, taps) and bias (batch, dim) go."""

    y: Strided
    x: Strided
    weight: int
    bias: int


class Window(NamedTuple):
    """Scratch: the input with its past, sums and gradients of a tile, weights, sums of weight gradients."""

    x: Any
    p: Any
    dp: Any
    dx: Any
    weight: Any
    dweight: Any
    at: Any


@inlined
def _new_window(taps: int) -> Window:
    rows = TILE + taps - 1
    return Window(
        np.empty(rows * LANES, F32),
        np.empty(TILE * LANES, F32),
        np.empty(rows * LANES, F32),
        np.empty(TILE * LANES, F32),
        np.empty((taps + 1) * LANES, F32),
        np.empty((taps + 1) * LANES, F32),
        np.empty(rows, np.int64),
    )


@outlined
def _read_weights(given: Convolution, window: Window, channel: int, channels: int) -> None:
    """Fills weight[k * LANES + c]; row `taps` is the bias."""
    window.weight[:] = F32(0.0)
    window.dweight[:] = F32(0.0)
    for c in range(channels):
        d = channel + c
        for k in range(given.taps):
            window.weight[k * LANES + c] = read(given.weight + 4 * (d * given.taps + k), np.float32)
        if given.bias:
            window.weight[given.taps * LANES + c] = read(given.bias + 4 * d, np.float32)


@outlined
def _read_window(
    given: Convolution, window: Window, batch: int, channel: int, start: int, count: int
) -> None:
    """Fills window.x with the steps from start - taps + 1 on; steps before the first are 0."""
    channels = min(LANES, given.dim - channel)
    first = start - given.taps + 1
    missing = max(0, -first)
    window.x[: missing * LANES] = F32(0.0)
    total = count + given.taps - 1 - missing
    steps = steps_of(window.at, Order(0, 0, 0, 0), 0, 0, first + missing, total)
    read_tile(window.x[missing * LANES :], given.x, batch, 0, channel, steps, channels)


@outlined
def _sum_taps(window: Window, taps: int, count: int) -> None:
    """Fills window.p with the convolution of the tile."""
    for t in range(count):
        total = load(window.weight, taps * LANES)
        for k in range(taps):
            total = fma(load(window.weight, k * LANES), load(window.x, (t + k) * LANES), total)
        store(window.p, t * LANES, total)


@outlined
def _activate(window: Window, count: int) -> None:
    """p = silu(p)."""
    for t in range(count):
        p = load(window.p, t * LANES)
        store(window.p, t * LANES, p * sigmoid_from(p, exp_minus_abs(p)))


@outlined
def _deactivate(window: Window, count: int) -> None:
    """Turns the gradient of silu(p) in dp into the gradient of p."""
    for t in range(count):
        p, gradient = load(window.p, t * LANES), load(window.dp, t * LANES)
        s = sigmoid_from(p, exp_minus_abs(p))
        slope = fma(p * s, fill(F32(1.0)) - s, s)
        store(window.dp, t * LANES, gradient * slope)


@outlined
def _spread(window: Window, taps: int, count: int) -> None:
    """Fills dx from dp of this tile and of the taps - 1 steps after it; adds to the weights' gradients."""
    for t in range(count):
        total = fill(F32(0.0))
        for k in range(taps):
            total = fma(load(window.weight, k * LANES), load(window.dp, (t + taps - 1 - k) * LANES), total)
        store(window.dx, t * LANES, total)
    for k in range(taps):
        total = load(window.dweight, k * LANES)
        for t in range(count):
            total = fma(load(window.dp, t * LANES), load(window.x, (t + k) * LANES), total)
        store(window.dweight, k * LANES, total)
    total = load(window.dweight, taps * LANES)
    for t in range(count):
        total = total + load(window.dp, t * LANES)
    store(window.dweight, taps * LANES, total)


@outlined
def _tile(window: Window, start: int, count: int) -> Steps:
    return steps_of(window.at, Order(0, 0, 0, 0), 0, 0, start, count)


@entry
def convolution_jobs(first: int, last: int, given: Convolution, y: Strided) -> None:
    """Convolves the jobs [first, last): a job is a batch element and a block of channels."""
    window = _new_window(given.taps)
    blocks = (given.dim + LANES - 1) // LANES
    for job in range(first, last):
        batch, channel = job // blocks, job % blocks * LANES
        channels = min(LANES, given.dim - channel)
        _read_weights(given, window, channel, channels)
        for start in range(0, given.length, TILE):
            count = min(TILE, given.length - start)
            _read_window(given, window, batch, channel, start, count)
            _sum_taps(window, given.taps, count)
            if given.silu:
                _activate(window, count)
            write_tile(window.p, y, batch, 0, channel, _tile(window, start, count), channels)


@outlined
def _keep_later(window: Window, taps: int, count: int) -> None:
    """Moves the first steps of dp, those of the later tile, behind the `count` steps that come next."""
    for t in range(taps - 2, -1, -1):
        store(window.dp, (count + t) * LANES, load(window.dp, t * LANES))


@outlined
def _write_weights(
    given: Convolution,
    gradients: ConvolutionGradients,
    window: Window,
    batch: int,
    channel: int,
    channels: int,
) -> None:
    for c in range(channels):
        d = batch * given.dim + channel + c
        for k in range(given.taps):
            write(gradients.weight + 4 * (d * given.taps + k), window.dweight[k * LANES + c], np.float32)
        write(gradients.bias + 4 * d, window.dweight[given.taps * LANES + c], np.float32)


@entry
def convolution_backward_jobs(
    first: int, last: int, given: Convolution, gradients: ConvolutionGradients
) -> None:
    """Writes the gradients of the jobs [first, last)."""
    window = _new_window(given.taps)
    blocks = (given.dim + LANES - 1) // LANES
    tiles = (given.length + TILE - 1) // TILE
    for job in range(first, last):
        batch, channel = job // blocks, job % blocks * LANES
        channels = min(LANES, given.dim - channel)
        _read_weights(given, window, channel, channels)
        window.dp[:] = F32(0.0)
        for number in range(tiles - 1, -1, -1):
            start = number * TILE
            count = min(TILE, given.length - start)
            _read_window(given, window, batch, channel, start, count)
            _keep_later(window, given.taps, count)
            steps = _tile(window, start, count)
            read_tile(window.dp, gradients.y, batch, 0, channel, steps, channels)
            if given.silu:
                _sum_taps(window, given.taps, count)
                _deactivate(window, count)
            _spread(window, given.taps, count)
            write_tile(window.dx, gradients.x, batch, 0, channel, steps, channels)
        _write_weights(given, gradients, window, batch, channel, channels)
