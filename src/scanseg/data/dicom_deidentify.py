"""Takes out of DICOM files what tells who the patient is; the pixels are not looked at.

Source: PS3.15 Annex E, Basic Application Level Confidentiality Profile (Table E.1-1 is in
`dicom_profile.json`), and its option Retain Longitudinal Temporal Information with Modified Dates.
"""

import datetime
import hashlib
import hmac
import json
import secrets
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from scanseg.data.dicom_files import Entry, case_name, series_files
from scanseg.data.dicom_header import body_of, quiet
from scanseg.data.dicom_refusal import Refusal
from scanseg.data.dicom_sort import check_empty
from scanseg.data.limits import Limits, refused
from scanseg.errors import DataError, Finding, UsageError
from scanseg.files import written_aside
from scanseg.optional import require

NOTICE = "Text that is burned into the pixels is not covered; look at the images before you share them."
_DEFAULT = Limits()
_STANDARD_UIDS = "1.2.840.10008."
_TEXT = "ANONYMIZED"
_DUMMIES: Mapping[str, Any] = {
    "AE": _TEXT, "AS": "000Y", "CS": _TEXT, "DA": "19000101", "DS": "0", "DT": "19000101000000", "FD": 0.0,
    "FL": 0.0, "IS": "0", "LO": _TEXT, "LT": _TEXT, "PN": _TEXT, "SH": _TEXT, "SL": 0, "SS": 0, "ST": _TEXT,
    "TM": "000000", "UC": _TEXT, "UL": 0, "UR": "http://localhost", "US": 0, "UT": _TEXT,
}  # fmt: skip
_TIMES = ("DA", "DT", "TM")
_PATIENT_NAME, _PATIENT_ID = 0x00100010, 0x00100020


@dataclass(frozen=True)
class Deidentified:
    """What was written.

    Attributes:
        files: Number of files written.
        series: Number of folders they are in.
        findings: Files that were left out, and what a person must still look at.
    """

    files: int
    series: int
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "files": self.files,
            "series": self.series,
            "findings": [finding.as_dict() for finding in self.findings],
            "notice": NOTICE,
        }


@dataclass
class _Work:
    """Settings of one run, and what was seen so far."""

    key: bytes
    shift: datetime.timedelta | None
    series: dict[str, int] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    burned_in: int = 0

    def uid(self, old: str) -> str:
        """Returns the new UID of an old one; those that the standard defines stay."""
        if old.startswith(_STANDARD_UIDS) or not old:
            return old
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', old)[:16], version=5).int}"

    def pseudonym(self, old: str) -> str:
        """Returns what a patient is called from now on."""
        return f"ANON-{self._digest('patient', old).hex()[:10].upper()}"

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.new(self.key, f"{kind}\0{text}".encode(), hashlib.sha256).digest()


def deidentify(
    source: Path,
    output: Path,
    *,
    key: bytes | None = None,
    shift_days: int | None = None,
    limits: Limits = _DEFAULT,
) -> Deidentified:
    """Writes copies of DICOM files without what names the patient, as `OUTPUT/SERIES/NUMBER.dcm`.

    Elements are removed, emptied, replaced or given new UIDs as the basic profile says, in sequences too;
    private and unknown elements, overlays and curves are removed, every other name of a person and date is
    emptied. UIDs and
    patients are mapped consistently within a run. Pixels are copied as they are: burned-in text stays.

    Args:
        source: Folder or zip archive.
        output: Folder; made, must be empty.
        key: At least 16 secret bytes; the same key maps UIDs and patients the same way in another run.
            Without it the mapping cannot be repeated.
        shift_days: Move dates by so many days instead of removing them.
        limits: For the source.

    Raises:
        UsageError: The output holds something, lies in the source, or the key is short.
        DataError: The source cannot be read, or none of its files is DICOM.
    """
    require("pydicom", extra="dicom", purpose="De-identifying DICOM")
    source, output = Path(source), Path(output)
    if key is not None and len(key) < 16:
        raise UsageError(f"The key must have at least 16 bytes, got {len(key)}.", code="E-DEID-KEY")
    check_empty(output, source)
    work = _Work(
        key or secrets.token_bytes(32), None if shift_days is None else datetime.timedelta(days=shift_days)
    )
    left_out = []
    with series_files(source, limits) as entries:
        for entry in entries:
            try:
                _copy(entry, output, work)
            except Refusal as refusal:
                left_out.append((entry.number, refusal))
    written = sum(work.counts.values())
    if not written:
        raise refused(Path(case_name(source)), "there is no DICOM file", code="E-DICOM-EMPTY")
    return Deidentified(written, len(work.counts), tuple(_findings(left_out, len(entries), work.burned_in)))


def _findings(left_out: list[tuple[int, Refusal]], total: int, burned_in: int) -> list[Finding]:
    found = [
        Finding("W-DEID-SKIPPED", "warning", f"file {number} of {total} {refusal.what}; it was left out")
        for number, refusal in left_out
    ]
    if burned_in:
        text = (
            f"{burned_in} files say that text is burned into their pixels, or are of a kind that often has it"
        )
        found.append(Finding("W-DEID-BURNED-IN", "warning", text, hint=NOTICE))
    return found


