"""What a training tells: one JSON line per epoch, TensorBoard on request, and progress with the time left."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from scanseg.files import write_text
from scanseg.optional import require
from scanseg.training.timetable import Pace

if TYPE_CHECKING:
    import torch


class MetricsLog:
    """`metrics.jsonl` of a run: one line per finished epoch, synced to disk before the epoch's checkpoint.

    `loop.train_network` names the fields of a line.

    Args:
        run_folder: Where the file lies.
        tensorboard: Also write event files to `tensorboard/` in it.

    Raises:
        UsageError: TensorBoard is asked for and not installed.
    """

    def __init__(self, run_folder: Path, *, tensorboard: bool = False) -> None:
        self.path = run_folder / "metrics.jsonl"
        self._board: Any = None
        if tensorboard:
            require("tensorboard", extra="tensorboard", purpose="--tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(run_folder / "tensorboard")  # type: ignore[no-untyped-call]

    def keep(self, epochs: int) -> None:
        """Drops lines of epochs after `epochs`, and a half-written last line; they will be written again."""
        if not self.path.is_file():
            return
        kept = [line for line in self.path.read_text("utf-8").splitlines() if _epoch(line) <= epochs]
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Appends the record of an epoch."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        if self._board is not None:
            for key, value in record.items():
                if isinstance(value, int | float) and key not in ("epoch", "step"):
                    self._board.add_scalar(key, value, record["step"])
            self._board.flush()

    def close(self) -> None:
        """Closes the event file, if there is one."""
        if self._board is not None:
            self._board.close()


def _epoch(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Stopwatch:
    """Keeps the last durations of each kind of work; forecasts come from their median, which outliers spare.

    The very first training step is left out, for kernels are compiled in it.
    """

    def __init__(self, kept: int = 31) -> None:
        self._seconds: dict[str, deque[float]] = {}
        self._kept = kept
        self._is_warm = False

    def note(self, kind: str, seconds: float) -> None:
        """Notes how long one piece of work took."""
        if kind == "step" and not self._is_warm:
            self._is_warm = True
            return
        self._seconds.setdefault(kind, deque(maxlen=self._kept)).append(seconds)

    def typical_s(self, kind: str) -> float | None:
        """Returns the median duration, None before the first one."""
        seconds = self._seconds.get(kind)
        return median(seconds) if seconds else None

    def pace(self) -> Pace | None:
        """Returns the pace of training; what was not measured yet is taken from the training step."""
        step_s = self.typical_s("step")
        if step_s is None:
            return None
        validation_s = self.typical_s("validation")
        return Pace(
            step_s, step_s / 3 if validation_s is None else validation_s, self.typical_s("save") or 0.0
        )


def memory_used(device: torch.device) -> dict[str, Any]:
    """Returns what a training tells about memory, as fields of metrics.jsonl.

    Returns:
        `peak_memory_bytes`, the most that was used so far; `memory_kind`, whether that is of the `gpu` or of
        the `process`; `total_memory_bytes`, what the GPU or the machine has. None is what is not known.
    """
    is_gpu = device.type == "cuda"
    return {
        "peak_memory_bytes": peak_memory_bytes(device.type),
        "total_memory_bytes": total_memory_bytes(device),
        "memory_kind": "gpu" if is_gpu else "process",
    }


def peak_memory_bytes(device_type: str) -> int | None:
    """Returns the most memory used so far: of the GPU if there is one in use, else of this process."""
    if device_type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def total_memory_bytes(device: torch.device) -> int | None:
    """Returns the memory of a GPU, else that of the machine; None where the system does not tell."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(getattr(os, "sysconf_names", ())):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
