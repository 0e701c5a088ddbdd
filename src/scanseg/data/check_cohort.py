"""What is wrong with the cases of a dataset taken together."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from scanseg.data.check_case import CaseFacts
from scanseg.data.dataset import Dataset
from scanseg.data.splits import count_units
from scanseg.data.wording import counted, in_xyz, listed, shown
from scanseg.errors import Finding, Level
from scanseg.types import Case

LONGEST_NAME_BYTES = 200
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
FORBIDDEN = set('/\\<>:"|?*')


def check_cohort(dataset: Dataset, facts: Sequence[CaseFacts], *, folds: int) -> Iterator[Finding]:
    """Yields what can only be seen by comparing cases.

    Args:
        dataset: The dataset.
        facts: Of all its cases: training, unlabelled and test.
        folds: How many folds cross-validation should have.
    """
    training = [case for case in facts if case.part == "training"]
    yield from names_of(dataset)
    yield from duplicate_names(dataset)
    yield from number_of_cases(dataset, folds)
    yield from channels(training, dataset.channel_names)
    yield from kinds_of_images(training)
    yield from classes(training, dataset)
    yield from same_images(facts)
    yield from groups(dataset)


def names_of(dataset: Dataset) -> Iterator[Finding]:
    """Yields an error for each case whose name cannot safely be the name of a file on every system."""
    for case in (*dataset.cases, *dataset.unlabelled, *dataset.test_cases):
        fault = _name_fault(case.case_id)
        if fault:
            yield Finding(
                "E-DATA-CASE-NAME",
                "error",
                f"the name of this case cannot be used for its files: {fault}.",
                case_id=shown(case.case_id),
                hint="Rename it with letters, digits, dots, spaces, - and _.",
            )


def _name_fault(name: str) -> str:
    if not name.strip():
        return "it is empty"
    unprintable = [c for c in name if not c.isprintable() and not _joins(c)]
    if unprintable:
        return f"it holds the character {shown(unprintable[0])}"
    bad = sorted(set(name) & FORBIDDEN)
    if bad:
        return f"it holds {' '.join(bad)}"
    if name[0] in ".-" or name[-1] in ". " or name[0] == " ":
        return "it starts with a dot, dash or space, or ends with a dot or space"
    if RESERVED.fullmatch(name):
        return "Windows reserves this name"
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME_BYTES:
        return f"it is longer than {LONGEST_NAME_BYTES} bytes"
    return ""


def _joins(character: str) -> bool:
    """Tells whether this is one of the joiners that emoji and several scripts need inside words."""
    return character in "\u200c\u200d"


def duplicate_names(dataset: Dataset) -> Iterator[Finding]:
    """Yields an error for cases of one name, also when only case or the way accents are stored differ."""
    for part, cases in (("", (*dataset.cases, *dataset.unlabelled)), ("test image: ", dataset.test_cases)):
        by_name: dict[str, list[str]] = {}
        for case in cases:
            by_name.setdefault(_folded(case.case_id), []).append(case.case_id)
        for same in by_name.values():
            if len(same) > 1:
                yield _duplicate_name(part, same)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _duplicate_name(part: str, names: Sequence[str]) -> Finding:
    if len(set(names)) == 1:
        text = f"{len(names)} cases have this name."
    else:
        ways = [ascii(name)[1:-1] if not name.isascii() else name for name in names]
        text = f"the names {listed(ways)} differ only in capitals or in how accents are stored."
    return Finding(
        "E-DATA-CASE-DUPLICATE",
        "error",
        part + text,
        case_id=shown(names[0]),
        hint="Give every case a name of its own; on many disks such files replace each other.",
    )


def number_of_cases(dataset: Dataset, folds: int) -> Iterator[Finding]:
    """Yields an error without labelled cases, a warning with fewer than can fill the folds."""
    count, units = len(dataset.cases), count_units(dataset.cases)
    if count == 0:
        yield Finding(
            "E-DATA-EMPTY",
            "error",
            "there is no case with image and label, only"
            f" {counted(len(dataset.unlabelled), 'image')} without label and"
            f" {counted(len(dataset.test_cases), 'test image')}.",
            hint="Check the folder, the file endings and that the names of images and labels agree.",
        )
        return
    whose = f" of {counted(units, 'patient')}" if units < count else ""
    if units == 1:
        yield Finding(
            "E-DATA-FEW-CASES",
            "warning",
            f"{counted(count, 'case')}{whose}: nothing is left to validate on.",
            hint="Train with `--fold all`, and mistrust its figures; better add cases.",
        )
    elif units < folds:
        yield Finding(
            "E-DATA-FEW-CASES",
            "warning",
            f"{counted(count, 'case')}{whose}: cross-validation has {units} folds in place of {folds}.",
            hint="Figures from so few cases say little; better add cases.",
        )


def channels(training: Sequence[CaseFacts], names: Sequence[str]) -> Iterator[Finding]:
    """Yields an error for each case with more or fewer channels than the dataset has."""
    read = [case for case in training if case.channels]
    expected = f"{counted(len(names), 'channel')} ({listed(names)})"
    counts = {case.channels for case in read}
    if len(counts) == 1 and counts != {len(names)} and len(read) > 1:
        yield Finding(
            "E-DATA-CHANNELS",
            "error",
            f"the dataset names {expected}, but every image has {counts.pop()}.",
            hint="Correct channel_names in dataset.json.",
        )
        return
    for case in read:
        if case.channels != len(names):
            fewer = case.channels < len(names)
            yield Finding(
                "E-DATA-CHANNEL-MISSING" if fewer else "E-DATA-CHANNEL-EXTRA",
                "error",
                f"the image has {counted(case.channels, 'channel')}; the dataset has {expected}.",
                case_id=shown(case.case_id),
                hint="Add the missing channel or take the case out."
                if fewer
                else "Remove the channel that is too many, or name it in channel_names.",
            )


def kinds_of_images(training: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Yields errors for 2D among 3D and for missing physical sizes, notes on other mixtures."""
    read = [case for case in training if case.shape]
    dims = {f"{dims}D": ids for dims, ids in _sorted_by(read, [case.spatial_dims for case in read]).items()}
    if len(dims) > 1:
        hint = "Make two datasets, or remove the cases that do not belong."
        yield _mixture("E-DATA-DIMS-MIXED", "error", "images of different dimensions", dims, hint)
        return
    units = _sorted_by(read, ["with mm" if case.unit == "mm" else "without" for case in read])
    if len(units) > 1:
        text = "images with and without a physical voxel size"
        hint = "Give all images their spacing (for example as NIfTI), or remove it from all."
        yield _mixture("E-DATA-UNIT-MIXED", "error", text, units, hint)
    orientations = _sorted_by(read, [case.orientation or "unknown" for case in read])
    if len(orientations) > 1:
        hint = "Cases are turned to one orientation on the way in; masks are turned back."
        yield _mixture(
            "E-DATA-ORIENTATION-MIXED", "info", "images of different orientation", orientations, hint
        )
    spacings = sorted({tuple(round(step, 3) for step in case.spacing) for case in read})
    if len(spacings) > 1:
        yield Finding(
            "E-DATA-SPACING-MIXED",
            "info",
            f"{len(spacings)} different voxel spacings, from {in_xyz(spacings[0])} to {in_xyz(spacings[-1])}"
            f" {read[0].unit}.",
            hint="Images are resampled to one spacing; masks are resampled back.",
        )


