"""`scanseg predict`: masks, statistics and previews of new images."""

from pathlib import Path
from typing import Annotated

import typer

from scanseg.cli import options


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, folders of images, folders or zip archives of DICOM series.",
            show_default=False,
        ),
    ],
    *,
    model: Annotated[
        list[Path],
        typer.Option("--model", "-m", help="Run folder; several make an ensemble.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the masks.", show_default=False)],
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="nii.gz, nrrd, mha, png, tif or dicom-seg.", show_default="as the input"
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probability of every label.")
    ] = False,
    tta: Annotated[
        bool,
        typer.Option("--tta/--no-tta", help="Average over mirrored images: slower, often a little better."),
    ] = False,
    step_size: Annotated[
        float, typer.Option("--step-size", min=0.1, max=1.0, help="Step of the sliding window in patches.")
    ] = 0.5,
    weights: Annotated[str, typer.Option("--weights", help="final or best.")] = "final",
    preview: Annotated[bool, typer.Option("--preview/--no-preview", help="A picture of every mask.")] = True,
    nan_fill: Annotated[
        float | None, typer.Option("--nan-fill", help="Replace NaN and infinite voxels by this value.")
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            "--spacing", help="Voxel size in mm (z,y,x) for images that carry none, e.g. 3,0.8,0.8."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Predict finished cases again.")] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first case that fails.")
    ] = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Segment images. The model is loaded once; finished cases are skipped; one failure stops nothing.

    Exit code 4 if some cases failed; they are listed in failures.csv.
    """
    from scanseg import pipeline
    from scanseg.cli.console import Output

    out = Output(json=json, quiet=quiet, verbose=verbose)
    with out.progress() as report:
        result = pipeline.predict(
            images,
            model,
            output,
            format=format,
            probabilities=probabilities,
            mirror=tta,
            step_size=step_size,
            weights=weights,
            preview=preview,
            nan_fill=nan_fill,
            spacing=None if spacing is None else parse_spacing(spacing),
            overwrite=overwrite,
            fail_fast=fail_fast,
            device=device,
            threads=threads,
            report=report,
        )
    if result.citation:
        out.say(f"Trained on: {result.citation}")
    for failure in result.failures:
        out.err.print(f"[red]{failure.code}[/]  {failure.case_id}: {failure.text}", markup=True)
        if failure.hint:
            out.err.print(f"    Fix: {failure.hint}")
    out.say(
        f"{len(result.done)} predicted, {len(result.skipped)} already done, {len(result.failures)} failed."
    )
    out.say(f"Masks and stats.json: {output}")
    out.result(result.as_dict())
    return 4 if result.failures else 0


def parse_spacing(text: str) -> tuple[float, ...]:
    """Returns `3,0.8,0.8` as a tuple of positive numbers.

    Raises:
        UsageError: It is not two or three positive numbers joined by commas.

    Example:
        >>> parse_spacing("3,0.8,0.8")
        (3.0, 0.8, 0.8)
    """
    from scanseg.errors import UsageError

    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (2, 3) or not all(0 < number < 1e6 for number in numbers):
        raise UsageError(
            f"A spacing must be two or three positive numbers joined by commas, got {text!r}.",
            code="E-SPACING-FORM",
            hint="For example 3,0.8,0.8 for (z, y, x) in mm.",
        )
    return numbers
