"""Preprocessing against nnU-Net's own, and the store it fills."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scanseg.data.dataset import load_dataset
from scanseg.errors import DataError, UsageError
from scanseg.nnunet import preprocess
from scanseg.nnunet.cases import read_case
from scanseg.nnunet.plan import Plan
from scanseg.nnunet.preprocess import (
    Preprocessed,
    PreprocessedStore,
    preprocess_case,
    preprocess_dataset,
)
from scanseg.types import Geometry, Image

from .conftest import Prepared, first_cases, prepare

PROPERTIES = ("shape_before_cropping", "bbox_used_for_cropping", "shape_after_cropping_and_before_resampling")


def assert_same_case(case: Preprocessed, theirs: tuple[Any, Any, dict[str, Any]]) -> None:
    data, seg, properties = theirs
    np.testing.assert_array_equal(case.data[:], data)
    np.testing.assert_array_equal(case.seg[:], seg)
    for key in PROPERTIES:
        assert np.array_equal(case.properties[key], properties[key])
    assert set(case.class_locations) == set(properties["class_locations"])
    for label, voxels in properties["class_locations"].items():
        np.testing.assert_array_equal(case.class_locations[label], np.array(voxels).reshape(-1, 4))


@pytest.mark.parametrize(
    ("name", "configuration"),
    [("hippocampus", "3d_fullres"), ("sagittal", "3d_fullres"), ("sagittal", "2d"), ("nuclei", "2d")],
)
def test_equals_stock(name: str, configuration: str, request: pytest.FixtureRequest, stock: Any) -> None:
    prepared: Prepared = request.getfixturevalue(name)
    store = PreprocessedStore(prepared.store(configuration))
    theirs = stock(prepared.dataset)
    assert store.identifiers == [case.case_id for case in prepared.dataset.cases]
    for case_id in store.identifiers[:3]:
        plans = prepared.plan.nnunet
        assert_same_case(store.load_case(case_id), theirs.preprocess(plans, configuration, case_id))


@pytest.mark.parametrize(
    ("name", "configuration"), [("CardiacMR_Sunnybrook", "3d_fullres"), ("PolypsEndoscopy_Kvasir", "2d")]
)
def test_equals_stock_on_real_anisotropic_and_rgb_data(
    name: str, configuration: str, test_data: Path, tmp_path: Path, stock: Any
) -> None:
    prepared = prepare(first_cases(load_dataset(test_data / name), 3), tmp_path / "made")
    theirs = stock(prepared.dataset)
    for case in prepared.dataset.cases:
        image, indices = read_case(case, prepared.dataset.labels, orientation=None)
        found = preprocess_case(image, indices, prepared.plan, configuration)
        assert_same_case(found, theirs.preprocess(prepared.plan.nnunet, configuration, case.case_id))


def test_without_label_the_image_is_the_same(sagittal: Prepared) -> None:
    image, indices = read_case(sagittal.dataset.cases[1], sagittal.dataset.labels, orientation=None)
    labelled = preprocess_case(image, indices, sagittal.plan, "3d_fullres")
    bare = preprocess_case(image, None, sagittal.plan, "3d_fullres")
    np.testing.assert_array_equal(labelled.data, bare.data)
    assert bare.class_locations == {}
    assert set(np.unique(bare.seg)) <= {-1, 0}


def image_of(array: Any, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Image:
    array = np.asarray(array, np.float32)
    return Image(array[None], Geometry(array.shape, spacing))


@pytest.mark.parametrize("value", [0.0, 1.0, -7.5, 1000.1, 1e-40, 2.0**31])
def test_constant_image_stays_finite(hippocampus: Prepared, value: float) -> None:
    for mask in (False, True):
        case = preprocess_case(
            image_of(np.full((9, 8, 7), value)), None, with_mask(hippocampus.plan, mask), "3d_fullres"
        )
        assert np.isfinite(case.data).all()
        assert np.abs(case.data).max() <= 1.001


def with_mask(plan: Plan, use: bool) -> Plan:
    nnunet = plan.model_dump()["nnunet"]
    for configuration in nnunet["configurations"].values():
        configuration["use_mask_for_norm"] = [use]
    return plan.model_copy(update={"nnunet": nnunet})


def test_overflowing_image_is_refused(hippocampus: Prepared) -> None:
    voxels = np.zeros((9, 8, 7))
    voxels[4:] = 3e38
    with pytest.raises(DataError, match="overflow") as caught:
        preprocess_case(image_of(voxels), None, hippocampus.plan, "3d_fullres")
    assert caught.value.code == "E-IMAGE-RANGE"


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 8), (3, 1, 1), (5, 7, 1)])
def test_thin_images_keep_one_voxel_at_least(sagittal: Prepared, shape: tuple[int, ...]) -> None:
    """Spacings so fine that resampling alone would round the size to nothing."""
    voxels = np.arange(np.prod(shape)).reshape(shape) + 1
    image = image_of(voxels, (0.3, 0.3, 0.3))
    for configuration in ("3d_fullres", "2d"):
        case = preprocess_case(image, None, sagittal.plan, configuration)
        assert min(case.data.shape) >= 1
        assert np.isfinite(case.data).all()


def test_wrong_images_are_refused(hippocampus: Prepared, nuclei: Prepared) -> None:
    image = image_of(np.zeros((4, 4, 4)))
    with pytest.raises(DataError) as caught:
        preprocess_case(image, None, nuclei.plan, "2d")
    assert caught.value.code == "E-IMAGE-DIMENSIONS"
    two = replace(image, array=np.concatenate([image.array, image.array]))
    with pytest.raises(DataError) as caught:
        preprocess_case(two, None, hippocampus.plan, "3d_fullres")
    assert caught.value.code == "E-IMAGE-CHANNELS"
    with pytest.raises(UsageError, match="3d_fullres"):
        preprocess_case(image, None, hippocampus.plan, "3d_lowres")


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture
def small(nuclei: Prepared, tmp_path: Path) -> Prepared:
    """Three images whose files may be changed."""
    cases = []
    for case in nuclei.dataset.cases[:3]:
        files = [Path(shutil.copy(path, tmp_path / f"{index}_{path.name}")) for index, path in
                 enumerate((case.images[0], case.label))]  # fmt: skip
        cases.append(replace(case, images=(files[0],), label=files[1]))
    return replace(nuclei, dataset=replace(nuclei.dataset, cases=tuple(cases)), folder=tmp_path / "store")


def changed_after(small: Prepared, before: dict[str, int], plan: Plan | None = None) -> set[str]:
    preprocess_dataset(small.dataset, plan or small.plan, "2d", small.folder)
    after = times(small.folder)
    assert set(after) == set(before)
    return {name.split(".")[0] for name in after if after[name] != before[name]}


def test_second_run_redoes_only_what_changed(small: Prepared) -> None:
    preprocess_dataset(small.dataset, small.plan, "2d", small.folder)
    first, second, third = (case.case_id for case in small.dataset.cases)
    assert changed_after(small, times(small.folder)) == set()

    before = times(small.folder)
    os.utime(small.dataset.cases[0].images[0], (1, 1))
    assert changed_after(small, before) == set(), "equal content under another time"

    before = times(small.folder)
    (small.folder / f"{first}.json").unlink()
    assert changed_after(small, before) == {first}, "killed before the marker"

    before = times(small.folder)
    array = small.folder / f"{second}.b2nd"
    array.write_bytes(array.read_bytes()[:-10])
    assert changed_after(small, before) == {second}, "cut file"

    before = times(small.folder)
    shutil.copy(small.dataset.cases[0].images[0], small.dataset.cases[2].images[0])
    shutil.copy(small.dataset.cases[0].label, small.dataset.cases[2].label)
    assert changed_after(small, before) == {third}, "other image"

    before = times(small.folder)
    patch = small.plan.configurations["2d"].model_copy(update={"batch_size": 1})
    other_batch = small.plan.model_copy(update={"configurations": {"2d": patch}})
    assert changed_after(small, before, other_batch) == set(), "nothing that preprocessing uses"

    nnunet = small.plan.model_dump()["nnunet"]
    nnunet["configurations"]["2d"]["spacing"] = [2.0, 2.0]
    other_spacing = small.plan.model_copy(update={"nnunet": nnunet})
    assert changed_after(small, before, other_spacing) == {first, second, third}


def test_an_error_names_the_case_and_keeps_its_cause(small: Prepared) -> None:
    case = small.dataset.cases[1]
    case.images[0].write_bytes(case.images[0].read_bytes()[:100])
    with pytest.raises(DataError, match=case.case_id) as caught:
        preprocess_dataset(small.dataset, small.plan, "2d", small.folder)
    assert isinstance(caught.value.__cause__, DataError)
    assert caught.value.code == caught.value.__cause__.code, "the reader's own code"
    assert not (small.folder / f"{case.case_id}.json").exists()


def test_unexpected_errors_keep_their_type(small: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preprocess, "save_case", full)
    with pytest.raises(DataError, match="No space left") as caught:
        preprocess_dataset(small.dataset, small.plan, "2d", small.folder)
    assert isinstance(caught.value.__cause__, OSError)
    assert not list(small.folder.glob("*"))


def test_a_worker_writes_the_same_and_reports_the_same_error(small: Prepared, tmp_path: Path) -> None:
    last, seen = small.dataset.cases[2], []
    last.images[0].write_bytes(last.images[0].read_bytes()[:100])
    messages = []
    for workers in (0, 1):
        with pytest.raises(DataError) as caught:
            preprocess_dataset(
                small.dataset,
                small.plan,
                "2d",
                tmp_path / f"store{workers}",
                workers=workers,
                report=lambda step: seen.append(step.done),
            )
        messages.append((str(caught.value), caught.value.code))
    assert messages[0] == messages[1]
    assert "read_case" in str(caught.value.__cause__), "the worker's own traceback"
    assert seen == [0, 1, 2] * 2
    arrays = sorted((tmp_path / "store0").glob("*.b2nd"))
    assert len(arrays) == 4
    for path in arrays:
        assert path.read_bytes() == (tmp_path / "store1" / path.name).read_bytes()


def test_sweeps_what_a_killed_run_left(small: Prepared) -> None:
    small.folder.mkdir()
    old, new = small.folder / ".tmp-old.b2nd", small.folder / ".tmp-new.b2nd"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    preprocess_dataset(small.dataset, small.plan, "2d", small.folder)
    assert not old.exists()
    assert new.exists(), "may belong to a run beside this one"


@pytest.mark.parametrize(
    "name", ["a b", "Ä" * 120, "..", "-rf", "x" * 255, "a\nb", "CON\x00", "🧠", "é", "e\u0301"]
)
def test_odd_case_names(small: Prepared, name: str, tmp_path: Path) -> None:
    cases = tuple(replace(case, case_id=f"{name}{index}") for index, case in enumerate(small.dataset.cases))
    preprocess_dataset(replace(small.dataset, cases=cases[:1]), small.plan, "2d", small.folder)
    store = PreprocessedStore(small.folder)
    assert store.identifiers == [f"{name}0"]
    assert store.load_case(f"{name}0").data.shape[0] == 1
    assert {path.parent for path in tmp_path.rglob("*.b2nd")} == {small.folder}


def test_store_errors(small: Prepared) -> None:
    with pytest.raises(DataError) as caught:
        PreprocessedStore(small.folder)
    assert caught.value.code == "E-STORE-EMPTY"
    preprocess_dataset(small.dataset, small.plan, "2d", small.folder)
    store = PreprocessedStore(small.folder)
    with pytest.raises(DataError) as caught:
        store.load_case("nobody")
    assert caught.value.code == "E-STORE-MISSING"
    damaged = store.identifiers[0]
    (small.folder / f"{damaged}.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError) as caught:
        store.load_case(damaged)
    assert caught.value.code == "E-STORE-DAMAGED"


def test_store_reads_no_pickle(small: Prepared) -> None:
    preprocess_dataset(small.dataset, small.plan, "2d", small.folder)
    store = PreprocessedStore(small.folder)
    case_id = store.identifiers[0]
    np.savez(small.folder / f"{case_id}.npz", **{"1": np.array([{"an": "object"}], dtype=object)})
    with pytest.raises(DataError) as caught:
        store.load_case(case_id)
    assert caught.value.code == "E-STORE-DAMAGED"


class Killed:
    """A pool whose processes end at once, as when memory runs out; the first `times` pools only."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, workers: int, **arguments: Any) -> ProcessPoolExecutor:
        self.left -= 1
        dying = {"initializer": os._exit, "initargs": (9,)} if self.left >= 0 else {}
        return ProcessPoolExecutor(workers, **arguments, **dying)


