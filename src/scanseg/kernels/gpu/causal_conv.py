"""The depthwise causal convolution with SiLU for GPUs, in Triton.

The sum is y_t = sum_j weight_j x_(t - taps + 1 + j) + bias.

A program takes TILE steps of BLOCK channels. The gradient by x is the same sum with the steps ahead instead
of behind, so one kernel does both.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from scanseg.kernels.gpu.steps import Place, Strided, Tile, compiled, read_tile, sigmoid, write_tile

TILE = tl.constexpr(32)
BLOCK = tl.constexpr(32)
_STEPS, _CHANNELS = 32, 32


@compiled
def work_of(dim: int, length: int) -> Any:
    """Returns the place of this program and its first step; blocks of channels turn fastest."""
    blocks, tiles = (dim + BLOCK - 1) // BLOCK, (length + TILE - 1) // TILE
    program = tl.program_id(0)
    channels = program % blocks * BLOCK + tl.arange(0, BLOCK)
    batch, number = (program // blocks // tiles).to(tl.int64), program // blocks % tiles
    place = Place(batch=batch, group=0, chunk=number, block=0, channels=channels, present=channels < dim)
    return place, number * TILE


@compiled
def tile_from(place: Place, start: tl.tensor, length: int) -> Any:
    """Returns the tile whose first step is `start`, which may lie before the sequence or behind it."""
    offsets = tl.arange(0, TILE)
    inside = (start + offsets >= 0) & (start + offsets < length)
    mask = inside[:, None] & place.present[None, :]
    return Tile(start=place.batch * 0 + start, offsets=offsets, inside=inside, mask=mask)


@compiled
def tap(weight: tl.tensor, place: Place, j: tl.constexpr, TAPS: tl.constexpr) -> Any:
    """Returns weight j of the channels, (BLOCK,)."""
    return tl.load(weight + place.channels * TAPS + j, mask=place.present, other=0.0)


@compiled
def convolved(
    x: Strided,
    weight: tl.tensor,
    bias: tl.tensor,
    place: Place,
    start: tl.tensor,
    length: int,
    TAPS: tl.constexpr,
) -> Any:
    """Returns a tile of the convolution, before the SiLU."""
    total = tl.zeros([TILE, BLOCK], tl.float32)
    for j in tl.static_range(TAPS):
        values = read_tile(x, place, tile_from(place, start - (TAPS - 1) + j, length))
        total += tap(weight, place, j, TAPS)[None, :] * values
    if bias is not None:
        total += tl.load(bias + place.channels, mask=place.present, other=0.0)[None, :]
    return total


@compiled
def convolve_kernel(
    x: Strided,
    y: Strided,
    weight: tl.tensor,
    bias: tl.tensor,
    dim: int,
    length: int,
    TAPS: tl.constexpr,
    SILU: tl.constexpr,
) -> None:
    """Fills y; weight (dim, taps) and bias (dim,) are contiguous float32, bias may be None."""
    place, start = work_of(dim, length)
    total = convolved(x, weight, bias, place, start, length, TAPS)
    if SILU:
        total *= sigmoid(total)
    write_tile(y, place, tile_from(place, start, length), total)


@compiled
def inner_gradients_kernel(
    x: Strided,
    dy: Strided,
    dinner: Strided,
    weight: tl.tensor,
    bias: tl.tensor,
    dweight: tl.tensor,
    dbias: tl.tensor,
    dim: int,
    length: int,
    TAPS: tl.constexpr,
    SILU: tl.constexpr,
) -> None:
    """Fills the gradient before the SiLU, and sums over the tile for those of the parameters.

    Args:
        x: Input.
        dy: Gradient of the output.
        dinner: Written; a tensor of None is not.
        weight, bias: As for `convolve_kernel`.
        dweight: Written: (batch, tile, taps, dim) float32.
        dbias: Written: (batch, tile, dim) float32.
        dim, length: Sizes.
    """
    place, start = work_of(dim, length)
    here = tile_from(place, start, length)
    gradient = read_tile(dy, place, here)
    if SILU:
        inner = convolved(x, weight, bias, place, start, length, TAPS)
        opened = sigmoid(inner)
        gradient *= opened * (1.0 + inner * (1.0 - opened))
    if dinner.pointer is not None:
        write_tile(dinner, place, here, gradient)
    row = place.batch * ((length + TILE - 1) // TILE) + place.chunk
    tl.store(dbias + row * dim + place.channels, tl.sum(gradient, axis=0), mask=place.present)
    for j in tl.static_range(TAPS):
        values = read_tile(x, place, tile_from(place, start - (TAPS - 1) + j, length))
        part = tl.sum(gradient * values, axis=0)
        tl.store(dweight + (row * TAPS + j) * dim + place.channels, part, mask=place.present)


@compiled
def input_gradients_kernel(
    dinner: Strided, dx: Strided, weight: tl.tensor, dim: int, length: int, TAPS: tl.constexpr
) -> None:
    """Fills the gradient by x from that before the SiLU."""
    place, start = work_of(dim, length)
    total = tl.zeros([TILE, BLOCK], tl.float32)
    for j in tl.static_range(TAPS):
        values = read_tile(dinner, place, tile_from(place, start + (TAPS - 1) - j, length))
        total += tap(weight, place, j, TAPS)[None, :] * values
    write_tile(dx, place, tile_from(place, start, length), total)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *, silu: bool) -> Tensor:
    """Returns the convolution of x (batch, dim, length) with weight (dim, taps), in x's dtype and layout."""
    y = torch.empty_like(x)
    taps, (_, dim, length) = weight.shape[1], x.shape
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        convolve_kernel[_programs(x)](
            _described(x),
            _described(y),
            *_parameters(weight, bias),
            dim,
            length,
            TAPS=taps,
            SILU=silu,
            num_warps=1,
        )
    return y


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns the gradients of x, weight and bias; None where there is no bias."""
    dx = torch.empty_like(x)
    taps, (batch, dim, length) = weight.shape[1], x.shape
    parameters, tiles = _parameters(weight, bias), -(-length // _STEPS)
    dinner = torch.empty_like(x, dtype=torch.float32) if silu else dy
    dweight = parameters[0].new_empty((batch, tiles, taps, dim))
    dbias = parameters[0].new_empty((batch, tiles, dim))
    target = _described(dinner) if silu else Strided(None, 0, 0, 0, 0)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        inner_gradients_kernel[_programs(x)](
            *(_described(x), _described(dy), target),
            *(*parameters, dweight, dbias, dim, length),
            TAPS=taps,
            SILU=silu,
            num_warps=1,
        )
        input_gradients_kernel[_programs(x)](
            _described(dinner), _described(dx), parameters[0], dim, length, TAPS=taps, num_warps=1
        )
    dweight = dweight.sum((0, 1)).t().contiguous().to(weight.dtype)
    return dx, dweight, None if bias is None else dbias.sum((0, 1)).to(bias.dtype)


def _programs(x: Tensor) -> tuple[int]:
    batch, dim, length = x.shape
    return (batch * -(-dim // _CHANNELS) * -(-length // _STEPS),)


def _parameters(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.float().contiguous(), None if bias is None else bias.float().contiguous()


def _described(tensor: Tensor) -> Strided:
    batch, channel, step = (stride * tensor.element_size() for stride in tensor.stride())
    return Strided(tensor, batch, 0, channel, step)
