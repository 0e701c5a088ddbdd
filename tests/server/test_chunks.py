"""Bodies in very many very small pieces."""

import os
import socket
import threading
import time
from typing import Any

import httpx
import pytest

FULL = os.environ.get("SCANSEG_FAULTS") == "full"
COUNT = 1_000_000 if FULL else 100_000
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600 if FULL else 120)]


def test_chunks_of_one_byte(server: Any) -> None:
    """They are one upload like any other, and meanwhile nobody waits."""
    head = (
        "PUT /api/v1/predictions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Scanseg-Name: a.nii.gz\r\n"
        f"Authorization: Bearer {server.token}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    content = head.encode() + b"1\r\nx\r\n" * COUNT + b"0\r\n\r\n"
    answer = bytearray()

    def upload() -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=500) as connection:
            connection.sendall(content)
            while part := connection.recv(65536):
                answer.extend(part)

    thread = threading.Thread(target=upload)
    began_s = time.monotonic()
    thread.start()
    delays = []
    while thread.is_alive():
        asked_s = time.monotonic()
        assert httpx.get(f"{server.url}/healthz", trust_env=False).status_code == 200
        delays.append(time.monotonic() - asked_s)
        time.sleep(0.02)
    thread.join()
    assert answer.startswith(b"HTTP/1.1 202")
    # Taken at once, all of them would be one long turn.
    assert max(delays) < 0.5 * (time.monotonic() - began_s)
    if FULL:
        assert sorted(delays)[len(delays) * 99 // 100] < 0.25, delays
