"""`scanseg plan`: what the data say about patch, spacing and network, and why."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scanseg.cli import options


def plan(
    data: options.Data,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for plan.json and fingerprint.json.", show_default="NAME_plan"
        ),
    ] = None,
    network: Annotated[
        str, typer.Option("--network", help="Network the memory estimate is made for.")
    ] = "umamba_bot",
    memory: Annotated[
        float | None,
        typer.Option("--memory", help="GiB a training step may use; the batch, then the patch shrink to it."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Instead of nnU-Net's.")
    ] = None,
    patch_size: Annotated[
        str | None, typer.Option("--patch-size", help="Instead of nnU-Net's, for example 40x56x40.")
    ] = None,
    images: options.Images = None,
    labels: options.Labels = None,
    layout: options.Layout = "auto",
    allow_geometry_mismatch: options.GeometryMismatch = False,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Choose spacing, patch, batch and stages by nnU-Net's rules."""
    from scanseg import pipeline
    from scanseg.cli.console import Output
    from scanseg.cli.networks import parse_size

    out = Output(json=json, quiet=quiet, verbose=verbose)
    overrides: dict[str, Any] = {}
    if batch_size is not None:
        overrides["batch_size"] = batch_size
    if patch_size is not None:
        overrides["patch_size"] = list(parse_size(patch_size))
    with out.progress() as report:
        made, folder = pipeline.plan(
            data,
            output=output,
            network=network,
            memory_gb=memory,
            overrides=overrides,
            images=images,
            labels=labels,
            layout=layout,
            allow_geometry_mismatch=allow_geometry_mismatch,
            workspace=workspace,
            report=report,
        )
    for name, configuration in made.configurations.items():
        mark = " (default)" if name == made.default_configuration else ""
        out.table(f"{name}{mark}", ("value", "chosen", "why"), _rows(name, configuration, made.reasons))
    out.say(f"Written: {folder / 'plan.json'}")
    out.result(made.model_dump(mode="json"))


def _rows(name: str, configuration: Any, reasons: dict[str, str]) -> list[tuple[str, str, str]]:
    rows = []
    for key, value in configuration.model_dump(mode="json").items():
        if key in ("name",) or value is None:
            continue
        reason = reasons.get(f"{name}.{key}", reasons.get(key, ""))
        rows.append((key.replace("_", " "), _short(value), reason))
    return rows


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return " | ".join("x".join(str(item) for item in part) for part in value)
    if isinstance(value, list):
        return " x ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
