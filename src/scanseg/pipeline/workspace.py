"""What several runs on the same data share: the check, the fingerprint and the prepared images."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanseg.data.check import CheckResult, check_dataset
from scanseg.data.dataset import Dataset, load_dataset
from scanseg.data.dicom_files import content_stamp
from scanseg.errors import DataError
from scanseg.files import read_json, write_json
from scanseg.nnunet.fingerprint import make_fingerprint
from scanseg.nnunet.plan import Plan
from scanseg.progress import Report


@dataclass(frozen=True)
class Workspace:
    """A folder of results that can be made again at any time, keyed by the data they were made from."""

    folder: Path
    dataset: Dataset
    check: dict[str, Any]
    fingerprint: dict[str, Any]

    @property
    def orientation(self) -> str | None:
        """Axis codes that all images are turned to; None where images carry no orientation."""
        orientation: str | None = self.check["orientation"]
        return orientation

    def store(self, plan: Plan, configuration: str) -> Path:
        """Returns the folder of the images prepared for a configuration of a plan."""
        facts = plan.configurations[configuration].model_dump(mode="json")
        wanted = {key: facts[key] for key in ("spatial_dims", "spacing", "normalization")}
        if facts["sharpen_amount"]:
            wanted["sharpen"] = [facts["sharpen_amount"], facts["sharpen_radius"]]
        wanted["orientation"] = plan.orientation
        return self.folder / f"{configuration}-{_digest(wanted)}"


def open_workspace(
    data: Path,
    parent: Path,
    *,
    images: Path | str | None,
    labels: Path | str | None,
    layout: str,
    allow_geometry_mismatch: bool,
    report: Report,
) -> Workspace:
    """Loads, checks and measures a dataset, or takes the results that lie in the workspace already.

    Args:
        data: Dataset folder, CSV file or dataset.json.
        parent: Folder of workspaces.
        images: As in `check`; so are `labels`, `layout`, `allow_geometry_mismatch` and `report`.

    Raises:
        DatasetError: The check refuses the data; lists all findings.
    """
    dataset = load_dataset(data, layout=layout, images=images, labels=labels)
    if not dataset.cases:
        raise DataError(
            f"{data} holds no labelled case.",
            code="E-DATASET-EMPTY",
            hint="Training needs images with labels; `scanseg dataset check` shows what was found.",
        )
    key = _digest([_signature(dataset), allow_geometry_mismatch])
    folder = parent / f"{safe_name(dataset.name)}-{key}"
    check = _checked(dataset, folder / "check.json", allow_geometry_mismatch, report)
    path = folder / "fingerprint.json"
    if path.is_file():
        fingerprint = read_json(path)
    else:
        fingerprint = make_fingerprint(dataset, orientation=check["orientation"], report=report)
        write_json(path, fingerprint)
    return Workspace(folder, dataset, check, fingerprint)


def _checked(dataset: Dataset, path: Path, allow_geometry_mismatch: bool, report: Report) -> dict[str, Any]:
    if path.is_file():
        return dict(read_json(path))
    result: CheckResult = check_dataset(
        dataset, report=report, allow_geometry_mismatch=allow_geometry_mismatch
    )
    result.raise_if_refused()
    facts = result.as_dict()
    write_json(path, facts)
    return facts


def _signature(dataset: Dataset) -> list[Any]:
    def of(path: Path | None) -> list[Any] | None:
        if path is None:
            return None
        return [str(path.resolve()), *content_stamp(path)]

    labels = [[label.value, label.name] for label in dataset.labels]
    cases = [
        [case.case_id, case.group, [of(path) for path in case.images], of(case.label)]
        for case in dataset.cases
    ]
    return [labels, cases]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def safe_name(name: str) -> str:
    """Returns a dataset's name as a folder name: letters, digits, dot, dash and underscore."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:60] or "dataset"
