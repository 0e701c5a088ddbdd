"""How much memory a call takes on top of what is there, and how much there is."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

_STATUS, _RESET, _MACHINE = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")

# Blocks from 256 KiB on go back to the system when they are freed, so that resident memory is what is in use.
CHILD_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


def peak_extra_bytes(call: Callable[[], object]) -> int | None:
    """Returns by how much resident memory rose above its present value while `call` ran.

    Results of the call count. On Linux the high-water mark of the process is reset first. Elsewhere only a
    rise above the highest mark so far can be seen, so the process should have done little before; None where
    the system does not tell.
    """
    gc.collect()
    if not _can_reset():
        before = _high_water_bytes()
        call()
        after = _high_water_bytes()
        return None if before is None or after is None else after - before
    _RESET.write_text("5")
    before_bytes = _status_bytes("VmRSS")
    call()
    return max(0, _status_bytes("VmHWM") - before_bytes)


def available_bytes() -> int | None:
    """Returns how much memory is left without swapping; None where the system does not tell."""
    if _MACHINE.is_file():
        return _field_bytes(_MACHINE.read_text(), "MemAvailable")
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _can_reset() -> bool:
    return _STATUS.is_file() and os.access(_RESET, os.W_OK)


def _status_bytes(name: str) -> int:
    return _field_bytes(_STATUS.read_text(), name)


def _field_bytes(text: str, name: str) -> int:
    line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _high_water_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
