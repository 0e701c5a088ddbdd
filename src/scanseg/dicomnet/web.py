"""DICOMweb: store, query and retrieve over HTTP.

Source: PS3.18 10.4 (retrieve, WADO-RS), 10.5 (store, STOW-RS), 10.6 (search, QIDO-RS).
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanseg.errors import Error, UsageError
from scanseg.files import written_aside
from scanseg.optional import require

if TYPE_CHECKING:
    import httpx

_UID = re.compile(r"^[0-9.]{1,64}$")
_BLOCK = 1 << 20
_MOST_ANSWER_BYTES = 64 << 20


@dataclass(frozen=True)
class Web:
    """A DICOMweb service.

    Attributes:
        url: Its root, for example `https://pacs.local/dicom-web`.
        token: Sent as `Authorization: Bearer`; empty sends none.
        user: Name and password for basic authentication.
        timeout_s: For every wait on the network.
        most_bytes: Most bytes of one retrieved series.
        most_files: Most instances of one retrieved series.
    """

    url: str
    token: str = ""
    user: tuple[str, str] | None = None
    timeout_s: float = 60.0
    most_bytes: int = 4 << 30
    most_files: int = 20_000

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(
                "The address of a DICOMweb service must start with http:// or https://.", code="E-DICOM-WEB"
            )

    def __repr__(self) -> str:
        return f"Web({self.url!r})"  # the token stays out of logs


def store(web: Web, paths: Sequence[Path]) -> int:
    """Stores files (STOW-RS); returns how many were taken.

    Raises:
        Error: The service cannot be reached, or refuses a file.
    """
    boundary = uuid.uuid4().hex
    with _answer(
        web,
        "POST",
        "studies",
        content=_parts(paths, boundary),
        headers={
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        },
    ) as answer:
        document = _json(answer)
    stored = len(document.get("00081199", {}).get("Value", [])) if isinstance(document, dict) else 0
    if stored != len(paths):
        raise _failed(web, f"took {stored} of {len(paths)} files")
    return stored


def search(
    web: Web, level: str, *, study: str = "", filters: Mapping[str, str] | None = None, most: int = 1000
) -> list[dict[str, Any]]:
    """Searches (QIDO-RS); returns one mapping of tags to DICOM JSON values for each match.

    Args:
        web: The service.
        level: `studies`, `series` or `instances`.
        study: Study UID to search in; empty searches all.
        filters: Keywords or tags and what they must match, for example `{"Modality": "MR"}`.
        most: Most matches.

    Raises:
        Error: The service cannot be reached or refuses.
    """
    if level not in ("studies", "series", "instances"):
        raise UsageError(f"Level must be studies, series or instances, got {level!r}.", code="E-DICOM-WEB")
    place = f"studies/{_checked(study)}/{level}" if study else level
    parameters = {**(filters or {}), "limit": str(most)}
    headers = {"Accept": "application/dicom+json"}
    with _answer(web, "GET", place, params=parameters, headers=headers) as answer:
        found = [] if answer.status_code == 204 else _json(answer)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise _failed(web, "answered a search with something else than a list")
    return found[:most]


def retrieve(web: Web, study: str, series: str, folder: Path) -> list[Path]:
    """Fetches every instance of a series (WADO-RS) into files named by numbers.

    Args:
        web: The service.
        study: Study UID.
        series: Series UID.
        folder: Made; a file appears only when it is whole.

    Raises:
        Error: The service cannot be reached, refuses, or sends more than the limits.
    """
    place = f"studies/{_checked(study)}/series/{_checked(series)}"
    headers = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    paths: list[Path] = []
    with _answer(web, "GET", place, headers=headers) as answer:
        boundary = re.search(r'boundary="?([^";]+)"?', answer.headers.get("content-type", ""))
        if boundary is None:
            raise _failed(web, "did not answer with parts")
        for content in _received_parts(web, answer, boundary[1].encode()):
            if len(paths) >= web.most_files:
                raise _failed(web, "sent more files than accepted")
            path = Path(folder) / f"{len(paths) + 1}.dcm"
            with written_aside(path) as temporary:
                temporary.write_bytes(content)
            paths.append(path)
    if not paths:
        raise _failed(web, "sent no file")
    return paths


def _checked(uid: str) -> str:
    if not _UID.match(uid):
        raise UsageError("A UID is digits and points, at most 64.", code="E-DICOM-WEB")
    return uid


@contextmanager
def _answer(web: Web, method: str, place: str, **options: Any) -> Iterator["httpx.Response"]:
    """Yields a good answer whose body is not read yet."""
    require("httpx", extra="serve", purpose="DICOMweb")
    import httpx

    headers = dict(options.pop("headers", {}))
    if web.token:
        headers["Authorization"] = f"Bearer {web.token}"
    try:
        with (
            httpx.Client(timeout=web.timeout_s, auth=web.user, trust_env=False) as client,
            client.stream(method, f"{web.url.rstrip('/')}/{place}", headers=headers, **options) as answer,
        ):
            if answer.status_code not in (200, 202, 204):
                raise _failed(web, f"answered with status {answer.status_code}")
            yield answer
    except httpx.HTTPError as error:
        raise _failed(web, f"cannot be reached ({type(error).__name__})") from None


def _json(answer: "httpx.Response") -> Any:
    body = b""
    for block in answer.iter_bytes(_BLOCK):
        body += block
        if len(body) > _MOST_ANSWER_BYTES:
            raise Error("The DICOMweb service sent an answer of over 64 MiB.", code="E-DICOM-WEB")
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Error("The DICOMweb service did not answer in JSON.", code="E-DICOM-WEB") from None


def _parts(paths: Sequence[Path], boundary: str) -> Iterator[bytes]:
    for path in paths:
        yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        with open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                yield block
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _received_parts(web: Web, answer: "httpx.Response", boundary: bytes) -> Iterator[bytes]:
    """Yields the bodies of a multipart answer; holds one part in memory."""
    mark, buffer, total, searched = b"\r\n--" + boundary, b"\r\n", 0, 0
    first = True
    for block in answer.iter_bytes(_BLOCK):
        buffer += block
        total += len(block)
        if total > web.most_bytes:
            raise _failed(web, "sent more bytes than accepted")
        while (place := buffer.find(mark, searched)) >= 0:
            part, buffer, searched = buffer[:place], buffer[place + len(mark) :], 0
            if not first:
                yield _body(web, part)
            first = False
        searched = max(0, len(buffer) - len(mark))
    if not buffer.startswith(b"--"):
        raise _failed(web, "stopped before the end of its answer")


def _body(web: Web, part: bytes) -> bytes:
    head, separator, body = part.partition(b"\r\n\r\n")
    if not separator or (b"application/dicom" not in head.lower()):
        raise _failed(web, "sent a part that is no DICOM file")
    return body


def _failed(web: Web, why: str) -> Error:
    host = re.sub(r"^(https?://)[^/@]*@", r"\1", web.url)
    return Error(
        f"The DICOMweb service {host} {why}.",
        code="E-DICOM-WEB",
        hint="Check its address, the token or password, and its log.",
    )
