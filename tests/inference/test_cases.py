"""Which files make which cases."""

from pathlib import Path

import pytest

from scanseg.errors import UsageError
from scanseg.inference.cases import find_cases


def make(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_nnunet_names_lose_their_channel(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "b_0000.nii.gz", "a_0000.nii.gz", "notes.txt", ".hidden_0000.nii.gz")
    cases = find_cases([folder], channels=1)
    assert [(case.case_id, case.mask_name) for case in cases] == [("a", "a.nii.gz"), ("b", "b.nii.gz")]


def test_channels_are_grouped_in_order(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "x_0001.nii.gz", "x_0000.nii.gz", "y_0000.nii.gz", "y_0001.nii.gz")
    cases = find_cases([folder], channels=2)
    assert [[path.name for path in case.images] for case in cases] == [
        ["x_0000.nii.gz", "x_0001.nii.gz"],
        ["y_0000.nii.gz", "y_0001.nii.gz"],
    ]


def test_a_number_that_is_no_channel_stays_in_the_name(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "scan_2024.png", "scan_2025.png")
    assert [case.case_id for case in find_cases([folder], channels=1)] == ["scan_2024", "scan_2025"]


@pytest.mark.parametrize(
    ("image", "suffix", "mask"),
    [
        ("a.nii", None, "a.nii"),
        ("a.jpg", None, "a.png"),
        ("a.tiff", None, "a.tiff"),
        ("a.nrrd", ".nii.gz", "a.nii.gz"),
    ],
)
def test_mask_format(tmp_path: Path, image: str, suffix: str | None, mask: str) -> None:
    folder = make(tmp_path / "in", image)
    assert find_cases([folder / image], channels=1, suffix=suffix)[0].mask_name == mask


def test_shared_names_are_refused_even_in_another_case(tmp_path: Path) -> None:
    first, second = make(tmp_path / "one", "Scan.nii.gz"), make(tmp_path / "two", "scan.nrrd")
    with pytest.raises(UsageError, match="Two images would be written"):
        find_cases([first, second], channels=1)


@pytest.mark.parametrize("name", ["absent.nii.gz", "notes.txt", "empty"])
def test_wrong_paths_are_named(tmp_path: Path, name: str) -> None:
    make(tmp_path, "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=name.split(".")[0]):
        find_cases([tmp_path / name], channels=1)


def dicom(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(bytes(128) + b"DICM")
    return folder


def test_dicom_folders_and_archives_are_cases(tmp_path: Path) -> None:
    dicom(tmp_path / "in" / "b_0000" / "study" / "series", "IM1", "IM2")
    make(tmp_path / "in", "a.zip", "notes.txt")
    make(tmp_path / "in" / "documents", "letter")
    cases = find_cases([tmp_path / "in"], channels=1)
    assert [(case.case_id, case.mask_name) for case in cases] == [("a", "a.nii.gz"), ("b", "b.nii.gz")]


def test_a_folder_of_dicom_files_is_one_case(tmp_path: Path) -> None:
    folder = dicom(tmp_path / "x", "1", "2.dcm")
    make(folder, "picture.png", "DICOMDIR")
    (case,) = find_cases([folder], channels=1, suffix=".dcm")
    assert (case.images, case.mask_name) == ((folder,), "x.dcm")


def test_series_are_channels_by_their_folders_names(tmp_path: Path) -> None:
    for name in ("x_0000", "x_0001"):
        dicom(tmp_path / "in" / name, "1")
    (case,) = find_cases([tmp_path / "in"], channels=2)
    assert [path.name for path in case.images] == ["x_0000", "x_0001"]


def test_images_come_before_folders(tmp_path: Path) -> None:
    dicom(make(tmp_path / "in", "a.nii.gz") / "b", "1")
    assert [case.case_id for case in find_cases([tmp_path / "in"], channels=1)] == ["a"]
