"""A comparison of runs as tables: rows for a terminal, a Markdown page, LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scanseg.reporting.tables import as_latex, as_markdown, interval_text, metric_title, number_text

Document = Mapping[str, Any]
Rows = tuple[list[str], list[list[str]]]


def metric_rows(document: Document, metric: str, numbers: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Returns column titles and a row per contender for one metric, all as text.

    Args:
        document: What `pipeline.compare` writes to compare.json.
        metric: Its name.
        numbers: `document["mean"][metric]`, or the same of a label.
    """
    facts, several = document["metrics"][metric], _has_seeds(numbers)
    base = document["baseline"]
    columns = ["contender", metric_title(facts, metric)]
    columns += ["spread of seeds"] if several else []
    columns += [f"minus {base}", "p", "p (Holm)", "won/tied/lost", "rank"]
    rows = []
    for name in document["contenders"]:
        of_name = numbers[name]
        row = [name, interval_text(of_name, facts)]
        row += [_spread_text(of_name["seeds"], facts)] if several else []
        rows.append([*row, *_difference_cells(of_name["difference"], facts), _rank_text(of_name["rank"])])
    return columns, rows


def cost_rows(document: Document) -> Rows:
    """Returns column titles and a row per contender with what its training cost, all as text."""
    columns = ["contender", "network", "runs", "steps", "s/step", "parameters", "peak memory"]
    rows = []
    for name in document["contenders"]:
        facts = document["runs"][name]
        costs = facts["costs"]
        memory = costs["peak_memory_bytes"]
        pace = costs["seconds_per_step"]
        rows.append(
            [
                name,
                facts["network"] or "?",
                str(len(facts["members"])),
                _whole(costs["steps"]),
                "?" if pace is None else f"{pace:.3g}",
                _whole(costs["parameters"]),
                "?" if memory is None else f"{memory / 1e9:.2f} GB",
            ]
        )
    return columns, rows


def markdown_page(document: Document) -> str:
    """Returns the comparison as a page of Markdown tables with notes on how to read them."""
    parts = ["# Comparison\n", _what_text(document)]
    for title, scope in _scopes(document):
        for metric in document["metrics"]:
            heading = document["metrics"][metric].get("title", metric)
            parts.append(f"## {heading}, {title}\n")
            parts.append(as_markdown(*metric_rows(document, metric, scope[metric])))
    parts += ["## Cost\n", as_markdown(*cost_rows(document)), "## How to read this\n"]
    parts.append("".join(f"- {line}\n" for line in reading_notes(document)))
    return "\n".join(parts)


def latex_page(document: Document) -> str:
    """Returns the tables over all labels and the costs as LaTeX tabulars, each under a comment line."""
    title, scope = _scopes(document)[0]
    parts = []
    for metric in document["metrics"]:
        heading = document["metrics"][metric].get("title", metric)
        parts.append(f"% {heading}, {title}\n" + as_latex(*metric_rows(document, metric, scope[metric])))
    return "\n".join([*parts, "% Cost\n" + as_latex(*cost_rows(document))])


def reading_notes(document: Document) -> list[str]:
    """Returns sentences on how the numbers were made and what weakens them."""
    facts = document["statistics"]
    tests = facts["tests"]["mean"]
    means = ", ".join(
        f"{entry.get('title', name)}: {entry['better']} is better"
        for name, entry in document["metrics"].items()
    )
    notes = [
        f"{means}.",
        f"Intervals: {100 * facts['confidence']:.0f} % {facts['interval']}, {facts['resamples']:,} resamples "
        f"of {facts['n_units']} {facts['resampled']}, seed {facts['seed']}; all columns see the same draws.",
        f"p: {facts['test']}, on {facts['tested']} to {document['baseline']}; Holm's correction over the "
        f"{tests} test{'s' if tests != 1 else ''} of the means over labels (those of single labels are a "
        "family of their own).",
        "Won, tied, lost: cases with a better, equal or worse score than the baseline. Rank: mean over "
        "cases, 1 is best.",
        "s/step: time of an epoch with its validation, by its steps; compare it only between runs on one "
        "machine that did nothing else.",
    ]
    if facts["n_units"] < 6:
        notes.append(
            f"From {facts['n_units']} {facts['resampled']} this test cannot reach p < 0.05, whatever the "
            "scores."
        )
    return notes + list(document["notes"])


def _scopes(document: Document) -> list[tuple[str, Mapping[str, Any]]]:
    labels = [(entry["name"], entry["metrics"]) for entry in document["by_label"]]
    return labels if len(labels) == 1 else [("mean over labels", document["mean"]), *labels]


def _what_text(document: Document) -> str:
    count = len(document["cases"])
    return (
        f"{len(document['contenders'])} contenders on the same {count} case{'s' if count != 1 else ''}; "
        f"differences are to {document['baseline']}.\n"
    )


def _has_seeds(numbers: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(len(of_name["seeds"]["means"]) > 1 for of_name in numbers.values())


def _spread_text(seeds: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if seeds["std"] is None:
        return "one run"
    low, high = number_text(seeds["min"], facts), number_text(seeds["max"], facts)
    return f"{low} to {high}, SD {number_text(seeds['std'], facts)}"


def _difference_cells(numbers: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> Sequence[str]:
    if numbers is None:
        return ("baseline", "", "", "")
    score = "/".join(str(numbers[key]) for key in ("wins", "ties", "losses"))
    if numbers["unpaired"]:
        score += f" ({numbers['unpaired']} unpaired)"
    return (_signed(numbers, facts), _p_text(numbers["p"]), _p_text(numbers["p_holm"]), score)


def _signed(numbers: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    text = interval_text(numbers, facts)
    return f"+{text}" if numbers["mean"] is not None and numbers["mean"] > 0 else text


def _p_text(p: float | None) -> str:
    if p is None:
        return "n/a"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _rank_text(rank: float | None) -> str:
    return "n/a" if rank is None else f"{rank:.2f}"


def _whole(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
