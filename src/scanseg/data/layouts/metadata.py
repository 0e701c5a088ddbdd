"""Names, labels and channels from a `dataset.json`, in nnU-Net's new and old form and in MSD's."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scanseg.data.layouts.found import Source
from scanseg.data.wording import listed, shown
from scanseg.errors import DataError
from scanseg.types import Label

FACTS = {
    "modality": ("modality",),
    "licence": ("licence", "license"),
    "citation": ("citation", "reference"),
}


@dataclass(frozen=True)
class Metadata:
    """The facts of a `dataset.json`; empty where it does not give them."""

    name: str
    channel_names: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def read_metadata(source: Source) -> Metadata:
    """Returns what `dataset.json` says about a dataset; only the folder's name where there is none.

    Raises:
        DataError: The labels or channels make no sense, or they are regions or hold an ignore label.
    """
    document, path = source.document, source.document_path
    if document is None or path is None:
        return Metadata(name=source.root.name)
    facts = {}
    for fact, keys in FACTS.items():
        texts = [document[key] for key in keys if isinstance(document.get(key), str)]
        facts[fact] = texts[0] if texts else ""
    name = document.get("name")
    return Metadata(
        name=name if isinstance(name, str) and name else source.root.name,
        channel_names=_channel_names(document, path),
        labels=parse_labels(document["labels"], path) if "labels" in document else (),
        facts=facts,
    )


def _channel_names(document: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    given = document.get("channel_names", document.get("modality"))
    if given is None or (isinstance(given, str) and "channel_names" not in document):
        return ()
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        return tuple(given)
    if isinstance(given, dict) and all(isinstance(name, str) for name in given.values()):
        numbers = [int(key) if re.fullmatch(r"\d{1,4}", key) else -1 for key in given]
        if sorted(numbers) == list(range(len(numbers))):
            return tuple(name for _, name in sorted(zip(numbers, given.values(), strict=True)))
    raise DataError(
        f"The channels in {path} must be numbered 0, 1, 2, ... and have names, got {shown(repr(given))}.",
        code="E-DATASET-CHANNELS",
        hint='Write them as "channel_names": {"0": "T1", "1": "FLAIR"}.',
    )


def parse_labels(given: Any, path: Path) -> tuple[Label, ...]:
    """Returns the labels of a `dataset.json`, background first, then by value.

    Args:
        given: name -> value as nnU-Net writes it, or value -> name as MSD and nnU-Net's first version do.
        path: Named in the errors.

    Raises:
        DataError: A value is no integer from 0, is missing for the background, or is given twice; or the
            labels are regions or hold an ignore label, which are not supported.
    """
    if not isinstance(given, dict):
        raise _label_error(path, f"must map names to values, got {shown(repr(given))}")
    pairs = list(given.items())
    if pairs and all(re.fullmatch(r"-?\d+", key) and isinstance(name, str) for key, name in pairs):
        pairs = [(name, int(key)) for key, name in pairs]
    labels = [Label(_label_value(name, value, path), name) for name, value in pairs]
    by_value, by_name = Counter(label.value for label in labels), Counter(label.name for label in labels)
    twice = [str(fact) for fact, count in [*by_value.items(), *by_name.items()] if count > 1]
    if twice:
        raise _label_error(path, f"must be distinct, but these occur twice: {listed(twice)}")
    if not any(label.value == 0 for label in labels):
        raise _label_error(path, "must give the background the value 0, but no label has it")
    return tuple(sorted(labels, key=lambda label: label.value))


def _label_value(name: str, value: Any, path: Path) -> int:
    if isinstance(value, list):
        raise DataError(
            f"Label {shown(name)!r} in {path} is a region made of the values {value}; labels that overlap are"
            " not supported.",
            code="E-DATASET-REGIONS",
            hint="Give every label one value of its own in the label files and in dataset.json.",
        )
    if name == "ignore":
        raise DataError(
            f"{path} declares an ignore label; labels that leave voxels undecided are not supported.",
            code="E-DATASET-IGNORE-LABEL",
            hint="Label these voxels, or leave out the cases that have them and remove 'ignore' from labels.",
        )
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise _label_error(path, f"must be integers from 0 to 2147483647, got {value!r} for {shown(name)!r}")
    return value


def _label_error(path: Path, what: str) -> DataError:
    return DataError(
        f"The label values in {path} {what}.",
        code="E-DATASET-LABELS",
        hint='Write them as "labels": {"background": 0, "tumour": 1}.',
    )
