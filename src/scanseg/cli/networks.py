"""`scanseg networks list` and `show`: what can be trained, and how it is built."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scanseg.cli import options
from scanseg.cli.failures import shows_errors

if TYPE_CHECKING:
    from scanseg.cli.console import Output

networks = typer.Typer(help="List and describe the networks.", no_args_is_help=True)


@networks.command(name="list")
@shows_errors
def list_(json: options.Json = False) -> None:
    """List every network that `scanseg train --network` accepts."""
    from scanseg.cli.console import Output
    from scanseg.networks import NETWORKS, list_networks

    out = Output(json=json)
    entries = [NETWORKS[name] for name in list_networks()]
    rows = [
        (entry.name, "/".join(f"{dims}D" for dims in entry.spatial_dims), entry.summary) for entry in entries
    ]
    out.table("", ("network", "dimensions", "what it is"), rows)
    out.result(
        {
            "networks": [
                {"name": e.name, "spatial_dims": list(e.spatial_dims), "summary": e.summary, "paper": e.paper}
                for e in entries
            ]
        }
    )


@networks.command()
@shows_errors
def show(
    name: Annotated[str, typer.Argument(help="Name of the network, see `scanseg networks list`.")],
    patch_size: Annotated[
        str | None,
        typer.Option(
            "--patch-size",
            help="For example 40x56x40; two numbers make it 2D.",
            show_default="64x64x64, or 256x256 for 2D networks",
        ),
    ] = None,
    in_channels: Annotated[int, typer.Option("--in-channels", min=1, help="Image channels.")] = 1,
    out_channels: Annotated[int, typer.Option("--out-channels", min=1, help="Classes with background.")] = 2,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Also draw the stages into this SVG file.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Describe a network at a patch size.

    Paper, licences, differences, stages, parameters and operations.

    Counts that were printed for it, or made on its released code, stand beside ours.
    """
    from rich.markup import escape

    from scanseg.cli.console import Output
    from scanseg.networks import NETWORKS, count_printed, describe_network

    out = Output(json=json)
    entry = NETWORKS[name]
    patch_size = patch_size or ("64x64x64" if 3 in entry.spatial_dims else "256x256")
    size = parse_size(patch_size)
    facts = describe_network(
        name, spatial_dims=len(size), in_channels=in_channels, out_channels=out_channels, patch_size=size
    )
    out.say(f"[bold]{entry.name}[/]  {entry.summary}")
    for title, text in (
        ("Paper", entry.paper),
        ("Follows", entry.source),
        ("Licence of that code", entry.licence),
        ("Published weights", entry.weights),
    ):
        out.say(escape(f"{title}: {text or 'not stated'}"))
    for line in entry.differences:
        out.say(escape(f"  - {line}"))
    columns = ("stage", "size", "features", "stride", "kernel", "blocks", "Mamba", "parameters", "GMAC")
    out.table("Stages", columns, [_stage_row(stage) for stage in facts["stages"]])
    macs = {f"GMAC, {kind}": f"{count / 1e9:.2f}" for kind, count in facts["macs"].items()}
    figures = {"parameters": f"{facts['parameters']:,}", **macs}
    out.table(f"At a patch of {patch_size}", ("figure", "value"), list(figures.items()))
    printed = count_printed(name)
    _show_printed(out, printed)
    if figure is not None:
        _draw(figure, f"{name}: {patch_size}, {facts['parameters']:,} parameters", facts)
        out.say(f"Drawn: {escape(str(figure))}")
    out.result({**facts, "printed": printed})


def _show_printed(out: "Output", printed: Sequence[Mapping[str, Any]]) -> None:
    from rich.markup import escape

    rows, reasons = [], []
    for one in printed:
        for row in one["rows"]:
            agrees = "yes" if row["agrees"] else "no"
            rows.append((one["setting"], row["what"], row["printed"], row["counted"], agrees, one["source"]))
            reasons += [f"{row['what']}: {row['reason']}"] if row["reason"] else []
    if rows:
        columns = ("setting", "what", "printed", "ours", "agrees", "printed where")
        out.table("Printed elsewhere, and counted here", columns, rows)
    for reason in dict.fromkeys(reasons):
        out.say(escape(f"  {reason}"))
    settings = [
        (one["setting"], f"{one['parameters']:,}", *(f"{one['macs'][k] / 1e9:,.2f}" for k in one["macs"]))
        for one in printed
    ]
    if settings:
        heads = ("setting", "parameters", "GMAC without scan", "GMAC with scan")
        out.table("Counted here for these settings", heads, settings)


def _draw(path: Path, title: str, facts: Mapping[str, Any]) -> None:
    from scanseg.errors import UsageError
    from scanseg.files import write_text
    from scanseg.reporting.architecture import architecture_svg

    if path.suffix != ".svg":
        raise UsageError(
            f"The drawing is an SVG file, got {path.name!r}.",
            code="E-FIGURE-FORMAT",
            hint="Name it with the ending .svg.",
        )
    write_text(path, architecture_svg(title, facts["stages"], facts["flow"]))


def _stage_row(stage: Mapping[str, Any]) -> tuple[str, ...]:
    def joined(sizes: Sequence[int]) -> str:
        return "x".join(str(size) for size in sizes)

    return (
        stage["name"],
        joined(stage["size"]),
        str(stage["features"]),
        joined(stage["stride"]),
        joined(stage["kernel_size"]),
        str(stage["blocks"]),
        stage["mamba"] or "-",
        f"{stage['parameters']:,}",
        f"{stage['macs']['total'] / 1e9:.2f}",
    )


def parse_size(text: str) -> tuple[int, ...]:
    """Returns `40x56x40` as a tuple.

    Raises:
        UsageError: It is not two or three positive whole numbers joined by x.

    Example:
        >>> parse_size("40x56x40")
        (40, 56, 40)
    """
    from scanseg.errors import UsageError

    parts = text.lower().split("x")
    if len(parts) not in (2, 3) or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(
            f"A size must be two or three whole numbers joined by x, got {text!r}.",
            code="E-SIZE-FORM",
            hint="For example 40x56x40 (z, y, x) or 256x256 (y, x).",
        )
    return tuple(int(part) for part in parts)
