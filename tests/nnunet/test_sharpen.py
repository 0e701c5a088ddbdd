"""Sharpening: closed forms, what it must not change, and the same images in training and prediction."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from scanseg.data.splits import Split
from scanseg.errors import UsageError
from scanseg.inference.predict import Model
from scanseg.nnunet.bridge import stock_plans
from scanseg.nnunet.cases import read_case
from scanseg.nnunet.plan import Plan, make_plan
from scanseg.nnunet.preprocess import PreprocessedStore, preprocess_case, preprocess_dataset
from scanseg.nnunet.sharpen import sharpen
from scanseg.pipeline.workspace import Workspace
from scanseg.training.loop import train_network
from scanseg.training.recipe import Recipe

from .conftest import Prepared

OVERRIDES = {"sharpen_amount": 1.5, "sharpen_radius": 0.8}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def plan_of(prepared: Prepared, **overrides: float) -> Plan:
    return make_plan(prepared.dataset, prepared.fingerprint, orientation=None, overrides=overrides)


def test_a_wave_is_amplified_by_its_frequency() -> None:
    """A Gaussian of deviation s damps a wave of frequency w by exp(-(s w)^2 / 2)."""
    amount, radius, frequency = 0.7, 1.3, 2 * math.pi / 9
    wave = np.cos(frequency * np.arange(90, dtype=np.float32))
    found = sharpen(wave.reshape(1, 1, 1, 90), amount=amount, radius=radius, spatial_dims=2)[0, 0, 0]
    factor = 1 + amount * (1 - math.exp(-((radius * frequency) ** 2) / 2))
    np.testing.assert_allclose(found[20:70], factor * wave[20:70], atol=2e-3)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_flat_and_even_slopes_stay(spatial_dims: int) -> None:
    flat = np.full((2, 5, 6, 7), -3.5, np.float32)
    np.testing.assert_allclose(
        sharpen(flat, amount=2.0, radius=1.0, spatial_dims=spatial_dims), flat, atol=1e-5
    )
    slope = np.broadcast_to(np.arange(40, dtype=np.float32), (1, 9, 20, 40)).copy()
    found = sharpen(slope, amount=2.0, radius=1.0, spatial_dims=spatial_dims)
    np.testing.assert_allclose(found[..., 8:-8], slope[..., 8:-8], atol=1e-4)


def test_slices_and_channels_are_apart_in_2d() -> None:
    data = noise(2, 4, 8, 9)
    whole = sharpen(data, amount=1.0, radius=1.0, spatial_dims=2)
    for channel in range(2):
        for level in range(4):
            part = data[channel : channel + 1, level : level + 1]
            alone = sharpen(part, amount=1.0, radius=1.0, spatial_dims=2)
            np.testing.assert_array_equal(whole[channel, level], alone[0, 0])
    assert whole.dtype == np.float32


def test_axes_are_alike_in_3d() -> None:
    data = noise(1, 6, 7, 8)
    turned = sharpen(data.transpose(0, 3, 1, 2), amount=1.0, radius=1.2, spatial_dims=3)
    expected = sharpen(data, amount=1.0, radius=1.2, spatial_dims=3).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(turned, expected, atol=1e-5)


def test_without_an_amount_nothing_is_touched() -> None:
    data = noise(1, 2, 3, 4)
    assert sharpen(data, amount=0.0, radius=1.0, spatial_dims=3) is data


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_it_comes_after_normalisation_and_resampling(hippocampus: Prepared, configuration: str) -> None:
    image, indices = read_case(hippocampus.dataset.cases[0], hippocampus.dataset.labels, orientation=None)
    plain = preprocess_case(image, indices, hippocampus.plan, configuration)
    sharp = preprocess_case(image, indices, plan_of(hippocampus, **OVERRIDES), configuration)
    dims = 2 if configuration == "2d" else 3
    expected = sharpen(plain.data, amount=1.5, radius=0.8, spatial_dims=dims)
    np.testing.assert_array_equal(sharp.data, expected)
    np.testing.assert_array_equal(sharp.seg, plain.seg)


def test_stores_are_kept_apart(nuclei: Prepared, tmp_path: Path) -> None:
    work = Workspace(tmp_path, nuclei.dataset, {}, nuclei.fingerprint)
    plans = [nuclei.plan, plan_of(nuclei, sharpen_radius=2.0), plan_of(nuclei, **OVERRIDES)]
    stores = [work.store(plan, "2d") for plan in plans]
    # A radius without an amount changes nothing.
    assert stores[0] == stores[1] != stores[2]
    folder = tmp_path / "store"
    written = []
    for plan in plans:
        preprocess_dataset(nuclei.dataset, plan, "2d", folder)
        written.append({path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")})
    assert written[0] == written[1]
    assert all(written[1][name] != time for name, time in written[2].items())


def test_a_trained_network_sees_new_images_as_it_saw_the_old(nuclei: Prepared, tmp_path: Path) -> None:
    plan = make_plan(
        nuclei.dataset,
        nuclei.fingerprint,
        orientation=None,
        overrides={**OVERRIDES, "patch_size": (32, 32), "batch_size": 2},
    )
    store = tmp_path / "store"
    preprocess_dataset(nuclei.dataset, plan, "2d", store)
    ids = [case.case_id for case in nuclei.dataset.cases]
    recipe = Recipe(
        network_options={"base_features": 4},
        epochs=1,
        iterations_per_epoch=1,
        validation_iterations=0,
        **OVERRIDES,
    )
    arguments = {
        "plan": plan,
        "configuration_name": "2d",
        "store_folder": store,
        "device": "cpu",
        "threads": 1,
    }
    run = tmp_path / "run"
    train_network(**arguments, split=Split(tuple(ids), ()), recipe=recipe, run_folder=run)
    stored = Plan.load(run / "plan.json")
    image, _ = read_case(nuclei.dataset.cases[0], nuclei.dataset.labels, orientation=None)
    seen = PreprocessedStore(store).load_case(ids[0]).data
    np.testing.assert_array_equal(preprocess_case(image, None, stored, "2d").data, seen)

    path = nuclei.dataset.cases[0].images[0]
    first = Model(run, device="cpu", threads=1).predict(path, probabilities=True)
    document = json.loads((run / "plan.json").read_text())
    document["configurations"]["2d"]["sharpen_amount"] = 0.0
    (run / "plan.json").write_text(json.dumps(document))
    second = Model(run, device="cpu", threads=1).predict(path, probabilities=True)
    assert not np.allclose(first.probabilities, second.probabilities, atol=1e-4)
    with pytest.raises(UsageError, match=r"sharpen_amount is 0.5, but the plan was made with 1.5"):
        train_network(
            **arguments,
            split=Split(tuple(ids), ()),
            recipe=recipe.changed(sharpen_amount=0.5),
            run_folder=tmp_path / "other",
        )


def test_stock_nnunet_cannot(nuclei: Prepared) -> None:
    with pytest.raises(UsageError, match="stock nnU-Net cannot"):
        stock_plans(plan_of(nuclei, **OVERRIDES))
    stock_plans(plan_of(nuclei, sharpen_radius=3.0))
