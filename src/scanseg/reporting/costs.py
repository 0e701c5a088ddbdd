"""What a training cost, from the files of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from scanseg.errors import DataError
from scanseg.reporting.curves import read_metrics
from scanseg.reporting.run_files import RunFiles

COSTS = ("steps", "seconds_per_step", "parameters", "peak_memory_bytes")


def training_costs(run: RunFiles) -> dict[str, Any]:
    """Returns steps, time and memory of a training, None where the files do not tell.

    Returns:
        `steps` (of one fold), `seconds_per_step` (median over epochs of the time of an epoch, its validation
        on patches included, divided by its steps; the first epoch, in which kernels are compiled, only
        where there is no other), `peak_memory_bytes`, and of run.json `device`, `threads`, `platform`.
    """
    records: list[list[dict[str, Any]]] = []
    for path in run.metrics.values():
        try:
            records.append(read_metrics(path))
        except DataError as error:
            run.notes.append(error.message)
    steps = [part[-1].get("step") for part in records if part]
    peaks = [record.get("peak_memory_bytes") for part in records for record in part]
    known_steps = [step for step in steps if isinstance(step, int)]
    known_peaks = [peak for peak in peaks if isinstance(peak, int)]
    paces = [pace for part in records if (pace := _seconds_per_step(part)) is not None]
    return {
        "steps": max(known_steps, default=None),
        "seconds_per_step": median(paces) if paces else None,
        "peak_memory_bytes": max(known_peaks, default=None),
        **{name: run.run.get(name) for name in ("device", "threads", "platform")},
    }


def mean_costs(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the costs of several runs in one: the mean of times, the largest of the other figures."""
    found: dict[str, Any] = {}
    for name in COSTS:
        values = [cost[name] for cost in costs if cost.get(name) is not None]
        if not values:
            found[name] = None
        else:
            found[name] = sum(values) / len(values) if name == "seconds_per_step" else max(values)
    return found


def _seconds_per_step(records: Sequence[Mapping[str, Any]]) -> float | None:
    before, paces = 0, []
    for record in records:
        step, seconds = record.get("step"), record.get("seconds")
        if not isinstance(step, int) or not isinstance(seconds, int | float):
            return None
        if step > before:
            paces.append(seconds / (step - before))
        before = step
    return float(median(paces[1:] or paces)) if paces else None
