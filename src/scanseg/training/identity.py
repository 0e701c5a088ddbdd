"""What must be the same for a run to be continued, and what for its bits to be the same."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from scanseg.errors import UsageError
from scanseg.nnunet.plan import Configuration
from scanseg.nnunet.store import read_marker
from scanseg.training.recipe import Recipe
from scanseg.training.task import Task

_MEMORY = {"memory_bytes", "memory_source"}


def run_identity(task: Task) -> dict[str, Any]:
    """Returns the facts that decide the result of a training, as JSON values."""
    plan, split = task.plan, task.split
    cases = sorted({*split.train, *split.validation})
    return {
        "recipe": task.recipe.model_dump(mode="json"),
        "plan": {
            "configuration": task.configuration.model_dump(mode="json", exclude=_MEMORY),
            "labels": [[label.value, label.name] for label in plan.labels],
            "channel_names": list(plan.channel_names),
            "orientation": plan.orientation,
        },
        "split": {"train": sorted(split.train), "validation": sorted(split.validation)},
        "data": {"sha256": _data_digest(task.store_folder, cases)},
    }


def run_environment(*, device: torch.device, threads: int) -> dict[str, Any]:
    """Returns the facts that bit-identical results depend on besides the identity."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    names = ("scanseg", "torch", "nnunetv2", "numba", "numpy")
    versions = {name: version(name) for name in names}
    return {"device": device.type, "hardware": kind, "threads": threads, "versions": versions}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns the differences of two nested mappings in words, for example `recipe.seed: 0 -> 1`."""
    found: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {_short(before)} -> {_short(after)}")
    return found


def require_same(old: Mapping[str, Any], new: Mapping[str, Any], *, run_folder: Path) -> None:
    """Refuses to continue a run with another recipe, plan, split or data.

    Fields that there were not yet when the run began have their defaults in it.

    Raises:
        UsageError: They differ; all differences are named.
    """
    # Through JSON, as the old one went: tuples have become lists.
    found = differences(_with_defaults(old), json.loads(json.dumps(new)))
    if found:
        raise UsageError(
            f"The run in {run_folder} was begun with other settings:" + "".join(f"\n  {x}" for x in found),
            code="E-TRAIN-CHANGED",
            hint="Choose another run folder, or begin again with --restart, which erases this run.",
        )


def _with_defaults(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an identity with the fields that it lacks, as in runs of older versions."""
    plan = identity.get("plan", {})
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in Configuration.model_fields.items()
        if not field.is_required() and name not in _MEMORY
    }
    configuration = {**defaults, **plan.get("configuration", {})}
    recipe = {**Recipe().model_dump(mode="json"), **identity.get("recipe", {})}
    return {**identity, "recipe": recipe, "plan": {**plan, "configuration": configuration}}


def _data_digest(store_folder: Path, case_ids: Sequence[str]) -> str:
    """Returns a hash over the source files of the cases and how they were prepared, wherever they lie."""
    facts = []
    for case_id in case_ids:
        marker = read_marker(store_folder, case_id) or {}
        facts.append([case_id, marker.get("key"), [entry[-1] for entry in marker.get("inputs", [])]])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
