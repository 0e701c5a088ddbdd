"""The plan: what the data says about how to train, each value with its rule. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scanseg.errors import DataError, UsageError
from scanseg.files import read_json, write_json
from scanseg.nnunet.sharpen import AMOUNT, RADIUS
from scanseg.types import Label, Shape, Spacing

if TYPE_CHECKING:
    from scanseg.data.dataset import Dataset

SCHEMA_VERSION = 1


class Configuration(BaseModel):
    """One way to train on the dataset. All axes are in network order, see `Plan.transpose_forward`.

    Attributes:
        name: `2d`, `3d_fullres` or `3d_lowres`.
        spatial_dims: 2 or 3, the dimensions of the patch.
        patch_size: Voxels the network sees, (z, y, x) or (y, x).
        batch_size: Patches per step over all processes.
        spacing: Voxel distance after resampling, same axes as `patch_size`.
        median_shape: Median size of the resampled training images.
        strides: Down-sampling per stage and axis, the first all ones.
        kernel_sizes: Convolution kernel per stage and axis.
        features_per_stage: Channels per stage.
        n_conv_per_stage_encoder: Convolutions per encoder stage.
        n_conv_per_stage_decoder: Convolutions per decoder stage, one entry fewer.
        normalization: nnU-Net's scheme for each channel.
        use_mask_for_norm: For each channel, whether only non-zero voxels count in the normalisation.
        batch_dice: Whether Dice is computed over the batch instead of per image.
        sharpen_amount: How much images are sharpened, as in `sharpen`; 0 is not at all.
        sharpen_radius: Of the blur in it, in voxels.
        memory_bytes: Estimated memory of one training step of the plan's network.
        memory_source: Which rule made `memory_bytes`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    spatial_dims: int = Field(ge=2, le=3)
    patch_size: Shape
    batch_size: int = Field(ge=1)
    spacing: Spacing
    median_shape: tuple[float, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    features_per_stage: tuple[int, ...]
    n_conv_per_stage_encoder: tuple[int, ...]
    n_conv_per_stage_decoder: tuple[int, ...]
    normalization: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    batch_dice: bool
    sharpen_amount: float = Field(default=AMOUNT, ge=0, allow_inf_nan=False)
    sharpen_radius: float = Field(default=RADIUS, gt=0, allow_inf_nan=False)
    memory_bytes: int = Field(ge=0)
    memory_source: str = ""


class Plan(BaseModel):
    """Everything that is derived from the data before training.

    Attributes:
        schema_version: Version of this file's layout.
        dataset_name: Name of the dataset.
        orientation: Axis codes of (x, y, z) that all cases are brought to, for example `RAS`; None for 2D.
        spatial_dims: 2 or 3, the dimensions of the images.
        in_channels: Channels of the images.
        channel_names: One name per channel; nnU-Net chooses the normalisation by it.
        labels: Classes, background first; the index in this list is the network's class.
        network: Network that the memory figures are for.
        default_configuration: `3d_fullres` if it exists, else `2d`.
        configurations: By name.
        reasons: Maps `CONFIGURATION.FIELD` or `FIELD` to the rule that made the value.
        warnings: What a person should know before training.
        nnunet: The plans dictionary as nnU-Net's own planner writes it.
        nnunet_version: Version of nnunetv2 that made it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    dataset_name: str
    orientation: str | None
    spatial_dims: int = Field(ge=2, le=3)
    in_channels: int = Field(ge=1)
    channel_names: tuple[str, ...]
    labels: tuple[Label, ...]
    network: str
    default_configuration: str
    configurations: dict[str, Configuration]
    reasons: dict[str, str]
    warnings: tuple[str, ...] = ()
    nnunet: dict[str, Any]
    nnunet_version: str = ""

    @property
    def out_channels(self) -> int:
        """Classes of the network, background included."""
        return len(self.labels)

    @property
    def transpose_forward(self) -> tuple[int, ...]:
        """Order in which the image's axes (z, y, x) enter the network; the coarsest axis comes first."""
        return tuple(self.nnunet["transpose_forward"])

    @property
    def transpose_backward(self) -> tuple[int, ...]:
        """Inverse of `transpose_forward`."""
        return tuple(self.nnunet["transpose_backward"])

    def configuration(self, name: str | Configuration | None = None) -> Configuration:
        """Returns the configuration called `name`, or the default one.

        Raises:
            UsageError: There is no such configuration.
        """
        if isinstance(name, Configuration):
            return name
        name = self.default_configuration if name is None else name
        if name not in self.configurations:
            raise UsageError(
                f"The plan has no configuration {name!r}.",
                code="E-PLAN-CONFIGURATION",
                hint=f"Known: {', '.join(self.configurations)}.",
            )
        return self.configurations[name]

    def save(self, path: Path) -> None:
        """Writes the plan to `path` as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a plan that `save` wrote.

        Raises:
            DataError: The file is missing, is not JSON, or is not a plan of this version.
        """
        content = read_json(path)
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{path} is not a plan of schema version {SCHEMA_VERSION}, got {version!r}.",
                code="E-PLAN-VERSION",
                hint="Write it again with `scanseg plan`.",
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"{path} is not a valid plan: {where}: {first['msg']} ({error.error_count()} faults).",
                code="E-PLAN-INVALID",
                hint="Write it again with `scanseg plan`.",
            ) from error


def make_plan(
    dataset: Dataset,
    fingerprint: Mapping[str, Any],
    *,
    orientation: str | None,
    network: str = "umamba_bot",
    memory_gb: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """Plans spacing, patch, batch, stages and normalisation with nnU-Net's own planner.

    Args:
        dataset: The dataset; its channel names and labels are used.
        fingerprint: From `fingerprint.make_fingerprint`.
        orientation: Orientation of the dataset, None in 2D.
        network: Registered network; only the memory figures depend on it.
        memory_gb: Memory in GiB that training may take. Given, the batch and then the patch are
            made smaller until the network fits. None keeps nnU-Net's patch and batch, and warns.
        overrides: `spacing`, `patch_size`, `batch_size`, `sharpen_amount`, `sharpen_radius`; or
            `CONFIGURATION.FIELD` for one configuration only. Spacing is in the image's axes (z, y, x) or
            (y, x), patch_size in the network's.

    Returns:
        The plan, with a reason for each value.

    Raises:
        UsageError: An override is unknown or impossible, or the network does not fit memory_gb.
        DataError: The fingerprint does not belong to the dataset.
    """
    from scanseg.nnunet.planner import plan_dataset

    return plan_dataset(
        dataset,
        fingerprint,
        orientation=orientation,
        network=network,
        memory_gb=memory_gb,
        overrides=dict(overrides or {}),
    )
