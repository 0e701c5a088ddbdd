"""Files of a folder by name, channels into cases, images to labels."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scanseg.data.dicom_files import case_name, holds_dicom, is_series_path
from scanseg.data.image import SUFFIXES, file_stem
from scanseg.data.wording import counted, listed, shown
from scanseg.errors import Finding
from scanseg.types import Case

CHANNEL_NUMBER = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL)
SIDECARS = {
    *(".json", ".csv", ".tsv", ".txt", ".md", ".pdf", ".html", ".xml", ".yaml", ".yml", ".db", ".ini"),
    *(".raw", ".zraw"),
}
LABEL_SUFFIXES = (*SUFFIXES, ".dcm")


def same_name(text: str) -> str:
    """Returns the form under which names count as one: file systems store accents in two ways."""
    return unicodedata.normalize("NFC", text)


def list_images(folder: Path, findings: list[Finding], *, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Returns the images of a folder by name, and adds a finding about files nobody will read.

    Images are files, and folders and zip archives of DICOM series. Hidden files and the usual companions of
    images (tables, texts) are passed over in silence. A folder that does not exist is empty.

    Args:
        folder: Where to look.
        findings: Takes the finding.
        suffixes: Endings of the files; `LABEL_SUFFIXES` for labels.
    """
    if not folder.is_dir():
        return []
    images, others = [], Counter[str]()
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if holds_dicom(path, below=True):
                images.append(path)
            else:
                others["folders"] += 1
        elif path.name.lower().endswith((*suffixes, ".zip")):
            images.append(path)
        elif path.suffix.lower() not in SIDECARS:
            others[path.suffix or "files without an ending"] += 1
    if others:
        kinds = [f"{kind} ({count})" for kind, count in sorted(others.items())]
        findings.append(
            Finding(
                "E-DATA-IGNORED",
                "warning",
                f"{shown(folder.name)} also holds what is not read: {listed(kinds, most=9)}.",
                hint=f"Endings that are read: {', '.join(suffixes)}; of DICOM give each case a folder or zip"
                " archive.",
            )
        )
    return images


def one_file_each(
    files: Iterable[tuple[str, int, Path]], findings: list[Finding], *, what: str
) -> dict[str, dict[int, Path]]:
    """Returns case -> channel -> file; a second file for the same channel of a case is an error.

    Args:
        files: Case, channel and file.
        findings: Takes the errors.
        what: `image` or `label`, for the text.
    """
    cases: dict[str, dict[int, Path]] = {}
    for case_id, channel, path in files:
        first = cases.setdefault(case_id, {}).setdefault(channel, path)
        if first != path:
            findings.append(
                Finding(
                    "E-DATA-TWO-FILES",
                    "error",
                    f"two {what} files{f' for channel {channel}' if channel else ''}, where one is expected: "
                    f"{shown(first.name)} and {shown(path.name)}.",
                    case_id=shown(case_id),
                    hint="Keep the right one and move the other out of the folder.",
                )
            )
    return cases


def stem_of(path: Path) -> str:
    """Returns the name without its image ending; without its last ending where that is of no image.

    The folder of a DICOM series keeps its whole name.
    """
    if path.name.lower().endswith(SUFFIXES):
        return file_stem(path)
    return case_name(path) if is_series_path(path) else path.stem


def split_channel(stem: str) -> tuple[str, int | None]:
    """Returns the case and channel of a file name.

    Example:
        >>> split_channel("heart_014_0001"), split_channel("heart_014")
        (('heart_014', 1), ('heart_014', None))
    """
    match = CHANNEL_NUMBER.fullmatch(stem)
    return (match["case"], int(match["channel"])) if match else (stem, None)


def numbered_images(folder: Path, findings: list[Finding]) -> dict[str, dict[int, Path]]:
    """Returns case -> channel -> file for a folder whose files end in `_0000`, `_0001`, ...

    A file without a number is taken as channel 0, with a warning.
    """
    files, bare = [], []
    for path in list_images(folder, findings):
        case_id, channel = split_channel(stem_of(path))
        files.append((case_id, channel or 0, path))
        if channel is None:
            bare.append(path.name)
    if bare:
        findings.append(
            Finding(
                "E-DATA-CHANNEL-NUMBER",
                "warning",
                f"{counted(len(bare), 'file')} in {shown(folder.name)} without a channel number, taken as"
                f" channel 0: {listed(bare)}.",
                hint="nnU-Net itself wants CASE_0000 and the ending.",
            )
        )
    return one_file_each(files, findings, what="image")


def files_by_stem(folder: Path, findings: list[Finding], *, what: str = "label") -> dict[str, Path]:
    """Returns stem -> file of a folder; `x.nii` beside `x.nii.gz` is an error."""
    paths = list_images(folder, findings, suffixes=LABEL_SUFFIXES)
    files = [(stem_of(path), 0, path) for path in paths]
    return {stem: channels[0] for stem, channels in one_file_each(files, findings, what=what).items()}


def channel_gaps(cases: Mapping[str, Mapping[int, Path]], channel_names: Sequence[str]) -> Iterable[Finding]:
    """Yields an error for each case whose channel numbers have a gap, such as 0, 2."""
    for case_id, channels in cases.items():
        missing = sorted(set(range(max(channels))) - set(channels))
        if missing:
            names = [f"{n} ({channel_names[n]})" if n < len(channel_names) else str(n) for n in missing]
            have = [path.name for _, path in sorted(channels.items())]
            yield Finding(
                "E-DATA-CHANNEL-MISSING",
                "error",
                f"channel {listed(names)} is missing; found {listed(have)}.",
                case_id=shown(case_id),
                hint="Add the missing file or take the case out of the dataset.",
            )


def pair(
    images: Mapping[str, Mapping[int, Path]], labels: Mapping[str, Path], findings: list[Finding]
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Returns the labelled and the unlabelled cases, by id.

    Names that differ only in how accents are stored count as one. An image without a label is a warning, a
    label without an image an error.
    """
    by_name = {same_name(stem): path for stem, path in labels.items()}
    labelled: list[Case] = []
    unlabelled: list[Case] = []
    used: set[Path | None] = set()
    for case_id, channels in sorted(images.items()):
        files = tuple(path for _, path in sorted(channels.items()))
        label = labels.get(case_id, by_name.get(same_name(case_id)))
        (unlabelled if label is None else labelled).append(Case(case_id, files, label))
        used.add(label)
    findings.extend(no_label(case) for case in unlabelled)
    findings.extend(no_image(stem, path) for stem, path in sorted(labels.items()) if path not in used)
    return tuple(labelled), tuple(unlabelled)


def no_label(case: Case) -> Finding:
    """Returns the finding about an image that cannot be learned from."""
    return Finding(
        "E-DATA-UNLABELLED",
        "warning",
        f"the image {listed([path.name for path in case.images])} has no label and does not train.",
        case_id=shown(case.case_id),
        hint="Add the label, or check that the names of image and label agree.",
    )


def no_image(case_id: str, path: Path) -> Finding:
    """Returns the finding about a label that belongs to no image."""
    return Finding(
        "E-DATA-NO-IMAGE",
        "error",
        f"the label {shown(path.name)} has no image.",
        case_id=shown(case_id),
        hint="Add the image, make the names agree, or move the label out of the folder.",
    )
