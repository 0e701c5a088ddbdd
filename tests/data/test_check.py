"""The check on sound data: its figures against nibabel's, its repeatability, real datasets."""

import json
import shutil
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from scanseg.data import check_dataset, load_dataset
from scanseg.data.check_cohort import names_of
from scanseg.data.dataset import Dataset
from scanseg.errors import DatasetError
from scanseg.progress import Progress
from scanseg.types import Case, Label

# What the real datasets are known to hold: spatial dims, orientation, findings.
ONE_CASE = {("E-DATA-FEW-CASES", "warning", "")}
REAL = {
    "CardiacMR_Sunnybrook": (3, "RAS", set()),
    "HippocampusMR_MSD": (3, "RAS", set()),
    "LiverCT_CHAOS": (3, "LPS", ONE_CASE),
    "MSLesionsFLAIR_Baghdad2D": (2, None, set()),
    "MSLesionsFLAIR_Ljubljana3D": (3, "LAS", ONE_CASE),
    "NeuronEM_DrosophilaVNC": (2, None, set()),
    "NucleiHE_MoNuSeg": (2, None, set()),
    "NucleiHistology_BBBC038": (2, None, set()),
    "NucleiMicroscopy_BBBC038": (2, None, set()),
    "OrgansCT_TotalSegmentator": (3, "RAS", ONE_CASE),
    "OrgansMR_TotalSegmentator": (3, "LPS", ONE_CASE),
    "PolypsEndoscopy_Kvasir": (2, None, set()),
    "RetinaVessels_CHASEDB1": (2, None, set()),
    "SkinLesions_ISIC": (2, None, set()),
}


def test_facts_of_each_case_equal_nibabels(demo_data: Path) -> None:
    result = check_dataset(load_dataset(demo_data / "hippocampus"))
    assert result.findings == ()
    assert (result.spatial_dims, result.orientation) == (3, "RAS")
    assert len(result.cases) == 30
    for case in result.cases:
        part = "Ts" if case.part == "test" else "Tr"
        folder = demo_data / "hippocampus"
        image = nibabel.load(folder / f"images{part}" / f"{case.case_id}_0000.nii.gz")
        label = np.asarray(nibabel.load(folder / f"labels{part}" / f"{case.case_id}.nii.gz").dataobj)
        voxels = image.get_fdata()
        assert case.shape == image.shape[::-1]
        assert case.spacing == pytest.approx(image.header.get_zooms()[::-1])
        assert case.unit == "mm"
        (intensity,) = case.intensity
        assert (intensity.low, intensity.high) == (voxels.min(), voxels.max())
        assert intensity.mean == pytest.approx(voxels.mean(), rel=1e-6)
        values, counts = np.unique(label, return_counts=True)
        assert case.label_voxels == dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_statistics_are_those_of_the_labelled_cases(demo_data: Path) -> None:
    dataset = load_dataset(demo_data / "hippocampus")
    result = check_dataset(dataset)
    statistics = result.statistics
    training = [case for case in result.cases if case.part == "training"]
    assert (statistics["cases"], statistics["test_cases"], statistics["unlabelled"]) == (24, 6, 0)
    assert statistics["groups"] == len({case.group for case in dataset.cases})
    assert statistics["size_unit"] == "mm3"
    assert statistics["orientations"] == {"RAS": 24}
    shapes = np.array([case.shape for case in training])
    assert statistics["shape"]["median"] == np.median(shapes, axis=0).tolist()
    assert statistics["shape"]["max"] == shapes.max(axis=0).tolist()
    anterior = statistics["labels"][1]
    counts = [case.label_voxels[1] for case in training if case.label_voxels]
    assert (anterior["name"], anterior["cases"], anterior["voxels"]) == ("Anterior", 24, sum(counts))
    assert anterior["median_size"] == pytest.approx(np.median(counts) * np.prod(training[0].spacing))


