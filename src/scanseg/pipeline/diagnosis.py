"""The verb `doctor`: what this machine offers and what is missing."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from scanseg.devices import resolve_device, usable_cores
from scanseg.optional import is_installed

CORE = ("scanseg", "torch", "nnunetv2", "numba", "numpy", "nibabel", "SimpleITK")
EXTRAS = {"monai": "more networks to compare with", "tensorboard": "curves in TensorBoard"}
NEEDED_DISK_GIB = 2.0


def diagnose(*, bench: bool = True) -> dict[str, Any]:
    """Returns versions, devices, scan backends, extras, memory, disk, speed, and each problem with its fix.

    Args:
        bench: Also time the scan (about a second; the first time it is compiled).
    """
    from scanseg.kernels import backends

    backend_rows = [
        {"name": b.name, "available": b.available, "reason": b.reason, "detail": b.detail}
        for b in backends.list_backends()
    ]
    tables = {"Versions": _versions(), "Machine": _machine(), "Extras": _extras()}
    if bench:
        tables["Speed"] = _speed()
    return {"tables": tables, "backends": backend_rows, "problems": _problems(backend_rows)}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: _version(name) for name in CORE}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _machine() -> dict[str, str]:
    import torch

    device = resolve_device("auto")
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {
        "system": platform.platform(),
        "device": f"{device} ({name})",
        "cores": str(usable_cores()),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "memory": f"{_memory_gib():.1f} GiB",
        "free disk here": f"{_free_gib():.1f} GiB",
        "torch build": "CUDA " + str(torch.version.cuda) if torch.version.cuda else "CPU",
    }


def _memory_gib() -> float:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return float("nan")


def _free_gib() -> float:
    return shutil.disk_usage(Path.cwd()).free / 2**30


def _extras() -> dict[str, str]:
    return {
        name: f"{_version(name)} ({purpose})" if is_installed(name) else f"not installed ({purpose})"
        for name, purpose in EXTRAS.items()
    }


def _speed() -> dict[str, str]:
    import torch

    from scanseg.kernels import selective_scan

    generator = torch.Generator().manual_seed(0)
    batch, dim, length, state = 1, 256, 1024, 16
    u = torch.randn(batch, dim, length, generator=generator)
    delta = torch.rand(batch, dim, length, generator=generator)
    a = -torch.rand(dim, state, generator=generator)
    b, c = (torch.randn(batch, state, length, generator=generator) for _ in range(2))
    times_s = []
    for _ in range(8):
        start_s = time.perf_counter()
        selective_scan(u, delta, a, b, c)
        times_s.append(time.perf_counter() - start_s)
    median_s = statistics.median(times_s[1:])
    return {
        f"scan, forward ({batch} x {dim} x {length}, state {state})": f"{median_s * 1e3:.2f} ms",
        "elements a second": f"{batch * dim * length / median_s:.3g}",
    }


def _problems(backends: list[dict[str, Any]]) -> list[dict[str, str]]:
    found = []
    if not any(row["available"] and row["name"] != "reference" for row in backends):
        found.append(
            {
                "code": "E-DOCTOR-KERNEL",
                "text": "No fast scan backend runs here; only the slow reference does.",
                "hint": "See the reasons above; `pip install --force-reinstall numba` often helps.",
            }
        )
    if _free_gib() < NEEDED_DISK_GIB:
        text = f"Only {_free_gib():.1f} GiB of disk are free here; preparing images needs more."
        hint = "Free some space, or give --workspace on another disk."
        found.append({"code": "E-DOCTOR-DISK", "text": text, "hint": hint})
    return found
