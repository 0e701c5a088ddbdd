"""`scanseg explain`: what a trained network sees in an image, as pictures and numbers."""

from pathlib import Path
from typing import Annotated

import typer

from scanseg.cli import options


def explain(
    image: Annotated[
        list[Path], typer.Argument(help="Image file, or one file for each channel.", show_default=False)
    ],
    *,
    model: Annotated[Path, typer.Option("--model", "-m", help="Run folder.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for pictures and explain.json.", show_default=False)
    ],
    weights: Annotated[str, typer.Option("--weights", help="final or best.")] = "final",
    device: options.Device = "auto",
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what a network sees: the entropy of its output.

    For UD-Mamba also the uncertainty and order of every block.

    Weights of scans (alpha) and of losses (sigma) over the training are drawn where it learned them. Nothing
    here says where the network is wrong: that needs references, see `scanseg evaluate`.
    """
    from rich.markup import escape

    from scanseg import pipeline
    from scanseg.cli.console import Output

    out = Output(json=json, quiet=quiet, verbose=verbose)
    with out.progress() as report:
        found = pipeline.explain(
            image, model, output, weights=weights, device=device, threads=threads, report=report
        )
    entropy = found.document["entropy"]
    rows = [("entropy of the output", *_cells(entropy))]
    for block in found.document.get("scans", {}).get("blocks", ()):
        rows.append((block["name"], *_cells(block["uncertainty"])))
    columns = ("map", "median", "95 %", "largest", "share at borders", "places at borders")
    out.table(escape(found.document["case_id"]), columns, rows)
    for note in found.document["notes"]:
        out.say(f"[yellow]{escape(note)}[/]")
    out.say("Written: " + ", ".join(escape(str(path)) for path in found.files))
    out.result(found.as_dict())


def _cells(numbers: dict[str, object]) -> tuple[str, ...]:
    quantiles: dict[str, float] = numbers["quantiles"]  # type: ignore[assignment]
    share = numbers["share_at_borders"]
    return (
        f"{quantiles['median']:.3g}",
        f"{quantiles['q95']:.3g}",
        f"{numbers['max']:.3g}",
        "n/a" if share is None else f"{100 * share:.1f} %",  # type: ignore[operator]
        f"{100 * numbers['share_of_places']:.1f} %",  # type: ignore[operator]
    )
