"""cases.csv read back, strictly: what `Evaluation.save` wrote, or an error."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from scanseg.errors import DataError
from scanseg.evaluation.metrics import METRICS, STATES
from scanseg.evaluation.pair import Row

_TEXTS = ("case_id", "group", "name", "state")
_COUNTS = ("value", "reference_voxels", "prediction_voxels")
_LARGEST_BYTES = 500_000_000


def read_cases(path: Path) -> list[Row]:
    """Returns the rows of a cases.csv, with numbers as numbers and NaN for empty cells.

    Args:
        path: The file that `Evaluation.save` wrote.

    Raises:
        DataError: The file is missing, empty, no such table, or holds something that is no number, an
            unknown state, or the same case and label twice.
    """
    rows = [_row(path, number, cells) for number, cells in _lines(path)]
    if not rows:
        raise _fault(path, "holds no case")
    seen: set[tuple[str, int]] = set()
    for row in rows:
        key = (row["case_id"], row["value"])
        if key in seen:
            raise _fault(path, f"holds the label {key[1]} of the case {key[0]} twice")
        seen.add(key)
    return rows


def metrics_in(rows: list[Row]) -> list[str]:
    """Returns the names of the metrics that the rows hold, in the order of METRICS."""
    return [name for name in METRICS if rows and name in rows[0]]


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise _fault(path, "is far larger than a table of scores")
        text = path.read_text("utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = reader.fieldnames or []
        missing = [name for name in ("case_id", "value", "name", "state") if name not in columns]
        if missing or len(set(columns)) != len(columns):
            raise _fault(path, f"lacks the columns {', '.join(missing)}" if missing else "repeats a column")
        lines = [(reader.line_num, cells) for cells in reader]
    except FileNotFoundError:
        raise DataError(f"The file {path} does not exist.", code="E-FILE-MISSING") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise _fault(path, f"cannot be read ({error})") from error
    for number, cells in lines:
        if None in cells or None in cells.values():
            raise _fault(path, f"has another number of cells than columns in line {number}")
    return lines


def _row(path: Path, number: int, cells: dict[str, str]) -> Row:
    row: Row = {"group": ""}
    for name, cell in cells.items():
        if name in _TEXTS:
            row[name] = cell
            continue
        try:
            row[name] = int(cell) if name in _COUNTS else _value(cell)
        except ValueError:
            raise _fault(path, f"holds {cell[:40]!r} under {name} in line {number}") from None
    if row["state"] not in STATES:
        raise _fault(path, f"holds the unknown state {row['state'][:40]!r} in line {number}")
    return row


def _value(cell: str) -> float:
    value = float(cell) if cell else math.nan
    if cell and not math.isfinite(value):
        raise ValueError(cell)
    return value


def _fault(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} {what}.",
        code="E-CASES-FILE",
        hint="Write it again: `scanseg evaluate`, or train with validation.",
    )
