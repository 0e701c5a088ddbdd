"""How the time of a scan grows with its length: neighbouring lengths in turns, in one run."""

from __future__ import annotations

from collections.abc import Callable

from scanseg.benchmarking.cases import ScanCase, sizes
from scanseg.benchmarking.contest import Settings, judge, passes
from scanseg.benchmarking.document import CaseResult, Result, time_ratios
from scanseg.benchmarking.measure import Runner, interleave, using_threads
from scanseg.benchmarking.suites import SUITES
from scanseg.progress import Progress, Report

DIM, STATE = 32, 16


def run_growth(
    settings: Settings,
    *,
    smallest: int,
    largest: int,
    finished: Callable[[CaseResult], None],
    report: Report,
) -> None:
    """Times our kernel at lengths of 2^smallest, 2^(smallest + 1), ..., 2^largest, all of them in each round.

    The ratios of a length are its times over those of half the length; 2 is growth in proportion.

    Args:
        settings: `case_s` is the time for all lengths together.
        smallest: Exponent of the first length.
        largest: Exponent of the last.
        finished: Called with the result.
        report: Told when it begins and ends.
    """
    suite = SUITES["scan"]
    contender = suite.contenders[suite.baseline]
    lengths = [2**exponent for exponent in range(smallest, largest + 1)]
    case = ScanCase("growth", f"one image, {DIM} channels, {STATE} states", 1, DIM, lengths[-1], STATE)
    report(Progress("bench", 0, 2))
    entry = judge(suite, case, [contender], settings)[0]
    result = Result(
        contender=contender.name, summary=contender.summary, threads=settings.threads, parity=entry.parity
    )
    report(Progress("bench", 1, 2, settings.case_s, "compared with the reference"))
    if entry.skipped:
        results = [result.model_copy(update={"skipped": entry.skipped})]
    else:
        results = _timed(case, lengths, result, settings)
    finished(
        CaseResult(
            name=case.name,
            summary=case.summary,
            sizes=sizes(case),
            baseline="half the length",
            results=results,
        )
    )
    report(Progress("bench", 2, 2, 0.0))


def _timed(case: ScanCase, lengths: list[int], blank: Result, settings: Settings) -> list[Result]:
    contender = SUITES["scan"].contenders[blank.contender]
    runners = {}
    for length in lengths:
        inputs = case.shortened(length).inputs(settings.seed).prepared("float32")
        for label, call in passes(contender.function, inputs, backward=True).items():
            with using_threads(settings.threads):
                call()
            runners[f"{length}|{label}"] = Runner(call, settings.threads)
    results = {length: blank.model_copy(deep=True, update={"length": length}) for length in lengths}
    for key, timing in interleave(runners, budget_s=settings.case_s, seed=settings.seed).items():
        steps, _, label = key.partition("|")
        results[int(steps)].timings[label] = timing
    for length, result in results.items():
        half = results.get(length // 2)
        if half is not None:
            result.ratios = time_ratios(result, half)
    return list(results.values())
