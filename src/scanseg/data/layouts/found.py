"""What a layout reads from and what it gives back, before any voxel is looked at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scanseg.errors import Finding
from scanseg.types import Case, Label


@dataclass(frozen=True)
class Source:
    """Where a dataset is read from.

    Attributes:
        root: The folder that relative paths start at.
        document: Content of its `dataset.json`, None without one.
        document_path: Where that stands.
        table: A CSV file given in place of the folder.
    """

    root: Path
    document: Mapping[str, Any] | None = None
    document_path: Path | None = None
    table: Path | None = None


@dataclass(frozen=True)
class Found:
    """Cases and facts as the files and tables of a dataset give them.

    Attributes:
        name: What the dataset is called.
        cases: Cases with a label file.
        test_cases: Cases set apart for testing, with a label where there is one.
        unlabelled: Images of the training part that have no label.
        channel_names: Empty where nothing names the channels.
        labels: Background first, then by value; empty where nothing names the labels.
        facts: `modality`, `licence`, `citation`, as far as they are given.
        findings: What is wrong with names, numbers and pairs of files.
    """

    name: str
    cases: tuple[Case, ...] = ()
    test_cases: tuple[Case, ...] = ()
    unlabelled: tuple[Case, ...] = ()
    channel_names: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A way datasets lie on disk.

    Attributes:
        summary: One line for people.
        recognises: Tells from names alone whether a source is of this layout.
        read: Finds the cases of a source.
    """

    summary: str
    recognises: Callable[[Source], bool]
    read: Callable[[Source], Found]
