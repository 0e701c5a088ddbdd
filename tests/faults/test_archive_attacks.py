"""Archives that attack, through the process that unpacks them: names, bombs, lies, and damage at random."""

import io
import os
import random
import shutil
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scanseg.data import Limits
from scanseg.data.zip_entries import opened_zip
from scanseg.errors import DataError, Error
from scanseg.server.reading import _parse

FULL = os.environ.get("SCANSEG_FAULTS") == "full"
RANDOM, SEED = 1000 if FULL else 150, 7
SLIPS = (
    "../x.png", "a/../../x.png", "/etc/x.png", "..\\x.png", "C:\\x.png", "c:x.png", "//host/x.png",
    "a/..\\..\\x.png", "x\0.png", "\\\\host\\x.png", "./../x.png", "a/b/../../../x.png", "x\n.png",
    "\u202ex.png",
)  # fmt: skip
CAP = 4 << 30

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600 if FULL else 300)]


def pack(entries: dict[str, bytes]) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return body.getvalue()


def patched(body: bytes, offset: int, value: int) -> bytes:
    """A body with another number in its last directory entry."""
    place = body.rindex(b"PK\1\2") + offset
    return body[:place] + struct.pack("<I", value) + body[place + 4 :]


def attacks() -> Iterator[tuple[str, bytes]]:
    for name in SLIPS:
        safe = name.replace("\0", "?")
        yield f"name {name!r}", pack({"good.png": b"1", safe: b"2"}).replace(safe.encode(), name.encode())
    yield "link", linked()
    yield "many entries", pack({f"{number}.png": b"" for number in range(20_001)})
    yield "claims 4 GB", patched(pack({"b.png": bytes(1000), "a.png": b""}), 24, 0xFFFFFFF0)
    yield "says less than it holds", patched(pack({"a.png": bytes(900_000)}), 24, 10)
    yield (
        "entries overlap",
        patched(pack({"a.png": random.Random(0).randbytes(5000), "b.png": b"x" * 50}), 42, 0),
    )
    yield "archive in an archive", pack({"a.zip": pack({"a.png": bytes(1000)})})
    generator = random.Random(SEED)
    sound = pack({f"{number}.png": generator.randbytes(200) for number in range(5)})
    for number in range(RANDOM):
        body = bytearray(sound)
        for _ in range(generator.randint(1, 6)):
            body[generator.randrange(len(body))] = generator.randrange(256)
        yield f"random {number}", bytes(body)


def encrypted(body: bytes) -> bytes:
    changed = bytearray(body)
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        changed[changed.index(signature) + place] |= 1
    return bytes(changed)


def says_one_entry(body: bytes) -> bytes:
    """An archive whose last record says that it has one entry."""
    place = body.rindex(b"PK\5\6")
    return body[: place + 8] + struct.pack("<HH", 1, 1) + body[place + 12 :]


def linked() -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        entry = zipfile.ZipInfo("a.png")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return body.getvalue()


RULES = {
    "a name that leads outside": (pack({"a/../../x.png": b"1"}), "E-ZIP-ENTRY"),
    "a link": (linked(), "E-ZIP-ENTRY"),
    "encrypted": (encrypted(pack({"a.png": b"1"})), "E-ZIP-ENTRY"),
    "an archive inside": (pack({"a.zip": b"1"}), "E-ZIP-ENTRY"),
    "two entries of one name": (pack({"a.png": b"1", "A.PNG": b"2"}), "E-ZIP-ENTRY"),
    "entries that overlap": (
        patched(pack({"a.png": random.Random(0).randbytes(5000), "b.png": b"x"}), 42, 0), "E-ZIP-ENTRY",
    ),
    "more entries than it says": (
        says_one_entry(pack({f"{number}.png": b"" for number in range(30)})), "E-ZIP-LIMIT",
    ),
    "more bytes than accepted": (pack({"a.png": bytes(2000)}), "E-ZIP-LIMIT"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_an_archive_is_refused_before_anything_of_it_is_read(tmp_path, rule) -> None:
    body, code = RULES[rule]
    (tmp_path / "a.zip").write_bytes(body)
    most = 1000 if rule == "more bytes than accepted" else 1 << 20
    with (
        pytest.raises(DataError) as caught,
        opened_zip(tmp_path / "a.zip", Limits(entries=20, decompressed_bytes=most)),
    ):
        pass
    assert caught.value.code == code


def test_archives_leave_nothing_outside_their_folder(tmp_path, figure) -> None:
    """Figure S7: files outside the folder of the job, links, and bytes over the cap; must be none."""
    outside, over, count, silent = [], [], 0, []
    for name, body in attacks():
        count += 1
        case = tmp_path / "case"
        (case / "out").mkdir(parents=True)
        (case / "0000.zip").write_bytes(body)
        try:
            _parse({"paths": [str(case / "0000.zip")], "out": str(case / "out"), "options": {}})
        except Error as error:
            if not (error.code.startswith("E-") and error.message):
                silent.append(name)
        found = [path for path in tmp_path.rglob("*") if path.is_symlink() or path.is_file()]
        strays = [
            path
            for path in found
            if path.is_symlink() or not (path == case / "0000.zip" or path.is_relative_to(case / "out"))
        ]
        outside += [(name, str(path.relative_to(tmp_path))) for path in strays]
        if sum(path.lstat().st_size for path in found) > CAP:
            over.append(name)
        shutil.rmtree(case)
    slipped = [path for path in (Path("/etc/x.png"), Path("/x.png"), Path("x.png")) if path.exists()]
    figure(
        "S7", archives=count, outside=len(outside) + len(slipped), over_cap=len(over), unclear=len(silent),
        seed=SEED,
    )  # fmt: skip
    assert not outside
    assert not slipped
    assert not over
    assert not silent
