"""Copies mixed DICOM files, such as those of a disc, into one folder for each series."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanseg.data.dicom import open_dicom
from scanseg.data.dicom_files import Entry, case_name, series_files
from scanseg.data.dicom_header import series_uids
from scanseg.data.dicom_refusal import Refusal
from scanseg.data.limits import Limits, refused
from scanseg.errors import DataError, Finding, UsageError
from scanseg.files import written_aside
from scanseg.optional import require

_DEFAULT = Limits()


@dataclass(frozen=True)
class SortedSeries:
    """A folder that was written.

    Attributes:
        folder: `OUTPUT/series_001` and so on.
        files: Number of files in it.
        shape: Size (z, y, x) of the volume it makes; None where the reader refuses it.
        reason: Code of the refusal, empty where there is none.
    """

    folder: Path
    files: int
    shape: tuple[int, ...] | None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "folder": str(self.folder),
            "files": self.files,
            "shape": None if self.shape is None else list(self.shape),
            "reason": self.reason,
        }


def sort_series(
    source: Path, output: Path, *, limits: Limits = _DEFAULT
) -> tuple[list[SortedSeries], list[Finding]]:
    """Copies every DICOM file below a folder, byte for byte, to the folder of its series.

    Args:
        source: Folder or zip archive.
        output: Folder; made, must be empty.
        limits: For the source.

    Returns:
        The series in the order of their first file, and the files that were left out.

    Raises:
        UsageError: The output holds something or lies in the source.
        DataError: The source cannot be read, or none of its files is DICOM.
    """
    require("pydicom", extra="dicom", purpose="Reading DICOM")
    source, output = Path(source), Path(output)
    check_empty(output, source)
    folders: dict[tuple[str, str], Path] = {}
    counts: dict[Path, int] = {}
    left_out = []
    with series_files(source, limits) as entries:
        for entry in entries:
            try:
                with entry.open() as stream:
                    key = series_uids(stream)
            except Refusal as refusal:
                text = f"file {entry.number} of {len(entries)} {refusal.what}; it was left out"
                left_out.append(Finding("W-DICOM-SKIPPED", "warning", text))
                continue
            folder = folders.setdefault(key, output / f"series_{len(folders) + 1:03d}")
            counts[folder] = counts.get(folder, 0) + 1
            _copy(entry, folder / f"{counts[folder]:05d}.dcm")
    if not folders:
        raise refused(Path(case_name(source)), "there is no DICOM file", code="E-DICOM-EMPTY")
    return [_judged(folder, counts[folder], limits) for folder in folders.values()], left_out


def check_empty(output: Path, source: Path) -> None:
    """Refuses an output that holds something or lies in the source.

    Raises:
        UsageError: `E-DICOM-OUTPUT`.
    """
    inside = source.is_dir() and source.resolve() in (output.resolve(), *output.resolve().parents)
    if inside or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise UsageError(
            "The output must be an empty folder outside of the source.",
            code="E-DICOM-OUTPUT",
            hint="Choose another folder with -o.",
        )


def _copy(entry: Entry, path: Path) -> None:
    try:
        with entry.open() as stream, written_aside(path) as temporary, open(temporary, "wb") as copy:
            shutil.copyfileobj(stream, copy)
    except OSError as error:
        raise DataError(
            f"{path.parent.name}/{path.name} cannot be written ({error.strerror}).", code="E-OUTPUT-FOLDER"
        ) from None


def _judged(folder: Path, files: int, limits: Limits) -> SortedSeries:
    try:
        return SortedSeries(folder, files, open_dicom(folder, limits).geometry.shape)
    except DataError as error:
        return SortedSeries(folder, files, None, error.code)
