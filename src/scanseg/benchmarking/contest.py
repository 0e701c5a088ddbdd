"""Runs contenders on cases: first whether they are right, then what they can do, then how long they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scanseg.benchmarking.cases import Case, Inputs, sizes
from scanseg.benchmarking.child import run_in_child
from scanseg.benchmarking.document import CaseResult, Result, add_ratios
from scanseg.benchmarking.measure import Runner, interleave, using_threads
from scanseg.benchmarking.memory import available_bytes
from scanseg.benchmarking.parity import (
    TOLERANCE,
    Function,
    Parity,
    compare,
    evaluate,
    first_line,
    parity_length,
)
from scanseg.benchmarking.peers import Contender
from scanseg.benchmarking.suites import Suite
from scanseg.devices import usable_cores
from scanseg.progress import Eta, Progress, Report

FORWARD, BOTH = "forward", "forward and backward"
_MEMORY_SHARE = 0.5
_CHILD_START_S = 180


@dataclass(frozen=True)
class Settings:
    """How a contest is run.

    Attributes:
        threads: Of contenders that do not take all cores.
        seed: Of inputs and of the order of turns.
        case_s: Seconds that the timing of a case may take.
        limit_bytes: What one call may take on top of its inputs; None sets no limit.
        call_s: Seconds that one call may take; None is a thirtieth of `case_s`.
    """

    threads: int = 1
    seed: int = 0
    case_s: float = 60.0
    limit_bytes: int | None = None
    call_s: float | None = None

    @property
    def limit_s(self) -> float:
        """What one call may take: slower contenders are timed on fewer steps."""
        return max(0.2, self.case_s / 30) if self.call_s is None else self.call_s


def default_limit_bytes() -> int | None:
    """Returns half of the memory that is free now."""
    free = available_bytes()
    return None if free is None else int(_MEMORY_SHARE * free)


@dataclass
class Entry:
    """What is known so far about a contender on a case."""

    case: Case
    contender: Contender
    skipped: str = ""
    parity: Parity | None = None
    length: int = 0
    peaks: dict[int, int | None] = field(default_factory=dict)


class _Steps:
    """Counts what is done and tells the caller."""

    def __init__(self, total: int, timing_s: float, report: Report) -> None:
        self._done, self._total, self._report, self._eta = 0, total, report, Eta(total)
        self._timing_s = timing_s
        report(Progress("bench", 0, total, timing_s))

    def __call__(self, message: str, steps: int, *, timed_s: float = 0.0) -> None:
        """Reports so many steps; timing, of which `timed_s` seconds are now done, outweighs the others."""
        self._done += steps
        self._timing_s -= timed_s
        left_s = max(self._eta(self._done) or 0.0, self._timing_s) if self._done < self._total else 0.0
        self._report(Progress("bench", self._done, self._total, left_s, message))


def run_contest(
    suite: Suite,
    cases: Sequence[Case],
    contenders: Sequence[Contender],
    settings: Settings,
    *,
    finished: Callable[[CaseResult], None],
    report: Report,
) -> None:
    """Times contenders on cases, each case in one run with its contenders in turns.

    A contender is timed only if its outputs and gradients agree with the float64 reference, on a shorter case
    where that takes too long, and with the baseline at the timed length. One that would exceed the limits
    is timed on fewer steps, where the baseline is timed too.

    Args:
        suite: Where cases and contenders come from; its baseline is the first contender.
        cases: What is computed.
        contenders: Who computes it.
        settings: Limits, threads, seed.
        finished: Called with each case's result.
        report: Told about each step.
    """
    advance = _Steps(3 * len(cases) * len(contenders), settings.case_s * len(cases), report)
    entries: list[Entry] = []
    for case in cases:
        entries += judge(suite, case, contenders, settings)
        advance(f"{case.name}: compared with the reference", len(contenders))
    # The baseline comes last, because the others find the lengths that it is needed at.
    for contender in sorted(contenders, key=lambda one: one.name == suite.baseline):
        own = [entry for entry in entries if entry.contender is contender and not entry.skipped]
        if contender.name == suite.baseline:
            own += _at_other_lengths(own, entries)
        _probe(suite, own, settings)
        advance(f"{contender.name}: memory", len(cases))
    for case in cases:
        own = [entry for entry in entries if entry.case is case]
        finished(_time_case(suite, case, own, settings))
        advance(f"{case.name}: timed", len(contenders), timed_s=settings.case_s)


def judge(suite: Suite, case: Case, contenders: Sequence[Contender], settings: Settings) -> list[Entry]:
    """Returns an entry for every contender; those that are absent, fail or are wrong say so in `skipped`."""
    truths: dict[tuple[str, int], dict[str, Tensor]] = {}
    entries = []
    for contender in contenders:
        entry = Entry(case, contender, contender.why_not(), length=case.length)
        entries.append(entry)
        if entry.skipped:
            continue
        short = case.shortened(parity_length(case, slow=contender.search))
        inputs, key = short.inputs(settings.seed), (contender.dtype, short.length)
        if key not in truths:
            exact = inputs.prepared(contender.dtype).prepared("float64")
            truths[key] = evaluate(suite.law, exact, backward=True)
        own = inputs.prepared(contender.dtype, contender.layout)
        values, entry.skipped = _attempt(contender.function, own, backward=True)
        if not entry.skipped:
            tolerance = TOLERANCE[contender.dtype]
            entry.parity = compare(values, truths[key], tolerance=tolerance, length=short.length)
            entry.skipped = "" if entry.parity.agrees else entry.parity.sentence()
    return entries


def _attempt(function: Function, inputs: Inputs, *, backward: bool) -> tuple[dict[str, Tensor], str]:
    """Returns the tensors of a contender, or why it failed: a peer's fault must not end the benchmark."""
    try:
        return evaluate(function, inputs, backward=backward), ""
    except Exception as error:
        return {}, f"fails: {first_line(error)}"


