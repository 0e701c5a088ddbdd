"""`scanseg dataset check`: look at a dataset before anything is computed from it."""

from pathlib import Path
from typing import Annotated

import typer

from scanseg.cli import options
from scanseg.cli.failures import shows_errors

dataset = typer.Typer(help="Look at a dataset.", no_args_is_help=True)


@dataset.command()
@shows_errors
def check(
    data: options.Data,
    *,
    images: options.Images = None,
    labels: options.Labels = None,
    layout: options.Layout = "auto",
    allow_geometry_mismatch: options.GeometryMismatch = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for dataset.json and check.json.", show_default=False),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Read every case, and list everything that is wrong with it. Exit code 3 if the data are refused."""
    from scanseg import pipeline
    from scanseg.cli.console import Output

    out = Output(json=json, quiet=quiet, verbose=verbose)
    with out.progress() as report:
        found, result = pipeline.check(
            data,
            images=images,
            labels=labels,
            layout=layout,
            allow_geometry_mismatch=allow_geometry_mismatch,
            output=output,
            report=report,
        )
    out.findings(result.findings)
    errors = sum(finding.level == "error" for finding in result.findings)
    names = ", ".join(f"{label.value} {label.name}" for label in found.labels)
    out.say(f"{found.name}: {len(found.cases)} labelled cases ({found.layout} layout), labels {names}.")
    out.say("[red]Refused.[/]" if errors else "[green]Ready to train.[/]")
    out.result(result.as_dict())
    return 3 if errors else 0
