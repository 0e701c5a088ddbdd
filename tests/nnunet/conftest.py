"""Small real datasets, their plans and stores, and nnU-Net's own results on the same files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from scanseg.data.dataset import Dataset, load_dataset
from scanseg.nnunet.fingerprint import make_fingerprint
from scanseg.nnunet.plan import Plan, make_plan
from scanseg.nnunet.preprocess import preprocess_dataset

VOXELS = 200_000


@dataclass(frozen=True)
class Prepared:
    """A dataset with everything made from it."""

    dataset: Dataset
    fingerprint: dict[str, Any]
    plan: Plan
    folder: Path

    def store(self, configuration: str) -> Path:
        folder = self.folder / configuration
        preprocess_dataset(self.dataset, self.plan, configuration, folder)
        return folder


def prepare(dataset: Dataset, folder: Path, **arguments: Any) -> Prepared:
    fingerprint = make_fingerprint(dataset, orientation=None, voxels=VOXELS)
    return Prepared(
        dataset, fingerprint, make_plan(dataset, fingerprint, orientation=None, **arguments), folder
    )


def first_cases(dataset: Dataset, count: int) -> Dataset:
    return replace(dataset, cases=dataset.cases[:count], test_cases=())


@pytest.fixture(scope="session")
def hippocampus(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Six real MR volumes, isotropic."""
    dataset = first_cases(load_dataset(demo_data / "hippocampus"), 6)
    return prepare(dataset, tmp_path_factory.mktemp("hippocampus"))


@pytest.fixture(scope="session")
def nuclei(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Six real microscopy images, 2D."""
    return prepare(first_cases(load_dataset(demo_data / "nuclei"), 6), tmp_path_factory.mktemp("nuclei"))


@pytest.fixture(scope="session")
def sagittal(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Six real MR volumes thinned to 5 mm along x, so that axes are transposed and resampled apart."""
    source, folder = demo_data / "hippocampus", tmp_path_factory.mktemp("sagittal")
    dataset = first_cases(load_dataset(source), 6)
    for number, case in enumerate(dataset.cases):
        length = (1.0, 1.2)[number % 2]
        for part, path in (("imagesTr", case.images[0]), ("labelsTr", case.label)):
            image = nibabel.load(path)
            affine = image.affine @ np.diag([5, length, 1, 1])
            voxels = np.asarray(image.dataobj)[::5]
            (folder / part).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / part / path.name)
    description = json.loads((source / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**description, "numTraining": len(dataset.cases)}))
    return prepare(load_dataset(folder), folder / "made")


@dataclass(frozen=True)
class Stock:
    """nnU-Net's own run on the same files, in its own workspace."""

    workspace: Path
    name: str
    files: dict[str, dict[str, Any]]
    dataset_json: dict[str, Any]

    def fingerprint(self, voxels: float) -> dict[str, Any]:
        import multiprocessing

        from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
            DatasetFingerprintExtractor,
        )

        extractor = DatasetFingerprintExtractor(self.name, num_processes=1)
        extractor.num_foreground_voxels_for_intensitystats = voxels
        with pytest.MonkeyPatch.context() as patch:
            # Starting its pool of processes takes longer than its work.
            patch.setattr(multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=ThreadPool))
            return dict(extractor.run(overwrite_existing=True))

    def plan(self, fingerprint: dict[str, Any]) -> dict[str, Any]:
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
            ExperimentPlanner,
        )

        target = self.workspace / "preprocessed" / self.name
        target.mkdir(exist_ok=True)
        (target / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        planner = ExperimentPlanner(self.name)
        planner.plan_experiment()
        return dict(json.loads((target / "nnUNetPlans.json").read_text()))

    def preprocess(self, plans: dict[str, Any], configuration: str, case_id: str) -> tuple[Any, Any, Any]:
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        manager, case = PlansManager(plans), self.files[case_id]
        return DefaultPreprocessor(verbose=False).run_case(
            case["images"],
            case["label"],
            manager,
            manager.get_configuration(configuration),
            self.dataset_json,
        )


def without_palette(path: Path, folder: Path) -> Path:
    """nnU-Net's reader takes the colours of a palette for the labels."""
    if path.suffix != ".png":
        return path
    with Image.open(path) as image:
        Image.fromarray(np.asarray(image)).save(folder / path.name)
    return folder / path.name


@pytest.fixture
def stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that gives a dataset to stock nnU-Net in a workspace of its own."""

    def make(dataset: Dataset) -> Stock:
        name = "Dataset001_Test"
        for variable in ("raw", "preprocessed", "results"):
            (tmp_path / variable).mkdir(exist_ok=True)
            monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
        files = {
            case.case_id: {
                "images": [str(path) for path in case.images],
                "label": str(without_palette(case.label, tmp_path)),
            }
            for case in dataset.cases
        }
        description = {
            "channel_names": {str(index): name for index, name in enumerate(dataset.channel_names)},
            "labels": {label.name: index for index, label in enumerate(dataset.labels)},
            "numTraining": len(files),
            "file_ending": ".png" if files[next(iter(files))]["label"].endswith(".png") else ".nii.gz",
            "dataset": files,
        }
        (tmp_path / "raw" / name).mkdir()
        (tmp_path / "raw" / name / "dataset.json").write_text(json.dumps(description))
        return Stock(tmp_path, name, files, description)

    return make
