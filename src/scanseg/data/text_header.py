"""Headers made of named text lines, as NRRD and MetaImage have them."""

import math
from pathlib import Path
from typing import BinaryIO

from scanseg.data.limits import Limits, refused
from scanseg.errors import DataError


class TextHeader(dict[str, str]):
    """The fields of a header by name; each may stand there once.

    Args:
        path: For messages.
        code: Of the errors.
        hint: Of the errors.
    """

    def __init__(self, path: Path, *, code: str, hint: str) -> None:
        super().__init__()
        self.path, self._code, self._hint = path, code, hint

    def fault(self, text: str) -> DataError:
        """Returns the error for a header that cannot be used."""
        return refused(self.path, text, code=self._code, hint=self._hint)

    def add(self, name: str, value: str) -> None:
        """Stores a field.

        Raises:
            DataError: It is there already.
        """
        if name in self:
            raise self.fault(f"the field {name[:60]!r} stands there twice")
        self[name] = value

    def integers(self, name: str) -> list[int]:
        """Returns a field of one or more whole numbers.

        Raises:
            DataError: It is missing or something else.
        """
        tokens = self.get(name, "").split()
        if not 1 <= len(tokens) <= 16 or not all(t.isascii() and t.isdigit() and len(t) < 16 for t in tokens):
            raise self.fault(
                f"the field {name!r} must be whole numbers, got {self.get(name, 'nothing')[:60]!r}"
            )
        return [int(token) for token in tokens]


def numbers(tokens: list[str], count: int, header: TextHeader, name: str) -> list[float]:
    """Returns `count` finite numbers.

    Raises:
        DataError: There are more or fewer, or one is not finite or no number.
    """
    try:
        values = [float(token) for token in tokens]
    except ValueError:
        values = []
    if len(values) != count or not all(math.isfinite(value) for value in values):
        raise header.fault(
            f"the field {name!r} must be {count} finite numbers, got {' '.join(tokens)[:80]!r}"
        )
    return values


def read_until(stream: BinaryIO, ends: tuple[bytes, ...], path: Path, limits: Limits) -> tuple[bytes, int]:
    """Returns the bytes up to the first of `ends`, and where the bytes behind it start.

    Raises:
        DataError: The end does not come, or not within the limits.
    """
    data = stream.read(limits.text_header_bytes)
    found = [(position, end) for end in ends if (position := data.find(end)) >= 0]
    if found:
        position, end = min(found)
        return data[:position], position + len(end)
    raise refused(
        path,
        f"the end of its header was not found in {len(data):,} bytes; it was cut or is damaged",
        code="E-FILE-TRUNCATED",
        hint="Copy or download the file again.",
    )
