"""Batches: equal to those of the stock trainer, and a function of (seed, step) alone."""

from __future__ import annotations

import os
import pickle
import random
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scanseg.errors import TrainingError, UsageError
from scanseg.nnunet import batches as module
from scanseg.nnunet.batches import Batch, Batches, augmentation, deep_supervision_scales, iterate
from scanseg.nnunet.store import PreprocessedStore

from .conftest import Prepared


def make(prepared: Prepared, configuration: str, **arguments: Any) -> Batches:
    planned = prepared.plan.configurations[configuration]
    defaults: dict[str, Any] = {
        "seed": 7,
        "train": True,
        "deep_supervision_scales": deep_supervision_scales(planned),
        "batch_size": 3,
    }
    ids = [case.case_id for case in prepared.dataset.cases]
    return Batches(
        prepared.store(configuration), ids, prepared.plan, configuration, **{**defaults, **arguments}
    )


def same(first: Batch, second: Batch) -> bool:
    targets = [
        batch.target if isinstance(batch.target, list) else [batch.target] for batch in (first, second)
    ]
    return (
        first.case_ids == second.case_ids
        and torch.equal(first.data, second.data)
        and all(torch.equal(*pair) for pair in zip(*targets, strict=True))
    )


CONFIGURATIONS = [
    ("hippocampus", "3d_fullres"),
    ("sagittal", "3d_fullres"),
    ("sagittal", "2d"),
    ("nuclei", "2d"),
]


