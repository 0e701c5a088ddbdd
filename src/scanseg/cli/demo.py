"""`scanseg demo`: the whole way on real images, without network, GPU or data of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from scanseg.cli import options


def demo(
    *,
    task: Annotated[str, typer.Option("--task", help="hippocampus (3D MR) or nuclei (2D microscopy).")] = (
        "hippocampus"
    ),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to.", show_default="demo/TASK")
    ] = None,
    network: Annotated[str, typer.Option("--network", help="See `scanseg networks list`.")] = "umamba_bot",
    seed: Annotated[int, typer.Option("--seed", help="Of everything random.")] = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Erase an earlier demo and begin again.")
    ] = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train on small data, predict unseen cases, measure and report.

    Takes under three minutes on two processor cores.
    """
    from scanseg import pipeline
    from scanseg.cli.console import Output
    from scanseg.cli.train import print_scores

    out = Output(json=json, quiet=quiet, verbose=verbose)
    with out.progress() as report:
        result = pipeline.demo(
            task,
            output=output,
            network=network,
            seed=seed,
            restart=restart,
            device=device,
            threads=threads,
            report=report,
        )
    print_scores(out, "Cases the network never saw", result.summary)
    out.say(f"Mean Dice on {result.cases} unseen cases: [bold]{result.dice:.3f}[/]")
    out.say(f"Report: {result.report}")
    out.say(f"Took {result.seconds:.0f} s. Images: {result.citation}")
    out.result(result.as_dict())
