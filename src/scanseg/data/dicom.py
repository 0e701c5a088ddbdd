"""DICOM series: a folder or zip archive of slices or of an enhanced image, read strictly as one volume.

Messages name the case and the number of a file, never a value or a name from inside: those may tell who the
patient is. pydicom parses headers, our own code reads uncompressed pixels, a child process decodes the rest.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.data.affine import check_given, checked_affine, spacing_of
from scanseg.data.dicom_decode import Decoder
from scanseg.data.dicom_files import Entry, case_name, series_files
from scanseg.data.dicom_header import Slice, parse_slices, quiet
from scanseg.data.dicom_pixels import SliceReader
from scanseg.data.dicom_refusal import Refusal
from scanseg.data.dicom_series import Stack, file_findings, series_findings, series_of, stack
from scanseg.data.limits import Limits, refused, shown
from scanseg.data.voxels import Opened, Sink
from scanseg.errors import DataError, DatasetError, Finding
from scanseg.optional import require
from scanseg.types import Geometry, Spacing

_DEFAULT = Limits()
_NOBODY = hashlib.sha256(b"").hexdigest()


def open_dicom(path: Path, limits: Limits, spacing: Spacing | None = None) -> Opened:
    """Reads and checks the headers of the one series in a folder or zip archive.

    Args:
        path: The folder (searched with its folders) or archive.
        limits: Checked before anything is allocated.
        spacing: Must agree with the headers, which always have one.

    Raises:
        DataError: The files are no complete and even stack of grey slices; the error lists everything that
            was found.
        UsageError: pydicom is not installed.
    """
    path = Path(path)
    found = _read_stack(path, limits)
    shown_as = Path(case_name(path))
    geometry = _geometry(found, shown_as, limits)
    check_given(spacing, geometry.spacing, shown_as)
    return Opened(path, geometry, 1, 1, partial(_pour, path, limits, found))


@dataclass(frozen=True)
class Headers:
    """What a series says of itself; it names the patient: only what is written for the same one may use it.

    Attributes:
        documents: Full data sets without their pixels: one a slice in the order of the volume, or that of one
            enhanced image.
        frames: For each slice of the volume its frame in the enhanced image, from 0; empty for one file a
            slice.
    """

    documents: tuple[Any, ...]
    frames: tuple[int, ...]


def read_headers(path: Path, limits: Limits) -> Headers:
    """Returns the headers of a series.

    Raises:
        DataError: As `open_dicom`, or its frames lie in several enhanced images.
    """
    from pydicom import dcmread

    path = Path(path)
    found = _read_stack(path, limits)
    firsts = {one.entry.number: one for one in reversed(found.slices)}
    documents = []
    with series_files(path, limits) as entries, quiet():
        for number in dict.fromkeys(one.entry.number for one in found.slices):
            with _reopened(firsts[number], entries, Path(case_name(path))).entry.open() as stream:
                documents.append(dcmread(stream, stop_before_pixels=True))
    if not any("PerFrameFunctionalGroupsSequence" in one for one in documents):
        return Headers(tuple(documents), ())
    if len(documents) > 1:
        raise refused(
            Path(case_name(path)),
            f"its frames lie in {len(documents)} files, and a segmentation is written for one",
            code="E-SEG-ENHANCED",
            hint="Write the mask as NIfTI (--format nii.gz), or export the series as one file.",
        )
    return Headers(tuple(documents), tuple(one.pixels.frame for one in found.slices))


def read_patient(path: Path, limits: Limits = _DEFAULT) -> str:
    """Returns a hash of the PatientID of a series, empty where it has none; its first file is looked at.

    Raises:
        DataError: The files cannot be read.
        UsageError: pydicom is not installed.
    """
    require("pydicom", extra="dicom", purpose="Reading DICOM")
    with series_files(Path(path), limits) as entries:
        for entry in entries:
            with suppress(Refusal):
                patient = parse_slices(entry)[0].patient
                return "" if patient == _NOBODY else patient
    return ""


def _read_stack(path: Path, limits: Limits) -> Stack:
    require("pydicom", extra="dicom", purpose="Reading DICOM")
    shown_as = Path(case_name(path))
    slices, refusals = [], []
    with series_files(path, limits) as entries:
        for entry in entries:
            try:
                slices += parse_slices(entry)
            except Refusal as refusal:
                refusals.append((entry.number, refusal))
    findings = file_findings(refusals, len(entries))
    if not slices and not findings:
        raise refused(
            shown_as, "there is no DICOM file", code="E-DICOM-EMPTY", hint="Give the folder of one series."
        )
    found = None
    if slices:
        series = series_of(slices)
        findings += series_findings(series)
        if len(series) == 1:
            found, more = stack(slices)
            findings += more
    if findings or found is None:
        raise refusal_of(shown_as, findings)
    return found


def refusal_of(shown_as: Path, findings: Sequence[Finding]) -> DataError:
    """Returns one error for all findings; a single one keeps its own code."""
    if len(findings) == 1:
        only = findings[0]
        return refused(shown_as, only.text, code=only.code, hint=only.hint)
    return DatasetError(
        findings,
        what=shown(shown_as),
        code="E-DICOM-REFUSED",
        hint="Export the one series again, whole and by itself.",
    )


def _geometry(found: Stack, shown_as: Path, limits: Limits) -> Geometry:
    first = found.slices[0]
    shape = (len(found.slices), first.rows, first.columns)
    value_bytes = max(one.pixels.allocated for one in found.slices) // 8
    limits.check_size(shown_as, values=int(np.prod(shape)), value_bytes=value_bytes)
    affine = checked_affine(found.affine, shown_as, limits, name="series")
    header: dict[str, int] = {}
    if first.pixels.frames > 1:
        header["enhanced_files"] = len({one.entry.number for one in found.slices})
    return Geometry(shape, spacing_of(affine), affine=affine, format="dicom", header=header)


def _pour(path: Path, limits: Limits, found: Stack, sink: Sink) -> None:
    shown_as = Path(case_name(path))
    values = found.slices[0].rows * found.slices[0].columns
    with (
        series_files(path, limits) as entries,
        Decoder() as decoder,
        SliceReader(shown_as, decoder) as reader,
    ):
        for index, one in enumerate(found.slices):
            plane = reader.values(_reopened(one, entries, shown_as))
            sink.put(plane.ravel(), index * values)


def _reopened(one: Slice, entries: Sequence[Entry], shown_as: Path) -> Slice:
    number = one.entry.number
    if number > len(entries) or entries[number - 1].size != one.entry.size:
        raise refused(
            shown_as,
            f"file {number} changed while it was read",
            code="E-DICOM-CHANGED",
            hint="Wait until the series is complete, then run the command again.",
        )
    return replace(one, entry=entries[number - 1])
