"""A CSV file with one row per case: its images, its label, its patient."""

import re
from pathlib import Path

from scanseg.data.layouts.found import Found, Layout, Source
from scanseg.data.layouts.metadata import read_metadata
from scanseg.data.layouts.pairing import no_label, split_channel, stem_of
from scanseg.data.table import CASE_COLUMNS, GROUP_COLUMNS, Table, read_table
from scanseg.data.wording import listed, shown
from scanseg.errors import DataError, Finding
from scanseg.types import Case

IMAGE_COLUMNS = ("image", "images", "image_path", "image_file")
LABEL_COLUMNS = ("label", "labels", "mask", "seg", "segmentation", "label_path", "mask_path")
PART_COLUMNS = ("part", "split")
TRAINING_WORDS = ("", "train", "training", "tr", "val", "validation")
TEST_WORDS = ("test", "testing", "ts")


def recognises(source: Source) -> bool:
    """Tells whether a CSV file was given, or is the only one with an image column in the folder."""
    return source.table is not None or len(_tables(source.root)) == 1


def read(source: Source) -> Found:
    """Finds the cases of a table.

    Columns, in any order and case: `image` (or `images` with several files separated by `;`, or `image_0`,
    `image_1`, ... one per channel); `label` (or `mask`, `seg`, `segmentation`), empty for images without one;
    `case` (else the name of the image); `group` (or `patient`, `subject`); `part` (`training` or `test`).
    Paths are absolute or start at the table's folder.

    Raises:
        DataError: The table cannot be read or lacks a column. Faults of single rows are findings.
    """
    tables = [source.table] if source.table else _tables(source.root)
    if len(tables) != 1:
        raise DataError(
            f"{source.root} holds {len(tables)} CSV files with columns for image and label; one is needed.",
            code="E-TABLE-MISSING",
            hint="Give the file itself in place of the folder.",
        )
    path, table = tables[0], read_table(tables[0])
    image_columns = _image_columns(table)
    if not image_columns or table.column(LABEL_COLUMNS) is None:
        missing = "label" if image_columns else "image"
        raise DataError(
            f"The table {path} has no column {missing!r}; its columns are {', '.join(table.columns)}.",
            code="E-TABLE-COLUMNS",
            hint="A table of cases starts with a line such as: case,image,label,group",
        )
    metadata = read_metadata(source)
    findings: list[Finding] = []
    cases: dict[str, list[Case]] = {"training": [], "unlabelled": [], "test": []}
    for number, row in table.rows:
        part = _part(number, row, table, findings)
        case = _case(path, number, row, table, image_columns, findings)
        if part and case:
            cases["unlabelled" if part == "training" and case.label is None else part].append(case)
    findings.extend(no_label(case) for case in cases["unlabelled"])
    ordered = {part: tuple(sorted(rows, key=lambda case: case.case_id)) for part, rows in cases.items()}
    return Found(
        name=metadata.name if source.document else path.stem,
        cases=ordered["training"],
        test_cases=ordered["test"],
        unlabelled=ordered["unlabelled"],
        channel_names=metadata.channel_names,
        labels=metadata.labels,
        facts=metadata.facts,
        findings=tuple(findings),
    )


def _tables(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.glob("*.csv")) if folder.is_dir() else []:
        with open(path, encoding="utf-8-sig", errors="replace") as stream:
            names = {name.strip().strip('"').lower() for name in re.split(r"[,;\t]", stream.readline())}
        if names & {*IMAGE_COLUMNS, "image_0"} and names & set(LABEL_COLUMNS):
            found.append(path)
    return found


def _image_columns(table: Table) -> list[str]:
    numbered = [name for name in table.columns if re.fullmatch(r"image_\d+", name)]
    if numbered:
        return sorted(numbered, key=lambda name: int(name.removeprefix("image_")))
    single = table.column(IMAGE_COLUMNS)
    return [single] if single else []


def _case(
    path: Path,
    number: int,
    row: dict[str, str],
    table: Table,
    image_columns: list[str],
    findings: list[Finding],
) -> Case | None:
    cells = [row[column] for column in image_columns]
    files = [part.strip() for cell in cells for part in cell.split(";") if part.strip()]
    if not files:
        findings.append(_row_finding(number, "names no image"))
        return None
    case_column, group_column = table.column(CASE_COLUMNS), table.column(GROUP_COLUMNS)
    label = row[table.column(LABEL_COLUMNS) or ""]
    images = tuple(path.parent / file for file in files)
    stem = stem_of(images[0])
    case_id = row[case_column] if case_column else ""
    case_id = case_id or (split_channel(stem)[0] if len(images) > 1 else stem)
    if not all(cells):
        names = [column for column, cell in zip(image_columns, cells, strict=True) if not cell]
        findings.append(_channel_finding(number, case_id, names))
    return Case(
        case_id=case_id,
        images=images,
        label=path.parent / label if label else None,
        group=(row[group_column] if group_column else "") or None,
    )


def _part(number: int, row: dict[str, str], table: Table, findings: list[Finding]) -> str | None:
    column = table.column(PART_COLUMNS)
    word = row[column].lower() if column else ""
    if word in TRAINING_WORDS:
        return "training"
    if word in TEST_WORDS:
        return "test"
    findings.append(_row_finding(number, f"has the part {shown(word)!r}; known are training and test"))
    return None


def _row_finding(number: int, what: str) -> Finding:
    return Finding(
        "E-TABLE-ROW", "error", f"line {number} of the table {what}.", hint="Mend or remove the line."
    )


def _channel_finding(number: int, case_id: str, columns: list[str]) -> Finding:
    return Finding(
        "E-DATA-CHANNEL-MISSING",
        "error",
        f"line {number} of the table names no file for {listed(columns)}.",
        case_id=shown(case_id),
        hint="Add the missing file or take the case out of the dataset.",
    )


LAYOUT = Layout("a CSV file with the columns case, image, label, group", recognises, read)
