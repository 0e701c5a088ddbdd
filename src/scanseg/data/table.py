"""Small CSV tables: which case has which files, which case is of which patient."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scanseg.data.wording import shown
from scanseg.errors import DataError

CASE_COLUMNS = ("case", "case_id", "id", "identifier", "name")
GROUP_COLUMNS = ("group", "patient", "subject", "patient_id", "subject_id", "participant_id")
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Table:
    """Rows of a CSV file as dictionaries, with the number of the line each ends on."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]

    def column(self, names: Sequence[str]) -> str | None:
        """Returns the first of `names` that is a column."""
        return next((name for name in names if name in self.columns), None)


def read_table(path: Path) -> Table:
    """Returns a CSV file: UTF-8, first line the column names, separated by comma, semicolon or tab.

    Names of columns are lowered and stripped, cells are stripped, empty lines passed over.

    Raises:
        DataError: The file is missing, is not such text, a column name is missing or occurs twice, or a row
            has more or fewer cells than there are columns.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"The table {path} does not exist.", code="E-FILE-MISSING") from None
    except UnicodeDecodeError as error:
        raise _table_error(path, "is not UTF-8 text", "Save it as CSV in UTF-8.") from error
    head = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=head.count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [(lines.line_num, [cell.strip() for cell in line]) for line in lines]
    except csv.Error as error:
        raise _table_error(path, f"cannot be read as CSV ({error})", "Look for an open quote.") from error
    rows = [(number, cells) for number, cells in rows if any(cells)]
    columns = tuple(name.lower() for name in rows[0][1]) if rows else ()
    if len(set(columns)) < len(columns) or "" in columns or not columns:
        raise _table_error(
            path,
            f"must start with a line of distinct column names, got {shown(head[:80])!r}",
            "For example: case,image,label,group",
        )
    for number, cells in rows[1:]:
        if len(cells) != len(columns):
            raise _table_error(
                path,
                f"has {len(cells)} cells in line {number}, but {len(columns)} columns",
                "Put cells that contain the separator in quotes.",
            )
    return Table(
        columns, tuple((number, dict(zip(columns, cells, strict=True))) for number, cells in rows[1:])
    )


def _table_error(path: Path, what: str, hint: str) -> DataError:
    return DataError(f"The table {path} {what}.", code="E-TABLE-FORMAT", hint=hint)
