"""A really trained, very small model, made once for all tests that need one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scanseg import pipeline

CHANGES_3D = {"network": "umamba_bot", "patch_size": (24, 32, 24)}
SMALL = {"epochs": 2, "iterations_per_epoch": 3, "validation_iterations": 1, "batch_size": 2}


@pytest.fixture(scope="session")
def train_small(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains a tiny network on a demonstration dataset and returns the run folder."""
    root = tmp_path_factory.mktemp("runs")

    def train(task: str, name: str, **options: object) -> Path:
        changes = {**SMALL, **options.pop("changes", {})}  # type: ignore[dict-item]
        pipeline.train(
            demo_data / task,
            root / name,
            changes=changes,
            network_options={"base_features": 4},
            threads=1,
            tensorboard=False,
            **options,  # type: ignore[arg-type]
        )
        return root / name

    return train


@pytest.fixture(scope="session")
def run_3d(train_small: Callable[..., Path]) -> Path:
    """U-Mamba (Bot), 3D, fold 0 of the hippocampus images."""
    return train_small("hippocampus", "hippocampus", changes=CHANGES_3D)


@pytest.fixture(scope="session")
def run_2d(train_small: Callable[..., Path]) -> Path:
    """nnU-Net's U-Net, 2D, fold 0 of the nuclei images."""
    return train_small("nuclei", "nuclei", changes={"network": "nnunet_plain", "patch_size": (128, 128)})
