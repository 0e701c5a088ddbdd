"""Turns, rounds, quartiles and threads, on a clock that the test moves."""

from collections.abc import Callable

import pytest
import torch

from scanseg.benchmarking.measure import (
    FEWEST_ROUNDS,
    MOST_ROUNDS,
    Clocks,
    Runner,
    Sample,
    interleave,
    summarize,
)


class Machine:
    """A clock, and calls that take time on it; `drift` makes everything slower as time goes by."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now, self.drift, self.order = 0.0, drift, []

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now += seconds * (1 + self.drift * self.now)

        return run

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now, lambda: 2 * self.now)


def test_equal_contenders_are_equal_on_a_machine_that_gets_slower() -> None:
    machine = Machine(drift=0.02)
    runners = {name: Runner(machine.call(name, 1.0)) for name in "abcd"}
    timings = interleave(runners, budget_s=200.0, clocks=machine.clocks())
    medians = [timing.median_ms for timing in timings.values()]
    # Over the run a call gets several times slower; one after the other they would differ by as much.
    assert timings["a"].high_ms > 1.3 * timings["a"].low_ms
    assert max(medians) / min(medians) < 1.2


def test_every_round_has_every_contender_once_in_changing_order() -> None:
    machine = Machine()
    names = list("abcde")
    interleave(
        {name: Runner(machine.call(name, 1.0)) for name in names}, budget_s=1e9, clocks=machine.clocks()
    )
    # The first turn of each has one call more, which is not counted.
    rest = machine.order[2 * len(names) :]
    rounds = [rest[i : i + len(names)] for i in range(0, len(rest), len(names))]
    assert len(rounds) == MOST_ROUNDS - 1
    assert all(sorted(one) == names for one in rounds)
    assert len({tuple(one) for one in rounds}) > 5


def test_the_budget_ends_the_rounds_but_not_before_the_third() -> None:
    for budget_s, rounds in ((0.0, FEWEST_ROUNDS), (7.5, 7)):
        machine = Machine()
        timings = interleave(
            {"a": Runner(machine.call("a", 1.0))}, budget_s=budget_s, clocks=machine.clocks()
        )
        assert timings["a"].calls == rounds


def test_short_calls_are_repeated_within_a_turn() -> None:
    machine = Machine()
    timings = interleave(
        {"short": Runner(machine.call("short", 0.03))}, budget_s=0.0, turn_s=0.1, clocks=machine.clocks()
    )
    assert timings["short"].calls == 4 * FEWEST_ROUNDS
    assert timings["short"].median_ms == pytest.approx(30)
    assert timings["short"].cpu_ms == pytest.approx(60)


def test_quartiles() -> None:
    timing = summarize([Sample(s / 1000, s / 500) for s in (4, 1, 3, 2, 5)])
    assert (timing.low_ms, timing.median_ms, timing.high_ms, timing.cpu_ms) == (2, 3, 4, 6)
    alone = summarize([Sample(0.007, 0.007)])
    assert (alone.low_ms, alone.median_ms, alone.high_ms, alone.calls) == (7, 7, 7, 1)


def test_threads_are_set_for_the_turn_and_given_back() -> None:
    before, seen = torch.get_num_threads(), set()
    interleave({"a": Runner(lambda: seen.add(torch.get_num_threads()), before + 1)}, budget_s=0.0)
    assert seen == {before + 1}
    assert torch.get_num_threads() == before
