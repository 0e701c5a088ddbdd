"""nnU-Net's raw layout: imagesTr/CASE_0000.*, labelsTr/CASE.*, imagesTs, dataset.json."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scanseg.data.layouts.found import Found, Layout, Source
from scanseg.data.layouts.metadata import Metadata, read_metadata
from scanseg.data.layouts.pairing import channel_gaps, files_by_stem, no_label, numbered_images, pair
from scanseg.data.wording import shown
from scanseg.errors import DataError, Finding
from scanseg.types import Case


def recognises(source: Source) -> bool:
    """Tells whether there is a folder imagesTr, or a `dataset.json` that lists files under `dataset`."""
    return (source.root / "imagesTr").is_dir() or "dataset" in (source.document or {})


def read(source: Source) -> Found:
    """Finds the cases of imagesTr and imagesTs, or those `dataset.json` lists under `dataset`.

    Labels may have another file format than images. Labels of test images (labelsTs) are kept with them.

    Raises:
        DataError: `dataset.json` makes no sense.
    """
    metadata = read_metadata(source)
    findings: list[Finding] = []
    if "dataset" in (source.document or {}):
        cases, unlabelled = _listed_cases(source, findings)
    else:
        cases, unlabelled = _training_cases(source.root, metadata, findings)
    findings.extend(_count_findings(source, len(cases)))
    return Found(
        name=metadata.name,
        cases=cases,
        test_cases=_test_cases(source.root, metadata, findings),
        unlabelled=unlabelled,
        channel_names=metadata.channel_names,
        labels=metadata.labels,
        facts=metadata.facts,
        findings=tuple(findings),
    )


def _training_cases(
    root: Path, metadata: Metadata, findings: list[Finding]
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    images = numbered_images(root / "imagesTr", findings)
    findings.extend(channel_gaps(images, metadata.channel_names))
    return pair(images, files_by_stem(root / "labelsTr", findings), findings)


def _test_cases(root: Path, metadata: Metadata, findings: list[Finding]) -> tuple[Case, ...]:
    """Returns the test cases; what is wrong with them is a warning, because training does not need them."""
    own: list[Finding] = []
    images = numbered_images(root / "imagesTs", own)
    own.extend(channel_gaps(images, metadata.channel_names))
    labelled, unlabelled = pair(images, files_by_stem(root / "labelsTs", own), own)
    for finding in own:
        if finding.code != "E-DATA-UNLABELLED":
            text = f"test image: {finding.text}" if finding.case_id else finding.text
            findings.append(replace(finding, level="warning", text=text))
    return tuple(sorted(labelled + unlabelled, key=lambda case: case.case_id))


def _listed_cases(source: Source, findings: list[Finding]) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    entries = (source.document or {}).get("dataset")
    if not isinstance(entries, dict):
        raise _list_error(source, "must map case names to their files")
    cases = [_listed_case(source, case_id, entry) for case_id, entry in sorted(entries.items())]
    unlabelled = tuple(case for case in cases if case.label is None)
    findings.extend(no_label(case) for case in unlabelled)
    return tuple(case for case in cases if case.label is not None), unlabelled


def _listed_case(source: Source, case_id: str, entry: Any) -> Case:
    if not isinstance(entry, Mapping):
        raise _list_error(source, f"holds {entry!r} for case {shown(case_id)}")
    images, label, group = entry.get("images"), entry.get("label"), entry.get("group")
    if not isinstance(images, list) or not images or not all(isinstance(path, str) for path in images):
        raise _list_error(source, f"must give case {shown(case_id)} a list of image files, got {images!r}")
    for what, text in (("label", label), ("group", group)):
        if not (text is None or isinstance(text, str)):
            raise _list_error(source, f"must give case {shown(case_id)} a {what} that is text, got {text!r}")
    return Case(
        case_id=case_id,
        images=tuple(_resolved(source, path) for path in images),
        label=_resolved(source, label) if label else None,
        group=group or None,
    )


def _resolved(source: Source, path: str) -> Path:
    return source.root / os.path.expandvars(path)


def _list_error(source: Source, what: str) -> DataError:
    return DataError(
        f"The list 'dataset' in {source.document_path} {what}.",
        code="E-DATASET-LIST",
        hint='Write it as "dataset": {"CASE": {"images": ["FILE"], "label": "FILE"}}.',
    )


def _count_findings(source: Source, labelled: int) -> list[Finding]:
    declared = (source.document or {}).get("numTraining")
    if declared is None or declared == labelled:
        return []
    return [
        Finding(
            "E-DATA-COUNT",
            "warning",
            f"dataset.json declares numTraining {declared!r}, but {labelled} labelled cases were found.",
            hint="Look for files that are missing or too many, then correct numTraining.",
        )
    ]


LAYOUT = Layout("imagesTr/CASE_0000.*, labelsTr/CASE.*, dataset.json", recognises, read)
