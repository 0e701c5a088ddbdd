"""The label of a case: a label map in any format, or a DICOM segmentation of the series."""

from collections.abc import Sequence
from pathlib import Path

from scanseg.data.image import read_label_map
from scanseg.data.label_values import count_values
from scanseg.data.limits import Limits, refused
from scanseg.data.wording import shown
from scanseg.types import Geometry, Label, LabelMap

SEGMENTATION_SUFFIX = ".dcm"
_DEFAULT = Limits()


def is_segmentation(path: Path) -> bool:
    """Returns whether a label is read as a DICOM segmentation: a `.dcm` file, or a folder that holds one.

    Example:
        >>> is_segmentation(Path("labels/case_7.dcm")), is_segmentation(Path("labels/case_7.nii.gz"))
        (True, False)
    """
    return path.suffix.lower() == SEGMENTATION_SUFFIX or path.is_dir()


def read_case_label(path: Path, labels: Sequence[Label], geometry: Geometry | None) -> LabelMap:
    """Returns the label map of a case, (*spatial) int32, in the values of the dataset.

    Args:
        path: As `read_label_map` reads, or a DICOM segmentation, whose segments are told by their names.
        labels: Of the dataset; they give the segments their values.
        geometry: Of the image; a segmentation leaves out slices without a segment. Without it its label map
            reaches from the first to the last slice that it holds.

    Raises:
        DataError: As `read_label_map` and `read_segmentation`.
    """
    if not is_segmentation(path):
        return read_label_map(path)
    from scanseg.data.dicom_seg_read import read_segmentation

    file = _only_file(path)
    found = read_segmentation(file, labels=labels, geometry=geometry)
    return LabelMap(found.array, found.geometry, path)


def read_values(path: Path) -> dict[int, str]:
    """Returns value -> name of a label; a label map has no names, so they are empty.

    Of a DICOM segmentation these are its segments, also those without a voxel, the background left out.

    Raises:
        DataError: It cannot be read.
    """
    if not is_segmentation(path):
        return dict.fromkeys(count_values(read_label_map(path).array), "")
    from scanseg.data.dicom_seg_read import segment_names

    return {number: shown(name) for number, name in segment_names(_only_file(path), _DEFAULT).items()}


def segmentations_grid(paths: Sequence[Path]) -> Geometry:
    """Returns the grid from the first to the last slice that any of some DICOM segmentations holds.

    Args:
        paths: At least one, all on one series; `read_case_label` refuses those that do not lie on the grid.

    Raises:
        DataError: One is none, damaged, or does not tell the distance of its slices.
    """
    from scanseg.data.dicom_seg_read import common_grid

    return common_grid([_only_file(path) for path in paths])


def _only_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
    if len(files) != 1:
        raise refused(
            path,
            f"a label that is a folder holds one DICOM segmentation, this one holds {len(files)} files",
            code="E-SEG-FOLDER",
            hint="Give one segmentation a case, as CASE.dcm or alone in the folder CASE.",
        )
    return files[0]
