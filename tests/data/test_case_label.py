"""DICOM in datasets: series as images, segmentations as labels, patients as groups; all faults at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from scanseg.data import Dataset, check_dataset, load_dataset, read_image, write_label_map
from scanseg.data.case_label import read_case_label
from scanseg.data.dicom_files import content_sha256, content_stamp
from scanseg.errors import DataError
from scanseg.types import Label

pytest.importorskip("highdicom", reason="DICOM needs pip install 'scanseg[dicom]'")

from scanseg.data.dicom_seg import Algorithm, write_segmentation

LABELS = (Label(0, "background"), Label(1, "Anterior"), Label(2, "Posterior"))
ALGORITHM = Algorithm("umamba_bot", "0.1", "ab" * 32)
Write = Callable[..., list[Path]]


def scans(demo_data: Path, count: int = 4) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Returns name, voxels (z, y, x), label values and affine of real images."""
    found = []
    for path in sorted((demo_data / "hippocampus" / "labelsTr").iterdir())[:count]:
        name = path.name.partition(".")[0]
        image = nibabel.load(path.parents[1] / "imagesTr" / f"{name}_0000.nii.gz")
        label = np.asarray(nibabel.load(path).dataobj).astype(np.uint8)
        voxels = np.asarray(image.dataobj).T
        scaled = np.round(voxels / voxels.max() * 4000).astype(np.int16)  # some do not fit 16 bits
        found.append((name, scaled, label.T, image.affine))
    return found


def describe(root: Path) -> None:
    facts = {"channel_names": {"0": "MRI"}, "labels": {label.name: label.value for label in LABELS}}
    (root / "dataset.json").write_text(json.dumps(facts))


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "set")


@pytest.fixture(scope="module")
def built(demo_data: Path, tmp_path_factory: pytest.TempPathFactory, write_series: Write) -> Path:
    """Images as folders and an archive; labels as NIfTI, NRRD, a segmentation, and one alone in a folder."""
    root = tmp_path_factory.mktemp("built")
    for place, (name, voxels, label, affine) in enumerate(scans(demo_data)):
        folder = root / "images" / name
        write_series(folder, voxels, affine, seed=name, change=patient(f"patient {place // 2}"))
        geometry = read_image(folder).geometry
        target = root / "labels" / f"{name}{('.nii.gz', '.nrrd', '.dcm', '')[place]}"
        target.parent.mkdir(exist_ok=True)
        if place < 2:
            write_label_map(target, label, geometry)
        else:
            # The segments of the last one are numbered the other way round.
            labels = LABELS if place == 2 else (LABELS[0], LABELS[2], LABELS[1])
            path = target if place == 2 else target / "IM0001"
            path.parent.mkdir(exist_ok=True)
            write_segmentation(path.with_suffix(".dcm"), label, labels, geometry, folder, ALGORITHM)
            if place == 3:
                path.with_suffix(".dcm").rename(path)
    archived = root / "images" / name
    shutil.make_archive(str(archived), "zip", archived)
    shutil.rmtree(archived)
    describe(root)
    return root


def patient(name: str) -> Callable[[int, Any], None]:
    return lambda _, one: setattr(one, "PatientID", name)


def codes(dataset: Dataset) -> set[tuple[str, str]]:
    found = check_dataset(dataset, folds=2).findings
    return {(finding.code, finding.case_id) for finding in found if finding.level == "error"}


def test_series_and_labels_are_those_of_the_images(dataset, demo_data) -> None:
    loaded = load_dataset(dataset)
    assert loaded.layout == "folders"
    result = check_dataset(loaded, folds=2)
    assert not result.is_refused, result.findings
    for case, (name, voxels, label, affine) in zip(loaded.cases, scans(demo_data), strict=True):
        image = read_image(case.images[0])
        assert case.case_id == name
        np.testing.assert_array_equal(image.array[0], voxels)
        np.testing.assert_allclose(image.geometry.affine, affine, atol=1e-6)
        found = read_case_label(case.label, loaded.labels, image.geometry)
        np.testing.assert_array_equal(found.array, label)


