"""HTTP/1.1 connections with a time limit for the head of a request, and our own answers to nonsense."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from scanseg.server.middleware import SECURITY_HEADERS
from scanseg.server.problems import MEDIA_TYPE, problem

PIECE_BYTES = 8192
BODY_PIECE_BYTES = 1 << 16


class Connection(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's connection; it has no limit for the time that a head may take.

    It also takes all that has come, up to 256 KiB, at once: with chunks of one byte that is over a second of
    work, for which everybody else waits. Here a turn is `PIECE_BYTES`, or `BODY_PIECE_BYTES` of a body whose
    length is known, which is no work.

    Attributes:
        head_limit_s: Longest wait for the head of a request.
    """

    head_limit_s: float
    _head_timer: asyncio.TimerHandle | None = None
    _piece: bytearray | None = None
    _still_to_come = 0

    def connection_made(self, transport: Any) -> None:
        """Waits for the first head."""
        super().connection_made(transport)
        self._expect_head()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Returns where the next bytes are put."""
        size = max(PIECE_BYTES, min(self._still_to_come, BODY_PIECE_BYTES))
        if self._piece is None or len(self._piece) < size:
            self._piece = bytearray(size)
        return memoryview(self._piece)[:size]

    def buffer_updated(self, nbytes: int) -> None:
        """Takes the bytes that were put there."""
        if self._piece is not None:
            self._still_to_come -= nbytes
            self.data_received(bytes(memoryview(self._piece)[:nbytes]))
            if self._still_to_come <= PIECE_BYTES < len(self._piece):
                self._piece = None

    def data_received(self, data: bytes) -> None:
        """Takes bytes; with the first ones on an open connection the next head has begun."""
        if self._head_timer is None and self._between_requests():
            self._expect_head()
        before = self.scope
        super().data_received(data)
        if self.scope is not before:
            self._still_to_come = _declared_bytes(self.headers)
        if not self._between_requests():
            self._head_came()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits for nothing more."""
        self._head_came()
        super().connection_lost(exc)

    def _between_requests(self) -> bool:
        return self.conn.their_state is h11.IDLE

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_limit_s, self._head_is_late)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if not self.transport.is_closing() and self._between_requests():
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP with a problem document, and closes."""
        self._head_came()
        document = problem(400, "E-SERVE-HTTP", "This is not a valid HTTP request.")
        body = json.dumps(document).encode()
        headers = [
            *SECURITY_HEADERS,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        try:
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            # An answer was already on its way when the nonsense came.
            pass
        self.transport.close()


def _declared_bytes(headers: list[tuple[bytes, bytes]]) -> int:
    """Returns the length of a body that comes in one piece; 0 where it is not known."""
    found = dict(headers)
    return 0 if b"transfer-encoding" in found else int(found.get(b"content-length", b"0"))


def make_protocol(header_s: float) -> type[Connection]:
    """Returns a connection class that closes when a request's head takes longer than `header_s`."""

    class Limited(Connection):
        """A connection of one server."""

        head_limit_s = header_s

    return Limited
