"""The same shipped images in every layout: the same cases must be found."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from scanseg.data import LAYOUTS, Dataset, check_dataset, load_dataset
from scanseg.data.layouts.folders import IMAGE_WORDS, LABEL_WORDS, name_variants
from scanseg.data.layouts.pairing import split_channel
from scanseg.errors import DataError

CASES = ("nuc_16c3d5935b", "nuc_4185b9369f", "nuc_483b89aa68", "nuc_55ff2b0ec4", "nuc_6bd18a218d")


@pytest.fixture
def source(demo_data: Path) -> Path:
    return demo_data / "nuclei"


def copy_files(source: Path, images: Path, labels: Path, image_name: str, label_name: str) -> None:
    """Copies five images and labels under names made from `{}`, the case."""
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        shutil.copy(source / "imagesTr" / f"{case}_0000.png", images / image_name.format(case))
        shutil.copy(source / "labelsTr" / f"{case}.png", labels / label_name.format(case))


def describe(root: Path, **facts: object) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(facts))


def voxels_of(dataset: Dataset) -> dict[str, tuple[bytes, bytes]]:
    return {
        case.case_id: (case.images[0].read_bytes(), case.label.read_bytes() if case.label else b"")
        for case in dataset.cases
    }


def expected(source: Path) -> dict[str, tuple[bytes, bytes]]:
    return {
        case: (
            (source / "imagesTr" / f"{case}_0000.png").read_bytes(),
            (source / "labelsTr" / f"{case}.png").read_bytes(),
        )
        for case in CASES
    }


def codes(dataset: Dataset) -> list[tuple[str, str]]:
    return sorted((finding.code, finding.case_id) for finding in dataset.findings)


def test_every_layout_is_described() -> None:
    assert set(LAYOUTS) == {"nnunet", "msd", "folders", "csv"}
    assert all(layout.summary for layout in LAYOUTS.values())


# nnU-Net


def test_nnunet_raw(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "imagesTr", tmp_path / "labelsTr", "{}_0000.png", "{}.png")
    describe(
        tmp_path, channel_names={"0": "DAPI"}, labels={"background": 0, "nucleus": 1}, numTraining=5, name="N"
    )
    dataset = load_dataset(tmp_path)
    assert (dataset.layout, dataset.name, dataset.channel_names) == ("nnunet", "N", ("DAPI",))
    assert voxels_of(dataset) == expected(source)
    assert dataset.findings == ()


def test_nnunet_images_and_labels_may_differ_in_format(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "imagesTr", tmp_path / "labelsTr", "{}_0000.png", "{}.png")
    for path in (tmp_path / "labelsTr").iterdir():
        Picture.open(path).save(path.with_suffix(".tif"))
        path.unlink()
    dataset = load_dataset(tmp_path)
    assert [case.label.suffix for case in dataset.cases if case.label] == [".tif"] * 5
    assert not check_dataset(dataset).is_refused


def test_nnunet_test_images_keep_their_labels(source: Path) -> None:
    dataset = load_dataset(source)
    assert len(dataset.test_cases) == 6
    assert all(case.label and case.label.parent.name == "labelsTs" for case in dataset.test_cases)
    assert not {case.case_id for case in dataset.test_cases} & {case.case_id for case in dataset.cases}


def test_nnunet_several_channels(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "imagesTr", tmp_path / "labelsTr", "{}_0000.png", "{}.png")
    copy_files(source, tmp_path / "imagesTr", tmp_path / "labelsTr", "{}_0001.png", "{}.png")
    case = load_dataset(tmp_path).cases[0]
    assert [path.name for path in case.images] == ["nuc_16c3d5935b_0000.png", "nuc_16c3d5935b_0001.png"]


def test_nnunet_without_channel_numbers_is_read_with_a_warning(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "imagesTr", tmp_path / "labelsTr", "{}.png", "{}.png")
    dataset = load_dataset(tmp_path)
    assert voxels_of(dataset) == expected(source)
    assert codes(dataset) == [("E-DATA-CHANNEL-NUMBER", "")]
    assert "5 files in imagesTr" in dataset.findings[0].text


def test_nnunet_version_1_lists_names_without_numbers(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "imagesTr", tmp_path / "labelsTr", "{}_0000.png", "{}.png")
    pairs = [{"image": f"./imagesTr/{case}.png", "label": f"./labelsTr/{case}.png"} for case in CASES]
    describe(
        tmp_path, modality={"0": "DAPI"}, labels={"0": "background", "1": "nucleus"}, training=pairs, test=[]
    )
    dataset = load_dataset(tmp_path)
    assert (dataset.layout, dataset.channel_names, dataset.modality) == ("nnunet", ("DAPI",), "")
    assert voxels_of(dataset) == expected(source)
    assert dataset.findings == ()


def test_nnunet_list_of_explicit_files(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_files(source, tmp_path / "data" / "a", tmp_path / "data" / "b", "{}.png", "{}.png")
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    ways = ("../data/a/{}.png", str(tmp_path / "data" / "a") + "/{}.png", "$DATA_ROOT/a/{}.png")
    entries = {
        case: {"images": [ways[n % 3].format(case)], "label": f"../data/b/{case}.png"}
        for n, case in enumerate(CASES)
    }
    describe(tmp_path / "raw", channel_names={"0": "DAPI"}, labels={"background": 0, "x": 1}, dataset=entries)
    assert voxels_of(load_dataset(tmp_path / "raw")) == expected(source)


@pytest.mark.parametrize(
    "listed",
    [
        [],
        {"a": 1},
        {"a": {"label": "x.png"}},
        {"a": {"images": "x.png"}},
        {"a": {"images": ["x.png"], "label": 3}},
    ],
)
def test_nnunet_damaged_list_is_refused(tmp_path: Path, listed: object) -> None:
    describe(tmp_path, dataset=listed)
    with pytest.raises(DataError) as caught:
        load_dataset(tmp_path)
    assert caught.value.code == "E-DATASET-LIST"


def test_listed_files_that_are_missing_are_findings_of_the_check(source: Path, tmp_path: Path) -> None:
    describe(
        tmp_path,
        channel_names={"0": "DAPI"},
        labels={"background": 0, "nucleus": 1},
        dataset={"a": {"images": ["no.png"], "label": "none.png"}, "b": {"images": ["nix.png"]}},
    )
    dataset = load_dataset(tmp_path)
    assert [case.case_id for case in dataset.unlabelled] == ["b"]
    found = [(f.code, f.level, f.case_id) for f in check_dataset(dataset).findings]
    assert found.count(("E-FILE-MISSING", "error", "a")) == 2
    assert ("E-FILE-MISSING", "warning", "b") in found


def test_wrong_test_images_are_warnings(source: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    first, second, *_ = sorted((copy / "imagesTs").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:200])
    result = check_dataset(load_dataset(copy))
    assert not result.is_refused
    found = {(f.code, f.case_id) for f in result.findings}
    assert ("E-DATA-NO-IMAGE", split_channel(first.stem)[0]) in found
    assert any(
        f.text.startswith("test image: ") and f.case_id == split_channel(second.stem)[0]
        for f in result.findings
    )


# MSD


@pytest.fixture
def msd(source: Path, tmp_path: Path) -> Path:
    copy_files(source, tmp_path / "imagesTr", tmp_path / "labelsTr", "{}.png", "{}.png")
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "imagesTr" / f"{CASES[4]}.png").rename(tmp_path / "imagesTs" / f"{CASES[4]}.png")
    (tmp_path / "labelsTr" / f"{CASES[4]}.png").unlink()
    describe(
        tmp_path,
        name="Task99",
        reference="Somebody",
        licence="CC0",
        modality={"0": "DAPI"},
        labels={"0": "background", "1": "nucleus"},
        training=[{"image": f"./imagesTr/{c}.png", "label": f"./labelsTr/{c}.png"} for c in CASES[:4]],
        test=[f"./imagesTs/{CASES[4]}.png"],
    )
    return tmp_path


def test_msd(source: Path, msd: Path) -> None:
    dataset = load_dataset(msd)
    assert (dataset.layout, dataset.name, dataset.citation, dataset.licence) == (
        "msd",
        "Task99",
        "Somebody",
        "CC0",
    )
    assert dataset.channel_names == ("DAPI",)
    assert voxels_of(dataset) == {case: files for case, files in expected(source).items() if case != CASES[4]}
    assert [case.case_id for case in dataset.test_cases] == [CASES[4]]
    assert dataset.findings == ()


def test_msd_names_files_that_are_not_listed(msd: Path) -> None:
    shutil.copy(msd / "imagesTr" / f"{CASES[0]}.png", msd / "imagesTr" / "more.png")
    dataset = load_dataset(msd)
    assert codes(dataset) == [("E-DATA-UNLISTED", "")]
    assert "1 file in imagesTr" in dataset.findings[0].text
    assert "more.png" in dataset.findings[0].text


def test_msd_case_with_a_missing_file_is_found_by_the_check(msd: Path) -> None:
    (msd / "imagesTr" / f"{CASES[0]}.png").unlink()
    result = check_dataset(load_dataset(msd))
    assert ("E-FILE-MISSING", CASES[0]) in {(f.code, f.case_id) for f in result.findings}
    assert result.is_refused


def test_msd_image_with_several_channels_in_one_file(demo_data: Path, tmp_path: Path) -> None:
    hippocampus = demo_data / "hippocampus"
    (tmp_path / "imagesTr").mkdir()
    image = nibabel.load(hippocampus / "imagesTr" / "hippocampus_023_0000.nii.gz")
    array = np.stack([np.asarray(image.dataobj)] * 2, axis=-1)
    nibabel.save(nibabel.Nifti1Image(array, image.affine), tmp_path / "imagesTr" / "a.nii.gz")
    shutil.copy(hippocampus / "labelsTr" / "hippocampus_023.nii.gz", tmp_path / "a.nii.gz")
    describe(
        tmp_path,
        modality={"0": "T1", "1": "T2"},
        labels={"0": "background", "1": "Anterior", "2": "Posterior"},
        training=[{"image": "imagesTr/a.nii.gz", "label": "a.nii.gz"}],
    )
    result = check_dataset(load_dataset(tmp_path))
    assert not result.is_refused
    assert result.cases[0].channels == 2


@pytest.mark.parametrize("test", [{"a": 1}, [3], [{"label": "x"}]])
def test_msd_damaged_list_is_refused(msd: Path, test: object) -> None:
    document = json.loads((msd / "dataset.json").read_text())
    describe(msd, **{**document, "test": test})
    with pytest.raises(DataError, match="'test'") as caught:
        load_dataset(msd)
    assert caught.value.code == "E-DATASET-LIST"


def test_msd_needs_its_list(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(tmp_path, layout="msd")
    assert caught.value.code == "E-FILE-MISSING"


# Two folders


@pytest.mark.parametrize(
    ("image_name", "label_name"),
    [
        ("{}.png", "{}.png"),
        ("{}_0000.png", "{}.png"),
        ("{}_0000.png", "{}_seg.png"),
        ("{}.png", "{}_mask.png"),
        ("{}.png", "{}_Label.png"),
        ("{}.png", "{}-segmentation.png"),
        ("{}_img.png", "{}_gt.png"),
        ("image_{}.png", "mask_{}.png"),
        ("{}_0000.png", "{}_0000.png"),
    ],
)
def test_two_folders_with_names_that_agree_more_or_less(
    source: Path, tmp_path: Path, image_name: str, label_name: str
) -> None:
    copy_files(source, tmp_path / "images", tmp_path / "masks", image_name, label_name)
    dataset = load_dataset(tmp_path)
    assert dataset.layout == "folders"
    assert dataset.findings == ()
    suffix = "_0000" if label_name == "{}_0000.png" else ""
    assert voxels_of(dataset) == {case + suffix: files for case, files in expected(source).items()}


def test_two_folders_given_by_name(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "a" / "raw", tmp_path / "b", "{}.png", "{}_seg.png")
    for images, labels in (("a/raw", "b"), (tmp_path / "a" / "raw", tmp_path / "b")):
        dataset = load_dataset(tmp_path, images=images, labels=labels)
        assert dataset.layout == "folders"
        assert voxels_of(dataset) == expected(source)


def test_two_folders_take_names_and_groups_from_files_beside_them(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "images", tmp_path / "labels", "{}.png", "{}.png")
    describe(tmp_path, labels={"background": 0, "nucleus": 1}, channel_names={"0": "DAPI"})
    (tmp_path / "cases.csv").write_text("case,patient\n" + "\n".join(f"{case},p" for case in CASES))
    dataset = load_dataset(tmp_path)
    assert [label.name for label in dataset.labels] == ["background", "nucleus"]
    assert dataset.channel_names == ("DAPI",)
    assert {case.group for case in dataset.cases} == {"p"}


def test_numbered_names_stay_cases_where_the_labels_have_them_too(source: Path, tmp_path: Path) -> None:
    for folder, kind in (("images", "imagesTr/{}_0000.png"), ("labels", "labelsTr/{}.png")):
        (tmp_path / folder).mkdir()
        for number, case in enumerate(CASES):
            shutil.copy(source / kind.format(case), tmp_path / folder / f"scan_{number:04d}.png")
    dataset = load_dataset(tmp_path)
    assert [case.case_id for case in dataset.cases] == [f"scan_{number:04d}" for number in range(5)]
    assert all(len(case.images) == 1 for case in dataset.cases)
    assert dataset.findings == ()


def test_numbered_names_are_channels_where_the_labels_lack_them(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "images", tmp_path / "labels", "{}_0000.png", "{}_seg.png")
    copy_files(source, tmp_path / "images", tmp_path / "labels", "{}_0001.png", "{}_seg.png")
    dataset = load_dataset(tmp_path)
    assert [case.case_id for case in dataset.cases] == sorted(CASES)
    assert all([path.stem[-5:] for path in case.images] == ["_0000", "_0001"] for case in dataset.cases)
    assert dataset.channel_names == ("channel 0", "channel 1")


def test_images_and_labels_without_a_partner_are_reported(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "images", tmp_path / "labels", "{}_0000.png", "{}.png")
    (tmp_path / "images" / f"{CASES[0]}_0000.png").unlink()
    (tmp_path / "labels" / f"{CASES[1]}.png").unlink()
    dataset = load_dataset(tmp_path)
    assert codes(dataset) == [("E-DATA-NO-IMAGE", CASES[0]), ("E-DATA-UNLABELLED", CASES[1])]
    assert [case.case_id for case in dataset.unlabelled] == [CASES[1]]
    assert len(dataset.cases) == 3


def test_two_labels_of_one_image_are_an_error(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "images", tmp_path / "labels", "{}.png", "{}_seg.png")
    copy_files(source, tmp_path / "images", tmp_path / "labels", "{}.png", "{}_mask.png")
    assert codes(load_dataset(tmp_path)) == [("E-DATA-TWO-FILES", case) for case in sorted(CASES)]


def test_accents_stored_in_two_ways_still_agree(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "images", tmp_path / "labels", "\u00e9{}.png", "e\u0301{}.png")
    dataset = load_dataset(tmp_path)
    assert len(dataset.cases) == 5
    assert dataset.findings == ()


def test_hidden_files_and_tables_are_passed_over_other_files_named(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "images", tmp_path / "labels", "{}.png", "{}.png")
    for name in (".DS_Store", "._x.png", "notes.txt", "Thumbs.db", "x.json"):
        (tmp_path / "images" / name).write_bytes(b"x")
    assert load_dataset(tmp_path).findings == ()
    (tmp_path / "images" / "series").mkdir()
    (tmp_path / "images" / "x.mgz").write_bytes(b"x")
    (finding,) = load_dataset(tmp_path).findings
    assert (finding.code, finding.level) == ("E-DATA-IGNORED", "warning")
    assert ".mgz (1), folders (1)" in finding.text


def test_missing_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no folder of labels"):
        load_dataset(tmp_path, layout="folders")


def test_name_variants_keep_the_name_itself_first() -> None:
    assert name_variants("seg", LABEL_WORDS) == ["seg"]
    assert name_variants("a_mask_seg", LABEL_WORDS) == ["a_mask_seg", "a_mask"]
    assert name_variants("img-7", IMAGE_WORDS) == ["img-7", "7"]
    assert name_variants("imagenet", IMAGE_WORDS) == ["imagenet"]


# CSV


def write_table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_csv_with_relative_and_absolute_paths(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path / "x", tmp_path / "x", "{}_i.png", "{}_l.png")
    rows = [f"{c},x/{c}_i.png,{tmp_path}/x/{c}_l.png,p{n // 2}" for n, c in enumerate(CASES)]
    path = write_table(tmp_path / "list.csv", "Case,Image,Label,Group", *rows)
    dataset = load_dataset(path)
    assert (dataset.layout, dataset.name) == ("csv", "list")
    assert voxels_of(dataset) == expected(source)
    assert {case.case_id: case.group for case in dataset.cases} == {
        c: f"p{n // 2}" for n, c in enumerate(CASES)
    }
    assert load_dataset(tmp_path).cases == dataset.cases


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("case,images,label", "{c},{c}_i.png;{c}_j.png,{c}_l.png"),
        ("case,image_0,image_1,mask", "{c},{c}_i.png,{c}_j.png,{c}_l.png"),
        ("mask,image_1,case,image_0", "{c}_l.png,{c}_j.png,{c},{c}_i.png"),
        ("case;image_0;image_1;seg", "{c};{c}_i.png;{c}_j.png;{c}_l.png"),
        ("case\timages\tlabel", '{c}\t"{c}_i.png; {c}_j.png"\t{c}_l.png'),
    ],
)
def test_csv_with_several_channels(source: Path, tmp_path: Path, head: str, row: str) -> None:
    copy_files(source, tmp_path, tmp_path, "{}_i.png", "{}_l.png")
    copy_files(source, tmp_path, tmp_path, "{}_j.png", "{}_l.png")
    dataset = load_dataset(write_table(tmp_path / "list.csv", head, *(row.format(c=c) for c in CASES)))
    assert [case.case_id for case in dataset.cases] == sorted(CASES)
    assert all([path.stem[-2:] for path in case.images] == ["_i", "_j"] for case in dataset.cases)
    assert dataset.channel_names == ("channel 0", "channel 1")
    assert not check_dataset(dataset).is_refused


def test_csv_parts_unlabelled_and_names_from_files(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path, tmp_path, "{}.png", "{}_l.png")
    path = write_table(
        tmp_path / "list.csv",
        "image,label,part",
        f"{CASES[0]}.png,{CASES[0]}_l.png,training",
        f"{CASES[1]}.png,{CASES[1]}_l.png,",
        f"{CASES[2]}.png,,train",
        f"{CASES[3]}.png,,test",
        f"{CASES[4]}.png,{CASES[4]}_l.png,Test",
    )
    dataset = load_dataset(path)
    assert [case.case_id for case in dataset.cases] == list(CASES[:2])
    assert [case.case_id for case in dataset.unlabelled] == [CASES[2]]
    assert [case.case_id for case in dataset.test_cases] == list(CASES[3:])
    assert codes(dataset) == [("E-DATA-UNLABELLED", CASES[2])]


def test_csv_faults_of_rows_are_all_listed(source: Path, tmp_path: Path) -> None:
    copy_files(source, tmp_path, tmp_path, "{}.png", "{}_l.png")
    good = [f"{c},{c}.png,{c}.png,{c}_l.png,training" for c in CASES]
    path = write_table(
        tmp_path / "list.csv",
        "case,image_0,image_1,label,part",
        *good,
        f"none,,,{CASES[0]}_l.png,training",
        f"odd,{CASES[0]}.png,{CASES[0]}.png,{CASES[0]}_l.png,elsewhere",
        f"half,,{CASES[0]}.png,{CASES[0]}_l.png,training",
        good[0],
        f"../../up,{CASES[1]}.png,{CASES[2]}.png,{CASES[3]}_l.png,training",
        f"dicom,{CASES[1]}.dcm,{CASES[2]}.png,{CASES[3]}_l.png,training",
    )
    result = check_dataset(load_dataset(path))
    found = {(f.code, f.case_id) for f in result.findings if f.level == "error"}
    assert found >= {
        ("E-TABLE-ROW", ""),
        ("E-DATA-CHANNEL-MISSING", "half"),
        ("E-DATA-CASE-DUPLICATE", CASES[0]),
        ("E-DATA-CASE-NAME", "../../up"),
        ("E-IMAGE-SUFFIX", "dicom"),
    }
    rows = [f.text for f in result.findings if f.code == "E-TABLE-ROW"]
    assert rows == [
        "line 7 of the table names no image.",
        "line 8 of the table has the part 'elsewhere'; known are training and test.",
    ]


@pytest.mark.parametrize(("head", "missing"), [("case,image", "label"), ("case,label", "image")])
def test_csv_without_a_column_is_refused(tmp_path: Path, head: str, missing: str) -> None:
    with pytest.raises(DataError, match=f"no column '{missing}'") as caught:
        load_dataset(write_table(tmp_path / "list.csv", head, "a,b"))
    assert caught.value.code == "E-TABLE-COLUMNS"


def test_csv_is_asked_for_where_a_folder_holds_two(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write_table(tmp_path / name, "case,image,label", "a,b,c")
    with pytest.raises(DataError, match="holds 2 CSV files"):
        load_dataset(tmp_path, layout="csv")
