"""A run folder as training leaves it, made from real images in seconds."""

import json
import shutil

import numpy as np
import pytest

from scanseg.data.check import check_dataset
from scanseg.data.dataset import load_dataset
from scanseg.data.image import read_label_map, write_label_map
from scanseg.evaluation import evaluate_pairs
from scanseg.evaluation.pairing import Pair
from scanseg.reporting.figures import comparison

METRICS = [
    {
        "epoch": epoch,
        "step": 10 * epoch,
        "learning_rate": 0.01 * (1 - epoch / 6),
        "train_loss": 1.0 / epoch,
        "validation_loss": None if epoch == 2 else 1.1 / epoch,
        "pseudo_dice": 0.15 * epoch,
        "pseudo_dice_per_label": {"Anterior": 0.16 * epoch, "Posterior": 0.14 * epoch},
        "ema_pseudo_dice": 0.1 * epoch,
        "elapsed_seconds": 30.0 * epoch,
    }
    for epoch in range(1, 6)
]
PLAN = {
    "schema_version": 1,
    "dataset_name": "Hippocampus",
    "orientation": "RAS",
    "default_configuration": "3d_fullres",
    "configurations": {
        "3d_fullres": {
            "name": "3d_fullres",
            "spatial_dims": 3,
            "patch_size": [40, 56, 40],
            "batch_size": 2,
            "spacing": [1.0, 1.0, 1.0],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "normalization": ["ZScoreNormalization"],
            "batch_dice": False,
            "memory_bytes": 588238721,
        }
    },
    "reasons": {
        "orientation": "Orientation of most cases.",
        "3d_fullres.patch_size": "Aspect of the median image, a multiple of the strides.",
    },
    "warnings": ["Few cases."],
    "nnunet": {},
}
CONFIG = {
    "schema_version": 1,
    "scanseg_version": "0.1.0",
    "network": {"name": "umamba_bot", "options": {"base_features": 8}},
    "configuration": "3d_fullres",
    "dataset_name": "Hippocampus",
    "labels": [{"value": 0, "name": "background"}, {"value": 1, "name": "Anterior"}],
    "channel_names": ["MRI"],
    "fold": 0,
    "weights_sha256": "ab" * 32,
    "training": {"epochs": 5, "seconds": 3725.0},
}
RUN = {
    "schema_version": 1,
    "command": "scanseg train 'my data' -o runs/x",
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "platform": "Linux-6.1-x86_64",
    "device": "cpu",
    "threads": 2,
    "seconds": 3800.0,
}


@pytest.fixture(scope="session")
def finished_run(demo_data, tmp_path_factory):
    """Four validation cases: two shifted, one without its posterior part, one not predicted."""
    run = tmp_path_factory.mktemp("runs") / "hippocampus"
    validation = run / "validation"
    dataset = load_dataset(demo_data / "hippocampus")
    dataset.to_json(run / "dataset.json")
    (run / "check.json").write_text(json.dumps(check_dataset(dataset).as_dict()))
    cases = dataset.cases[:4]
    split = {"validation": [c.case_id for c in cases], "train": [c.case_id for c in dataset.cases[4:]]}
    (run / "config.json").write_text(json.dumps({**CONFIG, "split": split}))
    (run / "plan.json").write_text(json.dumps(PLAN))
    (run / "run.json").write_text(json.dumps(RUN))
    (run / "recipe.toml").write_text('network = "umamba_bot"\nepochs = 5\nseed = 7\nmirror = true\n')
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS) + '{"epoch": 6')
    pairs = []
    for number, case in enumerate(cases):
        mask = validation / f"{case.case_id}.nii.gz"
        if number < 3:
            label_map = read_label_map(case.label)
            array = np.roll(label_map.array, number, axis=1)
            if number == 2:
                array[array == 2] = 0
            write_label_map(mask, array, label_map.geometry)
            comparison(case.images, mask, case.label, dataset.labels, validation / f"{case.case_id}.png")
        pairs.append(Pair(case.case_id, case.label, mask if number < 3 else None))
    evaluate_pairs(pairs, labels=dataset.labels).save(validation)
    return run


@pytest.fixture
def run_folder(finished_run, tmp_path):
    """A copy of it that a test may spoil."""
    return shutil.copytree(finished_run, tmp_path / "run")