def test_a_killed_worker_is_tried_again_then_named(small: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "ProcessPoolExecutor", Killed(times=2))
    with pytest.raises(DataError, match=small.dataset.cases[0].case_id) as caught:
        preprocess_dataset(small.dataset, small.plan, "2d", small.folder, workers=1)
    assert caught.value.code == "E-PREPROCESS-KILLED"
    monkeypatch.setattr(preprocess, "ProcessPoolExecutor", Killed(times=1))
    preprocess_dataset(small.dataset, small.plan, "2d", small.folder, workers=1)
    assert len(PreprocessedStore(small.folder).identifiers) == 3


KILLABLE = """
import sys
from pathlib import Path
from scanseg.data.dataset import load_dataset
from scanseg.nnunet.plan import Plan
from scanseg.nnunet.preprocess import preprocess_dataset
dataset, plan = load_dataset(Path(sys.argv[1])), Plan.load(Path(sys.argv[2]))
preprocess_dataset(dataset, plan, "2d", Path(sys.argv[3]), report=lambda step: print(step.done, flush=True))
"""


@pytest.mark.faults
def test_kill_and_run_again_equals_an_undisturbed_run(
    nuclei: Prepared, demo_data: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(demo_data / "nuclei")
    nuclei.plan.save(tmp_path / "plan.json")
    arguments = [str(demo_data / "nuclei"), str(tmp_path / "plan.json"), str(tmp_path / "killed")]
    with subprocess.Popen(
        [sys.executable, "-c", KILLABLE, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 4:
            pass
        process.kill()
    assert len(PreprocessedStore(tmp_path / "killed").identifiers) < len(dataset.cases)
    for folder in ("killed", "undisturbed"):
        preprocess_dataset(dataset, nuclei.plan, "2d", tmp_path / folder)
    for path in (tmp_path / "undisturbed").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name
