"""How a plan is made: nnU-Net's planner, then the user's overrides, then the memory of the chosen network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanseg.data.dicom_files import is_series_path
from scanseg.data.image import image_suffix
from scanseg.errors import DataError, UsageError
from scanseg.networks import NETWORKS
from scanseg.nnunet import reasons
from scanseg.nnunet.cases import FLAT_SPACING, training_cases
from scanseg.nnunet.memory import fit_memory
from scanseg.nnunet.overrides import Overrides, apply_overrides
from scanseg.nnunet.plan import Configuration, Plan
from scanseg.nnunet.stock import dataset_json, stock_planner

if TYPE_CHECKING:
    from scanseg.data.dataset import Dataset

TRAINABLE = ("3d_fullres", "2d", "3d_lowres")


@dataclass(frozen=True)
class Draft:
    """A plan while it is being made.

    Attributes:
        description: What nnU-Net is told about the dataset.
        fingerprint: Of the dataset.
        stock: nnU-Net's plans.
    """

    description: dict[str, Any]
    fingerprint: Mapping[str, Any]
    stock: dict[str, Any]

    def voxels(self, configuration: str) -> float:
        """Returns the voxels of all training cases after resampling; 2D counts those of full resolution."""
        known = self.stock["configurations"]
        source = "3d_fullres" if configuration == "2d" and "3d_fullres" in known else configuration
        median = known[source]["median_image_size_in_voxels"]
        return float(math.prod(median) * self.description["numTraining"])


def plan_dataset(
    dataset: Dataset,
    fingerprint: Mapping[str, Any],
    *,
    orientation: str | None,
    network: str,
    memory_gb: float | None,
    overrides: Mapping[str, Any],
) -> Plan:
    """Makes the plan; see `plan.make_plan`."""
    dims, channels = _check(fingerprint, dataset)
    if memory_gb is not None and not memory_gb > 0:
        raise UsageError(f"memory_gb must be positive, got {memory_gb}.", code="E-PLAN-MEMORY")
    wanted = Overrides.parse(overrides, image_dims=dims)
    draft = _draft(dataset, fingerprint, wanted.spacing)
    chosen = {
        name: _configuration(name, draft.stock["configurations"][name])
        for name in TRAINABLE
        if name in draft.stock["configurations"]
    }
    wanted.check_names(chosen)
    notes = reasons.dataset_reasons(draft, chosen, orientation, wanted.spacing is not None)
    warnings = [reasons.CASCADE] if "3d_lowres" in chosen else []
    for name in chosen:
        chosen[name] = apply_overrides(chosen[name], wanted, draft, notes)
        chosen[name], warning = fit_memory(chosen[name], draft, network, memory_gb, notes)
        warnings += [warning] if warning else []
    return Plan(
        dataset_name=dataset.name,
        orientation=orientation,
        spatial_dims=dims,
        in_channels=channels,
        channel_names=tuple(dataset.channel_names),
        labels=tuple(dataset.labels),
        network=network,
        default_configuration=_default(chosen, network, notes),
        configurations=chosen,
        reasons=notes,
        warnings=tuple(warnings),
        nnunet={**draft.stock, "dataset_name": dataset.name},
        nnunet_version=version("nnunetv2"),
    )


def _check(fingerprint: Mapping[str, Any], dataset: Dataset) -> tuple[int, int]:
    """Returns dimensions and channels of the fingerprint, which must be the dataset's."""
    channels = len(fingerprint.get("foreground_intensity_properties_per_channel", ()))
    cases = len(fingerprint.get("spacings", ()))
    wanted = len(training_cases(dataset))
    if "spatial_dims" not in fingerprint or (channels, cases) != (len(dataset.channel_names), wanted):
        raise DataError(
            f"The fingerprint is of {cases} cases with {channels} channels, the dataset {dataset.name} has "
            f"{wanted} with {len(dataset.channel_names)}.",
            code="E-PLAN-FINGERPRINT",
            hint="Make the fingerprint from this dataset.",
        )
    return int(fingerprint["spatial_dims"]), channels


def _draft(dataset: Dataset, fingerprint: Mapping[str, Any], spacing: tuple[float, ...] | None) -> Draft:
    cases = training_cases(dataset)
    description = dataset_json(
        dataset.channel_names, dataset.labels, cases=len(cases), ending=_ending(cases[0].images[0])
    )
    if spacing is not None and len(spacing) == 2:
        spacing = (FLAT_SPACING, *spacing)
    with stock_planner(description, fingerprint, spacing=spacing) as planner:
        stock = json.loads(json.dumps(planner.plan_experiment()))
    return Draft(description, fingerprint, stock)


def _ending(path: Path) -> str:
    """Returns the ending of images in nnU-Net's words; a DICOM series is NIfTI there."""
    return ".nii.gz" if is_series_path(path) else image_suffix(path)


def _default(chosen: Mapping[str, Configuration], network: str, notes: dict[str, str]) -> str:
    dims = NETWORKS[network].spatial_dims
    fitting = [name for name in TRAINABLE if name in chosen and chosen[name].spatial_dims in dims]
    if not fitting:
        raise UsageError(
            f"{network} exists in {dims[0]}D only, the images are 2D.",
            code="E-PLAN-NETWORK",
            hint="`scanseg networks` lists those for 2D.",
        )
    if len(chosen) > 1 and "3d_fullres" not in fitting:
        notes["default_configuration"] = f"{network} exists in 2D only, so slices are the default."
    return fitting[0]


def _configuration(name: str, stock: Mapping[str, Any]) -> Configuration:
    network = stock["architecture"]["arch_kwargs"]
    return Configuration(
        name=name,
        spatial_dims=len(stock["patch_size"]),
        patch_size=stock["patch_size"],
        batch_size=stock["batch_size"],
        spacing=stock["spacing"],
        median_shape=stock["median_image_size_in_voxels"],
        strides=network["strides"],
        kernel_sizes=network["kernel_sizes"],
        features_per_stage=network["features_per_stage"],
        n_conv_per_stage_encoder=network["n_conv_per_stage"],
        n_conv_per_stage_decoder=network["n_conv_per_stage_decoder"],
        normalization=stock["normalization_schemes"],
        use_mask_for_norm=stock["use_mask_for_norm"],
        batch_dice=stock["batch_dice"],
        memory_bytes=0,
    )