def test_sizes_are_in_the_units_of_the_file(demo_data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(demo_data / "hippocampus", tmp_path / "copy"))
    for path in [*(copy / "imagesTr").iterdir(), *(copy / "labelsTr").iterdir()]:
        image = nibabel.load(path)
        affine = image.affine @ np.diag([0.5, 2.0, 3.0, 1.0])
        coarse = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
        coarse.set_qform(affine, 1)
        nibabel.save(coarse, path)
    before = check_dataset(load_dataset(demo_data / "hippocampus")).statistics
    after = check_dataset(load_dataset(copy)).statistics
    assert after["spacing"]["median"] == pytest.approx([3.0, 2.0, 0.5])
    for one, other in zip(before["labels"], after["labels"], strict=True):
        assert other["median_size"] == pytest.approx(3.0 * one["median_size"])
        assert other["voxels"] == one["voxels"]


def test_pixels_are_counted_where_there_is_no_physical_size(demo_data: Path) -> None:
    result = check_dataset(load_dataset(demo_data / "nuclei"))
    assert result.findings == ()
    assert (result.spatial_dims, result.orientation) == (2, None)
    assert (result.statistics["spacing_unit"], result.statistics["size_unit"]) == ("px", "px2")
    case = result.cases[0]
    mask = np.asarray(Picture.open(demo_data / "nuclei" / "labelsTr" / f"{case.case_id}.png"))
    assert case.as_dict()["label_sizes"]["1"] == np.count_nonzero(mask)


def test_the_result_is_plain_json_and_the_same_every_time(demo_data: Path) -> None:
    texts = [
        json.dumps(check_dataset(load_dataset(demo_data / "hippocampus")).as_dict(), allow_nan=False)
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    document = json.loads(texts[0])
    assert (document["refused"], document["counts"]) == (False, {"error": 0, "warning": 0, "info": 0})
    assert len(document["cases"]) == 30


def test_progress_counts_every_case_to_the_end(demo_data: Path) -> None:
    steps: list[Progress] = []
    check_dataset(load_dataset(demo_data / "nuclei"), report=steps.append)
    assert [step.done for step in steps] == list(range(25))
    assert {(step.stage, step.total) for step in steps} == {("check", 24)}


def test_values_that_are_not_consecutive_pass(demo_data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(demo_data / "nuclei", tmp_path / "copy"))
    (copy / "dataset.json").unlink()
    for folder in ("labelsTr", "labelsTs"):
        for path in (copy / folder).iterdir():
            Picture.fromarray(np.asarray(Picture.open(path)) * 255).save(path)
    result = check_dataset(load_dataset(copy))
    assert result.findings == ()
    assert [(row["name"], row["value"]) for row in result.statistics["labels"]] == [
        ("background", 0),
        ("label 255", 255),
    ]


def test_labels_that_start_at_one_are_warned_about(demo_data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(demo_data / "nuclei", tmp_path / "copy"))
    (copy / "dataset.json").unlink()
    for folder in ("labelsTr", "labelsTs"):
        for path in (copy / folder).iterdir():
            Picture.fromarray(np.asarray(Picture.open(path)) + 1).save(path)
    result = check_dataset(load_dataset(copy))
    assert {finding.code for finding in result.findings} == {"E-DATA-NO-BACKGROUND"}


def test_a_training_image_among_the_test_images_is_found(demo_data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(demo_data / "nuclei", tmp_path / "copy"))
    shutil.copy(copy / "imagesTr" / "nuc_16c3d5935b_0000.png", copy / "imagesTs" / "new_0000.png")
    (copy / "cases.csv").write_text("case,group\nnew,p1\nnuc_16c3d5935b,p1\nnuc_4185b9369f,p2\n")
    result = check_dataset(load_dataset(copy))
    found = {finding.code: finding for finding in result.findings}
    assert set(found) == {"E-DATA-TEST-LEAK", "E-DATA-GROUP-PARTIAL", "E-DATA-TEST-GROUP"}
    assert found["E-DATA-TEST-LEAK"].case_id == "new"
    assert "nuc_16c3d5935b" in found["E-DATA-TEST-LEAK"].text
    assert "p1" in found["E-DATA-TEST-GROUP"].text


def test_constant_images_are_not_called_the_same(demo_data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(demo_data / "nuclei", tmp_path / "copy"))
    for case in ("nuc_16c3d5935b", "nuc_4185b9369f"):
        path = copy / "imagesTr" / f"{case}_0000.png"
        Picture.fromarray(np.zeros_like(np.asarray(Picture.open(path)))).save(path)
    codes = [finding.code for finding in check_dataset(load_dataset(copy)).findings]
    assert codes == ["E-DATA-CONSTANT"] * 2


@pytest.mark.parametrize(
    "name",
    [
        "heart_014",
        "a b",
        "it's",
        "caf\u00e9",
        "\u60a3\u8005 7",
        "\U0001f9e0",
        "v1.2",
        "x" * 200,
        "COM10",
        "icon",
    ],
)
def test_names_that_work_on_every_system_pass(name: str) -> None:
    assert list(names_of(dataset_of(name))) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"),
        (" ", "empty"),
        ("..", "starts with a dot"),
        (".hidden", "starts with a dot"),
        ("-rf", "dash"),
        ("end.", "ends with"),
        ("a/b", "holds /"),
        ("a\\b", "holds \\"),
        ('say "x"', 'holds "'),
        ("a:b", "holds :"),
        ("a\nb", "\\n"),
        ("a\x00b", "\\x00"),
        ("a\u202eb", "\\u202e"),
        ("a\ud800b", "\\ud800"),
        ("CON", "reserves"),
        ("lpt1.x", "reserves"),
        ("x" * 201, "longer than 200 bytes"),
        ("\u00e9" * 101, "longer than 200 bytes"),
    ],
)
def test_names_that_are_unsafe_are_errors(name: str, words: str) -> None:
    (finding,) = names_of(dataset_of(name))
    assert (finding.code, finding.level) == ("E-DATA-CASE-NAME", "error")
    assert words in finding.text
    assert (finding.text + finding.case_id).isprintable()


