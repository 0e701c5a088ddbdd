"""`scanseg report`: the report of a run again, from its files."""

from pathlib import Path
from typing import Annotated

import typer

from scanseg.cli import options


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    *,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write report.html of a run: one file, no network needed to read it."""
    from scanseg import pipeline
    from scanseg.cli.console import Output

    out = Output(json=json, quiet=quiet, verbose=verbose)
    path = pipeline.report(run)
    out.say(f"Report: {path}")
    out.result({"report": str(path)})