@pytest.fixture
def stock_loaders(stock: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that gives the data loaders of the stock trainer, on data it preprocessed itself."""

    def build(prepared: Prepared, configuration: str) -> tuple[Any, Any]:
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        monkeypatch.setenv("nnUNet_n_proc_DA", "0")
        theirs = stock(prepared.dataset)
        plans = {
            **prepared.plan.model_dump()["nnunet"],
            "dataset_name": theirs.name,
            "continue_training": False,
        }
        manager = PlansManager(plans)
        chosen = manager.get_configuration(configuration)
        folder = theirs.workspace / "preprocessed" / theirs.name / chosen.data_identifier
        folder.mkdir(parents=True)
        for case_id, files in theirs.files.items():
            DefaultPreprocessor(verbose=False).run_case_save(
                str(folder / case_id), files["images"], files["label"], manager, chosen, theirs.dataset_json
            )
        trainer = nnUNetTrainer(plans, configuration, "all", theirs.dataset_json, torch.device("cpu"))
        trainer.initialize()
        # Ours seeds every sample by itself, so one sample is what can be compared.
        trainer.batch_size = 1
        train, validation = trainer.get_dataloaders()
        return train.data_loader, validation.data_loader

    return build


@pytest.mark.parametrize(("name", "configuration"), CONFIGURATIONS)
def test_equals_the_stock_trainer(
    name: str, configuration: str, request: pytest.FixtureRequest, stock_loaders: Any
) -> None:
    prepared: Prepared = request.getfixturevalue(name)
    theirs = stock_loaders(prepared, configuration)
    for train, loader in zip((True, False), theirs, strict=True):
        if train:
            module._without_timing(loader.transforms)
        for foreground in (0.0, 1.0):
            ours = make(prepared, configuration, train=train, batch_size=1, oversample_foreground=foreground)
            loader.get_do_oversample = lambda _, wanted=bool(foreground): wanted
            for step in range(4):
                with module._isolated():
                    module._seed_all(np.random.SeedSequence([7, step, 0, int(train)]))
                    expected = loader.generate_train_batch()
                found = Batch(expected["data"], expected["target"], tuple(expected["keys"]))
                assert same(ours.batch(step), found), (train, foreground, step)


def test_augmentation_rule() -> None:
    """Flat patches turn freely in their plane and are not enlarged across it."""
    assert augmentation((40, 56, 40)).in_plane is False
    flat = augmentation((8, 64, 48))
    assert flat.in_plane is True
    assert flat.initial_patch_size[0] == 8
    assert flat.rotation == (-np.pi, np.pi)
    assert augmentation((64, 64)).mirror_axes == (0, 1)


def test_blur_is_the_same_with_and_without_fft() -> None:
    """What `_without_timing` chooses between differs by rounding only."""
    from batchgeneratorsv2.transforms.noise.gaussian_blur import blur_dimension

    image = torch.rand(2, 24, 20, 16, generator=torch.Generator().manual_seed(0))
    for axis in range(3):
        blurred = [blur_dimension(image, 0.8, axis, force_use_fft=choice) for choice in (None, False, True)]
        assert torch.equal(blurred[0], blurred[1])
        torch.testing.assert_close(blurred[0], blurred[2], rtol=0, atol=1e-5)


def test_no_timing_is_left_in_the_transforms(hippocampus: Prepared) -> None:
    def blurs(transform: Any) -> list[Any]:
        parts = [*getattr(transform, "transforms", ()), getattr(transform, "transform", None)]
        found = [transform] if hasattr(transform, "benchmark") else []
        return found + [blur for part in parts if part is not None for blur in blurs(part)]

    found = blurs(make(hippocampus, "3d_fullres")._stock_loader().transforms)
    assert [blur.benchmark for blur in found] == [False]


@pytest.mark.parametrize(("name", "configuration"), CONFIGURATIONS)
def test_shapes(name: str, configuration: str, request: pytest.FixtureRequest) -> None:
    prepared: Prepared = request.getfixturevalue(name)
    planned = prepared.plan.configurations[configuration]
    for train in (True, False):
        batch = make(prepared, configuration, train=train).batch(0)
        assert batch.data.shape == (3, 1, *planned.patch_size)
        assert batch.data.dtype == torch.float32
        assert torch.isfinite(batch.data).all()
        size = planned.patch_size
        assert len(batch.target) == len(planned.strides) - 1
        for target, stride in zip(batch.target, planned.strides[:-1], strict=True):
            size = tuple(edge // step for edge, step in zip(size, stride, strict=True))
            assert target.shape == (3, 1, *size)
            assert int(target.min()) >= 0
            assert int(target.max()) < prepared.plan.out_channels


def test_one_target_and_another_patch(hippocampus: Prepared) -> None:
    batch = make(hippocampus, "3d_fullres", deep_supervision_scales=None, patch_size=(16, 24, 16)).batch(0)
    assert isinstance(batch.target, torch.Tensor)
    assert batch.target.shape == (3, 1, 16, 24, 16)


def test_any_number_of_workers_in_any_order(hippocampus: Prepared) -> None:
    ours = make(hippocampus, "3d_fullres")
    expected = {step: ours.batch(step) for step in (5, 2, 4, 3)}
    fresh = make(hippocampus, "3d_fullres")
    for workers in (0, 1, 4):
        found = list(iterate(fresh, 2, 6, workers))
        assert len(found) == 4
        assert all(same(batch, expected[step]) for step, batch in enumerate(found, start=2)), workers


def test_workers_may_be_spawned(nuclei: Prepared) -> None:
    ours = make(nuclei, "2d")
    (found,) = iterate(ours, 3, 4, 1, context="spawn")
    assert same(found, ours.batch(3))


def test_threads_change_nothing(hippocampus: Prepared) -> None:
    ours, before = make(hippocampus, "3d_fullres"), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(ours.batch(1))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(same(*pair) for pair in pairwise(found))


def test_global_random_states_are_neither_used_nor_changed(nuclei: Prepared) -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    ours = make(nuclei, "2d")
    first = ours.batch(0)
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = states()
        assert same(ours.batch(0), first)
        assert states() == before
        list(iterate(ours, 0, 1, 1))
        assert states() == before


def test_seed_step_and_part_all_matter(nuclei: Prepared) -> None:
    found = [
        make(nuclei, "2d", seed=seed, train=train, augment=False).batch(step).data
        for seed in (0, 1)
        for step in (0, 1)
        for train in (False, True)
    ]
    for index, first in enumerate(found):
        assert not any(torch.equal(first, second) for second in found[index + 1 :])


@pytest.mark.parametrize(("size", "count"), [(3, 1), (3, 2), (3, 3), (5, 2)])
def test_shards_make_up_the_whole(nuclei: Prepared, size: int, count: int) -> None:
    whole = make(nuclei, "2d", batch_size=size).batch(4)
    parts = [make(nuclei, "2d", batch_size=size, shard=(rank, count)).batch(4) for rank in range(count)]
    assert torch.equal(torch.cat([part.data for part in parts]), whole.data)
    assert sum((part.case_ids for part in parts), ()) == whole.case_ids
    sizes = [len(part.case_ids) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("share", "certain"), [(0.33, 1), (0.67, 2), (1.0, 3), (0.0, 0)])
def test_the_last_samples_contain_foreground(nuclei: Prepared, share: float, certain: int) -> None:
    """Small patches at random places mostly miss the nuclei."""
    ours = make(
        nuclei,
        "2d",
        augment=False,
        patch_size=(4, 4),
        deep_supervision_scales=None,
        oversample_foreground=share,
    )
    hits = torch.stack([ours.batch(step).target.flatten(1).any(1) for step in range(12)])
    assert hits[:, 3 - certain :].all()
    assert not hits[:, : 3 - certain].all(0).any()


def test_mirroring_can_be_left_out(nuclei: Prepared) -> None:
    def kinds(**arguments: Any) -> set[str]:
        transforms = make(nuclei, "2d", **arguments)._stock_loader().transforms.transforms
        return {type(transform).__name__ for transform in transforms}

    assert kinds() - kinds(mirror=False) == {"MirrorTransform"}
    assert "SpatialTransform" not in kinds(augment=False)


def test_only_crops_are_read(hippocampus: Prepared) -> None:
    import blosc2

    case = PreprocessedStore(hippocampus.store("3d_fullres")).load_case(hippocampus.dataset.cases[0].case_id)
    assert isinstance(case.data, blosc2.NDArray)


@pytest.mark.parametrize(("workers", "ending"), [(0, ".b2nd"), (0, ".npz"), (1, ".npz")])
def test_a_damaged_case_is_named(nuclei: Prepared, tmp_path: Path, workers: int, ending: str) -> None:
    import shutil

    folder = Path(shutil.copytree(nuclei.store("2d"), tmp_path / "copy"))
    case_id = nuclei.dataset.cases[2].case_id
    (folder / f"{case_id}{ending}").write_bytes(b"")
    ours = Batches(
        folder,
        [case_id],
        nuclei.plan,
        "2d",
        seed=0,
        train=True,
        deep_supervision_scales=None,
        batch_size=1,
        oversample_foreground=1.0,
    )
    with pytest.raises(TrainingError, match=case_id) as caught:
        list(iterate(ours, 0, 2, workers))
    assert caught.value.code == "E-STORE-DAMAGED"
    text = "".join(getattr(caught.value, "__notes__", [])) + repr(caught.value.__cause__)
    assert "load_case" in text or "DataError" in text


class Deadly(Batches):
    """Its worker is killed, as when memory runs out."""

    def batch(self, step: int) -> Batch:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_killed_worker_is_an_error(nuclei: Prepared) -> None:
    ours = make(nuclei, "2d")
    ours.__class__ = Deadly
    with pytest.raises(TrainingError) as caught:
        list(iterate(ours, 0, 2, 1))
    assert caught.value.code == "E-BATCH-WORKER"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"shard": (0, 4)}, "E-BATCH-SHARD"),
        ({"shard": (2, 2)}, "E-BATCH-SHARD"),
        ({"patch_size": (32,)}, "E-BATCH-PATCH"),
        ({"patch_size": (32, 0)}, "E-BATCH-PATCH"),
    ],
)
def test_wrong_arguments(nuclei: Prepared, arguments: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(nuclei, "2d", **arguments)
    assert caught.value.code == code


def test_unknown_cases(nuclei: Prepared) -> None:
    for case_ids in ([], ["nobody"]):
        with pytest.raises(UsageError) as caught:
            Batches(
                nuclei.store("2d"),
                case_ids,
                nuclei.plan,
                "2d",
                seed=0,
                train=True,
                deep_supervision_scales=None,
            )
        assert caught.value.code == "E-BATCH-CASES"
