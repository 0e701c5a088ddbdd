"""`scanseg compare`: runs against each other on the same cases, with intervals and tests."""

from pathlib import Path
from typing import Annotated

import typer

from scanseg.cli import options


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders, or folders that `scanseg evaluate` wrote.", show_default=False),
    ],
    *,
    metric: Annotated[str, typer.Option("--metric", help="Names joined by commas.")] = "dice,hd95",
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Name the others are compared with.", show_default="the first run"),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option("--names", help="One per run, joined by commas.", show_default="names of the folders"),
    ] = None,
    group: Annotated[
        bool,
        typer.Option("--group", help="Runs that differ in the seed only (or have one name) count as one."),
    ] = False,
    common: Annotated[
        bool, typer.Option("--common", help="Compare the cases that all have instead of refusing.")
    ] = False,
    part: Annotated[
        str, typer.Option("--part", help="validation, or unseen where runs have test cases.")
    ] = "validation",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for compare.json, compare.md and compare.png."),
    ] = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="Also write (or print) the tables for LaTeX.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare runs case by case.

    Mean and interval, paired difference, Wilcoxon with Holm, ranks, cost.

    Runs that were measured on different cases or references are refused.
    """
    from rich.markup import escape

    from scanseg import pipeline
    from scanseg.cli.console import Output
    from scanseg.reporting.compared import cost_rows, latex_page, metric_rows, reading_notes

    out = Output(json=json, quiet=quiet, verbose=verbose)
    comparison = pipeline.compare(
        runs,
        metrics=_split(metric),
        baseline=baseline,
        names=None if names is None else _split(names),
        group=group,
        common=common,
        part=part,
        output=output,
        latex=latex,
    )
    document = comparison.document
    for name, facts in document["metrics"].items():
        count = len(document["cases"])
        title = f"{facts['title']}, mean over labels, {count} case{'s' if count != 1 else ''}"
        out.table(title, *metric_rows(document, name, document["mean"][name]))
    out.table("Cost", *cost_rows(document))
    for note in reading_notes(document):
        out.say(escape(note))
    if latex and output is None:
        out.say(escape(latex_page(document)))
    if output is not None:
        out.say(f"Written: {escape(str(output))}/compare.json, .md, .png{', .tex' if latex else ''}")
    out.result(document)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
