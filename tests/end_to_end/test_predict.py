"""From images to masks."""

import gzip
import json
import shutil
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff
from PIL import Image as PilImage
from safetensors.numpy import load_file, save_file

import scanseg
from scanseg import pipeline
from scanseg.data.image import read_geometry, read_label_map, same_geometry
from scanseg.errors import ModelError, UsageError
from scanseg.files import read_json, sha256, write_json


@pytest.fixture(scope="module")
def image_3d(demo_data: Path) -> Path:
    return sorted((demo_data / "hippocampus" / "imagesTs").iterdir())[0]


@pytest.fixture(scope="module")
def model_3d(run_3d: Path) -> scanseg.Model:
    return scanseg.load(run_3d, threads=1)


def test_a_folder_of_images(run_3d: Path, demo_data: Path, tmp_path: Path) -> None:
    result = pipeline.predict(demo_data / "hippocampus" / "imagesTs", run_3d, tmp_path, threads=1)
    assert len(result.done) == 6
    assert not result.failures
    for path in sorted((demo_data / "hippocampus" / "imagesTs").iterdir()):
        mask = tmp_path / path.name.replace("_0000", "")
        assert same_geometry(read_geometry(path)[0], read_geometry(mask)[0]) == []
        assert np.array_equal(nibabel.load(path).affine, nibabel.load(mask).affine)
        assert set(np.unique(read_label_map(mask).array)) <= {0, 1, 2}
    stats = read_json(tmp_path / "stats.json")["cases"]
    assert set(stats) == set(result.done)
    assert len(list((tmp_path / "previews").glob("*.png"))) == 6


def test_finished_cases_are_skipped_and_damaged_ones_made_again(
    run_3d: Path, image_3d: Path, tmp_path: Path
) -> None:
    assert pipeline.predict(image_3d, run_3d, tmp_path, threads=1, preview=False).done
    again = pipeline.predict(image_3d, run_3d, tmp_path, threads=1, preview=False)
    assert (again.done, len(again.skipped)) == ([], 1)
    mask = next(tmp_path.glob("*.nii.gz"))
    before = sha256(mask)
    mask.write_bytes(mask.read_bytes()[:-20])
    assert pipeline.predict(image_3d, run_3d, tmp_path, threads=1, preview=False).done
    assert sha256(mask) == before


def test_one_failure_stops_nothing(run_3d: Path, image_3d: Path, demo_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(image_3d, folder / "good_0000.nii.gz")
    (folder / "cut_0000.nii.gz").write_bytes(image_3d.read_bytes()[:5000])
    nan = nibabel.load(image_3d)
    voxels = nan.get_fdata().astype(np.float32)
    voxels[3, 3, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, nan.affine), folder / "nan_0000.nii.gz")
    shutil.copy(next((demo_data / "nuclei" / "imagesTs").iterdir()), folder / "flat.png")
    command = [
        sys.executable,
        "-m",
        "scanseg",
        "predict",
        folder,
        "-m",
        run_3d,
        "-o",
        tmp_path / "out",
        "--json",
    ]
    answer = subprocess.run([str(item) for item in command], capture_output=True, text=True, timeout=100)
    assert answer.returncode == 4, answer.stderr
    document = json.loads(answer.stdout)
    assert document["done"] == ["good"]
    assert {failure["case_id"] for failure in document["failures"]} == {"cut", "nan", "flat"}
    masks = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert masks == {"good.nii.gz", "stats.json", "failures.csv"}


def test_nan_fill_is_asked_for(model_3d: scanseg.Model, image_3d: Path, tmp_path: Path) -> None:
    image = nibabel.load(image_3d)
    voxels = image.get_fdata().astype(np.float32)
    voxels[0, 0, 0] = np.inf
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), tmp_path / "x.nii.gz")
    with pytest.raises(scanseg.Error, match="1 "):
        model_3d.predict(tmp_path / "x.nii.gz")
    assert model_3d.predict(tmp_path / "x.nii.gz", nan_fill=0.0).mask.shape == voxels.shape[::-1]


def test_all_48_orientations_give_the_same_anatomy(
    model_3d: scanseg.Model, image_3d: Path, tmp_path: Path
) -> None:
    original = nibabel.load(image_3d)
    voxels = np.asarray(original.dataobj)[4:28, 6:38, 4:28]
    nibabel.save(nibabel.Nifti1Image(voxels, original.affine), tmp_path / "upright.nii.gz")
    expected = model_3d.predict(tmp_path / "upright.nii.gz", step_size=1.0).mask.T
    assert len(np.unique(expected)) > 1
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        turn = np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
        affine = original.affine @ inv_ornt_aff(turn, voxels.shape)
        path = tmp_path / "turned.nii.gz"
        nibabel.save(nibabel.Nifti1Image(apply_orientation(voxels, turn), affine), path)
        found = model_3d.predict(path, step_size=1.0)
        assert np.array_equal(found.mask.T, apply_orientation(expected, turn)), (order, signs)
        found.save(tmp_path / "mask.nii.gz")
        assert np.array_equal(nibabel.load(tmp_path / "mask.nii.gz").affine, nibabel.load(path).affine)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_formats_give_the_same_mask(
    model_3d: scanseg.Model, image_3d: Path, tmp_path: Path, suffix: str
) -> None:
    from scanseg.data.image import read_image, write_array

    image = read_image(image_3d)
    path = tmp_path / f"image{suffix}"
    write_array(path, image.array[0], image.geometry)
    found = model_3d.predict(path)
    assert np.array_equal(found.mask, model_3d.predict(image_3d).mask)
    found.save(tmp_path / f"mask{suffix}")
    assert np.array_equal(read_label_map(tmp_path / f"mask{suffix}").array, found.mask)


