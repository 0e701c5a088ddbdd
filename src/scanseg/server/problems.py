"""Errors as answers: RFC 9457 problem documents with the code, sentence and hint of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from scanseg.errors import Error, UsageError

MEDIA_TYPE = "application/problem+json"


class Refusal(UsageError):
    """A request that is refused, with the HTTP status that says so."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        hint: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status = status
        self.headers = dict(headers or {})


def problem(status: int, code: str, detail: str, hint: str = "", **more: Any) -> dict[str, Any]:
    """Returns a problem document."""
    title = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else "Error"
    return {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "hint": hint,
        **more,
    }


def problem_of(error: Error) -> dict[str, Any]:
    """Returns the problem document of an error: its own status, else 422."""
    status = error.status if isinstance(error, Refusal) else 422
    return problem(status, error.code, error.message, error.hint)


def not_found() -> Refusal:
    """Returns the answer to an id that is unknown or belongs to somebody else."""
    return Refusal(
        404,
        "There is no such prediction or evaluation, or it has been erased.",
        code="E-SERVE-UNKNOWN",
        hint="List yours with GET /api/v1/predictions.",
    )