def test_the_description_that_is_written_reads_back(dataset, tmp_path) -> None:
    loaded = load_dataset(dataset)
    loaded.to_json(tmp_path / "found.json")
    again = Dataset.from_json(tmp_path / "found.json")
    assert (again.cases, again.labels) == (loaded.cases, loaded.labels)


def test_series_of_one_patient_are_a_group(dataset) -> None:
    assert [case.group for case in load_dataset(dataset).cases] == ["patient 1"] * 2 + ["patient 2"] * 2
    names = [case.case_id for case in load_dataset(dataset).cases]
    (dataset / "cases.csv").write_text("case,group\n" + "".join(f"{name},{name}\n" for name in names))
    assert [case.group for case in load_dataset(dataset).cases] == names


def test_one_identity_for_all_says_nothing(dataset, demo_data, write_series) -> None:
    for place, (name, voxels, _, affine) in enumerate(scans(demo_data)):
        if place < 3:
            write_series(dataset / "images" / name, voxels, affine, seed=name, change=patient("patient 1"))
    assert {case.group for case in load_dataset(dataset).cases} == {None}


@pytest.mark.parametrize("layout", ["nnunet", "msd", "csv"])
def test_other_layouts_find_the_same_cases(dataset, layout) -> None:
    expected = [case.case_id for case in load_dataset(dataset).cases]
    images, labels = sorted((dataset / "images").iterdir()), sorted((dataset / "labels").iterdir())
    if layout == "csv":
        rows = [f"images/{i.name},labels/{la.name}\n" for i, la in zip(images, labels, strict=True)]
        (dataset / "table.csv").write_text("image,label\n" + "".join(rows))
        loaded = load_dataset(dataset / "table.csv")
    elif layout == "msd":
        entries = [
            {"image": f"images/{i.name}", "label": f"labels/{la.name}"}
            for i, la in zip(images, labels, strict=True)
        ]
        facts = json.loads((dataset / "dataset.json").read_text())
        (dataset / "dataset.json").write_text(json.dumps({**facts, "training": entries}))
        loaded = load_dataset(dataset)
    else:
        for path in images:
            stem, suffix = (path.stem, path.suffix) if path.is_file() else (path.name, "")
            path.rename(path.with_name(f"{stem}_0000{suffix}"))
        (dataset / "images").rename(dataset / "imagesTr")
        (dataset / "labels").rename(dataset / "labelsTr")
        loaded = load_dataset(dataset)
    assert loaded.layout == layout
    assert [case.case_id for case in loaded.cases] == expected
    # A table has no dataset.json that would name the labels.
    assert [f.code for f in loaded.findings] == (["E-DATA-SEGMENT-NAMES"] if layout == "csv" else [])


def test_names_of_segments_are_taken_where_nothing_names_the_labels(dataset) -> None:
    (dataset / "dataset.json").unlink()
    loaded = load_dataset(dataset)
    assert "E-DATA-SEGMENT-NAMES" in {finding.code for finding in loaded.findings}
    shutil.rmtree(next(path for path in (dataset / "labels").iterdir() if path.is_dir()))
    loaded = load_dataset(dataset)
    assert loaded.labels == LABELS
    assert "E-DATA-SEGMENT-NAMES" not in {finding.code for finding in loaded.findings}


def test_faults_of_all_cases_are_named_at_once(dataset, demo_data, write_series) -> None:
    names = [name for name, *_ in scans(demo_data)]
    sorted((dataset / "images" / names[0]).iterdir())[5].unlink()
    _, voxels, _, affine = scans(demo_data)[1]
    moved = affine.copy()
    moved[2, 3] += 1
    write_series(dataset / "images" / names[1], voxels, moved, seed=names[1])
    shutil.rmtree(dataset / "images" / names[2])
    write_series(dataset / "images" / names[2], voxels, affine, seed="another")
    (dataset / "labels" / names[3] / "IM0002").write_bytes(b"1")
    found = codes(load_dataset(dataset))
    assert ("E-DICOM-MISSING", names[0]) in found
    assert ("E-DATA-GEOMETRY", names[1]) in found
    assert ("E-SEG-GEOMETRY", names[2]) in found
    assert ("E-SEG-FOLDER", names[3]) in found


