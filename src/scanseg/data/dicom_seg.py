"""Writes a label map as a DICOM Segmentation that lies on the slices or frames of its series.

Source: PS3.3 A.51 and C.8.20 (segmentation), C.7.6.16 (functional groups), made with highdicom.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.data.dicom import Headers, read_headers
from scanseg.data.dicom_codes import Code, property_of
from scanseg.data.dicom_files import case_name
from scanseg.data.dicom_frames import frames_of
from scanseg.data.dicom_header import quiet
from scanseg.data.dicom_seg_read import read_segmentation
from scanseg.data.limits import Limits, refused
from scanseg.errors import UsageError
from scanseg.files import written_aside
from scanseg.optional import require
from scanseg.types import Array, Geometry, Label

_DEFAULT = Limits()
# Type 2 in the patient and study modules (PS3.3 C.7.1.1, C.7.2.1): they may be empty, not absent.
_OFTEN_DROPPED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "Manufacturer"),
)


@dataclass(frozen=True)
class Algorithm:
    """What made a mask, as it is written into the file.

    Attributes:
        name: Of the network.
        version: Of this software.
        weights: Identifies the weights, for example the start of their SHA-256.
    """

    name: str
    version: str
    weights: str = "none"


def made_uid(*facts: str) -> str:
    """Returns a UID that is a function of the facts alone.

    Source: PS3.5 B.2 (UIDs made of a UUID).

    Example:
        >>> made_uid("a", "b") == made_uid("a", "b") != made_uid("ab", "")
        True
    """
    digest = hashlib.sha256("\0".join(facts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def write_segmentation(
    path: Path,
    mask: Array,
    labels: Sequence[Label],
    geometry: Geometry,
    source: Path,
    algorithm: Algorithm,
    *,
    uid_seed: str | None = None,
    limits: Limits = _DEFAULT,
) -> None:
    """Writes a mask as one binary segmentation object, atomically, and reads it back to compare.

    Patient and study are those of the source; every label but background is a segment with its codes, in the
    order of `labels`, also where no voxel carries it.

    Args:
        path: The file, usually `CASE.dcm`.
        mask: (z, y, x), values of `labels`.
        labels: Background first.
        geometry: Of the image read from `source`.
        source: Folder or zip archive of the series: one file a slice, or one enhanced image.
        algorithm: What made the mask.
        uid_seed: Makes the UIDs a function of this text, the source and the weights; otherwise they are new.
        limits: For reading the source again.

    Raises:
        UsageError: The mask does not fit the source or the labels, or highdicom is not installed.
        DataError: The source changed, lacks what a segmentation must repeat, or is several enhanced images,
            or the written file does not read back the same.
    """
    require("highdicom", extra="dicom", purpose="Writing DICOM segmentations")
    foreground = [label for label in labels if label.value != 0]
    if geometry.format != "dicom" or mask.shape != geometry.shape or not foreground:
        raise UsageError(
            f"a DICOM segmentation needs a mask on a DICOM series and labels, got a mask of {mask.shape} on "
            f"{geometry.format} {geometry.shape} with {len(foreground)} labels.",
            code="E-SEG-MASK",
        )
    segments = _as_segments(mask, foreground)
    headers = read_headers(source, limits)
    shown_as = Path(case_name(source))
    document = _build(segments, foreground, headers, algorithm, uid_seed, geometry.spacing[0], shown_as)
    with (
        written_aside(
            path, suffix=".dcm", verify=partial(_verify, path, mask, labels, geometry)
        ) as temporary,
        quiet(),
    ):
        document.save_as(temporary, enforce_file_format=True)


def _as_segments(mask: Array, foreground: Sequence[Label]) -> Array:
    segments = np.zeros(mask.shape, np.uint8 if len(foreground) < 256 else np.uint16)
    for number, label in enumerate(foreground, start=1):
        segments[mask == label.value] = number
    if np.count_nonzero(segments) != np.count_nonzero(mask):
        raise UsageError("the mask holds values that are no label.", code="E-SEG-MASK")
    return segments


def _build(
    segments: Array,
    foreground: Sequence[Label],
    headers: Headers,
    algorithm: Algorithm,
    uid_seed: str | None,
    thickness_mm: float,
    shown_as: Path,
) -> Any:
    import highdicom

    from scanseg import __version__

    documents = headers.documents
    _complete(documents, thickness_mm)
    series, instance = _uids(uid_seed, documents, algorithm)
    try:
        with quiet():
            if headers.frames:
                _describe_frames(documents[0], thickness_mm)
                segments = segments[np.argsort(headers.frames)]  # as the frames lie in the file
            document = highdicom.seg.Segmentation(
                source_images=documents,
                pixel_array=segments,
                segmentation_type="BINARY",
                segment_descriptions=_descriptions(foreground, algorithm),
                series_instance_uid=series,
                series_number=_series_number(documents),
                sop_instance_uid=instance,
                instance_number=1,
                manufacturer="scanseg",
                manufacturer_model_name="scanseg",
                software_versions=__version__,
                device_serial_number=algorithm.weights[:16] or "none",
                content_label="SEGMENTATION",
                content_description="Automatic segmentation; research software",
                series_description="scanseg segmentation",
            )
    except Exception:  # highdicom refuses incomplete sources by many classes, some quote values
        raise refused(
            shown_as,
            "the series lacks what a DICOM segmentation must repeat, or holds it in a wrong form",
            code="E-SEG-SOURCE",
            hint="Write the mask as NIfTI instead (--format nii.gz).",
        ) from None
    return document


def _complete(documents: Sequence[Any], thickness_mm: float) -> None:
    """Adds what archives and de-identification often drop, although the standard wants it present."""
    reference = made_uid(str(documents[0].get("SeriesInstanceUID", "")), "frame of reference")
    for one in documents:
        for name in _OFTEN_DROPPED:
            if name not in one:
                setattr(one, name, None)
        if not one.get("FrameOfReferenceUID"):
            one.FrameOfReferenceUID = reference
        if not one.get("SliceThickness"):
            one.SliceThickness = f"{thickness_mm:.10g}"


def _describe_frames(document: Any, thickness_mm: float) -> None:
    """Puts what all frames share into the shared group, and a position into that of each frame.

    Enhanced images may have either in either place; highdicom looks in these alone.
    """
    frames = frames_of(document)
    for own, frame in zip(document.PerFrameFunctionalGroupsSequence, frames, strict=True):
        own.PlanePositionSequence = [_item(ImagePositionPatient=frame.get("ImagePositionPatient"))]
    measures = _item(
        PixelSpacing=frames[0].get("PixelSpacing"),
        SliceThickness=frames[0].get("SliceThickness") or f"{thickness_mm:.10g}",
    )
    if between := frames[0].get("SpacingBetweenSlices"):
        measures.SpacingBetweenSlices = between
    shared = (document.get("SharedFunctionalGroupsSequence") or [_item()])[0]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [
        _item(ImageOrientationPatient=frames[0].get("ImageOrientationPatient"))
    ]
    document.SharedFunctionalGroupsSequence = [shared]


def _item(**values: Any) -> Any:
    from pydicom.dataset import Dataset

    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return found


def _descriptions(foreground: Sequence[Label], algorithm: Algorithm) -> list[Any]:
    import highdicom
    from pydicom.sr.codedict import codes

    identification = highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=algorithm.version[:64],
        source="scanseg",
        parameters={"weights": algorithm.weights[:64]},
    )
    found = []
    for number, label in enumerate(foreground, start=1):
        what = property_of(label.name, label.value)
        one = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label.name[:64] or f"label {label.value}",
            segmented_property_category=_concept(what.category),
            segmented_property_type=_concept(what.kind),
            algorithm_type="AUTOMATIC",
            algorithm_identification=identification,
        )
        if what.side is not None:
            kind = one.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(what.side)]
        found.append(one)
    return found


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def _uids(uid_seed: str | None, documents: Sequence[Any], algorithm: Algorithm) -> tuple[str, str]:
    facts = [
        uid_seed or str(uuid.uuid4()),
        algorithm.weights,
        *(str(one.SOPInstanceUID) for one in documents),
    ]
    return made_uid(*facts, "series"), made_uid(*facts, "instance")


def _series_number(documents: Sequence[Any]) -> int:
    number = documents[0].get("SeriesNumber")
    return 1000 + int(number) if isinstance(number, int) and 0 <= number < 1 << 30 else 1000


def _verify(path: Path, mask: Array, labels: Sequence[Label], geometry: Geometry, written: Path) -> None:
    copy = read_segmentation(written, labels=labels, geometry=geometry)
    if not np.array_equal(copy.array, mask):
        raise refused(
            path,
            "the written segmentation did not read back the same and was removed",
            code="E-WRITE-VERIFY",
            hint="Check the disk, then run the same command again.",
        )
