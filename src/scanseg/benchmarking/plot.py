"""The picture of a benchmark, one PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scanseg.benchmarking.document import CaseResult, Document, Result

_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#66727F", "#F0E442", "#1F2933")
_INK, _GRID = "#1F2933", "#D9DEE3"


def draw(document: Document, path: Path) -> None:
    """Writes the plot of a document.

    Scans and orders: time per step of each contender and case, with quartiles (per step, so that
    shortened ones compare); growth: time over length; networks: forward pass and training step.
    """
    from scanseg.reporting.drawing import new_figure, save

    labels = _labels(document)
    figure = new_figure(10.0, 3.6 * len(labels), colour="white")
    axes = figure.subplots(len(labels), 1, squeeze=False)[:, 0]
    for place, label in zip(axes, labels, strict=True):
        _PANELS[document.kind](place, document, label)
        place.set_title(label, loc="left", color=_INK)
        place.grid(axis="y", color=_GRID, linewidth=0.8)
        place.set_axisbelow(True)
        for side in ("top", "right"):
            place.spines[side].set_visible(False)
    figure.tight_layout()
    save(figure, path, dpi=130)


def _labels(document: Document) -> list[str]:
    found = [label for case in document.cases for result in case.results for label in result.timings]
    return list(dict.fromkeys(found)) or ["nothing was timed"]


def _groups(axes: Any, document: Document, label: str) -> None:
    """Draws a group of bars for each case; a bar is microseconds a step, on a logarithmic axis."""
    names = list(dict.fromkeys(r.contender for c in document.cases for r in c.results if label in r.timings))
    width = 0.84 / max(1, len(names))
    for number, name in enumerate(names):
        points = [
            (place, found)
            for place, case in enumerate(document.cases)
            if (found := _longest(case, name, label))
        ]
        x = [place + (number - (len(names) - 1) / 2) * width for place, _ in points]
        _bars(axes, x, [result for _, result in points], label, width, name, number)
    axes.set_yscale("log")
    axes.set_ylabel("microseconds a step")
    axes.set_xticks(range(len(document.cases)))
    axes.set_xticklabels([case.name for case in document.cases], rotation=20, ha="right", fontsize=8)
    if names:
        axes.legend(fontsize=7, ncols=min(5, len(names)), frameon=False)


def _bars(
    axes: Any, x: list[float], results: list[Result], label: str, width: float, name: str, number: int
) -> None:
    per_step = [1e3 / (result.length or 1) for result in results]
    timings = [result.timings[label] for result in results]
    middle = [t.median_ms * scale for t, scale in zip(timings, per_step, strict=True)]
    low = [(t.median_ms - t.low_ms) * scale for t, scale in zip(timings, per_step, strict=True)]
    high = [(t.high_ms - t.median_ms) * scale for t, scale in zip(timings, per_step, strict=True)]
    colour = _COLOURS[number % len(_COLOURS)]
    axes.bar(x, middle, width * 0.92, label=name, color=colour, yerr=[low, high], error_kw={"linewidth": 0.8})


def _longest(case: CaseResult, name: str, label: str) -> Result | None:
    found = [result for result in case.results if result.contender == name and label in result.timings]
    return max(found, key=lambda result: result.length or 0, default=None)


def _curve(axes: Any, document: Document, label: str) -> None:
    results = [result for case in document.cases for result in case.results if label in result.timings]
    lengths = [result.length or 0 for result in results]
    timings = [result.timings[label] for result in results]
    axes.plot(lengths, [t.median_ms for t in timings], marker="o", color=_COLOURS[0])
    axes.fill_between(
        lengths, [t.low_ms for t in timings], [t.high_ms for t in timings], color=_COLOURS[1], alpha=0.5
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("steps")
    axes.set_ylabel("milliseconds")


def _networks(axes: Any, document: Document, label: str) -> None:
    results = [result for case in document.cases for result in case.results if label in result.timings]
    timings = [result.timings[label] for result in results]
    errors = [[t.median_ms - t.low_ms for t in timings], [t.high_ms - t.median_ms for t in timings]]
    axes.bar(range(len(results)), [t.median_ms for t in timings], 0.6, color=_COLOURS[0], yerr=errors)
    axes.set_xticks(range(len(results)))
    axes.set_xticklabels([result.contender for result in results], rotation=20, ha="right", fontsize=8)
    axes.set_ylabel("milliseconds")


_PANELS = {"scan": _groups, "orders": _groups, "growth": _curve, "network": _networks}
