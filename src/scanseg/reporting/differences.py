"""The picture of a comparison: the paired difference of every case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.reporting.drawing import drawable, new_figure, png_bytes, shorten
from scanseg.reporting.palette import label_colours
from scanseg.types import Array, Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _SOFT, _GRID = "#1F2933", "#66727F", "#D9DEE3"


def differences_figure(document: Mapping[str, Any]) -> bytes:
    """Returns a PNG: per metric a panel, per contender the difference of every case to the baseline.

    A point is a case (mean over labels); the bar is the mean difference with its interval; right of 0 the
    contender is better, whatever the direction of the metric.

    Args:
        document: What `pipeline.compare` writes to compare.json.
    """
    base = document["baseline"]
    others = [name for name in document["contenders"] if name != base]
    metrics = document["metrics"]
    width, height = 3.8 * len(metrics) + 1.6, 1.25 + 0.5 * len(others)
    figure = new_figure(width, height, colour="white")
    panels = np.atleast_1d(figure.subplots(1, len(metrics), sharey=True))
    colours = list(label_colours([Label(n + 1, name) for n, name in enumerate(others)]).values())
    for axes, (metric, facts) in zip(panels, metrics.items(), strict=True):
        sign = 1 if facts["better"] == "higher" else -1
        for place, name in enumerate(others):
            points = sign * _differences(document["values"][metric], name, base)
            _draw_points(axes, place, points, colours[place])
            _draw_mean(axes, place, document["mean"][metric][name]["difference"], sign)
        unit = f" ({facts['unit']})" if facts.get("unit") else ""
        turned = "" if sign == 1 else ", sign turned"
        axes.set_xlabel(f"{facts.get('title', metric)}{unit}{turned}: better to the right", color=_INK)
        _style(axes)
    panels[0].set_yticks(range(len(others)), labels=[drawable(shorten(name, 28)) for name in others])
    for text in panels[0].get_yticklabels():
        text.set_parse_math(False)
    panels[0].set_ylim(len(others) - 0.4, -0.6)
    figure.suptitle(
        drawable(f"Difference to {shorten(base, 40)}, one point per case"), fontsize=10, color=_SOFT,
        parse_math=False,
    )  # fmt: skip
    left = 0.25 + 0.085 * max(len(shorten(name, 28)) for name in others)
    figure.subplots_adjust(left / width, 0.55 / height, 1 - 0.15 / width, 1 - 0.4 / height, wspace=0.1)
    return png_bytes(figure, dpi=130)


def _differences(values: Mapping[str, Mapping[str, float | None]], name: str, base: str) -> Array:
    pairs = [(values[name][case], values[base][case]) for case in values[name]]
    found = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    return np.array(found, dtype=np.float64)


def _draw_points(axes: Axes, place: int, points: Array, colour: str) -> None:
    # The golden ratio spreads neighbouring cases without chance.
    spread = (np.arange(len(points)) * 0.618 % 1 - 0.5) * 0.5
    axes.scatter(points, place + spread, s=16, facecolors=colour, edgecolors=_INK, linewidths=0.4, alpha=0.8)


def _draw_mean(axes: Axes, place: int, numbers: Mapping[str, Any], sign: int) -> None:
    if numbers["mean"] is None:
        return
    if numbers["ci_low"] is not None:
        ends = [sign * numbers["ci_low"], sign * numbers["ci_high"]]
        axes.plot(ends, [place, place], color=_INK, linewidth=2.4, solid_capstyle="butt")
    axes.scatter([sign * numbers["mean"]], [place], s=42, marker="D", color=_INK, zorder=3)


def _style(axes: Axes) -> None:
    axes.axvline(0, color=_SOFT, linewidth=1.0, zorder=0)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GRID)
    axes.tick_params(colors=_SOFT, labelcolor=_INK, labelsize=9)
