"""The depthwise causal convolution for processors, in Numba: tiles of steps, vectors of channels.

A window holds a tile of the input and the taps - 1 steps before it. The backward recomputes the sums before
the activation, and takes the tiles from last to first, because a step's gradient needs the steps after it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scanseg.kernels.cpu.elements import read, write
from scanseg.kernels.cpu.functions import exp_minus_abs, sigmoid_from
from scanseg.kernels.cpu.simd import (
    CACHE_LINE,
    F32,
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
)
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
    """Addresses of scratch: input with its past, sums and gradients of a tile, weights, their gradients."""

    x: int
    p: int
    dp: int
    dx: int
    weight: int
    dweight: int
    at: int
    end: int


@outlined
def _window_at(x: int, taps: int) -> Window:
    rows = TILE + taps - 1
    p = behind(x, rows * LANES)
    dp = behind(p, TILE * LANES)
    dx = behind(dp, rows * LANES)
    weight = behind(dx, TILE * LANES)
    dweight = behind(weight, (taps + 1) * LANES)
    at = behind(dweight, (taps + 1) * LANES)
    return Window(x, p, dp, dx, weight, dweight, at, behind(at, 2 * rows))


@outlined
def _read_weights(given: Convolution, window: Window, channel: int, channels: int) -> None:
    """Fills weight[k * LANES + c]; row `taps` is the bias."""
    clear(window.weight, (given.taps + 1) * LANES)
    clear(window.dweight, (given.taps + 1) * LANES)
    for c in range(channels):
        d = channel + c
        for k in range(given.taps):
            weight = read(given.weight + 4 * (d * given.taps + k), np.float32)
            write(window.weight + 4 * (k * LANES + c), weight, np.float32)
        if given.bias:
            bias = read(given.bias + 4 * d, np.float32)
            write(window.weight + 4 * (given.taps * LANES + c), bias, np.float32)


@outlined
def _read_window(
    given: Convolution, window: Window, batch: int, channel: int, start: int, count: int
) -> None:
    """Fills window.x with the steps from start - taps + 1 on; steps before the first are 0."""
    channels = min(LANES, given.dim - channel)
    first = start - given.taps + 1
    missing = max(0, -first)
    clear(window.x, missing * LANES)
    total = count + given.taps - 1 - missing
    steps = steps_of(window.at, Order(0, 0, 0, 0), 0, 0, first + missing, total)
    read_tile(window.x + 4 * missing * LANES, given.x, batch, 0, channel, steps, channels)


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
    memory = np.empty(_window_at(0, given.taps).end + CACHE_LINE, np.uint8)
    window = _window_at(aligned(memory.ctypes.data), given.taps)
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
    # Numba frees an array after its last use; this is the last.
    memory[0] = 0


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
            value = read(window.dweight + 4 * (k * LANES + c), np.float32)
            write(gradients.weight + 4 * (d * given.taps + k), value, np.float32)
        total = read(window.dweight + 4 * (given.taps * LANES + c), np.float32)
        write(gradients.bias + 4 * d, total, np.float32)


@entry
def convolution_backward_jobs(
    first: int, last: int, given: Convolution, gradients: ConvolutionGradients
) -> None:
    """Writes the gradients of the jobs [first, last)."""
    memory = np.empty(_window_at(0, given.taps).end + CACHE_LINE, np.uint8)
    window = _window_at(aligned(memory.ctypes.data), given.taps)
    blocks = (given.dim + LANES - 1) // LANES
    tiles = (given.length + TILE - 1) // TILE
    for job in range(first, last):
        batch, channel = job // blocks, job % blocks * LANES
        channels = min(LANES, given.dim - channel)
        _read_weights(given, window, channel, channels)
        clear(window.dp, (TILE + given.taps - 1) * LANES)
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
    # Numba frees an array after its last use; this is the last.
    memory[0] = 0
