"""nnU-Net's own planner and managers, run without anybody having to set up an nnU-Net workspace."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from scanseg.files import write_json
from scanseg.nnunet.plan import Configuration, Plan
from scanseg.types import Label, Shape, Spacing

# nnU-Net finds its folders through environment variables, which belong to the whole process.
_ENVIRONMENT = threading.RLock()
_DATASET = "Dataset001_scanseg"


class ExperimentPlanner(default_experiment_planner.ExperimentPlanner):
    """nnU-Net's planner, which need not open an image to learn the name of a reader.

    It has the name of nnU-Net's class because the plans name the class that made them.
    """

    def determine_reader_writer(self) -> Any:
        """Returns nnU-Net's reader for the dataset's file ending."""
        ending = self.dataset_json["file_ending"]
        readers = [reader for reader in LIST_OF_IO_CLASSES if ending in reader.supported_file_endings]
        return readers[0] if readers else LIST_OF_IO_CLASSES[0]


def dataset_json(
    channel_names: Sequence[str], labels: Sequence[Label], *, cases: int = 1, ending: str = ".nii.gz"
) -> dict[str, Any]:
    """Returns what nnU-Net wants to know of a dataset; label values are class indices, names are unique."""
    names = {"background": 0}
    for index, label in enumerate(labels[1:], start=1):
        # nnU-Net gives `ignore` a meaning of its own.
        taken = label.name in names or label.name == "ignore"
        names[f"{label.name} {index}" if taken else label.name] = index
    return {
        "channel_names": {str(index): name for index, name in enumerate(channel_names)},
        "labels": names,
        "numTraining": cases,
        "file_ending": ending,
        "dataset": {"case": {"images": [f"case_0000{ending}"], "label": f"case{ending}"}},
    }


@contextlib.contextmanager
def stock_planner(
    description: Mapping[str, Any], fingerprint: Mapping[str, Any], *, spacing: Sequence[float] | None = None
) -> Iterator[ExperimentPlanner]:
    """Yields nnU-Net's planner in a folder that lives as long as the context.

    The environment variables that nnU-Net reads are set inside and put back afterwards; other threads that
    plan wait. What the planner prints is dropped, and its trial networks hold no memory (meta device).

    Args:
        description: From `dataset_json`.
        fingerprint: With nnU-Net's keys.
        spacing: Replaces the target spacing of full resolution, in image axes.
    """
    with (
        _ENVIRONMENT,
        tempfile.TemporaryDirectory(prefix="scanseg-plan-") as folder,
        contextlib.ExitStack() as stack,
    ):
        raw, preprocessed = Path(folder, "raw"), Path(folder, "preprocessed")
        write_json(raw / _DATASET / "dataset.json", dict(description))
        write_json(preprocessed / _DATASET / "dataset_fingerprint.json", dict(fingerprint))
        variables = {
            "nnUNet_raw": str(raw),
            "nnUNet_preprocessed": str(preprocessed),
            # Else every trial network asks a subprocess for the host's name.
            "nnUNet_n_proc_DA": str(max(1, torch.get_num_threads())),
        }
        stack.enter_context(_environment(variables))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(torch.device("meta"))
        yield ExperimentPlanner(
            _DATASET,
            overwrite_target_spacing=None if spacing is None else [float(value) for value in spacing],
        )


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def topology(spacing: Spacing, patch_size: Shape) -> tuple[tuple, tuple, Shape]:
    """Returns nnU-Net's strides and kernel sizes for a patch, and the patch padded to what they divide."""
    _, strides, kernels, padded, _ = get_pool_and_conv_props(spacing, patch_size, 4, 999999)
    return strides, kernels, tuple(int(size) for size in padded)


def conv_feature_map_size(
    patch_size: Shape, in_channels: int, out_channels: int, architecture: Mapping[str, Any]
) -> int:
    """Returns nnU-Net's memory measure: numbers in all feature maps of its plain U-Net at batch size 1."""
    with _ENVIRONMENT, _environment({"nnUNet_n_proc_DA": "1"}), torch.device("meta"):
        return int(
            ExperimentPlanner.static_estimate_VRAM_usage(
                patch_size,
                in_channels,
                out_channels,
                architecture["network_class_name"],
                dict(architecture["arch_kwargs"]),
                tuple(architecture["_kw_requires_import"]),
            )
        )


def managers(
    plan: Plan, configuration: str | Configuration
) -> tuple[PlansManager, ConfigurationManager, dict[str, Any]]:
    """Returns nnU-Net's view of a plan: its plans manager, configuration manager and dataset description."""
    name = plan.configuration(configuration).name
    plans = PlansManager(plan.nnunet)
    return plans, plans.get_configuration(name), dataset_json(plan.channel_names, plan.labels)


def label_manager(plan: Plan) -> LabelManager:
    """Returns nnU-Net's label manager for the plan's classes."""
    return LabelManager(dataset_json(plan.channel_names, plan.labels)["labels"], None)
