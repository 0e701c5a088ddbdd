"""Checks a dataset before anything is computed from it: every case is read, every fault is listed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scanseg.data.check_case import CaseFacts, Part, check_case
from scanseg.data.check_cohort import check_cohort
from scanseg.data.dataset import Dataset
from scanseg.data.splits import count_units
from scanseg.errors import DatasetError, Finding
from scanseg.progress import Report, silent, track
from scanseg.types import Case, Label

__all__ = ["CaseFacts", "CheckResult", "check_dataset"]


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        name: The dataset's name.
        findings: Everything found: first in names and tables, then case by case, then of all cases.
        statistics: Figures of the labelled cases, plain JSON values; see `check_dataset`.
        orientation: Axis codes of most cases, for example `RAS`; None in 2D or without affine.
        spatial_dims: 2 or 3, as most cases; 0 when no image could be read.
        cases: Facts of each case: labelled, unlabelled, test.
    """

    name: str
    findings: tuple[Finding, ...]
    statistics: Mapping[str, Any]
    orientation: str | None
    spatial_dims: int
    cases: tuple[CaseFacts, ...]

    @property
    def is_refused(self) -> bool:
        """Whether a finding is an error."""
        return any(finding.level == "error" for finding in self.findings)

    def raise_if_refused(self) -> None:
        """Does nothing for a sound dataset.

        Raises:
            DatasetError: There are errors; it carries all findings.
        """
        if self.is_refused:
            raise DatasetError(self.findings, what=self.name)

    def as_dict(self) -> dict[str, Any]:
        """Returns the result as plain JSON values; the same dataset gives the same text."""
        levels = Counter(finding.level for finding in self.findings)
        return {
            "schema_version": 1,
            "name": self.name,
            "refused": self.is_refused,
            "counts": {level: levels[level] for level in ("error", "warning", "info")},
            "orientation": self.orientation,
            "spatial_dims": self.spatial_dims,
            "findings": [finding.as_dict() for finding in self.findings],
            "statistics": dict(self.statistics),
            "cases": [case.as_dict() for case in self.cases],
        }


def check_dataset(
    dataset: Dataset, *, report: Report = silent, allow_geometry_mismatch: bool = False, folds: int = 5
) -> CheckResult:
    """Reads every file of a dataset once, one case at a time, and lists everything that is wrong.

    Never stops at the first fault and never raises for one. Errors refuse the dataset: files that cannot be
    read or hold NaN, labels that do not lie on their image or hold unknown values, names that clash, missing
    channels, classes without a case, one image in two groups. Faults of test images are warnings.

    `statistics` holds: cases, test_cases, unlabelled, groups (None without any), channels; shape and spacing
    (smallest, median, largest per axis, in array order), spacing_unit, orientations (number of cases each),
    intensity (per channel: name, low, high, mean of the cases' means), labels (per class: name, value, cases,
    voxels, and the median size in the cases that have it, in `size_unit`).

    Args:
        dataset: From `load_dataset`.
        report: Gets the progress, stage `check`.
        allow_geometry_mismatch: Labels whose spacing, origin or direction differ from their image's are a
            warning only. A different size stays an error.
        folds: How many folds cross-validation should have; fewer patients than that are a warning.
    """
    parts: list[tuple[Case, Part]] = [
        *((case, "training") for case in dataset.cases),
        *((case, "unlabelled") for case in dataset.unlabelled),
        *((case, "test") for case in dataset.test_cases),
    ]
    facts: list[CaseFacts] = []
    findings = list(dataset.findings)
    for case, part in track(parts, stage="check", report=report):
        found, faults = check_case(
            case, part, dataset.labels, allow_geometry_mismatch=allow_geometry_mismatch
        )
        facts.append(found)
        findings.extend(faults)
    findings.extend(check_cohort(dataset, facts, folds=folds))
    training = [case for case in facts if case.part == "training" and case.shape]
    return CheckResult(
        name=dataset.name,
        findings=tuple(_without_repeats(findings)),
        statistics=_statistics(dataset, training),
        orientation=_most_frequent([case.orientation for case in training if case.orientation]),
        spatial_dims=_most_frequent([case.spatial_dims for case in training]) or 0,
        cases=tuple(facts),
    )


def _without_repeats(findings: Sequence[Finding]) -> list[Finding]:
    """Drops what loading and reading both found, such as a missing channel of the same case."""
    kept: dict[tuple[str, str], Finding] = {}
    several = []
    for finding in findings:
        key = (finding.code, finding.case_id)
        if finding.code != "E-DATA-CHANNEL-MISSING" or key not in kept:
            kept[key] = finding
            several.append(finding)
    return several


def _most_frequent(values: Sequence[Any]) -> Any:
    """Returns the value that occurs most, the smallest of several; None for none."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value), default=None)


def _statistics(dataset: Dataset, training: Sequence[CaseFacts]) -> dict[str, Any]:
    dims = _most_frequent([case.spatial_dims for case in training])
    alike = [case for case in training if case.spatial_dims == dims]
    units = sorted({case.unit for case in alike})
    return {
        "cases": len(dataset.cases),
        "test_cases": len(dataset.test_cases),
        "unlabelled": len(dataset.unlabelled),
        "groups": count_units(dataset.cases) if any(case.group for case in dataset.cases) else None,
        "channels": len(dataset.channel_names),
        "shape": _spread([case.shape for case in alike]),
        "spacing": _spread([case.spacing for case in alike]),
        "spacing_unit": "/".join(units),
        "orientations": dict(sorted(Counter(case.orientation or "none" for case in alike).items())),
        "intensity": [
            _channel_statistics(index, name, alike) for index, name in enumerate(dataset.channel_names)
        ],
        "size_unit": f"{units[0]}{dims}" if len(units) == 1 else "",
        "labels": [_label_statistics(label, alike) for label in dataset.labels],
    }


def _spread(rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Returns the smallest, median and largest value per axis; empty for no rows."""
    if not rows:
        return {}
    axes = list(zip(*rows, strict=True))
    return {
        "min": [min(axis) for axis in axes],
        "median": [float(median(axis)) for axis in axes],
        "max": [max(axis) for axis in axes],
    }


def _channel_statistics(index: int, name: str, cases: Sequence[CaseFacts]) -> dict[str, Any]:
    values = [case.intensity[index] for case in cases if index < len(case.intensity)]
    return {
        "channel": name,
        "low": min((value.low for value in values), default=None),
        "high": max((value.high for value in values), default=None),
        "mean": sum(value.mean for value in values) / len(values) if values else None,
    }


def _label_statistics(label: Label, cases: Sequence[CaseFacts]) -> dict[str, Any]:
    counts = [(case, (case.label_voxels or {}).get(label.value, 0)) for case in cases]
    sizes = [count * case.voxel_size for case, count in counts if count]
    return {
        "name": label.name,
        "value": label.value,
        "cases": len(sizes),
        "voxels": sum(count for _, count in counts),
        "median_size": float(median(sizes)) if sizes else None,
    }
