"""The description of a trained network in its run folder, and the way back from there to the network."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scanseg.devices import resolve_device
from scanseg.errors import DataError, Error, ModelError
from scanseg.files import read_json, sha256
from scanseg.networks import NETWORKS, create_network
from scanseg.nnunet.plan import Plan
from scanseg.training.task import Task
from scanseg.training.weights import load_tensors, load_weights

SCHEMA_VERSION = 1
WEIGHTS = {"final": "model.safetensors", "best": "best.safetensors"}


def describe_network(task: Task) -> dict[str, Any]:
    """Returns the arguments of `create_network` for a task, and the `name`, as JSON values."""
    plan, configuration, recipe = task.plan, task.configuration, task.recipe
    by_plan = NETWORKS[recipe.network].plan_driven
    return {
        "name": recipe.network,
        "spatial_dims": configuration.spatial_dims,
        "in_channels": plan.in_channels,
        "out_channels": plan.out_channels,
        "patch_size": list(configuration.patch_size),
        "strides": [list(stride) for stride in configuration.strides] if by_plan else None,
        "kernel_sizes": [list(kernel) for kernel in configuration.kernel_sizes] if by_plan else None,
        "deep_supervision": recipe.deep_supervision,
        "options": recipe.network_options,
    }


def build_network(description: dict[str, Any]) -> nn.Module:
    """Returns the network that `describe_network` describes, with fresh weights.

    Raises:
        UsageError: The name is not registered, or the arguments do not fit it.
    """
    arguments = dict(description)
    name, options = arguments.pop("name"), arguments.pop("options")
    return create_network(name, **arguments, **options)


def make_config(task: Task) -> dict[str, Any]:
    """Returns the content of `config.json` before training has ended."""
    plan, configuration = task.plan, task.configuration
    mirrored = task.recipe.augment and task.recipe.mirror
    return {
        "schema_version": SCHEMA_VERSION,
        "scanseg_version": version("scanseg"),
        "network": describe_network(task),
        "configuration": configuration.name,
        "dataset_name": plan.dataset_name,
        "labels": [{"value": label.value, "name": label.name} for label in plan.labels],
        "channel_names": list(plan.channel_names),
        "orientation": plan.orientation,
        "spacing": list(configuration.spacing),
        "mirror_axes": list(range(configuration.spatial_dims)) if mirrored else [],
        "fold": task.fold,
        "split": {"train": list(task.split.train), "validation": list(task.split.validation)},
        "pretrained_sha256": None,
        "weights_sha256": None,
        "best_weights_sha256": None,
        "training": None,
    }


def load_network(
    run_folder: Path | str, *, device: torch.device | str = "cpu", weights: str = "final"
) -> tuple[nn.Module, dict[str, Any], Plan]:
    """Returns the trained network of a run in evaluation mode, its config and its plan.

    Nothing from the folder is executed: the network's name must be registered, and the weights must have
    exactly the names, shapes and types of that network, be finite, and have the SHA-256 in the config.

    Args:
        run_folder: What `train_network` wrote.
        device: Where the network shall be.
        weights: `final`, or `best` for the epoch with the best moving average of the pseudo Dice; the latter
            exists from the first epoch on, also in unfinished runs.

    Returns:
        The network with deep supervision off, the content of `config.json` with `weights_sha256` of the
        weights that were loaded, and the plan.

    Raises:
        ModelError: A file is missing, damaged, or does not fit the others.
    """
    folder = Path(run_folder)
    if weights not in WEIGHTS:
        raise ModelError(
            f"Unknown weights {weights!r}.", code="E-MODEL-WEIGHTS", hint=f"Use {' or '.join(WEIGHTS)}."
        )
    config = _read_config(folder)
    path = folder / WEIGHTS[weights]
    if weights == "final" and config["weights_sha256"] is None:
        raise ModelError(
            f"The training of {folder} has not finished.",
            code="E-MODEL-UNFINISHED",
            hint="Run the same training command again to finish it, or use the best weights so far.",
        )
    try:
        plan = Plan.load(folder / "plan.json")
        plan.configuration(config["configuration"])
        network = build_network(config["network"])
    except (Error, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"The description of the network in {folder} cannot be used: {error}", code="E-MODEL-CONFIG"
        ) from error
    tensors, _ = load_tensors(path)
    load_weights(network, tensors, source=str(path))
    digest = sha256(path)
    expected = config["weights_sha256" if weights == "final" else "best_weights_sha256"]
    if expected is not None and digest != expected:
        raise ModelError(
            f"{path} is not the file that config.json was written for: its SHA-256 is another.",
            code="E-MODEL-HASH",
            hint="Restore both files from the same run.",
        )
    network.deep_supervision = False  # type: ignore[assignment]
    target = resolve_device(device) if isinstance(device, str) else device
    return network.to(target).eval(), {**config, "weights_sha256": digest}, plan


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = read_json(folder / "config.json")
    except DataError as error:
        raise ModelError(
            f"{folder} is not a run folder: {error.message}",
            code="E-MODEL-MISSING",
            hint="Give the folder that `scanseg train -o` wrote.",
        ) from error
    if not isinstance(config, dict) or config.get("schema_version") != SCHEMA_VERSION:
        found = config.get("schema_version") if isinstance(config, dict) else None
        raise ModelError(
            f"{folder / 'config.json'} has schema version {found!r}, accepted is {SCHEMA_VERSION}.",
            code="E-MODEL-VERSION",
            hint="Use the version of scanseg that wrote it.",
        )
    missing = [key for key in ("network", "configuration", "labels", "weights_sha256") if key not in config]
    if missing:
        raise ModelError(f"{folder / 'config.json'} lacks {', '.join(missing)}.", code="E-MODEL-CONFIG")
    return config