def _copy(entry: Entry, output: Path, work: _Work) -> None:
    from pydicom import dcmread

    with entry.open() as stream:
        body_of(stream)
        stream.seek(0)
        try:
            with quiet():
                document = dcmread(stream)
                patient = str(document.get("PatientID", "") or document.get("PatientName", ""))
                work.burned_in += _may_be_burned_in(document)
                _clean(document, work, patient)
                _mark(document, work)
                path = _path(document, output, work)
        except Exception:  # pydicom raises classes of many kinds for damaged files, some quote the values
            raise Refusal("E-DICOM-DAMAGED", "cannot be parsed") from None
    try:
        with quiet(), written_aside(path) as temporary:
            document.save_as(temporary, enforce_file_format=True)
    except OSError as error:
        raise DataError(
            f"{path.parent.name}/{path.name} cannot be written ({error.strerror}).", code="E-OUTPUT-FOLDER"
        ) from None
    except Exception:  # see above
        raise Refusal("E-DICOM-DAMAGED", "cannot be written again") from None


def _path(document: Any, output: Path, work: _Work) -> Path:
    series = work.series.setdefault(str(document.get("SeriesInstanceUID", "")), len(work.series) + 1)
    work.counts[series] += 1
    return output / f"series_{series:03d}" / f"{work.counts[series]:05d}.dcm"


def _may_be_burned_in(document: Any) -> bool:
    kind = str(document.get("BurnedInAnnotation", "")).upper()
    usual = str(document.get("Modality", "")) in ("US", "SC", "OT", "XC", "ES", "XA", "RF")
    return kind == "YES" or (kind != "NO" and usual)


@cache
def _profile() -> dict[int, str]:
    """Returns tag -> remove, empty, replace or uid."""
    table = _table()
    return {int(tag, 16): action for action in ("remove", "empty", "replace", "uid") for tag in table[action]}


@cache
def _dates() -> frozenset[int]:
    return frozenset(int(tag, 16) for tag in _table()["dates"])


@cache
def _table() -> dict[str, Any]:
    text = files("scanseg.data").joinpath("dicom_profile.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _clean(document: Any, work: _Work, patient: str) -> None:
    """Applies the profile to a data set and to the items of its sequences."""
    for element in list(document):
        tag = int(element.tag)
        if element.tag.is_private or _is_drawn(tag) or element.VR == "UN":
            del document[element.tag]
            continue
        action = _profile().get(tag, "empty" if element.VR in ("PN", "DA", "DT") else "")
        if work.shift is not None and (tag in _dates() or tag not in _profile()) and element.VR in _TIMES:
            _shift(element, work.shift)
        elif tag in (_PATIENT_NAME, _PATIENT_ID):
            element.value = work.pseudonym(patient)
        elif action == "remove":
            del document[element.tag]
        elif element.VR == "UI":
            _map(element, work.uid)
        elif action == "empty" or (action == "replace" and element.VR not in _DUMMIES):
            _empty(element)
        elif action == "replace":
            element.value = _DUMMIES[element.VR]
        if element.VR == "SQ" and element.tag in document:
            for item in document[element.tag].value:
                _clean(item, work, patient)


def _is_drawn(tag: int) -> bool:
    """Returns whether an element belongs to a curve or an overlay, which may show text."""
    return tag >> 24 in (0x50, 0x60)


def _empty(element: Any) -> None:
    element.value = [] if element.VR == "SQ" else None


def _map(element: Any, uid: Callable[[str], str]) -> None:
    values = element.value
    several = not isinstance(values, str) and hasattr(values, "__iter__")
    element.value = [uid(str(value)) for value in values] if several else uid(str(values or ""))


def _shift(element: Any, by: datetime.timedelta) -> None:
    """Moves a date; the time of day stays, and what is no date is emptied."""
    text = str(element.value or "")
    if element.VR == "TM" or not text:
        return
    try:
        day = datetime.datetime.strptime(text[:8], "%Y%m%d") + by
        element.value = day.strftime("%Y%m%d") + (text[8:] if element.VR == "DT" else "")
    except (ValueError, OverflowError):
        element.value = None


def _mark(document: Any, work: _Work) -> None:
    from pydicom.dataset import Dataset

    document.PatientIdentityRemoved = "YES"
    document.DeidentificationMethod = "scanseg, PS3.15 2024e basic profile; pixels not cleaned"
    kept = work.shift is not None
    document.LongitudinalTemporalInformationModified = "MODIFIED" if kept else "REMOVED"
    codes = [("113100", "Basic Application Confidentiality Profile")]
    if kept:
        codes.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
    document.DeidentificationMethodCodeSequence = []
    for value, meaning in codes:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
        document.DeidentificationMethodCodeSequence.append(item)
    meta = document.file_meta
    meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID
    for element in list(meta):  # who sent and received it, and what software wrote it
        if int(element.tag) not in (0x00020002, 0x00020003, 0x00020010):
            del meta[element.tag]
    document.preamble = bytes(128)
