"""How much memory training takes at a plan, and smaller plans where it is too much."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from scanseg.errors import UsageError
from scanseg.networks import NETWORKS, training_memory_bytes
from scanseg.nnunet.overrides import plain_feature_map_size, with_patch
from scanseg.nnunet.plan import Configuration
from scanseg.nnunet.stock import topology
from scanseg.types import Shape

if TYPE_CHECKING:
    from scanseg.nnunet.planner import Draft

GIB = 1024**3


@dataclass(frozen=True)
class Estimate:
    """Memory of one training step in fp32.

    Attributes:
        total_bytes: All of it, without the framework itself.
        source: What it is based on, and what state-space layers take of it.
        problem: Why the network cannot be made at this plan; empty if it can.
    """

    total_bytes: int
    source: str
    problem: str = ""


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
        UsageError: Even the smallest patch takes more than `memory_gb`.
    """

    def estimate(trial: Configuration) -> Estimate:
        return estimate_memory(trial, draft, network)

    limit, where = (int(memory_gb * GIB), "given") if memory_gb else available_memory_bytes()
    found = estimate(configuration)
    warning = f"{configuration.name}: {found.problem}" if found.problem else ""
    if found.total_bytes > limit and not found.problem:
        fit = _smaller(configuration, draft, estimate, limit)
        if memory_gb:
            configuration = _applied(fit, configuration, network, memory_gb, notes)
            found = estimate(configuration)
        else:
            warning = _advice(configuration, fit, found.total_bytes, limit, where, network)
    notes[f"{configuration.name}.memory_bytes"] = found.source
    changes = {"memory_bytes": found.total_bytes, "memory_source": found.source}
    return configuration.model_copy(update=changes), warning


def estimate_memory(configuration: Configuration, draft: Draft, network: str) -> Estimate:
    """Returns what training takes; a plain U-Net stands in where the network cannot be made at this plan."""
    entry = NETWORKS[network]
    if configuration.spatial_dims not in entry.spatial_dims:
        kind = "x".join(f"{dims}D" for dims in entry.spatial_dims)
        return _plain(configuration, draft, f"{network} exists in {kind} only, it cannot train this one.")
    options: dict[str, Any] = {}
    if "features_per_stage" in (entry.options or {}):
        options["features_per_stage"] = configuration.features_per_stage
    try:
        found = training_memory_bytes(
            network,
            spatial_dims=configuration.spatial_dims,
            in_channels=len(draft.description["channel_names"]),
            out_channels=len(draft.description["labels"]),
            patch_size=configuration.patch_size,
            batch_size=configuration.batch_size,
            strides=configuration.strides if entry.plan_driven else None,
            kernel_sizes=configuration.kernel_sizes if entry.plan_driven else None,
            **options,
        )
    except UsageError as error:
        return _plain(configuration, draft, f"{network} cannot be made at this plan: {error}")
    layers = f"state-space layers take {found.mamba_bytes / GIB:.2f} GiB of it"
    source = f"Estimated for {network} in fp32; {layers}, which nnU-Net's 8 GB budget does not count."
    return Estimate(found.total_bytes, source)


def _plain(configuration: Configuration, draft: Draft, problem: str) -> Estimate:
    # nnU-Net: 560e6 numbers a sample fit 8 GiB at batch 2 in half precision; fp32 doubles it.
    numbers = plain_feature_map_size(configuration, draft)
    total = round(numbers * configuration.batch_size * 2 * 8 * GIB / (560e6 * 2))
    return Estimate(total, "Estimated for a plain U-Net in fp32 (convolutions only).", problem)


@dataclass(frozen=True)
class _Fit:
    configuration: Configuration
    steps: tuple[str, ...]


def _smaller(
    configuration: Configuration, draft: Draft, estimate: Callable[[Configuration], Estimate], limit: int
) -> _Fit | None:
    """Returns the first configuration that fits: smaller batch, then smaller patch, then batch 1."""

    def fits(trial: Configuration) -> bool:
        found = estimate(trial)
        return not found.problem and found.total_bytes <= limit

    def with_batch(trial: Configuration, batch: int) -> Configuration:
        return trial.model_copy(update={"batch_size": batch})

    planned, smallest = configuration.batch_size, min(2, configuration.batch_size)
    if fits(with_batch(configuration, smallest)):
        low, high = smallest, planned
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(with_batch(configuration, middle)) else (low, middle)
        return _Fit(with_batch(configuration, low), (f"batch {planned} -> {low}",))
    steps = [] if smallest == planned else [f"batch {planned} -> {smallest}"]
    trial = with_batch(configuration, smallest)
    while not fits(trial) and (patch := _next_patch(trial)) is not None:
        trial = with_batch(with_patch(trial, patch, draft), smallest)
    steps.append(f"patch {_text(configuration.patch_size)} -> {_text(trial.patch_size)}")
    if not fits(trial):
        trial = with_batch(trial, 1)
        steps.append(f"batch {smallest} -> 1")
    return _Fit(trial, tuple(steps)) if fits(trial) else None


def _next_patch(configuration: Configuration) -> Shape | None:
    """Returns the next smaller patch that its strides divide, or None at the smallest.

    As in nnU-Net the axis that is longest relative to the median image is shortened first.
    """
    patch = configuration.patch_size
    for axis in sorted(range(len(patch)), key=lambda axis: -patch[axis] / configuration.median_shape[axis]):
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
            hint="Give more memory or choose a smaller network.",
        )
    reason = f"Made smaller to fit {memory_gb:g} GiB with {network}: {', '.join(fit.steps)}."
    if fit.configuration.batch_size != before.batch_size:
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
    return f"{text} It would fit with {', '.join(fit.steps)} (--memory {limit / GIB:.1f} plans that)."


def _text(shape: Shape) -> str:
    return "x".join(str(size) for size in shape)
