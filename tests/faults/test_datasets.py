"""Faulty datasets: each fault, alone and among others, is refused or warned about exactly as written here."""

import csv
import gzip
import json
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from scanseg.data import CheckResult, Dataset, check_dataset, load_dataset
from scanseg.errors import DatasetError, Error

pytestmark = pytest.mark.faults

# Seven volumes of five subjects: each of the first two pairs is one subject.
CASES = tuple(f"hippocampus_{number}" for number in ("023", "024", "149", "150", "169", "181", "233"))
FIRST, SECOND, THIRD, FOURTH = CASES[:4]


@pytest.fixture
def dataset(demo_data: Path, tmp_path: Path) -> Path:
    """A sound dataset in nnU-Net's layout."""
    source, copy = demo_data / "hippocampus", tmp_path / "data"
    for folder in ("imagesTr", "labelsTr"):
        (copy / folder).mkdir(parents=True)
    for case in CASES:
        shutil.copy(source / "imagesTr" / f"{case}_0000.nii.gz", copy / "imagesTr")
        shutil.copy(source / "labelsTr" / f"{case}.nii.gz", copy / "labelsTr")
    rows = (source / "cases.csv").read_text().splitlines()
    (copy / "cases.csv").write_text("\n".join(row for row in rows if row.split(",")[0] in ("case", *CASES)))
    description = json.loads((source / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps({**description, "numTraining": len(CASES)}))
    return copy


def image_of(root: Path, case: str, channel: int = 0) -> Path:
    return root / "imagesTr" / f"{case}_{channel:04d}.nii.gz"


def label_of(root: Path, case: str) -> Path:
    return root / "labelsTr" / f"{case}.nii.gz"


def edit_array(
    path: Path, change: Callable[[np.ndarray], np.ndarray | None], dtype: type = np.float32
) -> None:
    image = nibabel.load(path)
    array = np.asarray(image.dataobj).astype(dtype)
    changed = change(array)
    array = array if changed is None else changed
    header = image.header.copy()
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    nibabel.save(nibabel.Nifti1Image(array, image.affine, header), path)


def edit_affine(path: Path, change: Callable[[np.ndarray], None]) -> None:
    image = nibabel.load(path)
    affine = image.affine.copy()
    change(affine)
    copy = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    copy.set_qform(affine, 1)
    copy.set_sform(affine, 1)
    nibabel.save(copy, path)


def edit_bytes(path: Path, change: Callable[[bytearray], object]) -> None:
    """Changes the bytes inside the gzip member."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    change(content)
    path.write_bytes(gzip.compress(bytes(content)))


def edit_file(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def set_value(value: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[3, 4, 5] = value

    return change


def edit_groups(root: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
    with open(root / "cases.csv", newline="") as stream:
        rows = change(list(csv.reader(stream)))
    with open(root / "cases.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def rename_case(root: Path, old: str, new: str) -> None:
    image_of(root, old).rename(image_of(root, new))
    label_of(root, old).rename(label_of(root, new))
    edit_groups(root, lambda rows: [[new if cell == old else cell for cell in row] for row in rows])


def copy_case(root: Path, old: str, new: str, group: str | None = None) -> None:
    shutil.copy(image_of(root, old), image_of(root, new))
    shutil.copy(label_of(root, old), label_of(root, new))
    edit_groups(
        root, lambda rows: [*rows, *([new, group or row[1], *row[2:]] for row in rows if row[0] == old)]
    )
    describe(root, numTraining=len(CASES) + 1)


def describe(root: Path, **facts: object) -> None:
    path = root / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def flip_middle_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def plain_beside_packed(path: Path) -> None:
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))


def two_channels(root: Path) -> None:
    describe(root, channel_names={"0": "T1", "1": "FLAIR"})
    for case in CASES:
        shutil.copy(image_of(root, case), image_of(root, case, 1))
        edit_array(image_of(root, case, 1), lambda array: array * 2)


def missing_channel(root: Path) -> None:
    two_channels(root)
    image_of(root, SECOND, 1).unlink()


def missing_first_channel(root: Path) -> None:
    two_channels(root)
    image_of(root, SECOND, 0).unlink()


def extra_channel(root: Path) -> None:
    shutil.copy(image_of(root, THIRD), image_of(root, THIRD, 1))


def channel_elsewhere(root: Path) -> None:
    two_channels(root)
    edit_affine(image_of(root, THIRD, 1), lambda affine: affine.__setitem__((0, 3), affine[0, 3] + 5))


def flat_case(root: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (40, 50), dtype=np.uint8)
    Picture.fromarray(pixels).save(root / "imagesTr" / "flat_0000.png")
    Picture.fromarray((pixels > 200).astype(np.uint8)).save(root / "labelsTr" / "flat.png")
    edit_groups(root, lambda rows: [*rows, ["flat", "flat", "training", ""]])
    describe(root, numTraining=len(CASES) + 1)


def turned_case(root: Path) -> None:
    """The same scan stored from right to left: geometry and voxels agree."""
    for path in (image_of(root, FOURTH), label_of(root, FOURTH)):
        image = nibabel.load(path)
        turned = image.as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
        nibabel.save(turned, path)


def coarse_case(root: Path) -> None:
    for path in (image_of(root, FOURTH), label_of(root, FOURTH)):
        edit_affine(path, lambda affine: affine.__setitem__((slice(3), 2), affine[:3, 2] * 3))


def no_labels_at_all(root: Path) -> None:
    for case in CASES:
        edit_array(label_of(root, case), lambda array: np.zeros_like(array), np.uint8)


def nothing_there(root: Path) -> None:
    for path in [*(root / "imagesTr").iterdir(), *(root / "labelsTr").iterdir()]:
        path.unlink()
    (root / "cases.csv").unlink()
    describe(root, numTraining=0)


def shrink_header_shape(content: bytearray) -> None:
    struct.pack_into("<4h", content, 40, 3, 30000, 30000, 30000)


def set_slope(content: bytearray) -> None:
    struct.pack_into("<2f", content, 112, 0.5, 0.0)


def drop_codes(content: bytearray) -> None:
    struct.pack_into("<2h", content, 252, 0, 0)


def first_groups_only(root: Path) -> None:
    edit_groups(root, lambda rows: rows[:3])


def two_cases(root: Path) -> None:
    for case in CASES[2:]:
        image_of(root, case).unlink()
        label_of(root, case).unlink()
    first_groups_only(root)
    describe(root, numTraining=2)


def without_label(root: Path) -> None:
    label_of(root, FOURTH).unlink()
    describe(root, numTraining=len(CASES) - 1)


def add_class(root: Path) -> None:
    describe(root, labels={"background": 0, "Anterior": 1, "Posterior": 2, "tail": 3})


@dataclass(frozen=True)
class Fault:
    """What is done to a sound dataset, and the findings that must come of it and no others."""

    damage: Callable[[Path], object]
    expected: set[tuple[str, str, str]]
    words: tuple[str, ...] = ()


def error(code: str, case: str = "") -> set[tuple[str, str, str]]:
    return {(code, "error", case)}


def warning(code: str, case: str = "") -> set[tuple[str, str, str]]:
    return {(code, "warning", case)}


def info(code: str, case: str = "") -> set[tuple[str, str, str]]:
    return {(code, "info", case)}


FAULTS: dict[str, Fault] = {
    # files
    "zero bytes": Fault(lambda r: image_of(r, FIRST).write_bytes(b""), error("E-NIFTI-MAGIC", FIRST)),
    "text named nii.gz": Fault(
        lambda r: image_of(r, FIRST).write_text("<html>not found</html>"), error("E-NIFTI-MAGIC", FIRST)
    ),
    "image cut": Fault(
        lambda r: edit_file(image_of(r, FIRST), lambda b: b[: len(b) // 2]), error("E-FILE-TRUNCATED", FIRST)
    ),
    "label cut": Fault(
        lambda r: edit_file(label_of(r, FIRST), lambda b: b[: len(b) // 2]), error("E-FILE-TRUNCATED", FIRST)
    ),
    "flipped byte": Fault(
        lambda r: edit_file(image_of(r, FIRST), flip_middle_byte), error("E-FILE-DAMAGED", FIRST)
    ),
    "trailing bytes": Fault(
        lambda r: edit_bytes(image_of(r, FIRST), lambda b: b.extend(b"abcd")), error("E-FILE-TRAILING", FIRST)
    ),
    "image nii beside nii.gz": Fault(
        lambda r: plain_beside_packed(image_of(r, FIRST)),
        error("E-DATA-TWO-FILES", FIRST),
        ("hippocampus_023_0000.nii ", "hippocampus_023_0000.nii.gz"),
    ),
    "label nii beside nii.gz": Fault(
        lambda r: plain_beside_packed(label_of(r, FIRST)), error("E-DATA-TWO-FILES", FIRST)
    ),
    "header claims 30000 cubed": Fault(
        lambda r: edit_bytes(image_of(r, FIRST), shrink_header_shape), error("E-IMAGE-LIMIT", FIRST)
    ),
    "not a file that is read": Fault(
        lambda r: (r / "imagesTr" / "scan.dcm").write_bytes(b"x"), warning("E-DATA-IGNORED"), (".dcm (1)",)
    ),
    # voxels
    "one NaN": Fault(
        lambda r: edit_array(image_of(r, SECOND), set_value(np.nan)),
        error("E-IMAGE-NONFINITE", SECOND),
        ("1 of", "NaN"),
    ),
    "infinite": Fault(
        lambda r: edit_array(image_of(r, SECOND), set_value(-np.inf)), error("E-IMAGE-NONFINITE", SECOND)
    ),
    "constant image": Fault(
        lambda r: edit_array(image_of(r, SECOND), lambda array: np.full_like(array, 7)),
        warning("E-DATA-CONSTANT", SECOND),
        ("7",),
    ),
    "extreme values": Fault(
        lambda r: edit_array(image_of(r, SECOND), set_value(1e38)), warning("E-DATA-EXTREME", SECOND)
    ),
    # geometry
    "singular affine": Fault(
        lambda r: edit_bytes(
            image_of(r, SECOND),
            lambda b: struct.pack_into("<12f", b, 280, *(1, 1, 0, 0), *(0, 0, 0, 0), *(0, 0, 1, 0)),
        ),
        error("E-GEOMETRY-SINGULAR", SECOND),
    ),
    "both codes 0": Fault(
        lambda r: edit_bytes(image_of(r, SECOND), drop_codes), error("E-GEOMETRY-MISSING", SECOND)
    ),
    "qform turned against sform": Fault(
        lambda r: edit_bytes(image_of(r, SECOND), lambda b: struct.pack_into("<3f", b, 256, 1.0, 0.0, 0.0)),
        error("E-GEOMETRY-CONFLICT", SECOND),
    ),
    "qform beside sform": Fault(
        lambda r: edit_bytes(image_of(r, SECOND), lambda b: struct.pack_into("<3f", b, 268, 100.0, 1.0, 1.0)),
        info("E-DATA-HEADER", SECOND),
        ("99 mm apart",),
    ),
    "label of another shape": Fault(
        lambda r: edit_array(label_of(r, SECOND), lambda array: array[:, :, :-1], np.uint8),
        error("E-DATA-SHAPE", SECOND),
    ),
    "label of another case": Fault(
        lambda r: shutil.copy(label_of(r, FOURTH), label_of(r, THIRD)), error("E-DATA-SHAPE", THIRD)
    ),
    "label spacing differs": Fault(
        lambda r: edit_affine(label_of(r, SECOND), lambda a: a.__setitem__((2, 2), a[2, 2] * 1.01)),
        error("E-DATA-GEOMETRY", SECOND),
        (
            "image 38x52x33 spacing 1x1x1 mm RAS",
            "label 38x52x33 spacing 1x1x1.01 mm RAS: the spacings differ.",
        ),
    ),
    "label origin differs": Fault(
        lambda r: edit_affine(label_of(r, SECOND), lambda a: a.__setitem__((0, 3), a[0, 3] + 3)),
        error("E-DATA-GEOMETRY", SECOND),
        ("3 mm apart",),
    ),
    "label flipped": Fault(
        lambda r: edit_affine(label_of(r, SECOND), lambda a: a.__setitem__((0, 0), -a[0, 0])),
        error("E-DATA-GEOMETRY", SECOND),
        ("1x1x1 mm RAS, label 38x52x33 spacing 1x1x1 mm LAS", "axis directions differ"),
    ),
    # label values
    "unknown label": Fault(
        lambda r: edit_array(label_of(r, THIRD), set_value(7), np.uint8),
        error("E-DATA-LABEL-UNKNOWN", THIRD),
        ("7 (1 voxel)", "0 (background), 1 (Anterior), 2 (Posterior)"),
    ),
    "label 300": Fault(
        lambda r: edit_array(label_of(r, THIRD), set_value(300), np.int16),
        error("E-DATA-LABEL-UNKNOWN", THIRD),
        ("300 (1 voxel)",),
    ),
    "negative label": Fault(
        lambda r: edit_array(label_of(r, THIRD), set_value(-1), np.int16),
        error("E-LABEL-NEGATIVE", THIRD),
        ("-1",),
    ),
    "label 0.9999": Fault(
        lambda r: edit_array(label_of(r, THIRD), set_value(0.9999)),
        error("E-LABEL-NOT-INTEGER", THIRD),
        ("0.9999",),
    ),
    "label NaN": Fault(
        lambda r: edit_array(label_of(r, THIRD), set_value(np.nan)), error("E-LABEL-NOT-INTEGER", THIRD)
    ),
    "label slope": Fault(
        lambda r: edit_bytes(label_of(r, THIRD), set_slope), error("E-LABEL-NOT-INTEGER", THIRD), ("0.5",)
    ),
    "empty label": Fault(
        lambda r: edit_array(label_of(r, THIRD), lambda array: np.zeros_like(array), np.uint8),
        warning("E-DATA-LABEL-EMPTY"),
        ("1 of 7 labels", THIRD),
    ),
    "class nobody has": Fault(add_class, error("E-DATA-CLASS-ABSENT"), ("tail",)),
    "class of one case": Fault(
        lambda r: (add_class(r), edit_array(label_of(r, THIRD), set_value(3), np.uint8)),
        warning("E-DATA-CLASS-RARE"),
        ("tail", THIRD),
    ),
    "all labels empty": Fault(
        no_labels_at_all,
        error("E-DATA-CLASS-ABSENT") | warning("E-DATA-LABEL-EMPTY"),
        ("Anterior, Posterior", "7 of 7"),
    ),
    # channels and kinds
    "missing channel": Fault(missing_channel, error("E-DATA-CHANNEL-MISSING", SECOND), ("T1, FLAIR",)),
    "missing first channel": Fault(
        missing_first_channel, error("E-DATA-CHANNEL-MISSING", SECOND), ("channel 0 (T1)",)
    ),
    "extra channel": Fault(extra_channel, error("E-DATA-CHANNEL-EXTRA", THIRD), ("2 channels",)),
    "one case of two channels in one file": Fault(
        lambda r: edit_array(image_of(r, THIRD), lambda array: np.stack([array, array], axis=-1)),
        error("E-DATA-CHANNEL-EXTRA", THIRD),
    ),
    "wrong number of channels in all": Fault(
        lambda r: describe(r, channel_names={"0": "T1", "1": "FLAIR"}),
        error("E-DATA-CHANNELS"),
        ("T1, FLAIR",),
    ),
    "channels apart": Fault(channel_elsewhere, error("E-DATA-CHANNEL-GEOMETRY", THIRD), ("5 mm apart",)),
    "2D among 3D": Fault(flat_case, error("E-DATA-DIMS-MIXED"), ("3D in 7 cases; 2D in flat",)),
    "mixed spacing": Fault(coarse_case, info("E-DATA-SPACING-MIXED"), ("1x1x1 to 1x1x3",)),
    "mixed orientation": Fault(
        turned_case, info("E-DATA-ORIENTATION-MIXED"), (f"RAS in 6 cases; LAS in {FOURTH}",)
    ),
    # cases
    "nothing there": Fault(nothing_there, error("E-DATA-EMPTY")),
    "two cases": Fault(two_cases, warning("E-DATA-FEW-CASES"), ("2 cases of 1 patient",)),
    "image without label": Fault(without_label, warning("E-DATA-UNLABELLED", FOURTH)),
    "label without image": Fault(
        lambda r: (image_of(r, FOURTH).unlink(), describe(r, numTraining=len(CASES) - 1)),
        error("E-DATA-NO-IMAGE", FOURTH) | warning("E-DATA-GROUP-UNUSED"),
    ),
    "fewer cases than declared": Fault(
        lambda r: describe(r, numTraining=9), warning("E-DATA-COUNT"), ("numTraining 9", "7 labelled")
    ),
    "names that differ in capitals": Fault(
        lambda r: rename_case(r, FIRST, SECOND.upper()), error("E-DATA-CASE-DUPLICATE", SECOND.upper())
    ),
    "names that differ in Unicode form": Fault(
        lambda r: (rename_case(r, FIRST, "caf\u00e9"), rename_case(r, SECOND, "cafe\u0301")),
        error("E-DATA-CASE-DUPLICATE", "cafe\u0301"),
        ("cafe\\u0301", "caf\\xe9"),
    ),
    "one image under two names": Fault(
        lambda r: copy_case(r, FIRST, "again"),
        warning("E-DATA-SAME-IMAGE", FIRST),
        ("again",),
    ),
    "one image in two groups": Fault(
        lambda r: copy_case(r, FIRST, "again", "subject_999"),
        error("E-DATA-GROUP-LEAK", FIRST),
        ("subject_012", "subject_999"),
    ),
    "some cases without group": Fault(first_groups_only, warning("E-DATA-GROUP-PARTIAL"), ("5 of 7",)),
    "case in two groups": Fault(
        lambda r: edit_groups(r, lambda rows: [*rows, [FIRST, "other", "training", ""]]),
        error("E-DATA-GROUP-TWICE", FIRST),
    ),
    "name with a line break": Fault(
        lambda r: rename_case(r, FIRST, "a\nb"), error("E-DATA-CASE-NAME", "a\\nb")
    ),
    "name of a device": Fault(lambda r: rename_case(r, FIRST, "CON"), error("E-DATA-CASE-NAME", "CON")),
    "name like an option": Fault(lambda r: rename_case(r, FIRST, "-rf"), error("E-DATA-CASE-NAME", "-rf")),
    "name with a direction mark": Fault(
        lambda r: rename_case(r, FIRST, "a\u202eb"), error("E-DATA-CASE-NAME", "a\\u202eb")
    ),
}
assert len(FAULTS) >= 24


def check(root: Path, **options: bool) -> CheckResult:
    return check_dataset(load_dataset(root), **options)


def keys(result: CheckResult) -> set[tuple[str, str, str]]:
    return {(finding.code, finding.level, finding.case_id) for finding in result.findings}


def test_the_undamaged_dataset_has_no_findings(dataset: Path) -> None:
    result = check(dataset)
    assert result.findings == ()
    result.raise_if_refused()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_nothing_else(dataset: Path, name: str) -> None:
    fault = FAULTS[name]
    fault.damage(dataset)
    result = check(dataset)
    assert keys(result) == fault.expected
    text = " ".join(finding.text for finding in result.findings)
    assert all(words in text for words in fault.words), text
    assert all(finding.hint for finding in result.findings)
    assert all(finding.text.isprintable() and finding.case_id.isprintable() for finding in result.findings)
    refused = any(level == "error" for _, level, _ in fault.expected)
    assert result.is_refused == refused


def test_all_faults_of_a_dataset_are_listed_at_once(dataset: Path) -> None:
    damaged = [
        "image cut",
        "one NaN",
        "unknown label",
        "mixed spacing",
        "class nobody has",
        "not a file that is read",
    ]
    for name in damaged:
        FAULTS[name].damage(dataset)
    result = check(dataset)
    assert keys(result) == set().union(*(FAULTS[name].expected for name in damaged))
    with pytest.raises(DatasetError) as caught:
        result.raise_if_refused()
    assert caught.value.findings == result.findings
    for code in ("E-FILE-TRUNCATED", "E-IMAGE-NONFINITE", "E-DATA-LABEL-UNKNOWN", "E-DATA-CLASS-ABSENT"):
        assert code in str(caught.value)
    assert "4 errors" in str(caught.value)
    assert caught.value.exit_code == 3


TOKENS = (
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"\0",
    b"\\u0000",
    b"-1",
    b"1e999",
    b"NaN",
    b",",
    b"\n",
    b"\xff",
    b"../",
    b"\\ud800",
)


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(random.integers(1, 4)):
        place = int(random.integers(len(changed)))
        match int(random.integers(3)):
            case 0:
                changed[place] = int(random.integers(256))
            case 1:
                changed[place:place] = TOKENS[random.integers(len(TOKENS))]
            case 2:
                del changed[place : place + int(random.integers(1, 30))]
    return bytes(changed)


@pytest.mark.parametrize("name", ["dataset.json", "cases.csv", "own.json"])
def test_damaged_descriptions_are_refused_or_survive_being_saved(dataset: Path, name: str) -> None:
    """Whatever is in the tables: an error of ours, or a dataset that JSON gives back unchanged."""
    seed = 6
    random = np.random.default_rng(seed)
    load_dataset(dataset).to_json(dataset / "own.json")
    file = dataset / name
    sound = file.read_bytes()
    outcomes = Counter[bool]()
    for _ in range(150):
        file.write_bytes(mutated(sound, random))
        try:
            found = load_dataset(file if name == "own.json" else dataset)
            found.to_json(dataset / "saved.json")
        except Error:
            outcomes[False] += 1
            continue
        assert Dataset.from_json(dataset / "saved.json") == found
        outcomes[True] += 1
    assert outcomes[True] > 5


def test_every_case_of_a_repeated_fault_is_named(dataset: Path) -> None:
    for case in CASES:
        edit_array(image_of(dataset, case), set_value(np.nan))
    assert Counter(finding.case_id for finding in check(dataset).findings) == Counter(CASES)


@pytest.mark.parametrize("name", ["label spacing differs", "label origin differs", "label flipped"])
def test_geometry_faults_pass_only_with_the_flag(dataset: Path, name: str) -> None:
    FAULTS[name].damage(dataset)
    refused = check(dataset)
    assert "--allow-geometry-mismatch" in refused.findings[0].hint
    allowed = check(dataset, allow_geometry_mismatch=True)
    assert keys(allowed) == warning("E-DATA-GEOMETRY", SECOND)
    allowed.raise_if_refused()


def test_the_flag_does_not_allow_another_size(dataset: Path) -> None:
    FAULTS["label of another shape"].damage(dataset)
    assert check(dataset, allow_geometry_mismatch=True).is_refused
