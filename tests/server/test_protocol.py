"""Connections whose requests do not come, and what is no HTTP, against a real socket."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from scanseg.server.protocol import BODY_PIECE_BYTES, PIECE_BYTES, make_protocol

LIMIT_S = 0.5


async def hello(scope, receive, send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.contextmanager
def serving(connection: type) -> Iterator[int]:
    """Port of a server with connections of a class."""
    config = uvicorn.Config(
        hello, host="127.0.0.1", port=0, http=connection, lifespan="off", log_config=None,
        timeout_keep_alive=20,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server with a short limit for the head of a request."""
    with serving(make_protocol(LIMIT_S)) as number:
        yield number


def closed_after(connection: socket.socket) -> float:
    """Seconds until the other side closes, at most 10."""
    began_s = time.monotonic()
    connection.settimeout(10)
    try:
        while connection.recv(1000):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began_s


def answered(connection: socket.socket, request: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") -> bytes:
    """Asks for an answer and returns it."""
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"ok"):
        part = connection.recv(1000)
        assert part, "closed"
        answer += part
    return answer


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
def test_a_head_that_does_not_come_closes_the_connection(port, start) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(start)
        assert LIMIT_S / 2 < closed_after(connection) < LIMIT_S + 4


def test_a_second_head_has_a_limit_of_its_own(port) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert answered(connection).startswith(b"HTTP/1.1 200")
        time.sleep(LIMIT_S * 1.5)  # a quiet connection between requests is no slow head
        assert answered(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET / HTTP/1.1\r\nHo")
        assert closed_after(connection) < LIMIT_S + 4


def test_what_is_no_http_gets_our_answer(port) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        answer = b""
        while part := connection.recv(5000):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"default-src 'none'" in head
    assert b"application/problem+json" in head
    assert b"E-SERVE-HTTP" in body


def test_only_bodies_of_known_length_come_in_large_pieces(monkeypatch) -> None:
    """The next request on the connection is none of them."""
    connection, sizes = make_protocol(LIMIT_S), []
    offered = connection.get_buffer

    def offer(self, sizehint: int) -> memoryview:
        sizes.append(len(offered(self, sizehint)))
        return offered(self, sizehint)

    monkeypatch.setattr(connection, "get_buffer", offer)
    with serving(connection) as port:
        for head, large in (
            (b"Content-Length: 1000000\r\n\r\n" + bytes(1_000_000), True),
            (b"Content-Length: 10\r\n\r\n" + bytes(10), False),
            (b"Transfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n" + bytes(0xFFFF) + b"\r\n0\r\n\r\n", False),
        ):
            sizes.clear()
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                answered(client, b"PUT / HTTP/1.1\r\nHost: a\r\n" + head)
                assert max(sizes) == (BODY_PIECE_BYTES if large else PIECE_BYTES)
                sizes.clear()
                answered(client)
                assert max(sizes) == PIECE_BYTES
