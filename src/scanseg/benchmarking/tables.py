"""Results as tables: for the terminal, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scanseg.benchmarking.document import CaseResult, Document, Result

FORWARD, BOTH, STEP = "forward", "forward and backward", "training step"
# By the clock, and in processor time, which other programs disturb less.
_X = ("x", "x cpu")
_COMPARED = (FORWARD, f"{FORWARD}, processor", BOTH, f"{BOTH}, processor", "memory")
_TITLES = {
    "scan": "The selective scan against other formulations",
    "orders": "Four scans in their own orders, fused and not",
    "growth": "How the time of a scan grows with its length",
    "network": "Whole networks",
}

Table = tuple[list[str], list[list[str]]]


def case_table(kind: str, case: CaseResult) -> Table:
    """Returns columns and rows of a case."""
    return _TABLES[kind](case)


def ratio_table(document: Document) -> Table:
    """Returns, for each contender and pass, the smallest, mean (geometric) and largest ratio over the cases.

    At the longest length a contender did in each case. A ratio of 2 is twice the baseline's time or memory.
    """
    rows = []
    for name in dict.fromkeys(result.contender for case in document.cases for result in case.results):
        for label in _COMPARED:
            ratios = [r for case in document.cases for r in _ratios(case, name, label)]
            if ratios and any(case.baseline != name for case in document.cases):
                mean = math.exp(sum(math.log(max(ratio, 1e-9)) for ratio in ratios) / len(ratios))
                values = [_times(min(ratios)), _times(mean), _times(max(ratios))]
                rows.append([name, label, str(len(ratios)), *values])
    return ["contender", "what", "cases", "smallest", "geometric mean", "largest"], rows


def _ratios(case: CaseResult, name: str, label: str) -> list[float]:
    found = [result for result in case.results if result.contender == name and label in result.ratios]
    longest = max(found, key=lambda result: result.length or 0, default=None)
    return [] if longest is None else [longest.ratios[label]]


def to_markdown(document: Document) -> str:
    """Returns the document as a page: what was run where, the ratios, and a table for each case."""
    parts = [f"# {_TITLES[document.kind]}\n", f"```text\n{document.command}\n```\n", _when(document)]
    if document.kind in ("scan", "orders") and document.cases:
        parts += [f"## Divided by `{document.cases[0].baseline}` at the same length\n"]
        parts += [_markdown(ratio_table(document))]
    for case in document.cases:
        parts += [f"## {case.name}\n", f"{_sentence(case)}\n", _markdown(case_table(document.kind, case))]
        parts += _skipped(case)
    facts = [[name, value] for name, value in document.machine.items()]
    rules = [[name, str(value)] for name, value in document.rules.items()]
    parts += ["## Machine\n", _markdown((["fact", "value"], facts))]
    parts += ["## Rules\n", _markdown((["rule", "value"], rules))]
    return "\n".join(parts)


def _when(document: Document) -> str:
    before, after = document.load
    busy = f" Load average {before} at the start, {after} at the end." if before is not None else ""
    state = "" if document.complete else " **Not complete.**"
    return (
        f"{document.started}, {document.seconds:.0f} s.{busy}{state} Times are medians in milliseconds by "
        f"the clock, quartiles in brackets; x is the ratio of the medians, x cpu that of processor time.\n"
    )


def _sentence(case: CaseResult) -> str:
    sizes = ", ".join(f"{name} {value}" for name, value in case.sizes.items() if value not in (None, False))
    return f"{case.summary}: {sizes}." if case.summary else f"{sizes}."


def _skipped(case: CaseResult) -> list[str]:
    lines = [f"- `{r.contender}` was not timed: {r.skipped}" for r in case.results if r.skipped]
    return ["\n".join(lines) + "\n"] if lines else []


def _scan_table(case: CaseResult) -> Table:
    columns = ["contender", "steps", "threads", FORWARD, *_X, BOTH, *_X, "memory MiB", "x", "worst error"]
    rows = []
    for result in case.results:
        if result.skipped:
            continue
        timed = [part for label in (FORWARD, BOTH) for part in _timed(result, label)]
        peak = result.peak_extra_bytes
        memory = "" if peak is None else f"{peak / 2**20:,.1f}"
        worst = result.parity.worst if result.parity else None
        error = "" if worst is None else f"{worst:.0e}"
        steps = f"{result.length:,}{' (fewer)' if result.shortened else ''}"
        rows.append(
            [result.contender, steps, str(result.threads), *timed, memory, _ratio(result, "memory"), error]
        )
    return columns, rows


def _growth_table(case: CaseResult) -> Table:
    rows = [[f"{r.length:,}", *_timed(r, FORWARD), *_timed(r, BOTH)] for r in case.results if not r.skipped]
    return ["steps", FORWARD, *_X, BOTH, *_X], rows


def _network_table(case: CaseResult) -> Table:
    columns = ["network", "parameters", "GMAC", FORWARD, *_X, STEP, *_X, "memory MiB", "x"]
    rows = []
    for result in case.results:
        if result.skipped:
            continue
        timed = [part for label in (FORWARD, STEP) for part in _timed(result, label)]
        peak = result.peak_extra_bytes
        memory = "" if peak is None else f"{peak / 2**20:,.0f}"
        figures = [f"{result.facts['parameters']:,}", f"{result.facts['macs'] / 1e9:,.1f}"]
        rows.append([result.contender, *figures, *timed, memory, _ratio(result, "memory")])
    return columns, rows


_TABLES: dict[str, Callable[[CaseResult], Table]] = {
    "scan": _scan_table,
    "orders": _scan_table,
    "growth": _growth_table,
    "network": _network_table,
}


def _timed(result: Result, label: str) -> tuple[str, str, str]:
    """Returns median with quartiles, and the ratios by the clock and by processor time."""
    return _time(result, label), _ratio(result, label), _ratio(result, f"{label}, processor")


def _time(result: Result, label: str) -> str:
    timing = result.timings.get(label)
    if timing is None:
        return ""
    return f"{_short(timing.median_ms)} [{_short(timing.low_ms)}, {_short(timing.high_ms)}]"


def _short(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 1000 else f"{milliseconds:.3g}"


def _ratio(result: Result, label: str) -> str:
    return _times(result.ratios[label]) if label in result.ratios else ""


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def _markdown(table: Table) -> str:
    columns, rows = table
    lines: Sequence[Sequence[str]] = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
