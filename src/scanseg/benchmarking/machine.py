"""Facts about the machine that a time depends on. No names of hosts or users, no paths."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
from pathlib import Path

from scanseg.devices import usable_cores

_PACKAGES = ("scanseg", "torch", "numba", "llvmlite", "numpy", "mambapy", "transformers")
_FEATURES = ("fma", "f16c", "avx", "avx2", "avx512", "amx", "asimd", "sve", "neon", "bf16")


def machine_facts() -> dict[str, str]:
    """Returns processor, cores, instruction sets, memory, versions and scan backends, each as text."""
    import torch

    from scanseg.kernels.backends import list_backends

    facts = {
        "processor": _processor(),
        "usable cores": str(usable_cores()),
        "instruction sets": " ".join(_features()) or "unknown",
        "PyTorch uses": torch.backends.cpu.get_cpu_capability(),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }
    for status in list_backends():
        # What follows the semicolon is a folder of this user.
        facts[f"backend {status.name}"] = status.detail.split(";")[0] if status.available else status.reason
    return facts


def load_average() -> float | None:
    """Returns how many processes wanted a processor during the last minute; None where unknown."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _features() -> list[str]:
    words = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return sorted(word for word in words if word.startswith(_FEATURES) or "bf16" in word)


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _memory() -> str:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    return "unknown"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
