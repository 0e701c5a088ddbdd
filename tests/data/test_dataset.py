"""Datasets to and from JSON, labels and groups from files, values and class indices."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from scanseg.data import Dataset, indices_to_values, label_map_to_indices, load_dataset
from scanseg.data.label_values import CHUNK, count_values
from scanseg.errors import DataError, UsageError
from scanseg.types import Label


@pytest.fixture
def nuclei(demo_data: Path, tmp_path: Path) -> Path:
    """The shipped 2D dataset, as a copy that may be changed."""
    return Path(shutil.copytree(demo_data / "nuclei", tmp_path / "nuclei"))


def describe(root: Path, **facts: object) -> None:
    path = root / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def recode(root: Path, values: dict[int, int]) -> None:
    """Replaces values in all training labels."""
    for path in (root / "labelsTr").iterdir():
        old = np.asarray(Picture.open(path))
        new = old.copy()
        for before, after in values.items():
            new[old == before] = after
        Picture.fromarray(new).save(path)


def test_the_shipped_datasets_load(demo_data: Path) -> None:
    hippocampus = load_dataset(demo_data / "hippocampus")
    assert hippocampus.layout == "nnunet"
    assert hippocampus.channel_names == ("MRI",)
    assert [(label.value, label.name) for label in hippocampus.labels] == [
        (0, "background"),
        (1, "Anterior"),
        (2, "Posterior"),
    ]
    assert (len(hippocampus.cases), len(hippocampus.test_cases), hippocampus.unlabelled) == (24, 6, ())
    assert hippocampus.modality == "MR T1w"
    assert hippocampus.licence.startswith("CC BY-SA 4.0")
    assert "Antonelli" in hippocampus.citation
    assert hippocampus.findings == ()
    first = hippocampus.cases[0]
    assert (first.case_id, first.group) == ("hippocampus_023", "subject_012")
    assert first.images == (demo_data / "hippocampus" / "imagesTr" / "hippocampus_023_0000.nii.gz",)
    assert all(case.label and case.label.is_file() for case in hippocampus.cases + hippocampus.test_cases)


@pytest.mark.parametrize("where", ["beside the data", "elsewhere"])
def test_json_gives_the_same_dataset_back(nuclei: Path, tmp_path: Path, where: str) -> None:
    dataset = load_dataset(nuclei)
    path = nuclei / "dataset.json" if where == "beside the data" else tmp_path / "run" / "dataset.json"
    dataset.to_json(path)
    assert Dataset.from_json(path) == dataset
    assert load_dataset(path) == dataset
    assert load_dataset(path.parent) == dataset
    dataset.to_json(path)
    assert Dataset.from_json(path) == dataset


def test_findings_of_loading_survive_json(nuclei: Path, tmp_path: Path) -> None:
    (nuclei / "labelsTr" / "nuc_16c3d5935b.png").unlink()
    dataset = load_dataset(nuclei)
    assert {finding.code for finding in dataset.findings} == {"E-DATA-UNLABELLED", "E-DATA-COUNT"}
    dataset.to_json(tmp_path / "dataset.json")
    assert Dataset.from_json(tmp_path / "dataset.json") == dataset


def test_data_and_their_json_can_move_together(nuclei: Path, tmp_path: Path) -> None:
    load_dataset(nuclei).to_json(nuclei / "dataset.json")
    moved = nuclei.rename(tmp_path / "moved")
    dataset = load_dataset(moved)
    assert dataset.root == moved
    assert all(case.images[0].is_file() for case in dataset.cases)


def test_nnunet_reads_our_json(nuclei: Path, tmp_path: Path) -> None:
    utilities = pytest.importorskip("nnunetv2.utilities.utils")
    dataset = load_dataset(nuclei)
    dataset.to_json(tmp_path / "raw" / "dataset.json")
    theirs = utilities.get_filenames_of_train_images_and_targets(str(tmp_path / "raw"))
    assert {case_id: entry["label"] for case_id, entry in theirs.items()} == {
        case.case_id: str(case.label) for case in dataset.cases
    }
    assert {case_id: entry["images"] for case_id, entry in theirs.items()} == {
        case.case_id: [str(path) for path in case.images] for case in dataset.cases
    }


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", "E-FILE-JSON"),
        ("[]", "E-DATASET-SCHEMA"),
        ('{"schema": "other"}', "E-DATASET-SCHEMA"),
        ('{"schema": "scanseg-dataset-1"}', "E-DATASET-SCHEMA"),
        ('{"schema": "scanseg-dataset-1", "dataset": 3, "root": "."}', "E-DATASET-SCHEMA"),
    ],
)
def test_damaged_json_is_refused(tmp_path: Path, content: str, code: str) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        Dataset.from_json(path)
    assert caught.value.code == code
    assert str(path) in caught.value.message


def test_two_cases_of_one_name_are_not_written(nuclei: Path, tmp_path: Path) -> None:
    dataset = load_dataset(nuclei)
    twice = Dataset(**{**vars(dataset), "cases": (*dataset.cases, dataset.cases[0])})
    with pytest.raises(DataError, match="stands for 2 cases") as caught:
        twice.to_json(tmp_path / "dataset.json")
    assert caught.value.code == "E-DATA-CASE-DUPLICATE"
    assert not (tmp_path / "dataset.json").exists()


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset at") as caught:
        load_dataset(tmp_path / "nowhere")
    assert caught.value.code == "E-DATASET-MISSING"


def test_a_folder_that_is_no_dataset_lists_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="imagesTr/CASE_0000") as caught:
        load_dataset(tmp_path)
    assert caught.value.code == "E-DATASET-LAYOUT"
    assert "--images FOLDER --labels FOLDER" in caught.value.hint


def test_a_dataset_one_folder_deeper_is_suggested(nuclei: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(nuclei.parent)
    assert str(nuclei) in caught.value.hint


def test_wrong_arguments_are_refused(nuclei: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean nnunet"):
        load_dataset(nuclei, layout="nnunett")
    with pytest.raises(UsageError, match="together"):
        load_dataset(nuclei, images="imagesTr")
    with pytest.raises(DataError, match="no folder pictures"):
        load_dataset(nuclei, images="pictures", labels="labelsTr")


def test_labels_without_names_are_collected_from_the_files(nuclei: Path) -> None:
    (nuclei / "dataset.json").unlink()
    recode(nuclei, {1: 255})
    dataset = load_dataset(nuclei)
    assert dataset.labels == (Label(0, "background"), Label(255, "label 255"))
    assert dataset.channel_names == ("image",)
    assert dataset.name == "nuclei"


def test_more_values_than_classes_are_an_error(nuclei: Path) -> None:
    (nuclei / "dataset.json").unlink()
    path = nuclei / "labelsTr" / "nuc_16c3d5935b.png"
    shape = np.asarray(Picture.open(path)).shape
    Picture.fromarray(np.arange(np.prod(shape)).reshape(shape).astype(np.uint16)).save(path)
    findings = [finding for finding in load_dataset(nuclei).findings if finding.code == "E-DATA-LABEL-COUNT"]
    assert [finding.level for finding in findings] == ["error"]
    Picture.fromarray((np.arange(np.prod(shape)).reshape(shape) % 100).astype(np.uint8)).save(path)
    findings = [finding for finding in load_dataset(nuclei).findings if finding.code == "E-DATA-LABEL-COUNT"]
    assert [finding.level for finding in findings] == ["warning"]
    assert "99 different values" in findings[0].text


@pytest.mark.parametrize(
    ("labels", "code", "words"),
    [
        ({"background": 0, "whole": [1, 2], "core": 2}, "E-DATASET-REGIONS", "'whole'"),
        ({"background": 0, "tumour": 1, "ignore": 2}, "E-DATASET-IGNORE-LABEL", "ignore label"),
        ({"0": "background", "1": "tumour", "2": "ignore"}, "E-DATASET-IGNORE-LABEL", "ignore label"),
        ({"tumour": 1}, "E-DATASET-LABELS", "background"),
        ({"background": 0, "tumour": -1}, "E-DATASET-LABELS", "-1"),
        ({"background": 0, "tumour": 1.5}, "E-DATASET-LABELS", "1.5"),
        ({"background": 0, "tumour": True}, "E-DATASET-LABELS", "True"),
        ({"background": 0, "tumour": None}, "E-DATASET-LABELS", "None"),
        ({"background": 0, "a": 1, "b": 1}, "E-DATASET-LABELS", "occur twice: 1"),
        ({"0": "background", "1": "a", "2": "a"}, "E-DATASET-LABELS", "occur twice: a"),
        (["background", "tumour"], "E-DATASET-LABELS", "map names to values"),
        ({}, "E-DATASET-LABELS", "background"),
    ],
)
def test_labels_that_make_no_sense_are_refused(nuclei: Path, labels: object, code: str, words: str) -> None:
    describe(nuclei, labels=labels)
    with pytest.raises(DataError, match=r"dataset\.json") as caught:
        load_dataset(nuclei)
    assert caught.value.code == code
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "core": 2, "rim": 1},
        {"background": "0", "rim": "1", "core": "2"},
        {"0": "background", "2": "core", "1": "rim"},
    ],
)
def test_labels_are_ordered_by_value_in_every_form(nuclei: Path, labels: dict) -> None:
    describe(nuclei, labels=labels)
    names = [(label.value, label.name) for label in load_dataset(nuclei).labels]
    assert names == [(0, "background"), (1, "rim"), (2, "core")]


@pytest.mark.parametrize("channels", [{"0": "a", "2": "b"}, {"x": "a"}, [1], 3, {"0": 1}])
def test_channels_that_make_no_sense_are_refused(nuclei: Path, channels: object) -> None:
    describe(nuclei, channel_names=channels)
    with pytest.raises(DataError) as caught:
        load_dataset(nuclei)
    assert caught.value.code == "E-DATASET-CHANNELS"


@pytest.mark.parametrize("column", ["group", "patient", "Subject", "PATIENT_ID"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_groups_come_from_the_table_beside_the_data(nuclei: Path, column: str, separator: str) -> None:
    rows = [("case", column), ("nuc_16c3d5935b", "p1"), ("nuc_4185b9369f", "p1"), ("nuc_483b89aa68", "")]
    (nuclei / "cases.csv").write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8-sig")
    groups = {case.case_id: case.group for case in load_dataset(nuclei).cases}
    assert groups["nuc_16c3d5935b"] == groups["nuc_4185b9369f"] == "p1"
    assert groups["nuc_483b89aa68"] is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"case,group\nx,\xff\xfe", "not UTF-8"),
        (b'case,group\n"x,y', "cannot be read as CSV"),
        (b"case,group\nx,y,z", "3 cells in line 2"),
        (b"case,case\nx,y", "distinct column names"),
        (b"", "distinct column names"),
    ],
)
def test_a_damaged_table_of_groups_is_an_error_among_the_findings(
    nuclei: Path, content: bytes, words: str
) -> None:
    (nuclei / "cases.csv").write_bytes(content)
    findings = load_dataset(nuclei).findings
    assert [(finding.code, finding.level) for finding in findings] == [("E-TABLE-FORMAT", "error")]
    assert words in findings[0].text


def test_a_table_without_groups_gives_none(nuclei: Path) -> None:
    (nuclei / "cases.csv").write_text("case,source\nnuc_16c3d5935b,somewhere\n")
    dataset = load_dataset(nuclei)
    assert {case.group for case in dataset.cases} == {None}
    assert dataset.findings == ()


a_value = st.integers(1, 2**31 - 1) | st.integers(1, 400)
labels_of_any_values = st.lists(a_value, unique=True, min_size=0, max_size=300).map(
    lambda values: tuple(Label(value, str(value)) for value in [0, *sorted(values)])
)


@settings(max_examples=60, deadline=None)
@given(labels_of_any_values, st.integers(0, 2**32 - 1))
def test_values_and_indices_are_inverse(labels: tuple[Label, ...], seed: int) -> None:
    indices = np.random.default_rng(seed).integers(0, len(labels), (3, 4, 5))
    values = indices_to_values(indices, labels)
    assert values.dtype.kind == "u"
    assert [labels[i].value for i in indices.flat] == values.ravel().tolist()
    back = label_map_to_indices(values, labels)
    assert back.dtype == (np.uint8 if len(labels) <= 256 else np.int16)
    np.testing.assert_array_equal(back, indices)
    np.testing.assert_array_equal(label_map_to_indices(values.astype(np.int64), labels), indices)


def test_the_type_of_values_is_the_smallest() -> None:
    labels = [Label(0, "a"), Label(255, "b")]
    assert indices_to_values(np.array([1]), labels).dtype == np.uint8
    assert indices_to_values(np.array([1]), [*labels, Label(256, "c")]).dtype == np.uint16


@pytest.mark.parametrize("core", [2, 2_000_000])
def test_unknown_values_and_indices_are_refused(core: int) -> None:
    labels = [Label(0, "background"), Label(core, "core")]
    with pytest.raises(DataError, match=f"no class: 1, {core + 1}; known are 0, {core}"):
        label_map_to_indices(np.array([0, 1, core, core + 1]), labels)
    with pytest.raises(DataError, match="-1"):
        label_map_to_indices(np.array([-1]), labels)
    for index in (-1, 2):
        with pytest.raises(UsageError, match="0 to 1"):
            indices_to_values(np.array([index]), labels)


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint64]
)
@pytest.mark.parametrize("largest", [300, 3_000_000])
def test_label_maps_of_every_type_are_understood(dtype: type, largest: int) -> None:
    labels = [Label(0, "background"), Label(1, "rim"), Label(largest, "core")]
    indices = label_map_to_indices(np.array([[0, 1], [1, 0]], dtype=dtype), labels)
    assert indices.tolist() == [[0, 1], [1, 0]]


def test_empty_arrays_pass() -> None:
    labels = [Label(0, "background"), Label(2, "core")]
    assert label_map_to_indices(np.zeros((0, 3), np.int32), labels).shape == (0, 3)
    assert indices_to_values(np.zeros((0, 3), np.int32), labels).shape == (0, 3)


@pytest.mark.parametrize("top", [3, 70_000, 2**31 - 1])
def test_counts_equal_numpys(top: int) -> None:
    label_map = np.random.default_rng(2).integers(0, top, (3, CHUNK // 2), dtype=np.int32, endpoint=True)
    step = max(1, top // 1000)
    label_map = label_map // step * step
    values, counts = np.unique(label_map, return_counts=True)
    assert count_values(label_map) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert count_values(np.zeros((0,), np.int32)) == {}