def dataset_of(*names: str) -> Dataset:
    cases = tuple(Case(name, (Path("x.png"),), Path("y.png")) for name in names)
    return Dataset(Path(), "d", "csv", ("image",), (Label(0, "background"),), cases)


def test_refusal_names_the_dataset_and_every_error(demo_data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(demo_data / "nuclei", tmp_path / "copy"))
    for path in sorted((copy / "imagesTr").iterdir())[:3]:
        path.write_bytes(b"")
    result = check_dataset(load_dataset(copy))
    with pytest.raises(DatasetError, match="3 errors found") as caught:
        result.raise_if_refused()
    assert caught.value.message.startswith("Nuclei in fluorescence")
    assert caught.value.message.count("\n  E-") == 3


def test_memory_holds_one_case_at_a_time(tmp_path: Path) -> None:
    """Twelve cases of 16 MB as floats need the memory of a few of them, not of all."""
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    random = np.random.default_rng(3)
    for case in range(12):
        voxels = random.integers(0, 9, (1, 2048, 2048), dtype=np.uint8)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "imagesTr" / f"c{case:02d}_0000.nii")
        nibabel.save(nibabel.Nifti1Image(voxels // 8, np.eye(4)), tmp_path / "labelsTr" / f"c{case:02d}.nii")
    dataset = load_dataset(tmp_path)
    tracemalloc.start()
    try:
        assert not check_dataset(dataset).is_refused
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 16e6 < peak_bytes < 80e6


@pytest.mark.parametrize("name", REAL)
def test_real_datasets_give_what_is_known_of_them(test_data: Path, name: str) -> None:
    if not (test_data / name).is_dir():
        pytest.skip(f"{name} is not among the real datasets")
    dataset = load_dataset(test_data / name)
    result = check_dataset(dataset)
    dims, orientation, findings = REAL[name]
    assert (result.spatial_dims, result.orientation) == (dims, orientation)
    assert {(f.code, f.level, f.case_id) for f in result.findings} == findings
    assert len(dataset.cases) == json.loads((test_data / name / "dataset.json").read_text())["numTraining"]
