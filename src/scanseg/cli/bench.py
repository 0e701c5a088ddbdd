"""`scanseg bench`: how fast the scan and the networks are on this machine, against others, in one run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scanseg.cli import options
from scanseg.cli.failures import shows_errors

if TYPE_CHECKING:
    from scanseg.benchmarking.document import Document
    from scanseg.cli.console import Output

bench = typer.Typer(
    help="Time the scan and the networks on this machine, against others.", no_args_is_help=True
)

Shapes = Annotated[str, typer.Option("--shapes", help="Names joined by commas, or quick, or all.")]
Peers = Annotated[
    str | None, typer.Option("--peers", help="Contenders, names joined by commas.", show_default="all")
]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", min=0.01, help="About how long to time.", show_default="1 for each shape"),
]
Call = Annotated[
    float | None,
    typer.Option(
        "--call", min=0.01, help="Seconds a call may take.", show_default="1/30 of the time for a shape"
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Processor threads.")]
Seed = Annotated[int, typer.Option("--seed", help="Of inputs and of the order of turns.")]
Folder = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the result as JSON, Markdown and PNG.")
]


@bench.command()
@shows_errors
def scan(
    *,
    shapes: Shapes = "quick",
    peers: Peers = None,
    threads: Threads = 1,
    minutes: Minutes = None,
    call: Call = None,
    seed: Seed = 0,
    output: Folder = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Time the selective scan against other formulations.

    Our kernel, the naive loop, mambapy, transformers, torch's associative_scan.

    A time is printed only if outputs and gradients agree with the float64 reference. Slow ones are timed
    on fewer steps, and our kernel on as many.
    """
    _contest("scan", shapes, peers, threads, minutes, call, seed, output, json, quiet, verbose)


@bench.command()
@shows_errors
def orders(
    *,
    shapes: Shapes = "quick",
    peers: Peers = None,
    threads: Threads = 1,
    minutes: Minutes = None,
    call: Call = None,
    seed: Seed = 0,
    output: Folder = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Time four scans in their own orders: fused, and unfused.

    Cross scan and sorted scans; unfused is gather, scan, scatter.
    """
    _contest("orders", shapes, peers, threads, minutes, call, seed, output, json, quiet, verbose)


@bench.command()
@shows_errors
def growth(
    *,
    smallest: Annotated[int, typer.Option("--smallest", help="Shortest length, as a power of two.")] = 8,
    largest: Annotated[int, typer.Option("--largest", help="Longest length, as a power of two.")] = 20,
    threads: Threads = 1,
    minutes: Minutes = None,
    seed: Seed = 0,
    output: Folder = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Time the scan from 256 steps to a million.

    Each time is divided by that of half the length.
    """
    from scanseg import pipeline
    from scanseg.cli.console import Output

    out = Output(json=json, quiet=quiet, verbose=verbose)
    with out.progress() as report:
        document = pipeline.bench_growth(
            smallest=smallest,
            largest=largest,
            threads=threads,
            minutes=minutes,
            seed=seed,
            output=output,
            report=report,
        )
    _show(out, document, output)


@bench.command()
@shows_errors
def network(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Networks, see `scanseg networks list`.", show_default="umamba_enc nnunet_resenc"
        ),
    ] = None,
    *,
    spatial_dims: Annotated[
        int | None, typer.Option("--spatial-dims", min=2, max=3, help="2 or 3.", show_default="the patch's")
    ] = None,
    patch_size: Annotated[
        str | None,
        typer.Option("--patch-size", help="Voxels of a patch.", show_default="32x64x64 or 256x256"),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Patches at once.")] = 2,
    features: Annotated[
        int | None,
        typer.Option("--features", min=1, help="Channels of the first stage.", show_default="the network's"),
    ] = None,
    same: Annotated[
        str,
        typer.Option(
            "--same",
            help="Give each as many blocks or convolutions per stage as the first.",
            metavar="blocks|convolutions",
            show_default="none",
        ),
    ] = "",
    against: Annotated[
        str | None,
        typer.Option("--against", help="Network to divide by.", show_default="nnunet_resenc, or the first"),
    ] = None,
    threads: options.Threads = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    output: Folder = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Time a training step and a forward pass of networks.

    Counts parameters, operations and memory.
    """
    from scanseg import pipeline
    from scanseg.cli.console import Output
    from scanseg.cli.networks import parse_size

    out = Output(json=json, quiet=quiet, verbose=verbose)
    with out.progress() as report:
        document = pipeline.bench_network(
            names or ("umamba_enc", "nnunet_resenc"),
            spatial_dims=spatial_dims,
            patch_size=None if patch_size is None else parse_size(patch_size),
            batch_size=batch_size,
            base_features=features,
            same=same,
            against=against,
            threads=threads,
            minutes=minutes,
            seed=seed,
            output=output,
            report=report,
        )
    _show(out, document, output)


def _contest(
    suite: str,
    shapes: str,
    peers: str | None,
    threads: int,
    minutes: float | None,
    call_s: float | None,
    seed: int,
    output: Path | None,
    json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    from scanseg import pipeline
    from scanseg.cli.console import Output

    out = Output(json=json, quiet=quiet, verbose=verbose)
    with out.progress() as report:
        document = pipeline.bench_scan(
            _names(shapes),
            peers=None if peers is None else _names(peers),
            threads=threads,
            minutes=minutes,
            call_s=call_s,
            seed=seed,
            output=output,
            suite=suite,
            report=report,
        )
    _show(out, document, output)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _show(out: "Output", document: "Document", output: Path | None) -> None:
    from rich.markup import escape

    from scanseg.benchmarking.tables import case_table

    for case in document.cases:
        out.table(case.name, *case_table(document.kind, case))
        for result in case.results:
            if result.skipped:
                out.say(f"  {result.contender} was not timed: {escape(result.skipped)}")
    if output is not None:
        out.say(f"Written: {output / document.kind}.json, .md, .png")
    out.result(document.model_dump(mode="json"))
