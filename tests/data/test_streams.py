"""Deflated bytes: every member whole, nothing before, between or behind unnoticed."""

import gzip
import io
import zlib
from pathlib import Path

import pytest

from scanseg.data.streams import InflatedSource
from scanseg.errors import DataError

DATA = bytes(range(256)) * 5000


def read(tmp_path: Path, content: bytes, kind: str = "gzip", step: int = 100_000) -> bytes:
    """Reads to the end in steps."""
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    with open(path, "rb") as stream:
        source = InflatedSource(stream, path, kind=kind)
        out = io.BytesIO()
        while part := source.read(step):
            out.write(part)
        assert source.at_end()
    return out.getvalue()


@pytest.mark.parametrize("step", [1 << 8, 99_991, 1 << 22])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_one_member(tmp_path, step, level):
    assert read(tmp_path, gzip.compress(DATA, level), step=step) == DATA


@pytest.mark.parametrize("count", [2, 7, 300])
def test_several_members_are_one_stream(tmp_path, count):
    assert read(tmp_path, gzip.compress(DATA[:999]) * count) == DATA[:999] * count


def test_empty_members_are_allowed(tmp_path):
    assert read(tmp_path, gzip.compress(b"") + gzip.compress(DATA) + gzip.compress(b"")) == DATA


@pytest.mark.parametrize("kind", ["zlib", "either"])
def test_zlib_streams(tmp_path, kind):
    assert read(tmp_path, zlib.compress(DATA), kind) == DATA


# Named, because gzip's header holds the time and a name must be the same in every test process.
_WHOLE = gzip.compress(DATA)
_CUT = {
    "last byte": _WHOLE[:-1], "trailer": _WHOLE[:-8], "middle": _WHOLE[:500], "header": _WHOLE[:5],
    "second member": _WHOLE + _WHOLE[:500], "second magic": _WHOLE + b"\x1f\x8b",
}  # fmt: skip


@pytest.mark.parametrize("content", _CUT.values(), ids=_CUT)
def test_cut_streams(tmp_path, content):
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    assert caught.value.code == "E-FILE-TRUNCATED"


@pytest.mark.parametrize("rest", [b"x", b"\0", b"\0" * 512, b"\x1f", b"trailing"])
def test_bytes_behind_the_stream(tmp_path, rest):
    with pytest.raises(DataError) as caught:
        read(tmp_path, gzip.compress(DATA) + rest)
    assert caught.value.code == "E-FILE-TRAILING"


def test_checksum_and_length(tmp_path):
    packed = bytearray(gzip.compress(DATA))
    for place in (-1, -8):
        broken = packed.copy()
        broken[place] ^= 1
        with pytest.raises(DataError) as caught:
            read(tmp_path, bytes(broken))
        assert caught.value.code == "E-FILE-DAMAGED"
