import pytest

from scanseg.errors import DataError
from scanseg.evaluation.pairing import match_files


def folder_of(path, names):
    path.mkdir()
    for name in names:
        (path / name).touch()
    return path


def test_matches_by_name_whatever_the_format(tmp_path):
    predictions = folder_of(tmp_path / "p", ["b.png", "a.v2.nii.gz", "d.nii", "cases.csv", ".tmp-x.png"])
    references = folder_of(tmp_path / "r", ["a.v2.nrrd", "b.tif", "c.nii.gz", "dataset.json"])
    matching = match_files(predictions, references)
    assert [(p.case_id, p.prediction and p.prediction.name) for p in matching.pairs] == [
        ("a.v2", "a.v2.nii.gz"),
        ("b", "b.png"),
        ("c", None),
    ]
    assert matching.extra_predictions == ("d",)
    assert matching.findings == ()


def test_a_picture_beside_a_mask_is_no_ambiguity(tmp_path):
    predictions = folder_of(tmp_path / "p", ["a.png", "a.nii.gz"])
    references = folder_of(tmp_path / "r", ["a.nii.gz"])
    matching = match_files(predictions, references)
    assert matching.pairs[0].prediction.name == "a.nii.gz"
    assert matching.findings == ()


def test_a_segmentation_is_a_file_of_its_case(tmp_path):
    predictions = folder_of(tmp_path / "p", ["a.dcm", "b.v2.DCM", "c.dcm", "c.nii.gz"])
    references = folder_of(tmp_path / "r", ["a.nii.gz", "b.v2.dcm", "c.dcm"])
    matching = match_files(predictions, references)
    assert [(p.case_id, p.prediction and p.prediction.name) for p in matching.pairs] == [
        ("a", "a.dcm"),
        ("b.v2", "b.v2.DCM"),
        ("c", "c.dcm"),
    ]
    assert matching.findings == ()
    (pair,) = match_files(predictions / "a.dcm", references / "c.dcm").pairs
    assert (pair.case_id, pair.prediction.name) == ("c", "a.dcm")


def test_two_files_of_one_case_are_errors(tmp_path):
    predictions = folder_of(tmp_path / "p", ["a.nii", "a.nrrd", "b.nii"])
    references = folder_of(tmp_path / "r", ["a.png", "b.nii.gz", "b.tif"])
    findings = match_files(predictions, references).findings
    assert [(f.code, f.level, f.case_id) for f in findings] == [
        ("E-DATA-TWO-FILES", "error", "a"),
        ("E-DATA-TWO-FILES", "error", "b"),
    ]


def test_two_files_belong_together_whatever_their_names(tmp_path):
    folder = folder_of(tmp_path / "p", ["mine.nii.gz", "truth.nii"])
    (pair,) = match_files(folder / "mine.nii.gz", folder / "truth.nii").pairs
    assert (pair.case_id, pair.prediction.name) == ("truth", "mine.nii.gz")


def test_refuses_folders_that_have_nothing_in_common(tmp_path):
    predictions = folder_of(tmp_path / "p", ["x.nii.gz"])
    references = folder_of(tmp_path / "r", ["y.nii.gz"])
    with pytest.raises(DataError, match=r"predictions are x; references are y") as caught:
        match_files(predictions, references)
    assert caught.value.code == "E-EVALUATE-NOMATCH"
    with pytest.raises(DataError, match="no file or folder"):
        match_files(tmp_path / "absent", references)
    with pytest.raises(DataError, match="holds no image"):
        match_files(folder_of(tmp_path / "e", ["notes.txt"]), references)
