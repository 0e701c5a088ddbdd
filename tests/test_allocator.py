"""Freed memory is used again, and given back when that is asked for."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from scanseg.allocator import keep_freed_memory

MEASURE = """
import json, resource, sys
import numpy as np
from scanseg.allocator import keep_freed_memory, release_freed_memory
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 2**20
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
counts = []
for _ in range(3):
    before = faults()
    block = np.ones(64 << 20, dtype=np.uint8)
    del block
    counts.append(faults() - before)
held = resident_mb()
released = release_freed_memory()
print(json.dumps({"kept": kept, "faults": counts, "held": held, "released": released, "left": resident_mb()}))
"""


def measured(word: str, **environment: str) -> dict[str, Any]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    child = subprocess.run(
        [sys.executable, "-c", MEASURE, word], capture_output=True, text=True, check=True,
        env={**plain, **environment},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(child.stdout)
    return found


@pytest.mark.skipif(
    "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or "") if sys.platform == "linux" else True,
    reason="the functions do something with glibc only",
)
def test_freed_memory_is_kept_and_released() -> None:
    plain, kept = measured("leave"), measured("keep")
    # 64 MiB are 16,384 pages of 4 KiB, or 32 where the system gives huge ones.
    assert min(plain["faults"]) > 10 * max(kept["faults"][1:], default=0) + 16
    assert kept["kept"] is True
    assert kept["held"] > plain["held"] + 50
    assert kept["released"] is True
    assert kept["left"] < plain["left"] + 10


def test_the_environment_decides() -> None:
    assert measured("keep", MALLOC_TRIM_THRESHOLD_="131072")["kept"] is False
    assert measured("keep", GLIBC_TUNABLES="glibc.malloc.mmap_max=1000")["kept"] is False


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
