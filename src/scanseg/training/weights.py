"""Tensors in files that prove themselves: safetensors with a SHA-256 of everything in the header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scanseg.errors import ModelError
from scanseg.files import written_aside

_KEY = "scanseg"


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns parameters and buffers of a module by name; shared tensors once, under their first name."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def first_nonfinite_name(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first tensor that holds NaN or infinity, None if there is none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes tensors and JSON facts to one safetensors file, atomically.

    The header holds the facts and the SHA-256 of facts, names, types, shapes and values; so the same content
    gives the same bytes.

    Args:
        path: Final name; an older file stays whole until the new one is.
        tensors: Any device, any type.
        facts: JSON values.

    Raises:
        ValueError: The facts hold NaN or infinity.
        OSError: The file cannot be written, for example because the disk is full.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = json.dumps({"sha256": _digest(stored, facts), "facts": facts}, allow_nan=False)
    with written_aside(path) as temporary:
        try:
            save_file(stored, temporary, metadata={_KEY: header})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors (on the CPU) and facts of a file that `save_tensors` wrote.

    Raises:
        ModelError: The file is missing, is not of this form, or a single bit of its content has changed.
    """
    if not path.is_file():
        raise ModelError(f"The file {path} does not exist.", code="E-WEIGHTS-MISSING")
    try:
        with safe_open(path, framework="pt") as stream:
            header = json.loads((stream.metadata() or {})[_KEY])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
        expected, facts = header["sha256"], header["facts"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"it cannot be read: {type(error).__name__}") from error
    if _digest(tensors, facts) != expected:
        raise _damaged(path, "its content does not have the SHA-256 in its header")
    return tensors, facts


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copies weights into a module after comparing every name, shape and type, and looking for NaN.

    Args:
        module: Made from the same description as the one that was saved.
        tensors: What `weights_of` gave.
        source: Where they come from, for the message.

    Raises:
        ModelError: Anything differs, all differences are named; or a value is NaN or infinite.
    """
    targets = weights_of(module)
    differences = [f"missing: {name}" for name in targets if name not in tensors]
    differences += [f"not in the network: {name}" for name in tensors if name not in targets]
    for name in targets.keys() & tensors.keys():
        want, got = targets[name], tensors[name]
        if (want.shape, want.dtype) != (got.shape, got.dtype):
            differences.append(
                f"{name}: expected {list(want.shape)} {want.dtype}, got {list(got.shape)} {got.dtype}"
            )
    if differences:
        shown = "".join(f"\n  {line}" for line in sorted(differences)[:20])
        more = f"\n  and {len(differences) - 20} more" if len(differences) > 20 else ""
        raise ModelError(
            f"The weights in {source} do not fit the network:{shown}{more}", code="E-WEIGHTS-MISMATCH"
        )
    if (bad := first_nonfinite_name(tensors)) is not None:
        raise ModelError(f"The weights in {source} are not finite: {bad}.", code="E-WEIGHTS-NONFINITE")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} is damaged: {why}.",
        code="E-WEIGHTS-DAMAGED",
        hint="Restore the file from a copy, or train again.",
    )


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
