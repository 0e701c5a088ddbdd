"""Zip archives of the channels of one image, unpacked under names of our own."""

from pathlib import Path, PurePosixPath

from scanseg.data.dicom_files import archive_holds_dicom, as_counted
from scanseg.data.image import SUFFIXES
from scanseg.data.limits import Limits
from scanseg.data.zip_entries import opened_zip

_DEFAULT = Limits()


def unpack_images(archive: Path, folder: Path, *, limits: Limits = _DEFAULT) -> list[Path]:
    """Returns the images of a zip archive, unpacked to `folder` as 0000.nii.gz, 0001.nii.gz, ... .

    Names from the archive only decide the order and the ending. Folders, hidden files, what systems add
    (`__MACOSX`) and files of other kinds are left out.

    Args:
        archive: The file.
        folder: Exists and is empty.
        limits: `entries` and `decompressed_bytes` of the archive.

    Returns:
        Nothing where the archive holds no image, or DICOM files: their pictures are previews.

    Raises:
        DataError: As `opened_zip`; an entry is damaged or larger than it says.
    """
    with opened_zip(archive, limits) as entries:
        chosen = [info for info in entries.infos if _is_image(info.filename)]
        if not chosen or archive_holds_dicom(entries):
            return []
        chosen.sort(key=lambda info: as_counted(info.filename.lower()))
        paths = []
        for index, info in enumerate(chosen):
            path = folder / f"{index:04d}{_suffix(info.filename)}"
            entries.unpack(info, path)
            paths.append(path)
        return paths


def _is_image(name: str) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
    return not hidden and name.lower().endswith(SUFFIXES)


def _suffix(name: str) -> str:
    return next(suffix for suffix in SUFFIXES if name.lower().endswith(suffix))
