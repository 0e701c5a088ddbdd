"""Raw bodies to disk: counted, hashed, synced, renamed. Nothing of an upload is parsed here."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

from scanseg.files import sync_folder
from scanseg.server.jobs import Received
from scanseg.server.problems import Refusal

ENDINGS = (
    ".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".png", ".tif", ".tiff", ".jpg", ".jpeg", ".zip",
)  # fmt: skip
_BUFFER = 1 << 20
_LONGEST_NAME = 200


async def store_body(chunks: AsyncIterator[bytes], target: Path, pool: ThreadPoolExecutor) -> Received:
    """Writes a body to `target`; when this returns, the bytes survive a power cut.

    Args:
        chunks: The body.
        target: Final name; its folder exists.
        pool: Threads that write, so that the event loop never waits for the disk.

    Raises:
        Refusal: 422 if the body is empty.
    """
    loop = asyncio.get_running_loop()
    part = target.with_name(f".{target.name}.{os.urandom(6).hex()}.part")
    digest, count, buffer = hashlib.sha256(), 0, bytearray()
    handle = await loop.run_in_executor(pool, _open, part)
    try:
        async for chunk in chunks:
            buffer += chunk
            count += len(chunk)
            if len(buffer) >= _BUFFER:
                await loop.run_in_executor(pool, _write, handle, bytes(buffer), digest)
                buffer.clear()
        if count == 0:
            raise Refusal(
                422,
                "The body is empty.",
                code="E-SERVE-EMPTY",
                hint="Send the bytes of the file as the body.",
            )
        await loop.run_in_executor(pool, _write, handle, bytes(buffer), digest)
        await loop.run_in_executor(pool, os.fsync, handle)
        # Closed once only: the number may belong to another file a moment later.
        open_handle, handle = handle, -1
        os.close(open_handle)
        await loop.run_in_executor(pool, _rename, part, target)
    finally:
        if handle >= 0:
            os.close(handle)
        part.unlink(missing_ok=True)
    return Received(count, digest.hexdigest())


def _open(part: Path) -> int:
    return os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _write(handle: int, content: bytes, digest: hashlib._Hash) -> None:
    digest.update(content)
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def _rename(part: Path, target: Path) -> None:
    os.replace(part, target)
    sync_folder(target.parent)


def read_name(header: str | None, format: str | None) -> tuple[str, str]:
    """Returns the user's name for a file as printable text, and the ending by which it is stored.

    Args:
        header: Percent-encoded name.
        format: Ending, where there is no name or to overrule it.

    Raises:
        Refusal: 422 if neither tells the ending.
    """
    name = safe_name(unquote(header)) if header else ""
    if format:
        wanted = f".{format.lower().lstrip('.')}"
        if wanted in ENDINGS:
            return name or f"image{wanted}", wanted
    return name, ending_of(name)


def ending_of(name: str) -> str:
    """Returns the accepted ending of a name.

    Raises:
        Refusal: It has none.
    """
    found = next((ending for ending in ENDINGS if name.lower().endswith(ending)), None)
    if found is None:
        raise Refusal(
            422,
            f"The kind of file is not known; accepted are {' '.join(ENDINGS)}.",
            code="E-SERVE-ENDING",
            hint="Send the header X-Scanseg-Name: scan.nii.gz, or the query format=nii.gz.",
        )
    return found


def safe_name(name: str) -> str:
    """Returns a name as one short printable line: no path, control, bidi or undecodable characters.

    Example:
        >>> safe_name("C:\\\\x\\\\scan\\n1.nii.gz")
        'scan\\\\n1.nii.gz'
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in last
    )
    return shown if len(shown) <= _LONGEST_NAME else f"...{shown[3 - _LONGEST_NAME :]}"