def _sorted_by(cases: Sequence[CaseFacts], keys: Sequence[object]) -> dict[str, list[str]]:
    """Returns key -> case ids, the most frequent key first."""
    groups: dict[str, list[str]] = {}
    for case, key in zip(cases, keys, strict=True):
        groups.setdefault(str(key), []).append(case.case_id)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def _mixture(code: str, level: Level, what: str, groups: dict[str, list[str]], hint: str) -> Finding:
    first, *others = groups.items()
    parts = [f"{first[0]} in {counted(len(first[1]), 'case')}"]
    parts += [f"{key} in {listed(case_ids)}" for key, case_ids in others]
    return Finding(code, level, f"{what}: {'; '.join(parts)}.", hint=hint)


def classes(training: Sequence[CaseFacts], dataset: Dataset) -> Iterator[Finding]:
    """Yields an error for classes nobody has, warnings for empty labels and for classes of a single case."""
    held = {case.case_id: set(case.label_voxels) for case in training if case.label_voxels is not None}
    if not held:
        return
    background, *foreground = dataset.labels
    holders = {
        label.name: [case_id for case_id, values in held.items() if label.value in values]
        for label in foreground
    }
    yield from _absent_classes([name for name, case_ids in holders.items() if not case_ids], len(foreground))
    single = [f"{name} ({case_ids[0]})" for name, case_ids in holders.items() if len(case_ids) == 1]
    if single and len(held) > 1:
        yield Finding(
            "E-DATA-CLASS-RARE",
            "warning",
            f"only one case holds {listed(single)}; the fold that validates it trains without the class.",
            hint="Add cases that have it.",
        )
    known = {label.value for label in foreground}
    empty = [case_id for case_id, values in held.items() if not known & values]
    if empty:
        yield Finding(
            "E-DATA-LABEL-EMPTY",
            "warning",
            f"{len(empty)} of {counted(len(held), 'label')} without foreground: {listed(empty)}.",
            hint="Right for images without the structure; check that no label was forgotten.",
        )
    if not any(background.value in values for values in held.values()):
        yield Finding(
            "E-DATA-NO-BACKGROUND",
            "warning",
            f"no voxel of any label has the value {background.value} ({shown(background.name)}).",
            hint="The network will never answer background; check that the values start at 0.",
        )


