"""The guard around the application, request by request, without a server."""

import asyncio
import hmac
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scanseg.server import middleware
from scanseg.server.limits import Limits
from scanseg.server.middleware import Dropped, Guard, _Body, owner_of
from scanseg.server.problems import Refusal
from scanseg.server.settings import Settings

MINE, YOURS = "a" * 40, "b" * 40
HOST = ("host", "127.0.0.1:8000")
MINE_HEAD = [HOST, ("authorization", f"Bearer {MINE}")]
UPLOAD = "/api/v1/predictions"


@dataclass
class Answer:
    """What came back; how many messages of the body were taken; whether the application was asked."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    taken: int = 0
    asked: bool = False

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


async def echo(scope, receive, send) -> None:
    """Answers with the owner and the number of bytes that came."""
    count, more = 0, True
    while more:
        message = await receive()
        count, more = count + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['state']['owner']} {count}".encode()})


@pytest.fixture
def guard(tmp_path: Path):
    """Makes guards around an application."""

    def make(app: Any = echo, tokens: bool = True, **limits: Any) -> Guard:
        known = {owner_of(token): token for token in (MINE, YOURS)} if tokens else {}
        return Guard(app, Settings(runs={}, data=tmp_path, tokens=known, limits=Limits(**limits)))

    return make


def ask(
    guard: Guard, method: str = "GET", path: str = "/api/v1/models", head: Any = MINE_HEAD, body: Any = (b"",)
) -> Answer:
    """Asks a guard; None in the body stands for a client that stops sending."""
    answer, app = Answer(), guard.app

    async def counted(scope, receive, send) -> None:
        answer.asked = True
        await app(scope, receive, send)

    async def receive() -> dict[str, Any]:
        answer.taken += 1
        part = body[answer.taken - 1] if answer.taken <= len(body) else None
        if part is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": part, "more_body": answer.taken < len(body)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answer.body += message["body"]

    scope = {
        "type": "http", "method": method, "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in head],
    }  # fmt: skip
    guard.app = counted
    try:
        asyncio.run(asyncio.wait_for(guard(scope, receive, send), 20))
    finally:
        guard.app = app
    return answer


@pytest.mark.parametrize(
    "hosts", [["evil.example"], ["127.0.0.1.evil.example"], ["127.0.0.1", "evil.example"], []]
)
def test_other_host_names_are_refused(guard, hosts) -> None:
    found = ask(guard(), head=[*MINE_HEAD[1:], *(("host", host) for host in hosts)])
    assert (found.status, found.code, found.asked) == (403, "E-SERVE-HOST", False)


@pytest.mark.parametrize(
    "head",
    [
        [("origin", "http://evil.example")],
        [("origin", "null")],
        [("origin", "http://127.0.0.1:9")],
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")],
        [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")],
    ],
)
def test_requests_of_other_pages_are_refused(guard, head) -> None:
    found = ask(guard(), head=[*MINE_HEAD, *head])
    assert (found.status, found.code, found.asked) == (403, "E-SERVE-ORIGIN", False)


def test_the_own_page_and_links_to_it_pass(guard) -> None:
    assert ask(guard(), head=[*MINE_HEAD, ("origin", "http://127.0.0.1:8000")]).status == 200
    link = [HOST, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]
    assert ask(guard(), path="/", head=link).status == 200
    assert ask(guard(), path="/api/v1/models", head=[*link, *MINE_HEAD[1:]]).status == 403


@pytest.mark.parametrize(
    "given", ["", f"Bearer {MINE[:-1]}", f"Bearer {MINE}a", f"Basic {MINE}", MINE, "Bearer ", "Bearer \xff"]
)
def test_without_the_token_nothing_is_read(guard, given) -> None:
    head = [HOST, *([("authorization", given)] if given else []), ("content-length", "9")]
    found = ask(guard(), "PUT", UPLOAD, head, [b"x" * 9])
    assert (found.status, found.code) == (401, "E-SERVE-TOKEN")
    assert (found.taken, found.asked) == (0, False)
    assert found.headers["www-authenticate"] == "Bearer"


def test_a_token_tells_who_asks(guard) -> None:
    for token in (MINE, YOURS):
        found = ask(guard(), head=[HOST, ("authorization", f"Bearer {token}")])
        assert found.body.split()[0].decode() == owner_of(token)
        assert token not in found.body.decode()
    assert ask(guard(tokens=False), head=[HOST]).body == b"local 0"
    for path in ("/healthz", "/readyz", "/", "/web/page.js"):
        assert ask(guard(), path=path, head=[HOST]).status == 200


def test_tokens_are_compared_in_constant_time(guard, monkeypatch) -> None:
    """Every token is compared, each time over digests of one length."""
    seen = []

    def compare(one: bytes, other: bytes) -> bool:
        seen.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(middleware, "hmac", type("Spy", (), {"compare_digest": staticmethod(compare)}))
    assert ask(guard()).status == 200
    assert ask(guard(), head=[HOST, ("authorization", "Bearer x")]).status == 401
    assert seen == [(32, 32)] * 4


def test_the_rate_is_of_an_owner(guard) -> None:
    found = guard(requests_per_minute=3)
    assert [ask(found).status for _ in range(4)] == [200, 200, 200, 429]
    assert ask(found, head=[HOST, ("authorization", f"Bearer {YOURS}")]).status == 200


def test_a_body_that_says_it_is_too_large_is_not_read(guard) -> None:
    for method, path, limit in (("POST", UPLOAD, "json_bytes"), ("PUT", UPLOAD, "upload_bytes")):
        head = [*MINE_HEAD, ("content-length", "11")]
        found = ask(guard(**{limit: 10}), method, path, head, [b"x" * 11])
        assert (found.status, found.taken, found.asked) == (413, 0, False)
        assert ask(guard(**{limit: 11}), method, path, head, [b"x" * 11]).body.endswith(b" 11")


def test_a_body_that_grows_too_large_is_given_up(guard) -> None:
    head = [*MINE_HEAD, ("transfer-encoding", "chunked")]
    found = ask(guard(upload_bytes=10), "PUT", UPLOAD, head, [b"xxxx"] * 1000)
    assert (found.status, found.taken) == (413, 3)
    assert found.headers["connection"] == "close"


def test_a_body_that_stops_is_given_up(guard) -> None:
    head = [*MINE_HEAD, ("content-length", "9")]
    found = ask(guard(idle_s=0.05), "PUT", UPLOAD, head, [b"x", None])
    assert (found.status, found.code) == (408, "E-SERVE-SLOW")


@pytest.mark.parametrize(
    "head",
    [
        [("content-length", "5"), ("content-length", "6")],
        [("content-length", "5"), ("transfer-encoding", "chunked")],
        [("content-length", "-1")],
        [("content-length", "1" * 30)],
    ],
)
def test_a_length_that_can_be_read_in_two_ways_is_refused(guard, head) -> None:
    found = ask(guard(), "PUT", UPLOAD, [*MINE_HEAD, *head], [b"xxxxx"])
    assert (found.status, found.code, found.asked) == (400, "E-SERVE-HTTP", False)


def test_compressed_bodies_are_refused(guard) -> None:
    head = [*MINE_HEAD, ("content-length", "1"), ("content-encoding", "gzip")]
    assert ask(guard(), "PUT", UPLOAD, head, [b"x"]).status == 415


def test_a_full_disk_is_said_before_the_body(guard) -> None:
    head = [*MINE_HEAD, ("content-length", "1")]
    found = ask(guard(free_bytes=1 << 60), "PUT", UPLOAD, head, [b"x"])
    assert (found.status, found.code, found.taken) == (507, "E-SERVE-DISK", 0)


def test_a_disk_that_fills_while_a_body_comes_ends_it(tmp_path) -> None:
    """A body without a length is not stopped by what it declares."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(65 << 20), "more_body": True}

    body = _Body(receive, 1 << 40, Limits(free_bytes=1 << 60), tmp_path)
    with pytest.raises(Refusal) as caught:
        asyncio.run(body())
    assert caught.value.status == 507


