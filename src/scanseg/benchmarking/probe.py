"""Memory of single calls, and the longest length that a slow contender can do; runs in a child process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from scanseg.benchmarking.cases import Case
from scanseg.benchmarking.measure import using_threads
from scanseg.benchmarking.memory import peak_extra_bytes
from scanseg.benchmarking.parity import evaluate
from scanseg.benchmarking.peers import Contender
from scanseg.benchmarking.suites import SUITES

_FIRST_LENGTH = 16
_CAUTION = 1.2


def probe(
    *,
    suite: str,
    contender: str,
    cases: list[dict[str, Any]],
    limit_s: float,
    limit_bytes: int | None,
    threads: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Yields `{index, length, seconds, peak_bytes}` of one call (with gradients) for each case.

    Contenders with `search` begin with 16 steps and double while the next call is expected to stay within
    both limits, judged by how time and memory grew with the last doubling.

    Args:
        suite: Name of the suite.
        contender: Name of the contender.
        cases: Fields of each case.
        limit_s: What a call may take.
        limit_bytes: What a call may take on top of its inputs; None sets no limit.
        threads: Of PyTorch and the kernels.
        seed: Of the inputs.
    """
    rules, runner = SUITES[suite], SUITES[suite].contenders[contender]
    with using_threads(threads):
        for index, fields in enumerate(cases):
            case = rules.case_type(**fields)
            found = _longest(runner, case, limit_s, limit_bytes, seed) if runner.search else None
            yield {"index": index, **(found or _measured(runner, case, seed))}


def _longest(
    runner: Contender, case: Case, limit_s: float, limit_bytes: int | None, seed: int
) -> dict[str, Any]:
    length, before = _FIRST_LENGTH, None
    while True:
        found = _measured(runner, case.shortened(length), seed)
        if found["length"] >= case.length:
            return found
        growth = _growth(before, found)
        too_slow = found["seconds"] * growth * _CAUTION > limit_s
        peak = found["peak_bytes"]
        if too_slow or (limit_bytes is not None and peak is not None and 2 * peak > limit_bytes):
            return found
        before, length = found, 2 * length


def _growth(before: dict[str, Any] | None, found: dict[str, Any]) -> float:
    """Returns by how much the next doubling is expected to take longer: as the last one, at least twice."""
    if before is None or before["seconds"] <= 0:
        return 2.0
    return float(max(2.0, min(4.0, found["seconds"] / before["seconds"])))


def _measured(runner: Contender, case: Case, seed: int) -> dict[str, Any]:
    """Measures a call after one on few steps, which loads and compiles what it needs."""
    _call(runner, case.shortened(_FIRST_LENGTH), seed)
    inputs = case.inputs(seed).prepared(runner.dtype, runner.layout)
    taken_s: list[float] = []

    def call() -> None:
        started_s = time.perf_counter()
        evaluate(runner.function, inputs, backward=case.backward)
        taken_s.append(time.perf_counter() - started_s)

    peak = peak_extra_bytes(call)
    return {"length": case.length, "seconds": taken_s[0], "peak_bytes": peak}


def _call(runner: Contender, case: Case, seed: int) -> None:
    inputs = case.inputs(seed).prepared(runner.dtype, runner.layout)
    evaluate(runner.function, inputs, backward=case.backward)
