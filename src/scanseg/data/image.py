"""The public door to image files: read and write them by their name's ending."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from scanseg.data.affine import same_geometry
from scanseg.data.dicom_files import case_name, is_series_path
from scanseg.data.limits import Limits, refused, shown, unreadable
from scanseg.data.voxels import ImageSink, LabelSink, Opened, allocate
from scanseg.errors import DataError, UsageError
from scanseg.files import written_aside
from scanseg.types import Array, Geometry, Image, LabelMap, Spacing

__all__ = [
    "SUFFIXES",
    "file_stem",
    "image_suffix",
    "read_channels",
    "read_geometry",
    "read_image",
    "read_label_map",
    "same_geometry",
    "write_array",
    "write_label_map",
]

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".png", ".tif", ".tiff", ".jpg", ".jpeg")
_DEFAULT = Limits()
_NO_LIMITS = Limits(voxels=1 << 62, decompressed_bytes=1 << 62, pages=1 << 31, spacing_mm=(0.0, float("inf")))


def image_suffix(path: Path) -> str:
    """Returns the ending of an image's name in lower case, one of `SUFFIXES`.

    Raises:
        DataError: Another ending.

    Example:
        >>> image_suffix(Path("case.v2.NII.GZ"))
        '.nii.gz'
    """
    name = Path(path).name.lower()
    for suffix in SUFFIXES:
        if name.endswith(suffix) and len(name) > len(suffix):
            return suffix
    raise refused(
        Path(path),
        f"this kind of file is not read; accepted are {', '.join(SUFFIXES)}",
        code="E-IMAGE-SUFFIX",
        hint=_SUFFIX_HINTS.get(Path(name).suffix, "Convert the image to NIfTI (.nii.gz), PNG or TIFF."),
    )


_PAIR_HINT = "Convert the pair to one file: nibabel.save(nibabel.load('x.hdr'), 'x.nii.gz')."
_SUFFIX_HINTS = {
    ".hdr": _PAIR_HINT,
    ".img": _PAIR_HINT,
    ".dcm": "Give the folder of the whole DICOM series, or a zip archive of it.",
    ".mgz": "Convert it to NIfTI: mri_convert x.mgz x.nii.gz.",
    ".svs": "Export the level you need as TIFF.",
}


def file_stem(path: Path) -> str:
    """Returns the name without its image ending.

    Raises:
        DataError: The ending is none of `SUFFIXES`.

    Example:
        >>> file_stem(Path("folder/case.v2.nii.gz"))
        'case.v2'
    """
    return Path(path).name[: -len(image_suffix(path))]


def read_image(
    path: Path, *, limits: Limits = _DEFAULT, nan_fill: float | None = None, spacing: Spacing | None = None
) -> Image:
    """Returns an image as float32, (channel, *spatial).

    Args:
        path: One of `SUFFIXES`, or a folder or zip archive of one DICOM series. Colours are three channels
            (alpha is dropped), the fourth axis of a NIfTI becomes the channels, the pages of a TIFF become z.
        limits: Sizes that are accepted; checked before anything is allocated.
        nan_fill: What replaces NaN and infinite values; without it they are refused.
        spacing: mm, slowest axis first, for files that carry none.

    Raises:
        DataError: The file is missing, damaged, too large, of another kind, or not finite.
        UsageError: `spacing` or `nan_fill` is no sensible value.
    """
    return read_channels([path], limits=limits, nan_fill=nan_fill, spacing=spacing)


def read_channels(
    paths: Sequence[Path],
    *,
    limits: Limits = _DEFAULT,
    nan_fill: float | None = None,
    spacing: Spacing | None = None,
) -> Image:
    """Returns several files of one case as one image, their channels one after the other.

    Args:
        paths: At least one file.
        limits: See `read_image`; for each file.
        nan_fill: See `read_image`.
        spacing: See `read_image`.

    Raises:
        DataError: As `read_image`, or the geometries of the files differ.
    """
    if not paths:
        raise UsageError("read_channels needs at least one file, got none.", code="E-IMAGE-NONE")
    if nan_fill is not None and not np.isfinite(nan_fill):
        raise UsageError(f"nan_fill must be a finite number, got {nan_fill}.", code="E-IMAGE-FILL")
    opened = [_open(Path(path), limits, spacing) for path in paths]
    geometry = opened[0].geometry
    for other in opened[1:]:
        differences = same_geometry(geometry, other.geometry)
        if differences:
            raise refused(
                other.path,
                "the channels of one case must share their geometry, but compared with "
                f"{shown(opened[0].path)} " + "; ".join(differences),
                code="E-IMAGE-CHANNELS",
                hint="Register and resample the channels to one grid first.",
            )
    array = allocate((sum(o.channels for o in opened), *geometry.shape), np.float32, opened[0].path)
    first = 0
    for one in opened:
        sink = ImageSink(array[first : first + one.channels], nan_fill=nan_fill)
        with _guarded(one.path):
            one.pour(sink)
        sink.finish(one.path)
        first += one.channels
    return Image(array, geometry, opened[0].path)


def read_label_map(path: Path, *, limits: Limits = _DEFAULT, spacing: Spacing | None = None) -> LabelMap:
    """Returns a label map as int32 (*spatial), the values exactly as in the file.

    A palette counts by its indices; colours are accepted only where all three channels are equal.

    Args:
        path: One of `SUFFIXES` but JPEG, which changes values.
        limits: See `read_image`.
        spacing: See `read_image`.

    Raises:
        DataError: As `read_image`, or a value is negative, not a whole number or above 2147483647.
    """
    path = Path(path)
    if image_suffix(path) in (".jpg", ".jpeg"):
        raise refused(
            path,
            "JPEG changes values when it compresses and is not accepted for labels",
            code="E-LABEL-JPEG",
            hint="Export the label map as PNG, TIFF or NIfTI.",
        )
    opened = _open(path, limits, spacing)
    colours = opened.label_channels == 3 and opened.geometry.format in ("png", "tiff")
    if opened.label_channels != 1 and not colours:
        raise _many_channels(path, f"it has {opened.label_channels} channels")
    array = allocate((opened.label_channels, *opened.geometry.shape), np.int32, path)
    sink = LabelSink(array)
    with _guarded(path):
        opened.pour(sink)
    sink.finish(path)
    if colours and not all(np.array_equal(array[0], array[c]) for c in (1, 2)):
        raise _many_channels(path, "its colours differ from channel to channel")
    return LabelMap(array[0] if not colours else array[0].copy(), opened.geometry, path)


def _many_channels(path: Path, text: str) -> DataError:
    return refused(
        path,
        f"a label map has one integer for each voxel, but {text}",
        code="E-LABEL-CHANNELS",
        hint="Export class numbers instead of colours, overlays or one volume for each class.",
    )


def read_geometry(
    path: Path, *, limits: Limits = _DEFAULT, spacing: Spacing | None = None
) -> tuple[Geometry, int]:
    """Returns where an image lies and how many channels `read_image` gives, from the header alone.

    Args:
        path: One of `SUFFIXES`.
        limits: See `read_image`.
        spacing: See `read_image`.

    Raises:
        DataError: As `read_image`, as far as the header and the size of the file tell.
    """
    opened = _open(Path(path), limits, spacing)
    return opened.geometry, opened.channels


def write_label_map(path: Path, array: Array, geometry: Geometry, *, verify: bool = True) -> None:
    """Writes a label map in the format of the name's ending, atomically, with the geometry of the input.

    Args:
        path: `.nii.gz .nii .nrrd .mha .png .tif .tiff`; PNG only for 2D.
        array: (*spatial), non-negative integers or booleans; stored as the smallest unsigned type.
        geometry: Of the image that the label map belongs to. Its own header is restored exactly where the
            format stays; other formats get the same affine (or one made from the spacing).
        verify: Read the file back and compare before it takes its name.

    Raises:
        UsageError: The array is no label map, has another shape, or the format cannot hold it.
        DataError: The written file does not read back the same.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if array.dtype.kind not in "buiI" or array.shape != tuple(geometry.shape):
        raise UsageError(
            f"a label map to write must be integers of shape {geometry.shape}, got {array.dtype} "
            f"{array.shape}.",
            code="E-WRITE-ARRAY",
        )
    top = int(array.max(initial=0))
    if int(array.min(initial=0)) < 0 or top > 2**31 - 1:
        raise UsageError(
            f"label values must be 0 to 2147483647, got {int(array.min())} to {top}.", code="E-WRITE-ARRAY"
        )
    array = array.astype(np.min_scalar_type(top), copy=False)
    _write(path, suffix, array, geometry, verify=partial(_verify, path, array, geometry) if verify else None)


