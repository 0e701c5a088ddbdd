"""What every request passes before any of our code sees it: host, token, origin, size, time, headers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from scanseg.server.limits import Rate, check_disk
from scanseg.server.problems import MEDIA_TYPE, Refusal, problem_of
from scanseg.server.settings import Settings, is_local

logger = logging.getLogger("scanseg.server")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
SECURITY_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"x-frame-options", b"DENY"),
]
_OPEN = ("/healthz", "/readyz")
_SAFE = ("GET", "HEAD", "OPTIONS")
LOCAL = "local"


def owner_of(token: str) -> str:
    """Returns the name under which the holder of a token owns jobs; the token cannot be found from it."""
    return hashlib.sha256(b"scanseg owner " + token.encode()).hexdigest()[:32]


class Guard:
    """Pure ASGI middleware. What it refuses, the application never sees, and no byte of the body is kept.

    Args:
        app: The application.
        settings: Tokens, host names, limits.
    """

    def __init__(self, app: App, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.limits = settings.limits
        self.rate = Rate(self.limits.requests_per_minute)
        self.hosts = allowed_hosts(settings)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Checks one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            elif scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        answer = _Answer(send, self.limits.send_s)
        try:
            headers = _headers(scope)
            self._check_host(headers)
            self._check_origin(scope, headers)
            scope.setdefault("state", {})["owner"] = self._check_token(scope, headers)
            body = self._body(scope, headers, receive)
        except Refusal as refusal:
            await refuse(answer, refusal)
            return
        answer.body = body
        try:
            await self.app(scope, body, answer)
        except ClientDisconnect:
            pass
        except Exception as error:
            # The text of an exception may hold what stands in a file: it is neither told nor logged.
            if not isinstance(error, Refusal | TimeoutError | ConnectionError):
                logger.error("unexpected %s at %s", type(error).__name__, place_of(error))
            if answer.complete:
                return
            if answer.started:
                raise Dropped from None
            await refuse(answer, error if isinstance(error, Refusal) else _internal())

    def _check_host(self, headers: dict[str, list[str]]) -> None:
        found = headers.get("host", [])
        name = _without_port(found[0]) if len(found) == 1 else None
        if name is None or (self.hosts is not None and name.lower() not in self.hosts):
            raise Refusal(
                403,
                "This server does not answer under that host name.",
                code="E-SERVE-HOST",
                hint="Use the address that the server printed, or start it with --allow-host NAME.",
            )

    def _check_origin(self, scope: MutableMapping[str, Any], headers: dict[str, list[str]]) -> None:
        """Refuses requests that a page from elsewhere makes in a browser."""
        origins = headers.get("origin", [])
        site = headers.get("sec-fetch-site", [""])[0]
        navigation = headers.get("sec-fetch-mode", [""])[0] == "navigate" and scope["method"] in _SAFE
        host = headers["host"][0].lower()
        same = all(origin.lower() in (f"http://{host}", f"https://{host}") for origin in origins)
        foreign = site in ("cross-site", "same-site") and not (navigation and _is_page(scope["path"]))
        if not same or foreign:
            raise Refusal(
                403,
                "Requests from other web pages are not accepted.",
                code="E-SERVE-ORIGIN",
                hint="Open the server's own page.",
            )

    def _check_token(self, scope: MutableMapping[str, Any], headers: dict[str, list[str]]) -> str:
        """Returns the owner that a request speaks for."""
        if scope["path"] in _OPEN or _is_page(scope["path"]):
            return ""
        owner = LOCAL
        if self.settings.tokens:
            found = headers.get("authorization", [])
            kind, _, given = found[0].partition(" ") if len(found) == 1 else ("", "", "")
            owners = [
                owner
                for owner, token in self.settings.tokens.items()
                if hmac.compare_digest(hashlib.sha256(given.strip().encode()).digest(), _digest(token))
            ]
            if kind.lower() != "bearer" or not owners:
                raise Refusal(
                    401,
                    "A token is needed, in the header `Authorization: Bearer TOKEN`.",
                    code="E-SERVE-TOKEN",
                    hint="Use the token that the server printed at its first start.",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            owner = owners[0]
        self.rate.check(owner)
        return owner

    def _body(
        self, scope: MutableMapping[str, Any], headers: dict[str, list[str]], receive: Receive
    ) -> _Body:
        """Returns a receive that counts bytes and seconds."""
        upload = scope["method"] == "PUT" and (
            "/inputs/" in scope["path"] or scope["path"].endswith("/predictions")
        )
        most = self.limits.upload_bytes if upload else self.limits.json_bytes
        lengths = headers.get("content-length", [])
        if len(set(lengths)) > 1 or ("transfer-encoding" in headers and lengths):
            raise Refusal(400, "The length of the body is given twice.", code="E-SERVE-HTTP")
        declared = int(lengths[0]) if lengths and lengths[0].isdecimal() and len(lengths[0]) < 20 else None
        if lengths and declared is None:
            raise Refusal(400, "Content-Length is no number.", code="E-SERVE-HTTP")
        if declared is not None and declared > most:
            raise _too_large(most)
        if upload:
            check_disk(self.settings.data, self.limits, declared or 0)
        if headers.get("content-encoding", ["identity"])[0].lower() not in ("identity", ""):
            raise Refusal(
                415,
                "Compressed bodies are not accepted.",
                code="E-SERVE-ENCODING",
                hint="Send the file as it is; .nii.gz needs no Content-Encoding.",
            )
        body = _Body(receive, most, self.limits, self.settings.data if upload else None)
        body.ended = "transfer-encoding" not in headers and not declared
        return body


class _Body:
    """Counts the bytes of a body and watches that they come."""

    def __init__(self, receive: Receive, most: int, limits: Any, disk: Any) -> None:
        self._receive, self._most, self._limits, self._disk = receive, most, limits, disk
        self._count, self._start_s, self.ended, self._checked = 0, time.monotonic(), False, 0

    async def __call__(self) -> Message:
        if self.ended:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._limits.idle_s)
        except TimeoutError:
            raise _slow() from None
        if message["type"] != "http.request":
            return message
        self._count += len(message.get("body", b""))
        self.ended = not message.get("more_body", False)
        if self._count > self._most:
            raise _too_large(self._most)
        passed_s = time.monotonic() - self._start_s
        if (
            not self.ended
            and passed_s > self._limits.slow_after_s
            and self._count < passed_s * self._limits.slowest_bytes_s
        ):
            raise _slow()
        # A body without a length may fill the disk while it comes.
        if self._disk is not None and self._count - self._checked > 64 << 20:
            self._checked = self._count
            if shutil.disk_usage(self._disk).free < self._limits.free_bytes:
                check_disk(self._disk, self._limits, 0)
        return message


class _Answer:
    """Adds the security headers to every answer, and gives up on clients that do not read."""

    def __init__(self, send: Send, limit_s: float) -> None:
        self._send, self._limit_s = send, limit_s
        self.started = self.complete = False
        self.body: _Body | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            present = {name.lower() for name, _ in message.get("headers", [])}
            # An answer before the end of the body: what is still to come is not read.
            early = message["status"] >= 400 and self.body is not None and not self.body.ended
            if early and b"connection" not in present:
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            message["headers"] = [
                *message.get("headers", []),
                *((name, value) for name, value in SECURITY_HEADERS if name not in present),
            ]
        await asyncio.wait_for(self._send(message), self._limit_s)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answers with a problem document and closes the connection, so that no body is read for nothing."""
    body = json.dumps(problem_of(refusal)).encode()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *((name.lower().encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def allowed_hosts(settings: Settings) -> frozenset[str] | None:
    """Returns the names under which the server answers; None for any, where a token protects it."""
    names = {name.lower() for name in settings.names}
    if is_local(settings.host):
        return frozenset({"127.0.0.1", "localhost", "[::1]", *names})
    if settings.host in ("0.0.0.0", "::"):
        return frozenset({"127.0.0.1", "localhost", "[::1]", *names}) if names else None
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return frozenset({host.lower(), *names})


def _is_page(path: str) -> bool:
    return path in ("/", "/favicon.ico") or path.startswith("/web/")


def _headers(scope: MutableMapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _too_large(most: int) -> Refusal:
    return Refusal(
        413,
        f"The body is larger than the {most:,} bytes that are accepted.",
        code="E-SERVE-SIZE-LIMIT",
        hint="Crop the image, compress it as .nii.gz, or ask the operator to raise --max-upload.",
    )


class Dropped(Exception):
    """An answer that had begun could not be finished; the connection is closed."""


def place_of(error: BaseException) -> str:
    """Returns file and line of our innermost frame."""
    place, trace = "?", error.__traceback__
    while trace is not None:
        if "scanseg" in trace.tb_frame.f_code.co_filename:
            place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _internal() -> Refusal:
    return Refusal(
        500,
        "The server met an unexpected fault.",
        code="E-INTERNAL",
        hint="Tell the operator when it happened.",
    )


def _slow() -> Refusal:
    return Refusal(
        408,
        "The request came too slowly or stopped.",
        code="E-SERVE-SLOW",
        hint="Send it again over a better connection.",
        headers={"Retry-After": "5"},
    )
