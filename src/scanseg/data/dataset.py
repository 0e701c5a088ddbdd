"""A dataset: which cases there are, where their files lie, what their values mean."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scanseg.data.collect import add_groups, add_patients, collect_channels, collect_labels, read_groups
from scanseg.data.dicom_files import is_series_path
from scanseg.data.label_values import indices_to_values, label_map_to_indices
from scanseg.data.layouts import LAYOUTS, Found, Source, folders
from scanseg.data.layouts.metadata import read_metadata
from scanseg.data.wording import shown
from scanseg.errors import DataError, Finding, UsageError
from scanseg.files import read_json, write_json
from scanseg.types import Case, Label

__all__ = ["Dataset", "indices_to_values", "label_map_to_indices", "load_dataset"]

SCHEMA = "scanseg-dataset-1"


@dataclass(frozen=True)
class Dataset:
    """The cases of a dataset and what is known about them.

    Attributes:
        root: The folder it was read from, absolute like all files of the cases.
        name: What it is called.
        layout: How it lies on disk, a name of `LAYOUTS`.
        channel_names: One per channel of an image.
        labels: The classes, background (value 0) first, then by value. The position is the network's class.
        cases: Cases with a label, by id.
        test_cases: Cases set apart for testing; a label where there is one.
        modality: Free text, empty if unknown; so are `licence` and `citation`.
        unlabelled: Images of the training part without a label; nothing learns from them.
        findings: What loading found; `check_dataset` repeats it first.
    """

    root: Path
    name: str
    layout: str
    channel_names: tuple[str, ...]
    labels: tuple[Label, ...]
    cases: tuple[Case, ...]
    test_cases: tuple[Case, ...] = ()
    modality: str = ""
    licence: str = ""
    citation: str = ""
    unlabelled: tuple[Case, ...] = ()
    findings: tuple[Finding, ...] = ()

    def to_json(self, path: Path) -> None:
        """Writes everything to a JSON file, atomically.

        Files inside the folder of `path` are written relative to it, so that both can move together; others
        absolute. nnU-Net reads the file too, if the label values are 0, 1, 2, ...

        Raises:
            DataError: Two cases have one name.
        """
        folder = Path(os.path.abspath(path)).parent
        ending = Counter(_ending(case.images[0]) for case in self.cases).most_common(1)
        write_json(
            path,
            {
                "schema": SCHEMA,
                "name": self.name,
                "root": _portable(self.root, folder),
                "layout": self.layout,
                "channel_names": {str(index): name for index, name in enumerate(self.channel_names)},
                "labels": {label.name: label.value for label in self.labels},
                "modality": self.modality,
                "licence": self.licence,
                "citation": self.citation,
                "numTraining": len(self.cases),
                "file_ending": ending[0][0] if ending else "",
                "dataset": _case_entries(self.cases, folder),
                "test_cases": _case_entries(self.test_cases, folder),
                "unlabelled": _case_entries(self.unlabelled, folder),
                "findings": [finding.as_dict() for finding in self.findings],
            },
        )

    @classmethod
    def from_json(cls, path: Path) -> "Dataset":
        """Returns the dataset that `to_json` wrote.

        Raises:
            DataError: The file is missing, damaged or of another kind.
        """
        return _from_document(read_json(path), path)


def load_dataset(
    path: Path | str,
    *,
    layout: str = "auto",
    images: Path | str | None = None,
    labels: Path | str | None = None,
) -> Dataset:
    """Finds the cases of a dataset in any known layout.

    Reads names, tables and a few headers. Voxels are read only where nothing names the labels: then the
    values of all label files are collected and called "label 255" and so on. Faults of single cases do not
    stop it; they stand in `findings` and come back from `check_dataset`.

    A file `cases.csv` beside the data with the columns `case` and `group` (or `patient`, `subject`) says
    which cases are of one patient; of DICOM series the header does where the table does not.

    Args:
        path: A folder (nnU-Net raw, MSD, or one with images/ and labels/), a `dataset.json`, or a CSV file.
        layout: A name of `LAYOUTS`, or `auto`.
        images: Folder of images, absolute, or relative to `path` or the working folder; needs `labels`.
        labels: Folder of label files, likewise.

    Raises:
        DataError: Nothing is there, no layout fits, or the description of the dataset makes no sense.
        UsageError: `layout` is unknown, or only one of `images` and `labels` is given.
    """
    source = _source(Path(os.path.abspath(path)))
    if (images is None) != (labels is None):
        raise UsageError("images and labels are given together or not at all.", code="E-DATASET-FOLDERS")
    if images is not None and labels is not None:
        layout = "folders"
        found = folders.read_pair(source, _folder(source, images), _folder(source, labels))
    elif layout == "auto" and (source.document or {}).get("schema") == SCHEMA:
        return _from_document(source.document, source.document_path or source.root)
    else:
        layout = _recognised(source) if layout == "auto" else layout
        found = LAYOUTS[layout].read(source)
    return _completed(found, source, layout)


def _source(path: Path) -> Source:
    if path.is_file():
        if path.suffix.lower() == ".json":
            return Source(path.parent, document=_document(path), document_path=path)
        return Source(path.parent, table=path)
    if not path.is_dir():
        raise DataError(
            f"There is no dataset at {path}: no such folder or file.",
            code="E-DATASET-MISSING",
            hint="Give the folder that holds the images, a dataset.json or a CSV file.",
        )
    file = path / "dataset.json"
    return Source(path, document=_document(file), document_path=file) if file.is_file() else Source(path)


def _document(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict):
        raise DataError(
            f"{path} must hold a JSON object, got a {type(document).__name__}.", code="E-FILE-JSON"
        )
    return document


def _folder(source: Source, folder: Path | str) -> Path:
    for candidate in (source.root / folder, Path(os.path.abspath(folder))):
        if candidate.is_dir():
            return candidate
    raise DataError(
        f"There is no folder {folder}, neither here nor in {source.root}.", code="E-DATASET-FOLDERS"
    )


def _recognised(source: Source) -> str:
    for name, layout in LAYOUTS.items():
        if (source.table is None or name == "csv") and layout.recognises(source):
            return name
    inside = [folder.name for folder in sorted(source.root.iterdir()) if folder.is_dir()]
    nested = [name for name in inside if _is_dataset(source.root / name)]
    known = "; ".join(f"{name}: {layout.summary}" for name, layout in LAYOUTS.items())
    raise DataError(
        f"{source.root} is not laid out as any dataset known here ({known}).",
        code="E-DATASET-LAYOUT",
        hint=f"Did you mean {source.root / nested[0]}?"
        if nested
        else "Name the folders with --images FOLDER --labels FOLDER, or give a CSV file of cases.",
    )


def _is_dataset(folder: Path) -> bool:
    return (folder / "dataset.json").is_file() or any(
        layout.recognises(Source(folder)) for layout in LAYOUTS.values()
    )


def _completed(found: Found, source: Source, layout: str) -> Dataset:
    """Returns the dataset with groups from `cases.csv`, and labels and channels from files where need be."""
    findings = list(found.findings)
    parts = (found.cases, found.test_cases, found.unlabelled)
    groups = read_groups(source.root / "cases.csv", parts, findings)
    cases, test_cases, unlabelled = add_patients([add_groups(part, groups) for part in parts])
    return Dataset(
        root=source.root,
        name=found.name,
        layout=layout,
        channel_names=found.channel_names or collect_channels(cases),
        labels=found.labels or collect_labels(cases, findings),
        cases=cases,
        test_cases=test_cases,
        unlabelled=unlabelled,
        findings=tuple(findings),
        **found.facts,
    )


def _from_document(document: Any, path: Path) -> Dataset:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise DataError(
            f"{path} does not describe a dataset in the form {SCHEMA}.",
            code="E-DATASET-SCHEMA",
            hint="Load the dataset's folder instead.",
        )
    folder = Path(os.path.abspath(path)).parent
    try:
        metadata = read_metadata(Source(folder, document, path))
        return Dataset(
            root=folder / document["root"],
            name=metadata.name,
            layout=document["layout"],
            channel_names=metadata.channel_names,
            labels=metadata.labels,
            cases=_parsed_cases(document["dataset"], folder),
            test_cases=_parsed_cases(document["test_cases"], folder),
            unlabelled=_parsed_cases(document["unlabelled"], folder),
            findings=tuple(_parsed_finding(entry) for entry in document["findings"]),
            **metadata.facts,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} describes a dataset but is damaged ({type(error).__name__}: {error}).",
            code="E-DATASET-SCHEMA",
            hint="Delete it and run `scanseg dataset check` on the data again.",
        ) from error


def _parsed_cases(entries: dict[str, dict[str, Any]], folder: Path) -> tuple[Case, ...]:
    return tuple(
        Case(
            case_id=case_id,
            images=tuple(folder / path for path in entry["images"]),
            label=folder / entry["label"] if entry["label"] is not None else None,
            group=entry["group"],
        )
        for case_id, entry in entries.items()
    )


def _parsed_finding(entry: dict[str, Any]) -> Finding:
    return Finding(**{field.name: entry[field.name] for field in fields(Finding)})


def _ending(path: Path) -> str:
    return "" if is_series_path(path) else "".join(path.suffixes[-2:])


def _portable(path: Path, folder: Path) -> str:
    absolute = path if path.is_absolute() else Path(os.path.abspath(path))
    return absolute.relative_to(folder).as_posix() if absolute.is_relative_to(folder) else str(absolute)


def _case_entries(cases: Sequence[Case], folder: Path) -> dict[str, dict[str, Any]]:
    counts = Counter(case.case_id for case in cases)
    twice = [case_id for case_id, count in counts.items() if count > 1]
    if twice:
        raise DataError(
            f"The name {shown(twice[0])!r} stands for {counts[twice[0]]} cases; names must be unique.",
            code="E-DATA-CASE-DUPLICATE",
            hint="Run `scanseg dataset check` to see all of them.",
        )
    return {
        case.case_id: {
            "images": [_portable(path, folder) for path in case.images],
            "label": _portable(case.label, folder) if case.label else None,
            "group": case.group,
        }
        for case in cases
    }