def test_every_answer_has_the_strict_headers(guard) -> None:
    async def fault(scope, receive, send) -> None:
        raise ValueError

    answers = [ask(guard()), ask(guard(), head=[HOST]), ask(guard(fault))]
    assert [answer.status for answer in answers] == [200, 401, 500]
    for answer in answers:
        parts = {
            part.split()[0]: part.split()[1:] for part in answer.headers["content-security-policy"].split(";")
        }
        assert parts == {
            "default-src": ["'none'"], "script-src": ["'self'"], "style-src": ["'self'"],
            "img-src": ["'self'", "blob:", "data:"], "connect-src": ["'self'"],
            "frame-ancestors": ["'none'"], "base-uri": ["'none'"], "form-action": ["'self'"],
        }  # fmt: skip
        for name, value in {
            "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
            "cache-control": "no-store", "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin", "x-frame-options": "DENY",
        }.items():  # fmt: skip
            assert answer.headers[name] == value
        assert "access-control-allow-origin" not in answer.headers


def test_an_answer_before_the_end_of_a_body_closes_the_connection(guard) -> None:
    async def hasty(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    found = ask(guard(hasty), "PUT", UPLOAD, [*MINE_HEAD, ("content-length", "9")], [b"x" * 9])
    assert (found.headers["connection"], found.taken) == ("close", 0)


def test_a_client_that_does_not_read_is_dropped(guard, tmp_path) -> None:
    async def stuck(message: Any) -> None:
        await asyncio.sleep(60 if message["type"] == "http.response.body" else 0)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": [(b"host", b"localhost")]}
    with pytest.raises(Dropped):
        asyncio.run(asyncio.wait_for(guard(send_s=0.05)(scope, receive, stuck), 5))


def test_a_fault_tells_nothing_of_what_it_met(guard, caplog) -> None:
    async def fault(scope, receive, send) -> None:
        raise ValueError("MARKER^PATIENT")

    with caplog.at_level(logging.DEBUG):
        found = ask(guard(fault))
    assert (found.status, found.code) == (500, "E-INTERNAL")
    assert b"MARKER" not in found.body
    assert "MARKER" not in caplog.text
    assert "ValueError at " in caplog.text


def test_web_sockets_are_closed(guard) -> None:
    sent = []

    async def never(*_: Any) -> None:
        raise AssertionError("the application was asked")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(never)({"type": "websocket", "headers": []}, never, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
