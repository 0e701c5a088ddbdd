"""Layout of the Medical Segmentation Decathlon: `dataset.json` lists pairs of image and label."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scanseg.data.layouts.found import Found, Layout, Source
from scanseg.data.layouts.metadata import read_metadata
from scanseg.data.layouts.pairing import LABEL_SUFFIXES, list_images, no_label, stem_of
from scanseg.data.wording import counted, listed, shown
from scanseg.errors import DataError, Finding
from scanseg.types import Case


def recognises(source: Source) -> bool:
    """Tells whether `dataset.json` has a list `training` whose files exist.

    The first version of nnU-Net wrote such a list too, but with names that are not those of the files.
    """
    entries = (source.document or {}).get("training")
    if not isinstance(entries, list) or not entries:
        return False
    images = [entry.get("image") for entry in entries if isinstance(entry, Mapping)]
    return any(isinstance(image, str) and (source.root / image).exists() for image in images)


def read(source: Source) -> Found:
    """Finds the pairs listed under `training` and the images listed under `test`.

    An image file may hold several channels as its fourth dimension.

    Raises:
        DataError: `dataset.json` is missing or makes no sense.
    """
    metadata = read_metadata(source)
    document = source.document
    if document is None:
        raise DataError(f"There is no dataset.json in {source.root}.", code="E-FILE-MISSING")
    cases = _cases(source, "training", document.get("training"))
    test_cases = _cases(source, "test", document.get("test", []))
    unlabelled = tuple(case for case in cases if case.label is None)
    findings = [no_label(case) for case in unlabelled]
    findings.extend(_unlisted(cases + test_cases))
    return Found(
        name=metadata.name,
        cases=tuple(case for case in cases if case.label is not None),
        test_cases=tuple(test_cases),
        unlabelled=unlabelled,
        channel_names=metadata.channel_names,
        labels=metadata.labels,
        facts=metadata.facts,
        findings=tuple(findings),
    )


def _cases(source: Source, part: str, entries: Any) -> list[Case]:
    if not isinstance(entries, list):
        raise _list_error(source, part, f"must be a list, got {type(entries).__name__}")
    cases = [_case(source, part, number, entry) for number, entry in enumerate(entries)]
    return sorted(cases, key=lambda case: case.case_id)


def _case(source: Source, part: str, number: int, entry: Any) -> Case:
    if isinstance(entry, str):
        entry = {"image": entry}
    image = entry.get("image") if isinstance(entry, Mapping) else None
    label = entry.get("label") if isinstance(entry, Mapping) else None
    if not isinstance(image, str) or not image or not (label is None or isinstance(label, str)):
        raise _list_error(source, part, f"must hold image and label files, got {entry!r} as entry {number}")
    path = source.root / image
    return Case(stem_of(path), (path,), source.root / label if label else None)


def _list_error(source: Source, part: str, what: str) -> DataError:
    return DataError(
        f"The list {part!r} in {source.document_path} {what}.",
        code="E-DATASET-LIST",
        hint=f'Write it as "{part}": [{{"image": "FILE", "label": "FILE"}}].',
    )


def _unlisted(cases: list[Case]) -> list[Finding]:
    """Returns a finding for each folder with images that the list leaves out."""
    files = [path for case in cases for path in (*case.images, case.label) if path is not None]
    known = {Path(os.path.abspath(path)) for path in files}
    findings: list[Finding] = []
    for folder in sorted({path.parent for path in known}):
        extra = [
            path.name for path in list_images(folder, findings, suffixes=LABEL_SUFFIXES) if path not in known
        ]
        if extra:
            findings.append(_unlisted_finding(folder, extra))
    return findings


def _unlisted_finding(folder: Path, names: list[str]) -> Finding:
    return Finding(
        "E-DATA-UNLISTED",
        "warning",
        f"{counted(len(names), 'file')} in {shown(folder.name)} not listed in dataset.json, not used: "
        f"{listed(names)}.",
        hint="Add them to dataset.json if they belong to the dataset.",
    )


LAYOUT = Layout("dataset.json lists pairs of image and label", recognises, read)
