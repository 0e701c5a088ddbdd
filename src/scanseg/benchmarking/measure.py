"""Times of several calls, taken in turns so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict

FEWEST_ROUNDS, MOST_ROUNDS = 3, 25
TURN_S = 0.1
_MOST_CALLS = 10


class Runner(NamedTuple):
    """A call to time, and the number of threads it gets."""

    call: Callable[[], object]
    threads: int = 1


class Sample(NamedTuple):
    """One call: seconds by the clock, and seconds that processors worked for this process."""

    wall_s: float
    cpu_s: float


class Timing(BaseModel):
    """The times of one contender's calls.

    Attributes:
        median_ms, low_ms, high_ms: Median and quartiles by the clock.
        cpu_ms: Median of processor time, all threads together.
        calls: How many were timed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    median_ms: float
    low_ms: float
    high_ms: float
    cpu_ms: float
    calls: int


@dataclass(frozen=True)
class Clocks:
    """Where time comes from; tests bring their own."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


def interleave(
    runners: Mapping[str, Runner],
    *,
    budget_s: float,
    seed: int = 0,
    turn_s: float = TURN_S,
    clocks: Clocks | None = None,
) -> dict[str, Timing]:
    """Returns the times of every runner.

    In each round every runner has one turn, in an order that is shuffled anew; a turn repeats short calls for
    `turn_s` seconds, after one that is not counted. There are 3 rounds at least, 25 at most; after the third
    they end when the budget is spent. Garbage is collected between turns, never within one.

    Args:
        runners: By name; each has been called before, so nothing is compiled here.
        budget_s: About how long all rounds may take.
        seed: Of the order of turns.
        turn_s: See above.
        clocks: The machine's by default.
    """
    clocks = clocks or Clocks()
    order, shuffle = list(runners), random.Random(seed).shuffle
    samples: dict[str, list[Sample]] = {name: [] for name in runners}
    started = clocks.wall()
    with _collecting_between_turns():
        for number in range(MOST_ROUNDS):
            if number >= FEWEST_ROUNDS and clocks.wall() - started >= budget_s:
                break
            shuffle(order)
            for name in order:
                gc.collect()
                samples[name] += _turn(runners[name], samples[name], turn_s, clocks)
    return {name: summarize(values) for name, values in samples.items()}


def summarize(samples: Sequence[Sample]) -> Timing:
    """Returns median and quartiles.

    Example:
        >>> summarize([Sample(0.001 * ms, 0.001) for ms in (1, 2, 3, 4, 5)]).low_ms
        2.0
    """
    wall = [sample.wall_s * 1e3 for sample in samples]
    low, middle, high = statistics.quantiles(wall, n=4, method="inclusive") if len(wall) > 1 else wall * 3
    cpu = statistics.median(sample.cpu_s for sample in samples) * 1e3
    return Timing(
        median_ms=round(middle, 4),
        low_ms=round(low, 4),
        high_ms=round(high, 4),
        cpu_ms=round(cpu, 4),
        calls=len(wall),
    )


def _turn(runner: Runner, before: Sequence[Sample], turn_s: float, clocks: Clocks) -> list[Sample]:
    with using_threads(runner.threads):
        if not before or before[-1].wall_s < turn_s:
            runner.call()
        started = clocks.wall()
        samples: list[Sample] = []
        while len(samples) < _MOST_CALLS:
            wall, cpu = clocks.wall(), clocks.cpu()
            runner.call()
            samples.append(Sample(clocks.wall() - wall, clocks.cpu() - cpu))
            if clocks.wall() - started >= turn_s:
                break
    return samples


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Gives PyTorch and the kernels so many threads, and restores the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _collecting_between_turns() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    # What is there now is left alone by later collections, so that they take no time.
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
