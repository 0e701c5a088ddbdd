"""A really trained, very small model."""

from pathlib import Path

import pytest

from scanseg import pipeline


@pytest.fixture(scope="session")
def run_3d(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of a few steps on the hippocampus images."""
    folder = tmp_path_factory.mktemp("runs") / "hippocampus"
    pipeline.train(
        demo_data / "hippocampus",
        folder,
        changes={
            "network": "nnunet_plain", "patch_size": (24, 32, 24), "epochs": 1, "iterations_per_epoch": 3,
            "validation_iterations": 1, "batch_size": 2,
        },
        network_options={"base_features": 4},
        fold="all",
        threads=1,
        tensorboard=False,
    )  # fmt: skip
    return folder
