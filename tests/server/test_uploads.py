"""Bodies on their way to the disk: whole, synced and under their name only then."""

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scanseg.server import uploads
from scanseg.server.problems import Refusal
from scanseg.server.uploads import store_body

PARTS = [b"one", b"x" * (3 << 20), b"end"]


async def chunks(parts: list[bytes], error: Exception | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if error is not None:
        raise error


def store(target: Path, parts: list[bytes], error: Exception | None = None):
    with ThreadPoolExecutor(1) as pool:
        return asyncio.run(store_body(chunks(parts, error), target, pool))


def test_bytes_count_and_hash(tmp_path) -> None:
    whole = b"".join(PARTS)
    found = store(tmp_path / "0000.nii", PARTS)
    assert (found.bytes, found.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert (tmp_path / "0000.nii").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["0000.nii"]
    assert oct((tmp_path / "0000.nii").stat().st_mode & 0o777) == "0o600"


def test_bytes_are_synced_before_they_have_their_name(tmp_path, monkeypatch) -> None:
    """The order that a power cut asks for: data, name, folder."""
    seen, real = [], (os.fsync, os.replace, uploads.sync_folder)

    def fsync(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            seen.append(("data", os.fstat(handle).st_size, (tmp_path / "a").exists()))
        real[0](handle)

    def replace(source: Path, target: Path) -> None:
        seen.append(("name", source.stat().st_size, target.exists()))
        real[1](source, target)

    def folder(path: Path) -> None:
        seen.append(("folder", (path / "a").stat().st_size, True))
        real[2](path)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(uploads, "sync_folder", folder)
    size = store(tmp_path / "a", PARTS).bytes
    assert seen == [("data", size, False), ("name", size, False), ("folder", size, True)]


@pytest.mark.parametrize("error", [ConnectionError(), Refusal(413, "x", code="E-X")])
def test_a_body_that_breaks_off_leaves_nothing(tmp_path, error) -> None:
    with pytest.raises(type(error)):
        store(tmp_path / "a", PARTS, error)
    assert not list(tmp_path.iterdir())


def test_an_empty_body_leaves_nothing(tmp_path) -> None:
    with pytest.raises(Refusal) as caught:
        store(tmp_path / "a", [b""])
    assert caught.value.code == "E-SERVE-EMPTY"
    assert not list(tmp_path.iterdir())
