"""Which device runs, and on how many threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scanseg.errors import UsageError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str = "auto") -> torch.device:
    """Returns the torch device for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    `auto` takes CUDA, else Apple's MPS, else the CPU. A named device that is not there is an error, never a
    silent fall back.

    Raises:
        UsageError: The name is unknown or the device is not available.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
    kind = name.split(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in available:
        raise UsageError(
            f"Unknown device {name!r}.", code="E-DEVICE-UNKNOWN", hint="Use auto, cpu, cuda, cuda:N or mps."
        )
    if not available[kind]:
        raise UsageError(
            f"The device {name!r} is not available here.",
            code="E-DEVICE-MISSING",
            hint="Run `scanseg doctor` to see why, or use --device auto.",
        )
    return torch.device(name)


def usable_cores() -> int:
    """Returns the number of processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
