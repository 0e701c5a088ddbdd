"""From a DICOM series to a mask, as NIfTI and as a DICOM segmentation."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scanseg import pipeline
from scanseg.data.image import read_geometry, read_image, read_label_map, same_geometry
from scanseg.errors import UsageError
from scanseg.inference.predict import Model
from scanseg.pipeline.serving import ServeOptions, serve_image
from scanseg.types import Label

pytest.importorskip("highdicom", reason="DICOM needs pip install 'scanseg[dicom]'")

from scanseg.data.dicom_seg_read import read_segmentation

LABELS = (Label(0, "background"), Label(1, "Anterior"), Label(2, "Posterior"))


@pytest.fixture(scope="module")
def scans(demo_data: Path, tmp_path_factory: pytest.TempPathFactory, write_series) -> Path:
    """A NIfTI image, and the same as a DICOM series in a folder `case_a` and in `case_b.zip`."""
    folder = tmp_path_factory.mktemp("scans")
    source = sorted((demo_data / "hippocampus" / "imagesTs").iterdir())[0]
    image = nibabel.load(source)
    shutil.copy(source, folder.parent / "same_0000.nii.gz")
    write_series(folder / "case_a", np.asarray(image.dataobj).astype(np.int16).T, image.affine)
    shutil.make_archive(str(folder / "case_b"), "zip", folder / "case_a")
    (folder / "notes").mkdir()
    (folder / "notes" / "read me").write_text("nothing to see")
    return folder


def test_a_series_gives_the_mask_of_the_same_nifti(run_3d: Path, scans: Path, tmp_path: Path) -> None:
    result = pipeline.predict(scans, run_3d, tmp_path, threads=1)
    assert (result.done, result.failures) == (["case_a", "case_b"], [])
    pipeline.predict(scans.parent / "same_0000.nii.gz", run_3d, tmp_path, threads=1, preview=False)
    expected = read_label_map(tmp_path / "same.nii.gz")
    assert expected.array.any()
    for name in result.done:
        mask = read_label_map(tmp_path / f"{name}.nii.gz")
        np.testing.assert_array_equal(mask.array, expected.array)
        assert same_geometry(mask.geometry, read_geometry(scans / "case_a")[0]) == []
    assert len(list((tmp_path / "previews").iterdir())) == 2
    assert pipeline.predict(scans, run_3d, tmp_path, threads=1).skipped == ["case_a", "case_b"]


def test_segmentations_on_request(run_3d: Path, scans: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scanseg", "predict", scans / "case_a", "-m", run_3d, "-o", tmp_path]
    command += ["--format", "dicom-seg", "--no-preview", "--json", "--threads", "1"]
    answer = subprocess.run([str(item) for item in command], capture_output=True, text=True, timeout=100)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["done"] == ["case_a"]
    pipeline.predict(scans / "case_a", run_3d, tmp_path, threads=1, preview=False)
    geometry = read_geometry(scans / "case_a")[0]
    copy = read_segmentation(tmp_path / "case_a.dcm", labels=LABELS, geometry=geometry)
    np.testing.assert_array_equal(copy.array, read_label_map(tmp_path / "case_a.nii.gz").array)


def test_segmentations_of_enhanced_images(run_3d: Path, scans: Path, tmp_path: Path, write_enhanced) -> None:
    image = nibabel.load(scans.parent / "same_0000.nii.gz")
    volume = np.asarray(image.dataobj).astype(np.int16).T
    order = np.random.default_rng(0).permutation(len(volume)).tolist()
    write_enhanced(tmp_path / "in" / "one" / "1", volume, image.affine, order=order)
    half = len(volume) // 2
    for part in (range(half), range(half, len(volume))):
        write_enhanced(tmp_path / "in" / "two" / str(part[0]), volume, image.affine, order=part)
    options = {"threads": 1, "preview": False}
    result = pipeline.predict(tmp_path / "in", run_3d, tmp_path / "out", format="dicom-seg", **options)
    assert result.done == ["one"]
    assert [(f.case_id, f.code) for f in result.failures] == [("two", "E-SEG-ENHANCED")]
    pipeline.predict(scans / "case_a", run_3d, tmp_path / "out", **options)
    expected = read_label_map(tmp_path / "out" / "case_a.nii.gz")
    geometry = read_geometry(tmp_path / "in" / "one")[0]
    found = read_segmentation(tmp_path / "out" / "one.dcm", labels=LABELS, geometry=geometry)
    assert found.array.any()
    np.testing.assert_array_equal(found.array, expected.array)
    model = Model(run_3d, threads=1)
    for name in ("one", "two"):
        folder = tmp_path / "served" / name
        folder.mkdir(parents=True)
        image = read_image(tmp_path / "in" / name)
        serve_image(model, image, folder, input_name=f"{name}.zip", options=ServeOptions(uncertainty=False))
        np.testing.assert_array_equal(read_label_map(folder / "mask.nii.gz").array, expected.array)
        assert (folder / "segmentation.dcm").exists() == (name == "one")


def test_a_damaged_series_fails_by_its_name(run_3d: Path, scans: Path, tmp_path: Path) -> None:
    shutil.copytree(scans / "case_a", tmp_path / "in" / "gap")
    shutil.copytree(scans / "case_a", tmp_path / "in" / "whole")
    (tmp_path / "in" / "gap" / "7.dcm").unlink()
    result = pipeline.predict(tmp_path / "in", run_3d, tmp_path / "out", threads=1, preview=False)
    assert result.done == ["whole"]
    assert [(f.case_id, f.code) for f in result.failures] == [("gap", "E-DICOM-MISSING")]
    assert not (tmp_path / "out" / "gap.nii.gz").exists()


def test_what_cannot_be_is_refused_at_once(run_3d: Path, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no DICOM series"):
        pipeline.predict(scans.parent / "same_0000.nii.gz", run_3d, tmp_path, format="dicom-seg")
    with pytest.raises(UsageError, match="in its folder"):
        pipeline.predict(scans / "case_a", run_3d, scans / "case_a", format="dicom-seg")
    with pytest.raises(UsageError) as caught:
        pipeline.predict(scans / "case_a" / "1.dcm", run_3d, tmp_path)
    assert "folder" in caught.value.hint
