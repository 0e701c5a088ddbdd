"""How much memory training takes at a plan, and smaller plans where it is too much."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from scanseg.errors import UsageError
from scanseg.nnunet.overrides import plain_feature_map_size, with_patch
from scanseg.nnunet.plan import Configuration
from scanseg.nnunet.stock import topology
from scanseg.types import Shape

if TYPE_CHECKING:
    from scanseg.nnunet.planner import Draft

GIB = 1024**3
Estimate = Callable[[Configuration], int]


@dataclass(frozen=True)
class _Fit:
    configuration: Configuration
    steps: tuple[str, ...]


def available_memory_bytes() -> tuple[int, str]:
    """Returns the memory free for training and where: the GPU's if there is one, else the machine's."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), "free on the GPU"
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "free on this machine"
    return 8 * GIB, "assumed"


def fit_memory(
    configuration: Configuration,
    draft: Draft,
    network: str,
    memory_gb: float | None,
    notes: dict[str, str],
) -> tuple[Configuration, str]:
    """Returns the configuration with its memory estimate, smaller if `memory_gb` asks for it, and a warning.

    Without `memory_gb` patch and batch stay nnU-Net's, so that results are comparable; the warning (empty if
    none) then names a plan that would fit. The reasons go into `notes`.

    Raises:
        UsageError: Even batch 1 with the smallest patch takes more than `memory_gb`.
    """
    estimate, source = estimator(network, draft)
    limit, where = (int(memory_gb * GIB), "given") if memory_gb else available_memory_bytes()
    needed, warning = estimate(configuration), ""
    if needed > limit:
        fit = _smaller(configuration, draft, estimate, limit)
        if memory_gb:
            configuration = _applied(fit, configuration, network, memory_gb, notes)
            needed = estimate(configuration)
        else:
            warning = _advice(configuration, fit, needed, limit, where, network)
    notes[f"{configuration.name}.memory_bytes"] = (
        f"{source} for {network}; nnU-Net plans 8 GB for a plain U-Net."
    )
    return configuration.model_copy(update={"memory_bytes": needed, "memory_source": source}), warning


def estimator(network: str, draft: Draft) -> tuple[Estimate, str]:
    """Returns the function that estimates the bytes of a training step, and what it is based on."""

    def plain(configuration: Configuration) -> int:
        # nnU-Net: 560e6 numbers a sample fit 8 GiB at batch 2 in half precision; fp32 doubles it.
        numbers = plain_feature_map_size(configuration, draft)
        return round(numbers * configuration.batch_size * 2 * 8 * GIB / (560e6 * 2))

    return plain, "Estimate for a plain U-Net in fp32 (the state-space layers are not counted)"


def _smaller(configuration: Configuration, draft: Draft, estimate: Estimate, limit: int) -> _Fit | None:
    """Returns the first configuration that fits: smaller batch, then smaller patch, then batch 1."""
    steps: list[str] = []
    smallest = min(2, configuration.batch_size)
    for batch in range(configuration.batch_size, smallest - 1, -1):
        trial = configuration.model_copy(update={"batch_size": batch})
        if estimate(trial) <= limit:
            return _Fit(trial, (f"batch {configuration.batch_size} -> {batch}",))
    steps.append(f"batch {configuration.batch_size} -> {smallest}")
    trial = configuration.model_copy(update={"batch_size": smallest})
    while (patch := _next_patch(trial)) is not None:
        trial = with_patch(trial, patch, draft).model_copy(update={"batch_size": smallest})
        if estimate(trial) <= limit:
            break
    steps.append(f"patch {_text(configuration.patch_size)} -> {_text(trial.patch_size)}")
    if estimate(trial) > limit:
        trial = trial.model_copy(update={"batch_size": 1})
        steps.append(f"batch {smallest} -> 1")
    return _Fit(trial, tuple(steps)) if estimate(trial) <= limit else None


def _next_patch(configuration: Configuration) -> Shape | None:
    """Returns the next smaller patch by nnU-Net's rule, or None at the smallest.

    nnU-Net shortens the axis that is longest relative to the median image, by the factor that the strides
    still ask for after shortening.
    """
    patch = configuration.patch_size
    order = sorted(range(len(patch)), key=lambda axis: -patch[axis] / configuration.median_shape[axis])
    for axis in order:
        for size in range(patch[axis] - 1, 7, -1):
            trial = (*patch[:axis], size, *patch[axis + 1 :])
            if topology(configuration.spacing, trial)[2] == trial:
                return trial
    return None


def _applied(
    fit: _Fit | None, before: Configuration, network: str, memory_gb: float, notes: dict[str, str]
) -> Configuration:
    if fit is None:
        raise UsageError(
            f"{network} cannot train in {memory_gb:g} GiB with any patch of {before.name}.",
            code="E-PLAN-MEMORY",
            hint="Give more memory, choose a smaller network or the 2d configuration.",
        )
    reason = f"Made smaller to fit {memory_gb:g} GiB with {network}: {', '.join(fit.steps)}."
    notes[f"{before.name}.batch_size"] = reason
    if fit.configuration.patch_size != before.patch_size:
        notes[f"{before.name}.patch_size"] = reason
    return fit.configuration


def _advice(
    configuration: Configuration, fit: _Fit | None, needed: int, limit: int, where: str, network: str
) -> str:
    text = (
        f"{configuration.name}: training {network} takes about {needed / GIB:.1f} GiB, "
        f"{limit / GIB:.1f} GiB are {where}."
    )
    if fit is None:
        return f"{text} No smaller patch fits; choose a smaller network."
    chosen = fit.configuration
    return (
        f"{text} It would fit with batch_size {chosen.batch_size} and patch_size {_text(chosen.patch_size)} "
        f"(--memory {limit / GIB:.1f} plans it)."
    )


def _text(shape: Shape) -> str:
    return "x".join(str(size) for size in shape)
