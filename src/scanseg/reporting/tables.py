"""Scores as tables: rows for a terminal, Markdown, LaTeX."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Summary = Mapping[str, Any]

_NUMBER = re.compile(r"[-+<>]?\d")
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_{}[]<>|#"})
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def score_rows(summary: Summary, metrics: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Returns column titles and one row per label with `mean (low to high)` of each metric, all as text.

    The last row is the mean over labels, where there are several.

    Args:
        summary: As in summary.json.
        metrics: Names to show; all by default.

    Example:
        >>> numbers = {"dice": {"n": 2, "mean": 0.5, "ci_low": 0.25, "ci_high": 0.75}}
        >>> summary = {
        ...     "metrics": {"dice": {"title": "Dice", "unit": ""}},
        ...     "labels": [{"name": "organ", "metrics": numbers}],
        ...     "mean": numbers,
        ... }
        >>> score_rows(summary)
        (['label', 'cases', 'Dice'], [['organ', '2', '0.500 (0.250 to 0.750)']])
    """
    facts = summary.get("metrics") or {}
    names = [name for name in (metrics or facts) if name in facts]
    columns = ["label", "cases", *(metric_title(facts[name], name) for name in names)]
    labels = [(entry.get("name", ""), entry.get("metrics") or {}) for entry in summary.get("labels") or []]
    if len(labels) != 1 and summary.get("mean"):
        labels.append(("mean", summary["mean"]))
    rows = []
    for title, values in labels:
        counts = [values[name].get("n", 0) for name in names if name in values]
        cells = [interval_text(values.get(name) or {}, facts[name]) for name in names]
        rows.append([title, str(max(counts, default=0)), *cells])
    return columns, rows


def markdown_table(summary: Summary, metrics: Sequence[str] | None = None) -> str:
    """Returns the table of `score_rows` in Markdown."""
    return as_markdown(*score_rows(summary, metrics))


def latex_table(summary: Summary, metrics: Sequence[str] | None = None) -> str:
    """Returns the table of `score_rows` as a LaTeX tabular with booktabs rules."""
    return as_latex(*score_rows(summary, metrics))


def number_columns(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[bool]:
    """Returns for each column whether most of what stands in it are numbers, so that it is set to the right.

    The first column names the rows.

    Example:
        >>> number_columns(["label", "cases", "note"], [["1", "5", "whole"], ["2", "-", ""]])
        [False, True, False]
    """
    found = [False]
    for position in range(1, len(columns)):
        cells = [text for row in rows if (text := str(row[position])) not in ("", "-", "?")]
        numbers = sum(_NUMBER.match(cell) is not None for cell in cells)
        found.append(2 * numbers > len(cells))
    return found


def as_markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown; nothing in the cells is markup.

    Example:
        >>> print(as_markdown(["a", "b", "c"], [["x_1", "2", "long"]]), end="")
        | a | b | c |
        | --- | ---: | --- |
        | x\\_1 | 2 | long |
    """
    lines = [[_in_markdown(cell) for cell in row] for row in (columns, *rows)]
    rule = ["---:" if number else "---" for number in number_columns(columns, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], rule, *lines[1:]))


def as_latex(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table as a LaTeX tabular with booktabs rules; nothing in the cells is markup."""
    lines = [" & ".join(_in_latex(cell) for cell in row) + r" \\" for row in (columns, *rows)]
    body = "\n".join(lines[1:])
    shape = "".join("r" if number else "l" for number in number_columns(columns, rows))
    head = f"\\begin{{tabular}}{{{shape}}}\n\\toprule\n{lines[0]}\n\\midrule\n"
    return f"{head}{body}\n\\bottomrule\n\\end{{tabular}}\n"


def metric_title(facts: Mapping[str, Any], name: str) -> str:
    """Returns for example `HD95 (mm)`."""
    unit = f" ({facts['unit']})" if facts.get("unit") else ""
    return f"{facts.get('title', name)}{unit}"


def interval_text(values: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Returns `0.873 (0.842 to 0.899)`; without the interval where there is none, `n/a` without a mean."""
    mean, low, high = (values.get(key) for key in ("mean", "ci_low", "ci_high"))
    if mean is None:
        return "n/a"
    if low is None or high is None:
        return number_text(mean, facts)
    return f"{number_text(mean, facts)} ({number_text(low, facts)} to {number_text(high, facts)})"


def number_text(value: Any, facts: Mapping[str, Any]) -> str:
    """Returns a score with three digits behind the point, a distance with two; `n/a` for none.

    Example:
        >>> number_text(1.25, {"unit": "mm"}), number_text(None, {})
        ('1.25', 'n/a')
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return "n/a"
    if not math.isfinite(number):
        return "n/a"
    return f"{number:.2f}" if facts.get("unit") else f"{number:.3f}"


def _in_markdown(text: str) -> str:
    return " ".join(text.split()).translate(_MARKDOWN)


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))
