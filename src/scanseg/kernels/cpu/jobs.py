"""How a scan is cut into jobs, and what every job needs: sizes, inputs, packed parameters.

A job is one batch element, one group, and a run of blocks of LANES channels: B and C of a tile are loaded
once for the whole run, and their gradients leave the job already summed over its channels. Where groups are
summed into one tensor, a job takes all groups, one after the other, so that no two jobs write to one place.
The cut depends on the sizes only, never on the number of threads, so that the result does not either.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scanseg.kernels.cpu.elements import read, write
from scanseg.kernels.cpu.functions import LOG2_E
from scanseg.kernels.cpu.simd import F32, LANES, clear, inlined, outlined
from scanseg.kernels.cpu.tiles import Grouped, Order, Strided

NAN = F32(np.nan)


class Sizes(NamedTuple):
    """The sizes of a scan and its cut.

    Attributes:
        batch: Batch elements.
        channels: Channels of one group.
        length: Steps.
        groups: Groups of channels.
        states: States of a channel.
        run: Channel blocks per job.
        serial: 1 if a job takes all groups, 0 if it takes one.
    """

    batch: int
    channels: int
    length: int
    groups: int
    states: int
    run: int
    serial: int


class Inputs(NamedTuple):
    """What is scanned. A, D and bias are addresses of contiguous float32 arrays; 0 means absent."""

    u: Strided
    delta: Strided
    z: Strided
    B: Grouped
    C: Grouped
    order: Order
    A: int
    D: int
    bias: int
    softplus: int


class Place(NamedTuple):
    """Where a job works: batch element, groups [group, last_group), part, channels [first, last) of each."""

    batch: int
    group: int
    last_group: int
    part: int
    first: int
    last: int


def runs_per_group(sizes: Sizes) -> int:
    """Returns the number of jobs that share a batch element and a group."""
    blocks = -(-sizes.channels // LANES)
    return -(-blocks // sizes.run)


def count_jobs(sizes: Sizes) -> int:
    """Returns the number of jobs."""
    return sizes.batch * (1 if sizes.serial else sizes.groups) * runs_per_group(sizes)


@inlined
def place_of(job: int, sizes: Sizes) -> Place:
    """Returns where job number `job` works."""
    blocks = (sizes.channels + LANES - 1) // LANES
    runs = (blocks + sizes.run - 1) // sizes.run
    part, outer = job % runs, job // runs
    groups = 1 if sizes.serial else sizes.groups
    group = outer % groups
    first = part * sizes.run * LANES
    last = min(first + sizes.run * LANES, sizes.channels)
    last_group = sizes.groups if sizes.serial else group + 1
    return Place(outer // groups, group, last_group, part, first, last)


@outlined
def pack_parameters(
    place: Place, group: int, sizes: Sizes, inputs: Inputs, rates: int, steepest: int, skip: int, bias: int
) -> None:
    """Fills rates[(block * states + n) * LANES + c] with A * log2(e), and skip and bias; absent is 0.

    `steepest` gets the largest magnitude among the rates of each channel.
    """
    states, width = sizes.states, sizes.run * LANES
    clear(rates, width * states)
    clear(steepest, width)
    clear(skip, width)
    clear(bias, width)
    for channel in range(place.last - place.first):
        d = group * sizes.channels + place.first + channel
        block, c = channel // LANES, channel % LANES
        most = F32(0.0)
        for n in range(states):
            rate = read(inputs.A + 4 * (d * states + n), np.float32) * LOG2_E
            if rate != rate:
                rate = NAN  # Other bits of a NaN would pass for those of a power of two.
            write(rates + 4 * ((block * states + n) * LANES + c), rate, np.float32)
            most = max(most, abs(rate))
        write(steepest + 4 * channel, most, np.float32)
        if inputs.D:
            write(skip + 4 * channel, read(inputs.D + 4 * d, np.float32), np.float32)
        if inputs.bias:
            write(bias + 4 * channel, read(inputs.bias + 4 * d, np.float32), np.float32)