def test_a_segment_that_is_no_label_is_refused(dataset) -> None:
    facts = json.loads((dataset / "dataset.json").read_text())
    facts["labels"] = {"background": 0, "Anterior": 1, "Tail": 2}
    (dataset / "dataset.json").write_text(json.dumps(facts))
    assert len([code for code, _ in codes(load_dataset(dataset)) if code == "E-SEG-LABEL"]) == 2


def test_a_folder_of_two_forms_is_two_files(dataset, demo_data) -> None:
    name = scans(demo_data)[0][0]
    shutil.make_archive(str(dataset / "images" / name), "zip", dataset / "images" / name)
    assert ("E-DATA-TWO-FILES", name) in {(f.code, f.case_id) for f in load_dataset(dataset).findings}


def test_slices_without_a_folder_of_their_own_are_told(tmp_path, demo_data, write_series) -> None:
    name, voxels, label, affine = scans(demo_data)[0]
    write_series(tmp_path / "images", voxels, affine)
    (tmp_path / "labels").mkdir()
    geometry = read_image(tmp_path / "images").geometry
    write_label_map(tmp_path / "labels" / f"{name}.nii.gz", label, geometry)
    describe(tmp_path)
    found = {finding.code: finding for finding in load_dataset(tmp_path).findings}
    assert "folder or zip" in found["E-DATA-IGNORED"].hint


def test_contents_count_not_the_folder(dataset, tmp_path) -> None:
    folder = next(path for path in sorted((dataset / "images").iterdir()) if path.is_dir())
    shutil.copytree(folder, tmp_path / "copy")
    assert content_sha256(folder) == content_sha256(tmp_path / "copy")
    before = content_stamp(folder)
    one = sorted(folder.iterdir())[0]
    content = bytearray(one.read_bytes())
    content[-1] ^= 1
    one.write_bytes(content)
    assert content_stamp(folder) != before
    assert content_sha256(folder) != content_sha256(tmp_path / "copy")


def test_a_label_that_is_no_segmentation(tmp_path) -> None:
    (tmp_path / "a.dcm").write_bytes(bytes(500))
    with pytest.raises(DataError) as caught:
        read_case_label(tmp_path / "a.dcm", LABELS, None)
    assert caught.value.code == "E-DICOM-FORMAT"


@pytest.mark.parametrize(
    ("name", "modality"),
    [("OrgansCT_TotalSegmentator", "CT"), ("LiverCT_CHAOS", "CT"), ("OrgansMR_TotalSegmentator", "MR")],
)
def test_real_scans_of_the_body_as_series(test_data, tmp_path, write_series, name, modality) -> None:
    source = test_data / name
    (image,), (label,) = (
        [nibabel.load(p) for p in (source / part).iterdir()] for part in ("imagesTr", "labelsTr")
    )
    box = tuple(slice(n // 4, n // 4 + min(n // 2, 20)) for n in image.shape)
    voxels, values = np.asarray(image.dataobj)[box].astype(np.int16), np.asarray(label.dataobj)[box]
    affine = image.affine.copy()
    affine[:3, 3] = (image.affine @ [*(part.start for part in box), 1])[:3]
    write_series(tmp_path / "images" / "a", voxels.T, affine, modality=modality)
    (tmp_path / "labels").mkdir()
    nibabel.save(nibabel.Nifti1Image(values.astype(np.uint8), affine), tmp_path / "labels" / "a.nii.gz")
    result = check_dataset(load_dataset(tmp_path), folds=2)
    assert not [
        finding for finding in result.findings if "GEOMETRY" in finding.code or "SHAPE" in finding.code
    ]
    (facts,) = result.cases
    assert facts.shape == voxels.T.shape
    assert (facts.intensity[0].low, facts.intensity[0].high) == (voxels.min(), voxels.max())
    assert facts.label_voxels == dict(
        zip(*(n.tolist() for n in np.unique(values, return_counts=True)), strict=True)
    )