def write_array(path: Path, array: Array, geometry: Geometry) -> None:
    """Writes float32 values (probabilities, uncertainty) atomically, with the geometry of the input.

    Args:
        path: `.nii.gz .nii .nrrd .mha .tif .tiff`; a PNG cannot hold floats.
        array: (*spatial) or (channel, *spatial), finite.
        geometry: See `write_label_map`.

    Raises:
        UsageError: The array has another shape or values that are not finite, or the format cannot hold it.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if array.shape[array.ndim - len(geometry.shape) :] != tuple(geometry.shape) or array.ndim > 1 + len(
        geometry.shape
    ):
        raise UsageError(
            f"an array to write must have shape {geometry.shape}, or that with channels in front, "
            f"got {array.shape}.",
            code="E-WRITE-ARRAY",
        )
    if not np.isfinite(array).all():
        raise UsageError("values to write must be finite, got NaN or infinity.", code="E-WRITE-ARRAY")
    _write(path, suffix, array.astype(np.float32, copy=False), geometry, verify=None)


def _write(
    path: Path, suffix: str, array: Array, geometry: Geometry, *, verify: Callable[[Path], None] | None
) -> None:
    writer = _writer(suffix)
    with written_aside(path, suffix=suffix, verify=verify) as temporary:
        writer(temporary, array, geometry)


def _verify(path: Path, array: Array, geometry: Geometry, written: Path) -> None:
    unplaced = geometry.affine is None and geometry.unit == "mm"
    copy = read_label_map(written, limits=_NO_LIMITS, spacing=geometry.spacing if unplaced else None)
    if copy.geometry.format == "tiff" and array.shape == (1, *copy.array.shape):
        array, geometry = array[0], copy.geometry  # one page is a picture
    differences = same_geometry(copy.geometry, geometry)
    if not np.array_equal(copy.array, array):
        differences.append("voxels differ")
    if differences:
        raise refused(
            path,
            f"the written file did not read back the same ({'; '.join(differences)}) and was removed",
            code="E-WRITE-VERIFY",
            hint="Check the disk, then run the same command again.",
        )


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Turns what the system may raise while a file is read into errors that name the file."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError as error:
        raise refused(
            path,
            "there is not enough memory to read it",
            code="E-IMAGE-MEMORY",
            hint="Crop or downsample the image, or use a machine with more memory.",
        ) from error


def _open(path: Path, limits: Limits, spacing: Spacing | None) -> Opened:
    """Reads the header by the reader of the name's ending; that reader checks that the content fits."""
    if is_series_path(path):
        from scanseg.data.dicom import open_dicom

        with _guarded(Path(case_name(path))):
            return open_dicom(path, limits, spacing)
    suffix = image_suffix(path)
    if suffix in (".nii.gz", ".nii"):
        from scanseg.data.nifti import open_nifti as read
    elif suffix == ".nrrd":
        from scanseg.data.nrrd import open_nrrd as read
    elif suffix in (".mha", ".mhd"):
        from scanseg.data.metaimage import open_metaimage as read
    elif suffix == ".png":
        from scanseg.data.raster import open_png as read
    elif suffix in (".jpg", ".jpeg"):
        from scanseg.data.raster import open_jpeg as read
    else:
        from scanseg.data.tiff import open_tiff as read
    with _guarded(path):
        return read(path, limits, spacing)


def _writer(suffix: str) -> Callable[[Path, Array, Geometry], None]:
    if suffix in (".nii.gz", ".nii"):
        from scanseg.data.nifti import write_nifti as write
    elif suffix == ".nrrd":
        from scanseg.data.nrrd import write_nrrd as write
    elif suffix == ".mha":
        from scanseg.data.metaimage import write_metaimage as write
    elif suffix == ".png":
        from scanseg.data.raster import write_png as write
    elif suffix in (".tif", ".tiff"):
        from scanseg.data.tiff import write_tiff as write
    else:
        raise UsageError(
            f"images are not written as {suffix}; accepted are .nii.gz .nii .nrrd .mha .png .tif .tiff.",
            code="E-WRITE-FORMAT",
        )
    return write
