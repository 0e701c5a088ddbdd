"""`scanseg report`: the report of a run again, from its files, also for paper."""

from pathlib import Path
from typing import Annotated

import typer

from scanseg.cli import options


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    *,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also write report.pdf, for paper.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write report.html of a run.

    One file, no network needed to read it.
    """
    from scanseg import pipeline
    from scanseg.cli.console import Output

    out = Output(json=json, quiet=quiet, verbose=verbose)
    printed = pipeline.report_pdf(run) if pdf else None
    path = pipeline.report(run) if printed is None else printed.with_suffix(".html")
    out.say(f"Report: {path}")
    found = {"report": str(path)}
    if printed is not None:
        out.say(f"Paper:  {printed}")
        found["pdf"] = str(printed)
    out.result(found)
