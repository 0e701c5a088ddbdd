"""Curves of a training and distributions of scores, as PNG files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.errors import DataError
from scanseg.reporting.drawing import drawable, new_figure, png_bytes, save, shorten
from scanseg.reporting.palette import label_colours
from scanseg.types import Array, Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _SOFT, _GRID = "#1F2933", "#66727F", "#D9DEE3"
_BLUE, _ORANGE = "#0072B2", "#D55E00"
_MOST_LABELS = 40


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl, without a last line that is only half written.

    Raises:
        DataError: The file is missing, or a line before the last is damaged.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"The file {path} does not exist.", code="E-FILE-MISSING") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text ({error}).", code="E-FILE-JSON") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise DataError(
                f"Line {number} of {path} is not valid JSON ({error}).", code="E-FILE-JSON"
            ) from error
        if isinstance(record, dict):
            records.append(record)
    return records


def progress_figure(metrics: Path, path: Path | None = None) -> Path:
    """Writes the curves of a training: losses, pseudo Dice of each label, learning rate, over epochs.

    Args:
        metrics: metrics.jsonl with a line per epoch: `epoch train_loss validation_loss pseudo_dice
            pseudo_dice_per_label ema_pseudo_dice learning_rate elapsed_seconds`; what is missing or null is
            left out.
        path: PNG file to write; `progress.png` beside it by default.

    Returns:
        `path`.

    Raises:
        DataError: The file is missing, damaged, or holds no epoch.
    """
    records = read_metrics(metrics)
    if not records:
        raise DataError(f"{metrics} holds no finished epoch yet.", code="E-METRICS-EMPTY")
    epochs = _column(records, "epoch")
    epochs = np.where(np.isnan(epochs), np.arange(1, len(records) + 1), epochs)
    figure = new_figure(9.0, 7.2, colour="white")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.3))
    _plot(axes[0], epochs, _column(records, "train_loss"), "training", _BLUE)
    _plot(axes[0], epochs, _column(records, "validation_loss"), "validation", _ORANGE)
    _style(axes[0], "loss")
    _draw_dice(axes[1], epochs, records)
    _plot(axes[2], epochs, _column(records, "learning_rate"), "", _INK)
    _style(axes[2], "learning rate", legend=False)
    axes[2].set_xlabel("epoch", color=_INK)
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    seconds = _column(records, "elapsed_seconds")
    if np.isfinite(seconds).any():
        text = f"{len(records)} epochs, {duration(float(np.nanmax(seconds)))}"
        axes[0].set_title(text, loc="right", fontsize=9, color=_SOFT)
    figure.subplots_adjust(left=0.09, right=0.98, top=0.95, bottom=0.08, hspace=0.12)
    figure.align_ylabels(axes)
    return save(figure, path or Path(metrics).parent / "progress.png", dpi=130)


def learned_columns(records: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Array]:
    """Returns the values over epochs of what a training learned beside the network's weights.

    Args:
        records: Lines of metrics.jsonl.
        kind: `alpha` (weights of scans) or `sigma` (weights of losses): the beginning of the columns' names.

    Returns:
        name -> (epochs,), NaN where a line does not tell; empty without such columns.
    """
    keys = dict.fromkeys(key for record in records for key in record if key.startswith(f"{kind}_"))
    columns = {key.partition("_")[2]: _column(records, key) for key in keys}
    return {name: values for name, values in columns.items() if np.isfinite(values).any()}


def learned_figure(metrics: Path, kind: str) -> bytes | None:
    """Returns a PNG of `learned_columns` over epochs, None where there are none.

    Raises:
        DataError: The file is missing or damaged.
    """
    from matplotlib.ticker import MaxNLocator

    records = read_metrics(metrics)
    columns = learned_columns(records, kind)
    if not columns:
        return None
    epochs = _column(records, "epoch")
    epochs = np.where(np.isnan(epochs), np.arange(1, len(records) + 1), epochs)
    figure = new_figure(9.0, 3.4, colour="white")
    axes = figure.subplots()
    colours = label_colours([Label(n + 1, name) for n, name in enumerate(columns)])
    for place, (name, values) in enumerate(columns.items()):
        _plot(
            axes, epochs, values, name.replace("_", " "), colours[place + 1], dashed=name.startswith("skip")
        )
    _style(axes, kind)
    axes.set_xlabel("epoch", color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.subplots_adjust(left=0.09, right=0.98, top=0.95, bottom=0.16)
    return png_bytes(figure, dpi=130)


def scores_figure(
    rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Mapping[str, Any]],
    labels: Sequence[Label],
) -> bytes:
    """Returns a PNG with the scores of all cases: one panel per metric, one line per label, a point per case.

    The box spans the quartiles with the median; filled points are structures that were missed or invented. On
    axes without an upper end they are drawn at the edge, or one of them would squeeze all others.

    Args:
        rows: As in cases.csv: `value` of the label, `state`, and a number (or nothing) per metric.
        metrics: The panels, name -> `title`, `unit`, `low`, `high`, as in summary.json.
        labels: The classes, at most the first 40 are drawn.
    """
    shown = [label for label in labels if label.value != 0][:_MOST_LABELS]
    names = [drawable(shorten(label.name, 28)) for label in shown]
    width, height = 3.6 * len(metrics) + 1.2, 0.7 + 0.42 * max(2, len(shown))
    figure = new_figure(width, height, colour="white")
    panels = np.atleast_1d(figure.subplots(1, len(metrics), sharey=True))
    colours = label_colours(labels)
    for axes, (name, facts) in zip(panels, metrics.items(), strict=True):
        edge = None if facts.get("high") is not None else _edge(rows, name)
        for place, label in enumerate(shown):
            of_label = [row for row in rows if int(row["value"]) == label.value]
            _draw_scores(axes, place, of_label, name, colours[label.value], edge)
        if edge is not None:
            axes.set_xlim(right=1.05 * edge)
        unit = f" ({facts['unit']})" if facts.get("unit") else ""
        axes.set_xlabel(f"{facts.get('title', name)}{unit}", color=_INK)
        axes.set_xlim(left=facts.get("low"))
        if facts.get("high") is not None:
            axes.set_xlim(right=1.01 * facts["high"])
        axes.grid(axis="x", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        _frame(axes)
    panels[0].set_yticks(range(len(shown)), labels=names)
    for text in panels[0].get_yticklabels():
        text.set_parse_math(False)
    panels[0].set_ylim(len(shown) - 0.4, -0.6)
    left = 0.25 + 0.085 * max((len(name) for name in names), default=0)
    figure.subplots_adjust(left / width, 0.55 / height, 1 - 0.15 / width, 1 - 0.05 / height, wspace=0.12)
    return png_bytes(figure, dpi=130)


def duration(seconds: float) -> str:
    """Returns seconds in words.

    Example:
        >>> duration(3725)
        '1 h 2 min'
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _draw_dice(axes: Axes, epochs: Array, records: Sequence[Mapping[str, Any]]) -> None:
    per_label = [record.get("pseudo_dice_per_label") or {} for record in records]
    names = list(dict.fromkeys(name for line in per_label for name in line))
    colours = label_colours([Label(n + 1, name) for n, name in enumerate(names)])
    if len(names) > 1:
        for place, name in enumerate(names):
            values = _column(per_label, name)
            label = shorten(name, 24) if place < 8 else ""
            _plot(axes, epochs, values, label, colours[place + 1], width=1.0, alpha=0.9)
    _plot(axes, epochs, _column(records, "pseudo_dice"), "mean", _INK, width=1.8)
    _plot(axes, epochs, _column(records, "ema_pseudo_dice"), "moving average", _SOFT, width=1.2, dashed=True)
    axes.set_ylim(0, 1)
    _style(axes, "pseudo Dice")


