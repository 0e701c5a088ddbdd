"""The errors users meet: each has a stable code, one sentence, a remedy and an exit code."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["error", "warning", "info"]


class Error(Exception):
    """Base of every error scanseg raises on purpose.

    Args:
        message: One sentence: what is wrong, where, what is accepted.
        code: Stable identifier, `E-<AREA>-<WORD>`, for example `E-NIFTI-TRUNCATED`.
        hint: What to do about it; may be a command.
    """

    exit_code = 1

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.code, self.hint, self.__dict__)


def _rebuild(kind: type[Error], message: str, code: str, hint: str, state: dict[str, Any]) -> Error:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class UsageError(Error, ValueError):
    """An argument, option or name is wrong (exit code 2)."""

    exit_code = 2


class DataError(Error):
    """A file or dataset is refused (exit code 3)."""

    exit_code = 3


class ModelError(Error):
    """A run folder cannot be used: missing, damaged, or made for something else."""


class TrainingError(Error):
    """Training cannot go on, for example after repeated non-finite losses."""


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        code: Stable identifier as in `Error.code`.
        level: `error` refuses the data, `warning` needs a look, `info` is for the record.
        text: One sentence: what is wrong and what is accepted.
        case_id: The case concerned, empty for the whole dataset.
        hint: What to do.
    """

    code: str
    level: Level
    text: str
    case_id: str = ""
    hint: str = ""

    def as_dict(self) -> dict[str, str]:
        """Returns the finding as plain JSON values."""
        return asdict(self)


class DatasetError(DataError):
    """A dataset is refused; `findings` lists everything that was found, not only the first fault."""

    def __init__(
        self,
        findings: Sequence[Finding],
        *,
        what: str,
        code: str = "E-DATASET-REFUSED",
        hint: str = "Mend or remove the cases named above, then run `scanseg dataset check` again.",
    ) -> None:
        errors = [finding for finding in findings if finding.level == "error"]
        lines = "".join(f"\n  {f.code}  {f.case_id + ': ' if f.case_id else ''}{f.text}" for f in errors)
        super().__init__(
            f"{what}: {len(errors)} error{'s' if len(errors) != 1 else ''} found.{lines}",
            code=code,
            hint=hint,
        )
        self.findings = tuple(findings)
