"""Training on DICOM series gives the weights of training on the same images as NIfTI."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scanseg import pipeline
from scanseg.data import check_dataset, load_dataset, read_image, read_label_map
from scanseg.files import read_json, sha256
from scanseg.types import Label

pytest.importorskip("highdicom", reason="DICOM needs pip install 'scanseg[dicom]'")

from scanseg.data.dicom_seg import Algorithm, write_segmentation

LABELS = (Label(0, "background"), Label(1, "Anterior"), Label(2, "Posterior"))
CHANGES = {
    "network": "nnunet_plain", "patch_size": (24, 32, 24), "epochs": 1, "iterations_per_epoch": 2,
    "validation_iterations": 1, "batch_size": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def datasets(demo_data: Path, tmp_path_factory: pytest.TempPathFactory, write_series) -> tuple[Path, Path]:
    """Five cases as NIfTI, and the same as series with masks in two formats and one in an archive."""
    root = tmp_path_factory.mktemp("sets")
    plain, dicom = root / "plain" / "hippocampus", root / "dicom" / "hippocampus"
    for folder in ("imagesTr", "labelsTr"):
        (plain / folder).mkdir(parents=True)
        (dicom / folder).mkdir(parents=True)
    for place, label in enumerate(sorted((demo_data / "hippocampus" / "labelsTr").iterdir())[:5]):
        name = label.name.partition(".")[0]
        source = label.parents[1] / "imagesTr" / f"{name}_0000.nii.gz"
        image, series = nibabel.load(source), dicom / "imagesTr" / f"{name}_0000"
        voxels = np.asarray(image.dataobj)
        voxels = np.round(voxels / voxels.max() * 4000).astype(np.int16)  # some do not fit 16 bits
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), plain / "imagesTr" / source.name)
        shutil.copy(label, plain / "labelsTr")
        write_series(series, voxels.T, image.affine, seed=name)
        if place % 2:
            shutil.copy(label, dicom / "labelsTr")
        else:
            mask, geometry = read_label_map(label).array, read_image(series).geometry
            target = dicom / "labelsTr" / f"{name}.dcm"
            write_segmentation(target, mask, LABELS, geometry, series, Algorithm("x", "0.1", "ab" * 32))
    shutil.make_archive(str(series), "zip", series)
    shutil.rmtree(series)
    facts = {
        "channel_names": {"0": "MRI"},
        "labels": {label.name: label.value for label in LABELS},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    for folder in (plain, dicom):
        (folder / "dataset.json").write_text(json.dumps(facts))
    return plain, dicom


def test_the_check_finds_the_same(datasets: tuple[Path, Path]) -> None:
    plain, dicom = (check_dataset(load_dataset(folder)).as_dict() for folder in datasets)
    assert not dicom["refused"]
    assert dicom["statistics"] == plain["statistics"]
    assert [case["voxel_hash"] for case in dicom["cases"]] == [case["voxel_hash"] for case in plain["cases"]]


@pytest.mark.timeout(300)
def test_the_weights_and_masks_are_the_same(datasets: tuple[Path, Path], tmp_path: Path) -> None:
    for folder in datasets:
        pipeline.train(
            folder,
            tmp_path / folder.parent.name,
            changes=CHANGES,
            network_options={"base_features": 4},
            threads=1,
            tensorboard=False,
        )
    plain, dicom = tmp_path / "plain", tmp_path / "dicom"
    assert sha256(dicom / "model.safetensors") == sha256(plain / "model.safetensors")
    measured = [read_json(run / "validation" / "summary.json") for run in (plain, dicom)]
    assert measured[0]["labels"] == measured[1]["labels"]
    assert (dicom / "report.html").is_file()
