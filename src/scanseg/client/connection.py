"""Requests and their answers, or the errors that they come to. Nothing here knows what they are about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanseg.errors import Error
from scanseg.files import written_aside
from scanseg.optional import require

if TYPE_CHECKING:
    import httpx

_CHUNK = 1 << 20


class ServiceError(Error):
    """The service refused something.

    Attributes:
        status: HTTP status; 0 if there was no answer.
    """

    def __init__(self, message: str, *, code: str, hint: str = "", status: int = 0) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status = status


class Connection:
    """HTTP to one service.

    Args:
        url: As the service printed it.
        token: Where it needs one.
        timeout_s: Longest wait for an answer.
    """

    def __init__(self, url: str, token: str | None, *, timeout_s: float) -> None:
        library = require("httpx", extra="serve", purpose="The client")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # No proxies or .netrc from the environment: images go where the caller said, and nowhere else.
        self._http: httpx.Client = library.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout_s, trust_env=False
        )
        self._broken: type[Exception] = library.HTTPError

    def close(self) -> None:
        """Closes it."""
        self._http.close()

    def json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """Returns the JSON of an answer; `more` goes to httpx.

        Raises:
            ServiceError: There was no answer, or a refusal.
        """
        found: dict[str, Any] = self.send(method, path, **more).json()
        return found

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Returns an answer that is no refusal; errors as in `json`."""
        try:
            answer = self._http.request(method, path, **more)
        except self._broken as error:
            raise _unreachable(error) from error
        _check(answer)
        return answer

    def upload(self, path: str, source: Path) -> dict[str, Any]:
        """Sends a file piece by piece and returns the JSON of the answer; errors as in `json`."""
        length = {"Content-Length": str(source.stat().st_size)}
        return self.json("PUT", path, content=_chunks(source), headers=length)

    def download(self, path: str, target: Path) -> Path:
        """Writes an answer to a file, whole or not at all; errors as in `json`. Returns the file's path."""
        try:
            with self._http.stream("GET", path) as answer:
                if answer.status_code >= 400:
                    answer.read()
                _check(answer)
                with written_aside(target) as temporary, open(temporary, "wb") as stream:
                    for chunk in answer.iter_bytes(_CHUNK):
                        stream.write(chunk)
        except self._broken as error:
            raise _unreachable(error) from error
        return target


def _check(answer: httpx.Response) -> None:
    if answer.status_code < 400:
        return
    try:
        found = answer.json()
    except ValueError:
        found = {}
    raise ServiceError(
        str(found.get("detail") or f"The service answered {answer.status_code}."),
        code=str(found.get("code") or "E-CLIENT-HTTP"),
        hint=str(found.get("hint") or ""),
        status=answer.status_code,
    )


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _unreachable(error: Exception) -> ServiceError:
    return ServiceError(
        f"The service cannot be reached ({type(error).__name__}).",
        code="E-CLIENT-UNREACHABLE",
        hint="Check the address, and that `scanseg serve` runs there.",
    )