def test_png_masks_carry_the_values_of_the_dataset(run_2d: Path, demo_data: Path, tmp_path: Path) -> None:
    result = pipeline.predict(demo_data / "nuclei" / "imagesTs", run_2d, tmp_path, threads=1)
    assert len(result.done) == 6
    for name in result.done:
        with PilImage.open(tmp_path / f"{name}.png") as mask:
            assert mask.size == (256, 256)
            assert set(np.unique(np.asarray(mask))) <= {0, 1}


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 7), (97, 13, 11), (5, 3, 200)])
def test_odd_shapes(model_3d: scanseg.Model, tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "odd.nii.gz"
    nibabel.save(nibabel.Nifti1Image(rng.normal(size=shape).astype(np.float32), np.eye(4)), path)
    assert model_3d.predict(path).mask.shape == shape[::-1]


def test_a_constant_image_is_no_crash(model_3d: scanseg.Model, tmp_path: Path) -> None:
    path = tmp_path / "flat.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.full((20, 20, 20), 7, np.int16), np.eye(4)), path)
    assert model_3d.predict(path).mask.shape == (20, 20, 20)


def test_probabilities_sum_to_one_and_agree(model_3d: scanseg.Model, image_3d: Path) -> None:
    found = model_3d.predict(image_3d, probabilities=True)
    assert found.probabilities is not None
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    assert (found.probabilities.argmax(0) == found.mask).mean() > 0.9999


def test_an_ensemble_of_one_model_twice_changes_nothing(
    run_3d: Path, model_3d: scanseg.Model, image_3d: Path
) -> None:
    twice = scanseg.load([run_3d, run_3d], threads=1)
    assert np.array_equal(twice.predict(image_3d).mask, model_3d.predict(image_3d).mask)


def test_models_of_different_data_make_no_ensemble(run_3d: Path, run_2d: Path) -> None:
    with pytest.raises(ModelError, match="cannot be averaged"):
        scanseg.load([run_3d, run_2d])


def test_a_mask_never_replaces_its_image(run_3d: Path, image_3d: Path, tmp_path: Path) -> None:
    image = tmp_path / "scan.nii.gz"
    shutil.copy(image_3d, image)
    before = sha256(image)
    with pytest.raises(UsageError, match="would overwrite"):
        pipeline.predict(image, run_3d, tmp_path)
    assert sha256(image) == before


def test_a_far_spacing_is_noted(model_3d: scanseg.Model, image_3d: Path, tmp_path: Path) -> None:
    image = nibabel.load(image_3d)
    path = tmp_path / "fine.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), np.diag([0.5, 0.5, 0.5, 1])), path)
    assert any("outside the training range" in note for note in model_3d.predict(path).notes)
    assert model_3d.predict(image_3d).notes == ()


def copy_run(run: Path, folder: Path) -> Path:
    names = ("config.json", "plan.json", "model.safetensors", "recipe.toml", "run.json")
    folder.mkdir()
    for name in names:
        shutil.copy(run / name, folder / name)
    return folder


def test_a_moved_run_works(run_3d: Path, image_3d: Path, model_3d: scanseg.Model, tmp_path: Path) -> None:
    moved = copy_run(run_3d, tmp_path / "elsewhere")
    assert np.array_equal(
        scanseg.load(moved, threads=1).predict(image_3d).mask, model_3d.predict(image_3d).mask
    )


def test_damaged_weights_are_refused(run_3d: Path, tmp_path: Path) -> None:
    run = copy_run(run_3d, tmp_path / "damaged")
    weights = bytearray((run / "model.safetensors").read_bytes())
    weights[-100] ^= 0x10
    (run / "model.safetensors").write_bytes(bytes(weights))
    with pytest.raises(ModelError):
        scanseg.load(run)


def test_nan_weights_make_no_mask(run_3d: Path, image_3d: Path, tmp_path: Path) -> None:
    run = copy_run(run_3d, tmp_path / "nan")
    tensors = load_file(run / "model.safetensors")
    name = next(iter(tensors))
    tensors[name].flat[0] = np.nan
    save_file(tensors, run / "model.safetensors")
    config = read_json(run / "config.json")
    write_json(run / "config.json", {**config, "weights_sha256": sha256(run / "model.safetensors")})
    with pytest.raises(ModelError):
        pipeline.predict(image_3d, run, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_no_class_path_is_imported(run_3d: Path, tmp_path: Path) -> None:
    run = copy_run(run_3d, tmp_path / "hostile")
    config = read_json(run / "config.json")
    config["network"]["name"] = "os.system"
    write_json(run / "config.json", config)
    with pytest.raises(ModelError):
        scanseg.load(run)


def test_an_unfinished_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a finished run"):
        scanseg.load(tmp_path)


def test_gzip_of_the_mask_is_whole(run_3d: Path, image_3d: Path, tmp_path: Path) -> None:
    pipeline.predict(image_3d, run_3d, tmp_path, preview=False, threads=1)
    for path in tmp_path.glob("*.nii.gz"):
        assert len(gzip.decompress(path.read_bytes())) > 348
