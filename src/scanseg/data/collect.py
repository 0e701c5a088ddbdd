"""What the description of a dataset leaves open, gathered from its files: groups, channels, label values."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from scanseg.data.case_label import read_values
from scanseg.data.dicom_files import is_series_path
from scanseg.data.image import read_geometry
from scanseg.data.layouts.pairing import same_name
from scanseg.data.table import CASE_COLUMNS, GROUP_COLUMNS, read_table
from scanseg.data.wording import counted, listed, shown
from scanseg.errors import DataError, Finding
from scanseg.types import Case, Label

BACKGROUND = Label(0, "background")
MOST_LABELS = 255
MANY_LABELS = 32
HEADERS_READ = 20


def read_groups(path: Path, parts: Iterable[Sequence[Case]], findings: list[Finding]) -> dict[str, str]:
    """Returns case -> group from a table with the columns `case` and `group`, `patient` or `subject`.

    A table that is missing or has no such columns gives no groups.

    Args:
        path: The table, usually `cases.csv` beside the data.
        parts: All cases there are; names in the table that are not among them are a warning.
        findings: Takes what is wrong with the table.
    """
    if not path.is_file():
        return {}
    try:
        table = read_table(path)
    except DataError as error:
        findings.append(Finding(error.code, "error", error.message, hint=error.hint))
        return {}
    case_column, group_column = table.column(CASE_COLUMNS), table.column(GROUP_COLUMNS)
    if case_column is None or group_column is None:
        return {}
    groups: dict[str, str] = {}
    for _, row in table.rows:
        case_id, group = same_name(row[case_column]), row[group_column]
        if group and groups.setdefault(case_id, group) != group:
            findings.append(_two_groups(case_id, groups[case_id], group))
    unknown = sorted(set(groups) - {same_name(case.case_id) for part in parts for case in part})
    if unknown:
        findings.append(_unknown_cases(path.name, unknown))
    return groups


def _two_groups(case_id: str, first: str, second: str) -> Finding:
    return Finding(
        "E-DATA-GROUP-TWICE",
        "error",
        f"the table of groups puts it into two, {shown(first)} and {shown(second)}.",
        case_id=shown(case_id),
        hint="Give each case one group.",
    )


def _unknown_cases(name: str, unknown: Sequence[str]) -> Finding:
    return Finding(
        "E-DATA-GROUP-UNUSED",
        "warning",
        f"{name} names {counted(len(unknown), 'case')} the dataset does not have: {listed(unknown)}.",
        hint="Look for images that are missing and for names that differ.",
    )


def add_groups(cases: Sequence[Case], groups: Mapping[str, str]) -> tuple[Case, ...]:
    """Returns the cases with their groups; those the table does not name keep what they have."""
    return tuple(replace(case, group=groups.get(same_name(case.case_id), case.group)) for case in cases)


def add_patients(parts: Sequence[Sequence[Case]]) -> list[tuple[Case, ...]]:
    """Returns the parts of a dataset with the patients of DICOM series as groups, `patient 1` and so on.

    Series of one PatientID are one patient. Cases that have a group keep it. Nothing is added where nobody
    has two series, or where all series carry the same PatientID, as after some ways to take names out.
    """
    cases = [case for part in parts for case in part if case.group is None]
    patients = {case: hashed for case in cases if (hashed := _patient_of(case))}
    counts = Counter(patients.values())
    if len(counts) < 2 or max(counts.values()) < 2:
        return [tuple(part) for part in parts]
    numbers = {hashed: f"patient {number}" for number, hashed in enumerate(counts, start=1)}
    return [
        tuple(replace(case, group=numbers[patients[case]]) if case in patients else case for case in part)
        for part in parts
    ]


def _patient_of(case: Case) -> str:
    if not is_series_path(case.images[0]):
        return ""
    from scanseg.data.dicom import read_patient

    try:
        return read_patient(case.images[0])
    except DataError:
        return ""  # check_dataset names the series that cannot be read


def collect_channels(cases: Sequence[Case]) -> tuple[str, ...]:
    """Returns names for as many channels as most of the first images have, from their headers."""
    counts = Counter(count for case in cases[:HEADERS_READ] if (count := _count_channels(case)))
    count = counts.most_common(1)[0][0] if counts else max((len(case.images) for case in cases), default=1)
    if count == 1:
        return ("image",)
    if count == 3 and all(len(case.images) == 1 for case in cases):
        return ("red", "green", "blue")
    return tuple(f"channel {index}" for index in range(count))


def _count_channels(case: Case) -> int | None:
    try:
        return sum(int(read_geometry(path)[1]) for path in case.images)
    except DataError:
        return None  # check_dataset names the file that cannot be read


def collect_labels(cases: Sequence[Case], findings: list[Finding]) -> tuple[Label, ...]:
    """Returns the background and one label for each positive value in any label file, by value.

    Reads every label file, one at a time. More values than can be classes are an error in `findings`, many
    values a warning: masks of single objects and grey edges look like that. The segments of DICOM
    segmentations give the labels their names; that two cases number them differently is an error.
    """
    names: dict[int, set[str]] = {}
    for case in cases:
        for value, name in _values_of(case).items():
            names.setdefault(value, set()).update([name] if name else [])
    labels = named_labels(names, findings)
    if len(labels) > MANY_LABELS:
        findings.append(_many_values(len(labels)))
    return (BACKGROUND, *labels[:MOST_LABELS])


def named_labels(names: Mapping[int, set[str]], findings: list[Finding]) -> tuple[Label, ...]:
    """Returns a label for each positive value, called by its segments, else `label V`.

    Args:
        names: value -> what segments of that number are called, empty where only label maps hold it.
        findings: Takes the error that segments are numbered or called differently.
    """
    uses = Counter(name for named in names.values() for name in named)
    if any(len(named) > 1 for named in names.values()) or any(count > 1 for count in uses.values()):
        findings.append(_SEGMENTS_APART)
    values = sorted(value for value in names if value > 0)
    return tuple(Label(value, min(names[value], default=f"label {value}")) for value in values)


_SEGMENTS_APART = Finding(
    "E-DATA-SEGMENT-NAMES",
    "error",
    "the DICOM segmentations number or name their segments differently from case to case.",
    hint="Name the labels in dataset.json; segments are then told by their names.",
)


def _values_of(case: Case) -> dict[int, str]:
    """Returns value -> name, which only segments have."""
    try:
        return {} if case.label is None else read_values(case.label)
    except DataError:
        return {}  # check_dataset names the file that cannot be read


def _many_values(count: int) -> Finding:
    return Finding(
        "E-DATA-LABEL-COUNT",
        "error" if count > MOST_LABELS else "warning",
        f"the label files hold {count} different values; each is taken as a class, {MOST_LABELS} at most.",
        hint="Merge masks of single objects into one value per class, remove grey edges, or name the labels"
        " in dataset.json.",
    )
