"""`scanseg evaluate`: masks against references, in physical units, with intervals."""

from pathlib import Path
from typing import Annotated

import typer

from scanseg.cli import options


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="Folder of masks, or one: label maps or DICOM segmentations.", show_default=False
        ),
    ],
    references: Annotated[
        Path, typer.Argument(help="Folder of references, or one, in any of these forms.", show_default=False)
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for cases.csv and summary.json.", show_default="PREDICTIONS"
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset",
            help="Dataset or dataset.json that names the labels and groups and has the images.",
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Names joined by commas.", show_default="all")
    ] = None,
    nsd_tolerance: Annotated[
        float, typer.Option("--nsd-tolerance", min=0.0, help="Tolerance of the surface Dice (NSD) in mm.")
    ] = 1.0,
    workers: options.Workers = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Measure masks against references, per case and label.

    Means come with bootstrap intervals.

    A DICOM segmentation is CASE.dcm; its segments are told by their names where --dataset names the labels.

    Exit code 4 if some references have no prediction; those count as missed, never as absent.
    """
    from scanseg import pipeline
    from scanseg.cli.console import Output
    from scanseg.cli.train import print_scores

    out = Output(json=json, quiet=quiet, verbose=verbose)
    with out.progress() as report:
        evaluation, folder = pipeline.evaluate(
            predictions,
            references,
            output=output,
            dataset=dataset,
            metrics=None if metrics is None else [name.strip() for name in metrics.split(",")],
            nsd_tolerance_mm=nsd_tolerance,
            workers=workers,
            report=report,
        )
    print_scores(out, "Scores (mean and 95 % interval)", evaluation.summary)
    missing = evaluation.summary.get("missing_predictions", [])
    for case_id in missing:
        out.err.print(f"[yellow]E-EVALUATE-MISSING[/]  {case_id}: no prediction; counted as missed.")
    out.say(f"Written: {folder / 'cases.csv'}, {folder / 'summary.json'}")
    out.result(evaluation.summary)
    return 4 if missing else 0
