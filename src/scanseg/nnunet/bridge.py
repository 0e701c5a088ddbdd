"""Our networks inside stock nnU-Net: a plans file it can read, and the class that the file names."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from scanseg.errors import UsageError
from scanseg.files import write_json

if TYPE_CHECKING:
    from scanseg.nnunet.plan import Plan

PLANS_NAME = "scansegPlans"


class BridgedNetwork(nn.Module):
    """A registered network behind the interface that nnU-Net expects.

    nnU-Net finds it by its dotted name in the plans, calls it with these arguments, and switches deep
    supervision through `decoder.deep_supervision`.

    Args:
        input_channels: Channels of the image.
        num_classes: Classes, background included.
        network: A registered name.
        spatial_dims: 2 or 3.
        patch_size: The plan's.
        strides: The plan's; nnU-Net derives the scales of deep supervision from them.
        kernel_sizes: The plan's.
        deep_supervision: Start with deep supervision on.
        options: Further options of the network.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        network: str,
        spatial_dims: int,
        patch_size: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        deep_supervision: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        from scanseg.networks import create_network

        self.network = create_network(
            network,
            spatial_dims=spatial_dims,
            in_channels=input_channels,
            out_channels=num_classes,
            patch_size=patch_size,
            strides=strides,
            kernel_sizes=kernel_sizes,
            deep_supervision=deep_supervision,
            **options,
        )

    def forward(self, x: Tensor) -> Any:
        """Returns logits (B, K, *spatial), or a list of them, fine to coarse, with deep supervision."""
        return self.network(x)

    @property
    def decoder(self) -> BridgedNetwork:
        """This module: nnU-Net sets `decoder.deep_supervision`."""
        return self

    @property
    def deep_supervision(self) -> bool:
        """Whether forward returns a list."""
        return bool(self.network.deep_supervision)

    @deep_supervision.setter
    def deep_supervision(self, enabled: bool) -> None:
        network: Any = self.network
        network.deep_supervision = enabled


def stock_plans(
    plan: Plan, *, network: str | None = None, dataset_name: str | None = None, **options: Any
) -> dict[str, Any]:
    """Returns the plan as stock nnU-Net reads it, with our network and our overrides in every configuration.

    Args:
        plan: The plan.
        network: A registered name; the plan's by default.
        dataset_name: nnU-Net's folder name, for example `Dataset004_Hippocampus`; the plan's by default.
        options: Further options of the network.

    Raises:
        UsageError: The plan sharpens images, which stock nnU-Net does not.
    """
    from scanseg.networks import NETWORKS

    if any(part.sharpen_amount for part in plan.configurations.values()):
        raise UsageError(
            "The plan sharpens images, and stock nnU-Net cannot.",
            code="E-PLAN-SHARPEN",
            hint="Make the plan without sharpen_amount.",
        )

    name = network or plan.network
    plans = copy.deepcopy(plan.nnunet)
    plans.update(dataset_name=dataset_name or plan.dataset_name, plans_name=PLANS_NAME)
    known = NETWORKS[name]
    kept = {key: part for key, part in plan.configurations.items() if part.spatial_dims in known.spatial_dims}
    plans["configurations"] = {key: plans["configurations"][key] for key in kept}
    for key, part in kept.items():
        stock = plans["configurations"][key]
        stock.pop("next_stage", None)
        arguments: dict[str, Any] = {
            "network": name,
            "spatial_dims": part.spatial_dims,
            "patch_size": list(part.patch_size),
            "strides": [list(stride) for stride in part.strides],
            "kernel_sizes": [list(kernel) for kernel in part.kernel_sizes],
            **options,
        }
        if "features_per_stage" in (known.options or {}):
            arguments.setdefault("features_per_stage", list(part.features_per_stage))
        stock.update(
            patch_size=list(part.patch_size),
            batch_size=part.batch_size,
            architecture={
                "network_class_name": f"{BridgedNetwork.__module__}.{BridgedNetwork.__qualname__}",
                "arch_kwargs": arguments,
                "_kw_requires_import": [],
            },
        )
    return plans


def write_stock_plans(path: Path, plan: Plan, **arguments: Any) -> None:
    """Writes `stock_plans(plan, **arguments)` to `path`, in nnU-Net's folder of preprocessed data.

    `nnUNetv2_preprocess -plans_name scansegPlans` and `nnUNetv2_train -p scansegPlans` then use our network;
    scanseg has to be installed beside nnunetv2, nothing else.
    """
    write_json(path, stock_plans(plan, **arguments))