def _edge(rows: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """Returns where failed cases are drawn: right of all others; None without failed ones or others."""
    values, failed = _values(rows, metric)
    others = values[~failed & np.isfinite(values)]
    return 1.12 * float(others.max()) if failed.any() and others.size and others.max() > 0 else None


def _values(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[Array, Array]:
    """Returns the values of a metric, and which of them stand for a failure."""
    values = np.array([_number(row.get(metric)) for row in rows])
    return values, np.array([row.get("state") not in ("present", "both_empty") for row in rows], dtype=bool)


def _draw_scores(
    axes: Axes,
    place: int,
    rows: Sequence[Mapping[str, Any]],
    metric: str,
    colour: str,
    edge: float | None,
) -> None:
    values, failed = _values(rows, metric)
    found = np.isfinite(values)
    if not found.any():
        return
    axes.boxplot(
        [values[found]],
        orientation="horizontal",
        positions=[place],
        widths=0.5,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": colour, "alpha": 0.25, "edgecolor": "none"},
        medianprops={"color": _INK, "linewidth": 1.6},
        whiskerprops={"color": _SOFT},
        capprops={"color": _SOFT},
    )
    # The golden ratio spreads neighbouring cases without chance.
    spread = (np.arange(len(values)) * 0.618 % 1 - 0.5) * 0.34
    shown = values if edge is None else np.minimum(values, edge)
    for part, face in ((found & ~failed, "none"), (found & failed, _ORANGE)):
        axes.scatter(
            shown[part], place + spread[part], s=16, facecolors=face, edgecolors=_INK, linewidths=0.7
        )


def _column(records: Sequence[Mapping[str, Any]], key: str) -> Array:
    return np.array([_number(record.get(key)) for record in records])


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _plot(
    axes: Axes,
    x: Array,
    y: Array,
    label: str,
    colour: str,
    *,
    width: float = 1.6,
    alpha: float = 1.0,
    dashed: bool = False,
) -> None:
    if not np.isfinite(y).any():
        return
    marker = "o" if np.isfinite(y).sum() < 3 else None
    (line,) = axes.plot(
        x, y, color=colour, linewidth=width, alpha=alpha, marker=marker, markersize=4,
        linestyle="--" if dashed else "-",
    )  # fmt: skip
    line.set_label(f"_{label}")
    line.set_gid(label)


def _style(axes: Axes, ylabel: str, *, legend: bool = True) -> None:
    axes.set_ylabel(ylabel, color=_INK)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    _frame(axes)
    lines = [line for line in axes.get_lines() if line.get_gid()]
    if legend and lines:
        box = axes.legend(
            lines, ["x"] * len(lines), frameon=False, fontsize=9, ncols=min(5, len(lines)), labelcolor=_INK
        )
        for text, line in zip(box.get_texts(), lines, strict=True):
            text.set_parse_math(False)
            text.set_text(drawable(line.get_gid() or ""))
    elif not axes.get_lines():
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color=_SOFT)


def _frame(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GRID)
    axes.tick_params(colors=_SOFT, labelcolor=_INK, labelsize=9)
