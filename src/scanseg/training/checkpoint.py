"""Checkpoints: one file each, whole or absent; the last two are kept.

A checkpoint is one safetensors file with weights, what the loss learned and the optimiser's state; its
header holds everything else as JSON and the SHA-256 of it all. It is written aside, synced and renamed, so a
crash at any moment leaves the older ones as they were. A damaged one is found by its hash, and the one before
is used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from scanseg.errors import ModelError, TrainingError
from scanseg.files import read_json, write_json
from scanseg.training.state import TrainingState
from scanseg.training.weights import load_tensors, load_weights, save_tensors, weights_of

SCHEMA_VERSION = 1
KEPT = 2

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: `checkpoint/` of the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(
        self,
        network: nn.Module,
        loss: nn.Module,
        optimizer: Optimizer,
        state: TrainingState,
        identity: Mapping[str, Any],
        environment: Mapping[str, Any],
    ) -> None:
        """Writes a checkpoint and removes those before the last two.

        Args:
            network: With finite weights; the caller has looked.
            loss: May have parameters.
            optimizer: Over the parameters of both.
            state: What the loop has reached.
            identity: What must be the same to continue: recipe, plan, data.
            environment: What must be the same for identical bits: device, threads, versions.
        """
        tensors, plain = _optimizer_state(network, loss, optimizer)
        tensors |= {f"network.{name}": value for name, value in weights_of(network).items()}
        tensors |= {f"loss.{name}": value for name, value in weights_of(loss).items()}
        facts = {
            "schema_version": SCHEMA_VERSION,
            "state": state.model_dump(mode="json"),
            "identity": dict(identity),
            "environment": dict(environment),
            "optimizer": plain,
        }
        save_tensors(self.folder / f"step-{state.step:09d}.safetensors", tensors, facts)
        for path in self._files()[KEPT:]:
            path.unlink()

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns tensors and facts of the newest whole checkpoint; None if there is no checkpoint.

        Damaged ones after it are removed with a warning.

        Raises:
            TrainingError: There are checkpoints, and all are damaged; none of them is removed.
        """
        damaged = []
        for path in self._files():
            try:
                found = load_tensors(path)
            except ModelError as error:
                _log.warning("%s The checkpoint before it is used.", error.message)
                damaged.append(path)
                continue
            for bad in damaged:
                bad.unlink()
            return found
        if damaged:
            raise TrainingError(
                f"All checkpoints in {self.folder} are damaged.",
                code="E-CHECKPOINT-DAMAGED",
                hint="Begin again with --restart, or restore the folder from a copy.",
            )
        return None

    def mark_finished(self, state: TrainingState, identity: Mapping[str, Any]) -> None:
        """Notes that the run is complete and removes the checkpoints, which nothing needs any more."""
        facts = {"schema_version": SCHEMA_VERSION, "state": state.model_dump(mode="json")}
        write_json(self.folder / "finished.json", {**facts, "identity": dict(identity)})
        for path in self._files():
            path.unlink()

    def finished(self) -> dict[str, Any] | None:
        """Returns what `mark_finished` noted, None for an unfinished run."""
        path = self.folder / "finished.json"
        return dict(read_json(path)) if path.is_file() else None

    def wipe(self) -> None:
        """Removes every file of the folder."""
        for path in self.folder.glob("*"):
            path.unlink()

    def _files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)


def restore(
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    network: nn.Module,
    loss: nn.Module,
    optimizer: Optimizer,
) -> TrainingState:
    """Puts a checkpoint back into network, loss and optimiser and returns what the loop had reached.

    Raises:
        TrainingError: It was written by another version of this software.
        ModelError: It does not fit the network or the loss.
    """
    try:
        if facts["schema_version"] != SCHEMA_VERSION:
            raise KeyError(facts["schema_version"])
        state = TrainingState.model_validate(facts["state"])
    except (KeyError, ValidationError) as error:
        raise TrainingError(
            "The checkpoint was written by another version of scanseg.",
            code="E-CHECKPOINT-VERSION",
            hint="Continue with that version, or begin again with --restart.",
        ) from error
    load_weights(network, _below("network.", tensors), source="the checkpoint")
    load_weights(loss, _below("loss.", tensors), source="the checkpoint")
    slots: dict[str, dict[str, Any]] = {name: dict(values) for name, values in facts["optimizer"].items()}
    for key, value in _below("optimizer.", tensors).items():
        name, _, slot = key.rpartition(".")
        slots.setdefault(name, {})[slot] = value
    names = list(_trained(network, loss, optimizer))
    known = {index: slots[name] for index, name in enumerate(names) if name in slots}
    optimizer.load_state_dict({"state": known, "param_groups": optimizer.state_dict()["param_groups"]})
    return state


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _trained(network: nn.Module, loss: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns the optimiser's parameters by name, in its own order."""
    names = {id(value): f"network.{name}" for name, value in network.named_parameters()}
    names |= {id(value): f"loss.{name}" for name, value in loss.named_parameters()}
    return {names[id(value)]: value for group in optimizer.param_groups for value in group["params"]}


def _optimizer_state(
    network: nn.Module, loss: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Splits the optimiser's state into tensors and plain values, both by the parameter's name."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for name, parameter in _trained(network, loss, optimizer).items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{slot}"] = value
            else:
                plain.setdefault(name, {})[slot] = value
    return tensors, plain
