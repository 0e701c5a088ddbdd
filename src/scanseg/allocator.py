"""How the C library keeps memory that tensors and arrays have given back; glibc (Linux) only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LARGEST_KEPT_BYTES, _NEVER = 1 << 30, -1


def keep_freed_memory() -> bool:
    """Lets this process use freed memory again instead of asking the system for new pages.

    By default glibc gives every block above 32 MiB back when it is freed. Each activation of a 3D network is
    then mapped, cleared and unmapped in every step: page by page, which on a virtual machine takes a fifth of
    a training step. The process holds on to its largest need afterwards; `release_freed_memory` ends that.
    Blocks above 1 GiB are still given back.

    Returns:
        Whether anything was set: False on other systems and C libraries, and where the environment already
        says how memory is to be kept (`MALLOC_...`, `GLIBC_TUNABLES`).
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    # Before glibc 2.35 the threshold could not be above 32 MiB; mapping nothing at all could be asked for.
    kept = mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES) or mallopt(_MMAP_MAX, 0)
    return bool(kept and mallopt(_TRIM_THRESHOLD, _NEVER))


def release_freed_memory() -> bool:
    """Gives all freed memory back to the system; returns whether there was any to give back."""
    trim = _function("malloc_trim")
    return trim is not None and bool(trim(0))


def _function(name: str) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    import ctypes  # takes a while, and the command line should be there at once

    return getattr(ctypes.CDLL(None), name, None)
