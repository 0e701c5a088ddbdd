"""Rule tables: which sentences follow from which facts, with a reason and a source for each."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from scanseg.errors import DataError
from scanseg.optional import require
from scanseg.server.conditions import Condition, parse_condition

CASE_FACTS = (
    "case.spatial_dims", "case.empty", "case.labels_found", "case.labels_missing", "case.total_ml",
    "case.notes", "case.spacing_known", "case.largest_spacing_mm", "case.smallest_spacing_mm",
    "case.spacing_ratio", "case.outside_spacing", "case.uncertainty", "case.components",
)  # fmt: skip
LABEL_FACTS = (
    "label.name", "label.value", "label.present", "label.voxels", "label.volume_ml", "label.area_mm2",
    "label.components", "label.largest_share", "label.mean_component_ml", "label.touches_border",
    "label.left_share", "label.score", "label.uncertainty", "label.training_known", "label.training_cases",
    "label.training_low", "label.training_high", "label.training_median", "label.size",
    "label.below_training", "label.above_training", "label.percentile", "label.in_every_training_case",
    "label.validation_dice",
)  # fmt: skip
KINDS = ("insight", "next_step")
INFORMATION = ("disease_label", "aetiology", "follow_up")
_LARGEST_BYTES = 1 << 20
_HOLE = re.compile(r"\{([a-z_.0-9]+)(?::(\d))?\}")


@dataclass(frozen=True)
class Rule:
    """One row of a table.

    Attributes:
        kind: `insight` or `next_step`.
        scope: `case`, or `label`: tried for each label.
        labels: Names it is limited to, in lower case; empty for all.
        text: Sentence with `{facts}`.
        review: Whether the case then counts as one to look at.
    """

    code: str
    kind: str
    scope: str
    labels: tuple[str, ...]
    when: Condition
    text: str
    reason: str
    source: str
    priority: int
    review: bool


@dataclass(frozen=True)
class Table:
    """A rule table.

    Attributes:
        applies_to: Each group of names of labels that must all be in the model; empty for every model.
        information: Label name in lower case -> entries of kind, text and reference.
    """

    name: str
    version: str
    applies_to: tuple[frozenset[str], ...]
    rules: tuple[Rule, ...]
    information: dict[str, list[dict[str, str]]]


def tables_for(labels: Sequence[str], run: Path | None) -> list[Table]:
    """Returns the tables of a model: general ones, those for its labels, and `rules.yaml` of its run folder.

    Raises:
        DataError: The file of the run folder cannot be used.
    """
    names = {label.lower() for label in labels}
    found = [
        table
        for table in shipped_tables()
        if not table.applies_to or any(group <= names for group in table.applies_to)
    ]
    own = None if run is None else run / "rules.yaml"
    return [*found, read_table(own)] if own is not None and own.is_file() else found


@functools.cache
def shipped_tables() -> tuple[Table, ...]:
    """Returns the tables that ship with the package."""
    folder = files("scanseg.server") / "rules"
    paths = sorted(path.name for path in folder.iterdir() if path.name.endswith(".yaml"))
    return tuple(parse_table((folder / name).read_text(encoding="utf-8"), name) for name in paths)


def read_table(path: Path) -> Table:
    """Returns the table in a file; see `parse_table`."""
    if path.stat().st_size > _LARGEST_BYTES:
        raise _refused(path.name, f"it is larger than {_LARGEST_BYTES} bytes")
    return parse_table(path.read_text(encoding="utf-8", errors="replace"), path.name)


def parse_table(text: str, name: str) -> Table:
    """Returns the table in a YAML text.

    Args:
        text: Keys `version`, `name`, `applies_to`, `rules`, `labels`; plain values only, no references.
        name: For messages.

    Raises:
        DataError: It is no such table; the message says where.
    """
    yaml = require("yaml", extra="serve", purpose="Reading rule tables")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise _refused(name, "references (&, *) are not accepted")
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _refused(name, "it is not valid YAML") from error
    if not isinstance(found, dict) or set(found) - {"version", "name", "applies_to", "rules", "labels"}:
        raise _refused(name, "accepted at the top are version, name, applies_to, rules and labels")
    groups = found.get("applies_to") or []
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise _refused(name, "applies_to must be a list of lists of label names")
    rules = found.get("rules") or []
    if not isinstance(rules, list):
        raise _refused(name, "rules must be a list")
    return Table(
        name=str(found.get("name") or name),
        version=str(found.get("version") or ""),
        applies_to=tuple(frozenset(str(label).lower() for label in group) for group in groups),
        rules=tuple(_rule(rule, name) for rule in rules),
        information=_information(found.get("labels") or {}, name),
    )


def _rule(found: Any, name: str) -> Rule:
    accepted = {"code", "kind", "for", "labels", "when", "text", "reason", "source", "priority", "review"}
    if not isinstance(found, dict) or set(found) - accepted:
        raise _refused(name, f"a rule has other keys than {', '.join(sorted(accepted))}")
    missing = [
        key for key in ("code", "when", "text", "reason", "source") if not isinstance(found.get(key), str)
    ]
    kind, scope = found.get("kind", "next_step"), found.get("for", "case")
    if missing or kind not in KINDS or scope not in ("case", "label"):
        raise _refused(
            name, f"rule {found.get('code')!r} lacks {', '.join(missing) or 'a known kind or scope'}"
        )
    known = (*CASE_FACTS, *(LABEL_FACTS if scope == "label" else ()))
    holes = {match[1] for match in _HOLE.finditer(found["text"])} - set(known)
    if holes:
        raise _refused(name, f"rule {found['code']!r} names unknown facts: {', '.join(sorted(holes))}")
    return Rule(
        code=found["code"],
        kind=kind,
        scope=scope,
        labels=tuple(str(label).lower() for label in found.get("labels") or ()),
        when=parse_condition(found["when"], known),
        text=found["text"],
        reason=found["reason"],
        source=found["source"],
        priority=int(found.get("priority", 3)),
        review=bool(found.get("review", False)),
    )


def _information(found: Any, name: str) -> dict[str, list[dict[str, str]]]:
    if not isinstance(found, dict):
        raise _refused(name, "labels must map names to information")
    entries: dict[str, list[dict[str, str]]] = {}
    for label, kinds in found.items():
        if not isinstance(kinds, dict) or set(kinds) - set(INFORMATION):
            raise _refused(name, f"label {label!r} may hold {', '.join(INFORMATION)}")
        for kind, entry in kinds.items():
            if not isinstance(entry, dict) or set(entry) != {"text", "reference"} or not all(
                isinstance(value, str) and value.strip() for value in entry.values()
            ):  # fmt: skip
                raise _refused(name, f"{kind} of {label!r} needs a text and a literature reference")
            entries.setdefault(str(label).lower(), []).append({"kind": kind, **entry})
    return entries


def apply_tables(
    tables: Sequence[Table], case: Mapping[str, Any], labels: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns what follows from facts, most urgent first.

    Args:
        tables: From `tables_for`.
        case: `CASE_FACTS`.
        labels: For each label `LABEL_FACTS`, and `place` in mm or None.

    Returns:
        For each rule that holds `kind`, `code`, `text`, `reason`, `source`, `priority`, `review`, `label`
        (value or None), `because` (facts that the condition asked for) and `where_mm`.
    """
    found = []
    for table in tables:
        for rule in table.rules:
            for label in labels if rule.scope == "label" else [None]:
                if label is not None and rule.labels and str(label["label.name"]).lower() not in rule.labels:
                    continue
                facts = {**case, **(label or {})}
                if rule.when.holds(facts):
                    found.append(_said(rule, facts, label))
    return sorted(found, key=lambda entry: entry["priority"])


def _said(rule: Rule, facts: Mapping[str, Any], label: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "kind": rule.kind,
        "code": rule.code,
        "priority": rule.priority,
        "text": _HOLE.sub(lambda match: _worded(facts.get(match[1]), match[2]), rule.text),
        "label": None if label is None else label["label.value"],
        "reason": rule.reason,
        "source": rule.source,
        "because": {name: facts.get(name) for name in sorted(rule.when.names)},
        "where_mm": None if label is None else label.get("place"),
        "review": rule.review,
    }


def _worded(value: Any, digits: str | None) -> str:
    if value is None:
        return "?"
    if isinstance(value, float):
        return f"{value:.{int(digits)}f}" if digits is not None else f"{value:.3g}"
    return str(value)


def _refused(name: str, what: str) -> DataError:
    return DataError(
        f"The rule table {name} cannot be used: {what}.",
        code="E-RULES-TABLE",
        hint="Mend it; its form is described in docs/how-to/serve.md.",
    )
