"""What a person may set instead of nnU-Net's choice, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scanseg.errors import UsageError
from scanseg.nnunet.plan import Configuration
from scanseg.nnunet.stock import conv_feature_map_size, topology
from scanseg.types import Shape

if TYPE_CHECKING:
    from scanseg.nnunet.planner import Draft

FIELDS = ("patch_size", "batch_size", "spacing", "sharpen_amount", "sharpen_radius")
# nnU-Net's reference: feature-map numbers of its plain U-Net that fit 8 GB at a batch size.
_REFERENCE = {2: (85_000_000, 12), 3: (560_000_000, 2)}
_MAX_FEATURES = {2: 512, 3: 320}


@dataclass(frozen=True)
class Overrides:
    """Values set by a person.

    Attributes:
        spacing: Target spacing in image axes; None leaves nnU-Net's.
        values: Maps `FIELD` or `CONFIGURATION.FIELD` to a value for any other of the fields.
    """

    spacing: tuple[float, ...] | None
    values: Mapping[str, Any]

    @classmethod
    def parse(cls, given: Mapping[str, Any], *, image_dims: int) -> Overrides:
        """Checks names and types.

        Raises:
            UsageError: A name is unknown or a value has the wrong type or sign.
        """
        values: dict[str, Any] = {}
        for key, value in given.items():
            field = key.rpartition(".")[2]
            if field not in FIELDS or key.endswith(".spacing"):
                raise _wrong(key, value, f"one of {', '.join(FIELDS)} or CONFIGURATION.patch_size")
            if field == "batch_size":
                values[key] = _whole(key, value)
            elif field == "patch_size":
                values[key] = tuple(_whole(key, size) for size in _several(key, value, (2, 3)))
            elif field.startswith("sharpen_"):
                values[key] = _number(key, value, zero=field == "sharpen_amount")
        spacing = None
        if given.get("spacing") is not None:
            spacing = tuple(_length(entry) for entry in _several("spacing", given["spacing"], (image_dims,)))
        return cls(spacing, values)

    def check_names(self, configurations: Mapping[str, Configuration]) -> None:
        """Raises UsageError when a value fits no configuration of the plan."""
        known = ", ".join(f"{name} ({part.spatial_dims}D)" for name, part in configurations.items())
        for key, value in self.values.items():
            name, dot, field = key.rpartition(".")
            parts = [part for part in configurations.values() if not dot or part.name == name]
            if field == "patch_size":
                parts = [part for part in parts if part.spatial_dims == len(value)]
            if not parts:
                raise _wrong(key, value, f"a value for one of the plan's configurations: {known}")

    def get(self, field: str, configuration: Configuration) -> Any:
        """Returns the value set for a field of a configuration, or None. A patch only fits its dimensions."""
        value = self.values.get(f"{configuration.name}.{field}", self.values.get(field))
        if field == "patch_size" and value is not None and len(value) != configuration.spatial_dims:
            return None
        return value


def apply_overrides(
    configuration: Configuration, wanted: Overrides, draft: Draft, notes: dict[str, str]
) -> Configuration:
    """Returns the configuration with what a person set, and writes the reasons into `notes`.

    Raises:
        UsageError: The patch cannot be divided by the strides that nnU-Net's rules give it.
    """
    patch, batch = wanted.get("patch_size", configuration), wanted.get("batch_size", configuration)
    for field in ("sharpen_amount", "sharpen_radius"):
        if (value := wanted.get(field, configuration)) is not None:
            configuration = configuration.model_copy(update={field: value})
            notes[f"{configuration.name}.{field}"] = "Set by the user."
    name = configuration.name
    if patch is not None and patch != configuration.patch_size:
        configuration = with_patch(configuration, patch, draft)
        notes[f"{name}.patch_size"] = (
            "Set by the user; strides, kernels and batch follow nnU-Net's rules for it."
        )
    if batch is not None:
        configuration = configuration.model_copy(update={"batch_size": batch})
        notes[f"{name}.batch_size"] = "Set by the user."
    return configuration


def with_patch(configuration: Configuration, patch: Shape, draft: Draft) -> Configuration:
    """Returns the configuration with another patch, and the stages and batch nnU-Net's rules give it.

    Raises:
        UsageError: nnU-Net's strides for this patch do not divide it.
    """
    strides, kernels, padded = topology(configuration.spacing, patch)
    if tuple(patch) != padded:
        raise UsageError(
            f"patch_size {list(patch)} of {configuration.name} cannot be halved by the strides it needs.",
            code="E-PLAN-PATCH",
            hint=f"The nearest size that can: {'x'.join(str(size) for size in padded)}.",
        )
    stages, limit = len(strides), _MAX_FEATURES[configuration.spatial_dims]
    changed = configuration.model_copy(
        update={
            "patch_size": padded,
            "strides": strides,
            "kernel_sizes": kernels,
            "features_per_stage": tuple(min(limit, 32 * 2**stage) for stage in range(stages)),
            "n_conv_per_stage_encoder": (2,) * stages,
            "n_conv_per_stage_decoder": (2,) * (stages - 1),
        }
    )
    return changed.model_copy(update={"batch_size": _stock_batch(changed, draft)})


def _stock_batch(configuration: Configuration, draft: Draft) -> int:
    """Returns nnU-Net's batch size: what fits its 8 GB budget, at most 5 % of the data, at least 2."""
    reference, reference_batch = _REFERENCE[configuration.spatial_dims]
    estimate = plain_feature_map_size(configuration, draft)
    share = round(draft.voxels(configuration.name) * 0.05 / math.prod(configuration.patch_size))
    return max(min(round(reference / estimate * reference_batch), share), 2)


def plain_feature_map_size(configuration: Configuration, draft: Draft) -> int:
    """Returns nnU-Net's memory measure for its plain U-Net with this configuration's stages."""
    stock = draft.stock["configurations"][configuration.name]["architecture"]
    network = {
        **stock["arch_kwargs"],
        "n_stages": len(configuration.strides),
        "features_per_stage": configuration.features_per_stage,
        "strides": configuration.strides,
        "kernel_sizes": configuration.kernel_sizes,
        "n_conv_per_stage": configuration.n_conv_per_stage_encoder,
        "n_conv_per_stage_decoder": configuration.n_conv_per_stage_decoder,
    }
    return conv_feature_map_size(
        configuration.patch_size,
        len(draft.description["channel_names"]),
        len(draft.description["labels"]),
        {**stock, "arch_kwargs": network},
    )


def _wrong(key: str, value: Any, accepted: str) -> UsageError:
    return UsageError(
        f"The override {key}={value!r} is not possible.", code="E-PLAN-OVERRIDE", hint=f"Give {accepted}."
    )


def _several(key: str, value: Any, counts: tuple[int, ...]) -> tuple[Any, ...]:
    if isinstance(value, str) or not hasattr(value, "__iter__") or len(tuple(value)) not in counts:
        raise _wrong(key, value, f"{' or '.join(str(count) for count in counts)} numbers")
    return tuple(value)


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(key, value, "whole numbers from 1 on")
    return value


def _number(key: str, value: Any, *, zero: bool) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (0 <= value < math.inf) or (value == 0 and not zero):
        raise _wrong(key, value, f"a number {'from' if zero else 'above'} 0")
    return float(value)


def _length(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise _wrong("spacing", value, "positive numbers in mm")
    return float(value)
