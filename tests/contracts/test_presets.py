"""What every preset must do: train, through the real pipeline, on small crops of real images.

A preset keeps everything but its size: the network is small, the training short, the patch 32. Every step
sees the same image, so the loss has to fall. A new preset is tested as soon as its file exists.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scanseg.data.dataset import load_dataset
from scanseg.data.image import read_image, read_label_map, write_array, write_label_map
from scanseg.data.splits import Split
from scanseg.files import write_json
from scanseg.networks import NETWORKS
from scanseg.nnunet.batches import Batches
from scanseg.nnunet.fingerprint import make_fingerprint
from scanseg.nnunet.plan import Plan, make_plan
from scanseg.nnunet.preprocess import preprocess_dataset
from scanseg.training.loop import train_network
from scanseg.training.recipe import Recipe, presets
from scanseg.training.run import load_network
from scanseg.types import Array, Case, Geometry

EDGE = 32
CONFIGURATION = {2: "2d", 3: "3d_fullres"}
SOURCE = {2: "nuclei", 3: "hippocampus"}
# Small and without chance; each network takes what it has options for.
SMALL = {
    "base_features": 8,
    "max_features": 32,
    "depths": [1, 1],
    "d_state": 4,
    "drop_path_rate": 0.0,
    "dropout": 0.0,
    "n_blocks_encoder": 1,
    "n_blocks_decoder": 1,
    "pad_to_fit": True,
    "levels": 2,
    "hidden_size": 24,
    "mlp_dim": 48,
    "num_heads": 3,
    "window_size": 4,
    "transformer_depth": 1,
    "resnet_depths": [1, 1],
}
# Where the sizes above do not suit a network.
SMALL_OF = {"swin_unetr": {"base_features": 12}, "segresnet": {"n_blocks_encoder": [1, 1]}}
SHORT = {
    "epochs": 3,
    "iterations_per_epoch": 3,
    "validation_iterations": 1,
    "augment": False,
    "oversample_foreground": 0.0,
    "batch_size": None,
    "patch_size": None,
    "sharpen_amount": None,
    "sharpen_radius": None,
}


@dataclass(frozen=True)
class Prepared:
    """What `train_network` needs besides recipe and run folder."""

    plan: Plan
    store_folder: Path
    split: Split


def _crop(case: Case) -> tuple[Array, Array]:
    """Returns image and label of the part of a case in which the foreground is nearest to two fifths."""
    assert case.label is not None
    image, label = read_image(case.images[0]).array[0], read_label_map(case.label).array
    corners = np.ndindex(*[(size - EDGE) // 8 + 1 for size in image.shape])
    parts = [tuple(slice(8 * start, 8 * start + EDGE) for start in corner) for corner in corners]
    # Zeros along a side would be cut off.
    parts = [part for part in parts if _touches_all_sides(image[part])] or parts
    best = min(parts, key=lambda part: abs(0.4 - float((label[part] > 0).mean())))
    return image[best], label[best]


def _touches_all_sides(image: Array) -> bool:
    axes = [tuple(axis for axis in range(image.ndim) if axis != kept) for kept in range(image.ndim)]
    return all(bool((image != 0).any(axis)[[0, -1]].all()) for axis in axes)


def _write_dataset(source: Path, folder: Path) -> Path:
    dataset = load_dataset(source)
    for case in dataset.cases[:2]:
        image, label = _crop(case)
        geometry = Geometry(image.shape, (1.0,) * image.ndim, unit="px" if image.ndim == 2 else "mm")
        ending = ".png" if image.ndim == 2 else ".nii.gz"
        path = folder / "imagesTr" / f"{case.case_id}_0000{ending}"
        if image.ndim == 2:
            write_label_map(path, image.astype(np.uint8), geometry)
        else:
            write_array(path, image, geometry)
        write_label_map(folder / "labelsTr" / f"{case.case_id}{ending}", label, geometry)
    labels = {label.name: label.value for label in dataset.labels}
    document = {"channel_names": {"0": dataset.channel_names[0]}, "labels": labels, "file_ending": ending}
    write_json(folder / "dataset.json", {**document, "numTraining": 2})
    return folder


def _prepare(source: Path, folder: Path, dims: int) -> Prepared:
    dataset = load_dataset(_write_dataset(source, folder / "raw"))
    orientation = None if dims == 2 else "RAS"
    name = CONFIGURATION[dims]
    plan = make_plan(
        dataset,
        make_fingerprint(dataset, orientation=orientation),
        orientation=orientation,
        overrides={f"{name}.patch_size": (EDGE,) * dims, f"{name}.batch_size": 2},
    )
    preprocess_dataset(dataset, plan, name, folder / "store")
    first, second = [case.case_id for case in dataset.cases]
    return Prepared(plan, folder / "store", Split((first,), (second,)))


@pytest.fixture(scope="module")
def crops(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Prepared]:
    """One crop of a real image to train on and one to validate on, in 2D and in 3D."""
    return {
        dims: _prepare(demo_data / name, tmp_path_factory.mktemp(name), dims) for dims, name in SOURCE.items()
    }


def _small(name: str) -> tuple[Recipe, int]:
    """Returns a preset in small, and in how many dimensions it is tried."""
    recipe = Recipe.load(name)
    entry = NETWORKS[recipe.network]
    sizes = {**SMALL, **SMALL_OF.get(recipe.network, {})}
    options = {key: value for key, value in sizes.items() if key in entry.options}
    changes: dict[str, Any] = {**SHORT, "network_options": {**recipe.network_options, **options}}
    return recipe.changed(**changes), entry.spatial_dims[0]


@pytest.mark.parametrize("dims", [2, 3])
def test_every_step_sees_the_same_images(crops: dict[int, Prepared], dims: int) -> None:
    prepared = crops[dims]
    batches = Batches(
        prepared.store_folder,
        prepared.split.train,
        prepared.plan,
        prepared.plan.configuration(CONFIGURATION[dims]),
        seed=0,
        train=True,
        deep_supervision_scales=None,
        oversample_foreground=0.0,
        augment=False,
        mirror=True,
    )
    first, later = batches.batch(0), batches.batch(7)
    assert first.data.shape == (2, 1, *[EDGE] * dims)
    assert bool((first.data == later.data).all())
    assert bool((first.target == later.target).all())
    assert 0 < float((first.target > 0).float().mean()) < 1


@pytest.mark.parametrize("name", presets())
def test_it_trains_and_its_loss_falls(name: str, crops: dict[int, Prepared], tmp_path: Path) -> None:
    recipe, dims = _small(name)
    prepared = crops[dims]
    result = train_network(
        plan=prepared.plan,
        configuration_name=CONFIGURATION[dims],
        store_folder=prepared.store_folder,
        split=prepared.split,
        recipe=recipe,
        run_folder=tmp_path,
        device="cpu",
        threads=1,
    )
    assert (result.epochs, result.stopped, result.skipped_steps) == (3, "finished", 0)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        assert record.pop("memory_kind") == "process"
        flat = record | record["pseudo_dice_per_label"] | {"pseudo_dice_per_label": 0}
        assert [key for key, value in flat.items() if value is None or not math.isfinite(value)] == []
    losses = [record["train_loss"] for record in records]
    assert losses[-1] < losses[0], losses
    assert ("auxiliary_loss" in records[0]) == (recipe.auxiliary_loss is not None)
    assert [key.partition("_")[0] for key in records[0]].count("sigma") == (
        3 if recipe.loss == "uncertainty_aware" else 0
    )
    load_network(tmp_path)
