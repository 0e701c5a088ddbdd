"""Opens many slow connections to a server at one moment; prints after how many seconds each was closed.

    python tests/server/siege.py PORT COUNT TOKEN

A program of its own, so that its work does not delay the health checks that are timed meanwhile.
"""

import asyncio
import contextlib
import json
import sys
import time


async def connection(port: int, first: bytes, rest: bytes) -> float:
    """Sends `first` at once and `rest` byte by byte, one a second; returns after how long it was closed."""
    began_s = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)

    async def drip() -> None:
        for byte in rest:
            writer.write(bytes([byte]))
            await asyncio.sleep(1.0)

    task = asyncio.create_task(drip())
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 60)
    task.cancel()
    writer.close()
    return time.monotonic() - began_s


async def besiege(port: int, count: int, token: str) -> list[float]:
    """Heads that never end from `count` connections, and bodies that never come from a tenth as many."""
    heads = [b"", b"GET / HTTP/1.1\r\nHost: ", b"PUT /api/v1/predictions HTTP/1.1\r\nX: "]
    upload = (
        f"PUT /api/v1/predictions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        "X-Scanseg-Name: a.png\r\nContent-Length: 100000\r\n\r\n"
    ).encode()
    slow = [connection(port, b"", heads[number % 3]) for number in range(count)]
    return await asyncio.gather(*slow, *(connection(port, upload, b"") for _ in range(count // 10)))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(besiege(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))) + "\n")