def _absent_classes(absent: Sequence[str], classes: int) -> Iterator[Finding]:
    if absent or not classes:
        text = (
            f"no case holds {'the class' if len(absent) == 1 else 'the classes'} {listed(absent, most=30)}."
        )
        yield Finding(
            "E-DATA-CLASS-ABSENT",
            "error",
            text if classes else "no label holds anything but background.",
            hint="Remove such classes from labels in dataset.json, or add cases that have them.",
        )


def same_images(facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Yields a finding for each image that occurs a second time under another name.

    An error where the two are in different groups, because then one patient trains and validates. Images of
    one value everywhere are left out.
    """
    first: dict[str, CaseFacts] = {}
    for case in facts:
        if case.voxel_hash and not case.is_constant:
            other = first.setdefault(case.voxel_hash, case)
            if other is not case:
                yield _same_image(case, other)


def _same_image(case: CaseFacts, other: CaseFacts) -> Finding:
    level: Level = "warning"
    code, text = "E-DATA-SAME-IMAGE", ""
    if (case.part == "test") != (other.part == "test"):
        code, text = "E-DATA-TEST-LEAK", "; one is in training, the other in test"
    elif None not in (case.group, other.group) and case.group != other.group:
        code, level = "E-DATA-GROUP-LEAK", "error"
        text = f", but their groups differ ({shown(case.group or '')} and {shown(other.group or '')})"
    return Finding(
        code,
        level,
        f"its image has exactly the voxels of case {shown(other.case_id)}{text}.",
        case_id=shown(case.case_id),
        hint="Remove one of them, or give both the same group in cases.csv.",
    )


def groups(dataset: Dataset) -> Iterator[Finding]:
    """Yields warnings for cases without a group among others, and for patients in training and test."""
    unknown = [case.case_id for case in dataset.cases if case.group is None]
    if unknown and len(unknown) < len(dataset.cases):
        yield Finding(
            "E-DATA-GROUP-PARTIAL",
            "warning",
            f"{len(unknown)} of {len(dataset.cases)} cases have no group: {listed(unknown)}; each counts as a"
            " patient of its own.",
            hint="Add them to cases.csv (columns case, group).",
        )
    shared = Counter(_group_names(dataset.cases)) & Counter(_group_names(dataset.test_cases))
    if shared:
        yield Finding(
            "E-DATA-TEST-GROUP",
            "warning",
            f"{counted(len(shared), 'group')} in training and test: {listed(sorted(shared))}.",
            hint="Test figures of these patients say little about new ones.",
        )


def _group_names(cases: Sequence[Case]) -> set[str]:
    return {case.group for case in cases if case.group is not None}
