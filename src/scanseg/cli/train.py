"""`scanseg train`: from a dataset to a run folder with weights, held-out scores and a report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scanseg.cli import options

# Shown first where a line has no room for all.
FIRST_METRICS = ("dice", "nsd", "hd95", "iou", "assd")


def train(
    data: options.Data,
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The run folder to make or to continue.", show_default=False),
    ],
    network: Annotated[
        str | None, typer.Option("--network", help="See `scanseg networks list`.", show_default="umamba_bot")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="Name of a preset or a TOML file.")] = "nnunet",
    configuration: Annotated[
        str | None, typer.Option("--config", help="2d or 3d_fullres.", show_default="the plan's default")
    ] = None,
    fold: Annotated[
        str, typer.Option("--fold", help="0 to 4, cv (all folds), or all (no held-out cases).")
    ] = "0",
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of the recipe's.")] = None,
    iterations_per_epoch: Annotated[
        int | None, typer.Option("--iterations-per-epoch", min=1, help="Instead of the recipe's.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.01, help="Train for about this long instead of epochs.")
    ] = None,
    early_stop: Annotated[
        int | None, typer.Option("--early-stop", min=1, help="Stop after N epochs without improvement.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", min=0.0, help="Instead of the recipe's.")
    ] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="Instead of the recipe's.")] = None,
    optimizer: Annotated[str | None, typer.Option("--optimizer", help="sgd, adamw or adam.")] = None,
    sam_rho: Annotated[
        float | None, typer.Option("--sam-rho", min=0.0, help="Sharpness-aware minimisation; 0 is without.")
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="fp32 or bf16.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Instead of the plan's.")
    ] = None,
    patch_size: Annotated[
        str | None, typer.Option("--patch-size", help="Instead of the plan's, for example 40x56x40.")
    ] = None,
    base_features: Annotated[
        int | None, typer.Option("--base-features", min=1, help="Channels of the first stage (32).")
    ] = None,
    memory: Annotated[
        float | None, typer.Option("--memory", help="GiB a training step may use; the plan shrinks to it.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of everything random.")] = None,
    tensorboard: Annotated[
        bool | None,
        typer.Option(
            "--tensorboard/--no-tensorboard", help="Event files for TensorBoard.", show_default="if installed"
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Erase the run and begin again.")] = False,
    validate: Annotated[
        bool,
        typer.Option("--validate/--no-validate", help="Predict and measure the held-out cases at the end."),
    ] = True,
    images: options.Images = None,
    labels: options.Labels = None,
    layout: options.Layout = "auto",
    allow_geometry_mismatch: options.GeometryMismatch = False,
    workspace: options.Workspace = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    workers: options.Workers = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a network, predict the held-out cases and report.

    Checks, plans and prepares the dataset first.

    The same command continues a run that was stopped, and ends with the same weights.
    """
    from scanseg import pipeline
    from scanseg.cli.console import Output
    from scanseg.cli.networks import parse_size

    out = Output(json=json, quiet=quiet, verbose=verbose)
    changes: dict[str, Any] = {
        "network": network,
        "epochs": epochs,
        "iterations_per_epoch": iterations_per_epoch,
        "minutes": minutes,
        "early_stop": early_stop,
        "learning_rate": learning_rate,
        "loss": loss,
        "optimizer": optimizer,
        "sam_rho": sam_rho,
        "precision": precision,
        "batch_size": batch_size,
        "patch_size": None if patch_size is None else parse_size(patch_size),
        "seed": seed,
    }
    with out.progress() as report:
        result = pipeline.train(
            data,
            output,
            recipe=recipe,
            changes={key: value for key, value in changes.items() if value is not None},
            network_options={} if base_features is None else {"base_features": base_features},
            configuration=configuration,
            fold=fold,
            memory_gb=memory,
            restart=restart,
            validate=validate,
            images=images,
            labels=labels,
            layout=layout,
            allow_geometry_mismatch=allow_geometry_mismatch,
            workspace=workspace,
            device=device,
            threads=threads,
            workers=workers,
            tensorboard=tensorboard,
            report=report,
        )
    print_scores(out, "Held-out cases", result.summary)
    out.say(f"Weights: {result.run / 'model.safetensors' if fold != 'cv' else result.run}")
    out.say(f"Report:  {result.run / 'report.html'}")
    out.result(result.as_dict())


def print_scores(out: Any, title: str, summary: dict[str, Any] | None) -> None:
    """Prints mean scores per label with their 95 % intervals, as many metrics as fit in a line."""
    from scanseg.reporting.tables import score_rows

    if summary is None:
        return
    known = list(summary.get("metrics") or {})
    wanted = [name for name in FIRST_METRICS if name in known]
    names: list[str] = []
    for name in [*wanted, *(other for other in known if other not in wanted)]:
        columns, rows = score_rows(summary, [*names, name])
        # Each column has a border and two blanks.
        width = 1 + sum(3 + max(map(len, cells)) for cells in zip(columns, *rows, strict=True))
        if not names or width <= out.out.width:
            names.append(name)
    columns, rows = score_rows(summary, [name for name in known if name in names])
    out.table(title, columns, rows)
    if len(names) < len(known):
        out.say(
            f"Not shown here: {', '.join(name for name in known if name not in names)}; see summary.json."
        )