def _probe(suite: Suite, entries: Sequence[Entry], settings: Settings) -> None:
    """Measures memory in a process of its own, and finds the length that each entry can do."""
    waiting = list(entries)
    while waiting:
        contender, answered = waiting[0].contender, 0
        request = {
            "suite": suite.name,
            "contender": contender.name,
            "cases": [_fields(entry.case) for entry in waiting],
            "limit_s": settings.limit_s,
            "limit_bytes": settings.limit_bytes,
            "threads": _threads(contender, settings),
            "seed": settings.seed,
        }
        for value in run_in_child("probe", request, timeout_s=_CHILD_START_S + 10 * settings.limit_s):
            entry, answered = waiting[answered], answered + 1
            if "failed" in value:
                entry.skipped = f"fails in a process of its own: {value['failed']}"
            else:
                entry.length = value["length"]
                entry.peaks[entry.length] = value["peak_bytes"]
        # After a failure the next child goes on with the next case.
        waiting = waiting[max(1, answered) :]


def _at_other_lengths(firsts: Sequence[Entry], entries: Sequence[Entry]) -> list[Entry]:
    """Returns entries of the baseline at the lengths of the others; each shares `peaks` with its first."""
    shorter = []
    for first in firsts:
        lengths = {e.length for e in entries if e.case is first.case and not e.skipped} - {first.length}
        shorter += [
            Entry(first.case.shortened(length), first.contender, peaks=first.peaks)
            for length in sorted(lengths)
        ]
    return shorter


def _fields(case: Case) -> dict[str, Any]:
    return {"name": case.name, "summary": case.summary, **sizes(case)}


def _threads(contender: Contender, settings: Settings) -> int:
    return usable_cores() if contender.all_cores else settings.threads


def _time_case(suite: Suite, case: Case, entries: Sequence[Entry], settings: Settings) -> CaseResult:
    first = next((e for e in entries if e.contender.name == suite.baseline and not e.skipped), None)
    lengths = sorted({entry.length for entry in entries if not entry.skipped}, reverse=True)
    results: list[Result] = []
    for length in lengths:
        group = [entry for entry in entries if not entry.skipped and entry.length == length]
        if first is not None and first not in group:
            group.insert(0, first)
        budget_s = settings.case_s / len(lengths)
        results += _time_group(case.shortened(length), group, first, budget_s, settings)
    results += [_result(entry, case, settings) for entry in entries if entry.skipped]
    return CaseResult(
        name=case.name, summary=case.summary, sizes=sizes(case), baseline=suite.baseline, results=results
    )


def _time_group(
    case: Case, group: Sequence[Entry], first: Entry | None, budget_s: float, settings: Settings
) -> list[Result]:
    """Times contenders at one length, and compares each with the baseline there."""
    inputs = case.inputs(settings.seed)
    results = {entry.contender.name: _result(entry, case, settings) for entry in group}
    runners: dict[str, Runner] = {}
    expected: dict[str, dict[str, Tensor]] = {}
    for entry in group:
        contender, result = entry.contender, results[entry.contender.name]
        own = inputs.prepared(contender.dtype, contender.layout)
        with using_threads(result.threads):
            values, result.skipped = _attempt(contender.function, own, backward=case.backward)
        if first is not None and entry is not first and not result.skipped:
            if contender.dtype not in expected:
                rounded = inputs.prepared(contender.dtype).prepared("float32")
                expected[contender.dtype] = evaluate(
                    first.contender.function, rounded, backward=case.backward
                )
            tolerance = TOLERANCE[contender.dtype]
            truth = expected[contender.dtype]
            result.agreement = compare(values, truth, tolerance=tolerance, length=case.length)
            result.skipped = "" if result.agreement.agrees else result.agreement.sentence()
        del values
        if not result.skipped:
            for name, call in passes(contender.function, own, backward=case.backward).items():
                runners[f"{contender.name}|{name}"] = Runner(call, result.threads)
    expected.clear()
    for key, timing in interleave(runners, budget_s=budget_s, seed=settings.seed).items():
        name, _, label = key.partition("|")
        results[name].timings[label] = timing
    if first is not None:
        add_ratios(results.values(), results[first.contender.name])
    return list(results.values())


def passes(function: Function, inputs: Inputs, *, backward: bool) -> dict[str, Callable[[], object]]:
    """Returns the calls that are timed: `forward` without gradients, and `forward and backward`."""
    tensors, leaves = dict(inputs.tensors), inputs.leaves()
    wanted = [tensor for tensor in leaves.values() if tensor.requires_grad]

    def forward() -> object:
        with torch.no_grad():
            return function(**tensors)

    def both() -> object:
        return torch.autograd.grad(function(**leaves), wanted, inputs.dy)

    return {FORWARD: forward, BOTH: both} if backward else {FORWARD: forward}


def _result(entry: Entry, case: Case, settings: Settings) -> Result:
    """Returns the result of an entry on `case`, its own or a shortened one, before it is timed."""
    return Result(
        contender=entry.contender.name,
        summary=entry.contender.summary,
        skipped=entry.skipped,
        length=None if entry.skipped else case.length,
        shortened=not entry.skipped and case.length < entry.case.length,
        threads=_threads(entry.contender, settings),
        parity=entry.parity,
        peak_extra_bytes=entry.peaks.get(case.length),
    )
