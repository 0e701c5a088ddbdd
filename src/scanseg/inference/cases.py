"""Which files make which cases, and what their masks will be called."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scanseg.data.dicom_files import case_name, holds_dicom, is_series_path
from scanseg.data.image import SUFFIXES, file_stem, image_suffix
from scanseg.errors import UsageError

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
_MASK_SUFFIX = {".jpg": ".png", ".jpeg": ".png", ".mhd": ".mha", ".nhdr": ".nrrd"}


@dataclass(frozen=True)
class ImageCase:
    """An image to predict.

    Attributes:
        case_id: Its name, and the stem of what is written.
        images: One file per channel; a DICOM series is a folder or a zip archive.
        mask_name: File name of the mask.
    """

    case_id: str
    images: tuple[Path, ...]
    mask_name: str


def find_cases(inputs: Sequence[Path], *, channels: int, suffix: str | None = None) -> list[ImageCase]:
    """Returns the cases in files and folders, sorted within each input.

    Files named CASE_0000, CASE_0001, ... are the channels of one case, as in nnU-Net; with one channel a
    `_0000` is dropped from the name. Folders are not searched below their own level, hidden files left out.
    A folder with DICOM files is one case. A folder without images gives a case for each zip archive and each
    folder with DICOM files in it.

    Args:
        inputs: Image files, folders of images, and folders or zip archives of DICOM files.
        channels: Number of channels the model reads.
        suffix: Ending of the masks, for example `.nii.gz`; that of the input by default.

    Raises:
        UsageError: A path does not exist or is no image, a folder holds no image, or two cases share a name.
    """
    files: list[Path] = []
    for path in inputs:
        files.extend(_images_in(path))
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        stem = case_name(path) if is_series_path(path) else file_stem(path)
        match = _CHANNEL.match(stem)
        numbered = match is not None and (channels > 1 or match["channel"] == "0000")
        groups[path.parent, match["case"] if match is not None and numbered else stem].append(path)
    cases = [
        ImageCase(name, tuple(sorted(paths)), f"{name}{suffix or mask_suffix(paths[0])}")
        for (_, name), paths in groups.items()
    ]
    _refuse_shared_names(cases)
    return cases


def _images_in(path: Path) -> list[Path]:
    if path.is_dir():
        if holds_dicom(path):
            return [path]
        found = sorted(item for item in path.iterdir() if _is_image(item)) or _series_in(path)
        if not found:
            raise UsageError(
                f"The folder {path} holds no image.",
                code="E-PREDICT-EMPTY",
                hint=f"Images end in {', '.join(SUFFIXES)}, or are folders or zip archives of DICOM files.",
            )
        return found
    if not path.exists():
        raise UsageError(
            f"{path} does not exist.", code="E-PREDICT-PATH", hint="Give image files or folders of images."
        )
    if is_series_path(path) and path.is_file():
        return [path]
    if not _is_image(path):
        raise UsageError(
            f"{path} is not an image that can be read.",
            code="E-PREDICT-FORMAT",
            hint=f"Images end in {', '.join(SUFFIXES)}; of a DICOM series give the folder or a zip archive.",
        )
    return [path]


def _series_in(folder: Path) -> list[Path]:
    """Returns the zip archives and the folders with DICOM files in a folder."""
    items = sorted(
        item for item in folder.iterdir() if not item.name.startswith(".") and is_series_path(item)
    )
    return [item for item in items if item.is_file() or holds_dicom(item, below=True)]


def _is_image(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(tuple(SUFFIXES))


def mask_suffix(path: Path) -> str:
    """Returns the ending of the mask of an image: its own, or the nearest format that can hold labels.

    The mask of a DICOM series is NIfTI.
    """
    if is_series_path(path):
        return ".nii.gz"
    suffix = image_suffix(path)
    return _MASK_SUFFIX.get(suffix, suffix)


def _refuse_shared_names(cases: Sequence[ImageCase]) -> None:
    seen: dict[str, ImageCase] = {}
    for case in cases:
        other = seen.setdefault(case.case_id.casefold(), case)
        if other is not case:
            raise UsageError(
                f"Two images would be written under the name {case.case_id!r}: {other.images[0]} and "
                f"{case.images[0]}.",
                code="E-PREDICT-DUPLICATE",
                hint="Predict them into different folders, or rename one.",
            )
