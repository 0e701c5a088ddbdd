"""The page of docs/networks/results.md, from the documents that networks_results.py writes beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scanseg.reporting.compared import cost_rows, metric_rows, reading_notes
from scanseg.reporting.tables import as_markdown


def results_page(documents: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the page of all datasets, from the documents alone."""
    parts = [
        "<!-- Written by benchmarks/networks_results.py; do not edit. -->\n",
        "# Results of a small budget\n",
        "Every network gets the same few steps, the same plan, the same recipe and, because two processor "
        "cores cannot train full ones, a reduced width. This says what a network has learned after so many "
        "steps at this width; it does not say which is better when trained to the end.\n",
    ]
    for key, document in documents.items():
        parts += _section(key, document)
    parts.append(
        "## Repeat it\n\n```text\nmake results\n```\n\nIt continues where it was stopped; "
        "`--dry-run` lists the trainings.\n"
    )
    return "\n".join(parts)


def _section(key: str, document: Mapping[str, Any]) -> list[str]:
    compared, machine = document["comparison"], document["machine"]
    patch = "x".join(map(str, document["patch_size"]))
    versions = ", ".join(f"{name} {number}" for name, number in (machine["versions"] or {}).items())
    parts = [
        f"## {document['dataset']}, {document['configuration']}\n",
        f"{document['steps']} steps of {document['batch_size']} patches of {patch}, recipe `quick`, fold 0, "
        f"{len(compared['cases'])} held-out cases. {machine['processor']}, "
        f"{machine['usable cores']} usable cores, {machine['system']}; device {machine['device']}, threads "
        f"{machine['threads']}; {versions}.\n",
    ]
    for metric in compared["metrics"]:
        parts.append(as_markdown(*metric_rows(compared, metric, compared["mean"][metric])))
    parts.append(as_markdown(*cost_rows(compared)))
    rows = []
    for name in compared["contenders"]:
        options = ", ".join(f"{option} = {value}" for option, value in document["options"][name].items())
        own = ", ".join(document["changes"][name]) or "-"
        runs = f"{len(compared['runs'][name]['members'])} of {document['planned'][name]}"
        rows.append([name, options or "as published", own, runs])
    parts.append(as_markdown(["contender", "options", "of its own in the recipe", "seeds"], rows))
    if document["failures"]:
        parts += ["Not finished:\n", _unfinished(document["failures"])]
    notes = [note for note in reading_notes(compared) if not note.startswith("s/step:")]
    if document["pace_threads"]:
        notes.append(
            f"s/step: from short trainings with {document['pace_threads']} threads that had the machine for "
            "themselves, the first epoch left out, one step of validation included."
        )
    parts.append("".join(f"- {note}\n" for note in notes))
    parts.append(f"![Differences to {compared['baseline']}, case by case](results_{key}.png)\n")
    return parts


def _unfinished(failures: Mapping[str, str]) -> str:
    """Returns a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in failures.items():
        by_reason.setdefault(reason, []).append(name.partition(" ")[2])
    return "".join(f"- {reason}: {'; '.join(names)}\n" for reason, names in by_reason.items())
