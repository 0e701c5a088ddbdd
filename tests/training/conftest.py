"""A tiny training on real images: eight hippocampus volumes, small patches, a few features."""

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from scanseg.data.dataset import load_dataset
from scanseg.data.splits import Split
from scanseg.nnunet.fingerprint import make_fingerprint
from scanseg.nnunet.plan import Plan, make_plan
from scanseg.nnunet.preprocess import preprocess_dataset
from scanseg.training import weights
from scanseg.training.recipe import Recipe
from scanseg.training.task import Task

PATCHES = {"3d_fullres": (16, 16, 16), "2d": (24, 24)}


@dataclass(frozen=True)
class Prepared:
    """Everything `train_network` needs besides a run folder."""

    plan: Plan
    configuration: str
    store: Path
    split: Split
    recipe: Recipe

    def task(self, recipe: Recipe | None = None) -> Task:
        configuration = self.plan.configuration(self.configuration)
        return Task(self.plan, configuration, self.store, self.split, recipe or self.recipe)

    def arguments(self, **changes: object) -> dict[str, object]:
        """Returns arguments of `train_network`; those that are fields of the recipe change it."""
        known = {name: changes.pop(name) for name in tuple(changes) if name in Recipe.model_fields}
        return {
            "recipe": self.recipe.changed(**known),
            "plan": self.plan,
            "configuration_name": self.configuration,
            "store_folder": self.store,
            "split": self.split,
            "device": "cpu",
            "threads": 1,
            **changes,
        }


def tiny_recipe() -> Recipe:
    return Recipe(
        network="nnunet_plain",
        network_options={"base_features": 4},
        epochs=3,
        iterations_per_epoch=4,
        validation_iterations=2,
    )


def prepare(demo_data: Path, folder: Path, configuration: str) -> Prepared:
    dataset = load_dataset(demo_data / "hippocampus")
    dataset = replace(dataset, cases=dataset.cases[:8])
    fingerprint = make_fingerprint(dataset, orientation="RAS")
    overrides = {
        f"{configuration}.patch_size": PATCHES[configuration],
        f"{configuration}.batch_size": 2,
    }
    plan = make_plan(dataset, fingerprint, orientation="RAS", overrides=overrides)
    preprocess_dataset(dataset, plan, configuration, folder)
    ids = [case.case_id for case in dataset.cases]
    return Prepared(plan, configuration, folder, Split(tuple(ids[:6]), tuple(ids[6:])), tiny_recipe())


@pytest.fixture(scope="session")
def prepared(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(demo_data, tmp_path_factory.mktemp("store_3d"), "3d_fullres")


@pytest.fixture(scope="session")
def prepared_2d(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(demo_data, tmp_path_factory.mktemp("store_2d"), "2d")


@pytest.fixture
def file_steps(monkeypatch: pytest.MonkeyPatch):
    """Gives a context that calls a function with its name before every operation that changes files."""

    @contextmanager
    def watched(act):
        watching = True

        def wrap(name: str, original):
            def call(*args, **kwargs):
                nonlocal watching
                if watching:
                    watching = False
                    try:
                        act(name)
                    finally:
                        watching = True
                return original(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", wrap("fsync", os.fsync))
            patch.setattr(os, "replace", wrap("replace", os.replace))
            patch.setattr(os, "chmod", wrap("chmod", os.chmod))
            patch.setattr(Path, "unlink", wrap("unlink", Path.unlink))
            patch.setattr(tempfile, "mkstemp", wrap("mkstemp", tempfile.mkstemp))
            patch.setattr(weights, "save_file", wrap("save_file", weights.save_file))
            patch.setattr(Path, "write_bytes", wrap("write_bytes", Path.write_bytes))
            yield

    return watched
