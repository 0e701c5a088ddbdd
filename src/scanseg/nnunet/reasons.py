"""The rule behind each value of a plan, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from scanseg.nnunet.plan import Configuration

if TYPE_CHECKING:
    from scanseg.nnunet.planner import Draft

CASCADE = (
    "The images are much larger than the patch, so nnU-Net adds a cascade (3d_lowres, 3d_cascade_fullres). "
    "The cascade is not supported; 3d_lowres can be trained alone."
)


def dataset_reasons(
    draft: Draft, configurations: Mapping[str, Configuration], orientation: str | None, spacing_set: bool
) -> dict[str, str]:
    """Returns the reasons for everything nnU-Net's planner decided."""
    names = list(configurations)
    notes = {
        "orientation": "Orientation of most cases; others are flipped or transposed to it."
        if orientation
        else "2D images, or images without orientation, are used as stored.",
        "default_configuration": "3d_fullres where nnU-Net plans one, else 2d."
        if "3d_fullres" in names
        else "The images are 2D, so nnU-Net plans 2d only.",
        "transpose_forward": "The axis with the coarsest spacing comes first.",
    }
    for name, configuration in configurations.items():
        for field, text in _configuration_reasons(configuration, draft, spacing_set).items():
            notes[f"{name}.{field}"] = text
    return notes


def _configuration_reasons(configuration: Configuration, draft: Draft, spacing_set: bool) -> dict[str, str]:
    stages, dims = len(configuration.strides), configuration.spatial_dims
    limit = 320 if dims == 3 else 512
    median = "x".join(f"{size:.0f}" for size in configuration.median_shape)
    return {
        "spatial_dims": "Patches are volumes." if dims == 3 else "Patches are slices or 2D images.",
        "spacing": _spacing_reason(configuration, draft, spacing_set),
        "median_shape": "Median size of the cropped images at this spacing.",
        "patch_size": f"Aspect of the median image ({median}), as large as nnU-Net's 8 GB budget for a "
        "plain U-Net allows; a multiple of the strides.",
        "batch_size": _batch_reason(configuration, draft),
        "strides": f"{stages} stages: an axis is halved while 8 or more voxels are left and its spacing is "
        "within a factor 2 of the finest.",
        "kernel_sizes": "1 along an axis until its spacing is within a factor 2 of the finest, then 3.",
        "features_per_stage": f"32, doubled at each stage, at most {limit}.",
        "n_conv_per_stage_encoder": "nnU-Net's default, two per stage.",
        "n_conv_per_stage_decoder": "nnU-Net's default, two per stage.",
        "normalization": _normalization_reason(configuration, draft),
        "use_mask_for_norm": _mask_reason(draft),
        "sharpen_amount": "Images are not sharpened unless it is asked for.",
        "sharpen_radius": "One voxel unless it is asked for.",
        "batch_dice": "On for 2d, and for 3d_fullres where a 3d_lowres exists; else off.",
    }


def _spacing_reason(configuration: Configuration, draft: Draft, spacing_set: bool) -> str:
    if spacing_set:
        return "Set by the user."
    if configuration.name == "3d_lowres":
        return "Coarsened from 3d_fullres until a patch covers a quarter of the median image."
    spacings = np.array(draft.fingerprint["spacings"], dtype=float)
    median = np.median(spacings, 0)
    target = np.array(draft.stock["configurations"].get("3d_fullres", {}).get("spacing", median))
    order = draft.stock["transpose_forward"]
    if len(target) == 3 and not np.allclose(target, median[order]):
        return (
            "Median over the cases in plane; 10th percentile along the coarsest axis, which is more than 3 "
            "times coarser and has more than 3 times fewer voxels."
        )
    unit = "px or mm" if draft.fingerprint["spatial_dims"] == 2 else "mm"
    return f"Median over the cases, in {unit}."


def _batch_reason(configuration: Configuration, draft: Draft) -> str:
    share = round(draft.voxels(configuration.name) * 0.05 / np.prod(configuration.patch_size))
    if configuration.batch_size > share:
        return "nnU-Net's minimum; 5 % of the training voxels would be less."
    if configuration.batch_size == 2:
        return "nnU-Net's minimum; the patch uses up its 8 GB budget."
    if configuration.batch_size == share:
        return "One batch covers at most 5 % of the training voxels."
    return "As many patches as nnU-Net's 8 GB budget for a plain U-Net holds."


def _normalization_reason(configuration: Configuration, draft: Draft) -> str:
    names = draft.description["channel_names"].values()
    rules = {
        "CTNormalization": "clipped to the foreground's 0.5 and 99.5 percentiles, its mean and deviation",
        "ZScoreNormalization": "mean and deviation of the image itself",
        "NoNormalization": "none",
        "RescaleTo01Normalization": "minimum to 0, maximum to 1",
        "RGBTo01Normalization": "divided by 255",
    }
    parts = [
        f"{name}: {rules.get(scheme, scheme)}"
        for name, scheme in zip(names, configuration.normalization, strict=True)
    ]
    return f"By channel name. {'; '.join(parts)}."


def _mask_reason(draft: Draft) -> str:
    part = draft.fingerprint["median_relative_size_after_cropping"]
    return (
        f"Only where cropping to non-zero voxels leaves less than 75 % of the image; here {100 * part:.0f} %."
    )
