"""Hostile archives leave nothing outside their folder and no more bytes than agreed."""

import io
import random
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from scanseg.data import Limits
from scanseg.data.zip_images import unpack_images
from scanseg.errors import DataError

pytestmark = pytest.mark.faults
CAP = Limits(entries=50, decompressed_bytes=1 << 20)
SLIPS = [
    "../x.png", "a/../../x.png", "/etc/x.png", "..\\x.png", "C:\\x.png", "c:x.png", "//host/x.png",
    "a/..\\..\\x.png",
    "x\0.png", "\\\\host\\x.png", "./../x.png", "a/b/../../../x.png", "x\n.png", "\u202ex.png",
]  # fmt: skip


def pack(entries: dict[str, bytes], *, kind: int = zipfile.ZIP_DEFLATED) -> bytearray:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", kind) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return bytearray(body.getvalue())


def attempt(tmp_path: Path, content: bytes, limits: Limits = CAP) -> str:
    """Unpacks; returns the code of the refusal, `unpacked` or `none`; checks what lies on the disk."""
    (tmp_path / "a.zip").write_bytes(content)
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    try:
        paths = unpack_images(tmp_path / "a.zip", folder, limits=limits)
        code = "unpacked" if paths else "none"
        assert all(path.parent == folder for path in paths)
    except DataError as error:
        code = error.code
    found = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "a.zip"]
    assert all(path.parent == folder for path in found)
    assert all(path.name[:4].isdecimal() and not path.is_symlink() for path in found)
    assert sum(path.stat().st_size for path in found) <= limits.decompressed_bytes + (1 << 20)
    return code


@pytest.mark.parametrize("name", SLIPS)
def test_names_lead_nowhere(tmp_path, name) -> None:
    safe = name.replace("\0", "?")
    body = pack({"good.png": b"1", safe: b"2"})
    if "\0" in name:
        body = body.replace(safe.encode(), name.encode())
    # Python cuts a name at a NUL and writes / for \ when it packs; what arrives is what counts.
    code = attempt(tmp_path, bytes(body))
    assert code in ("E-ZIP-ENTRY", "unpacked")
    if ".." in name.replace("\\", "/").split("/") or name.startswith("/"):
        assert code == "E-ZIP-ENTRY"


def test_bombs(tmp_path) -> None:
    assert attempt(tmp_path / "1", bytes(pack({"a.png": bytes(4 << 20)}))) == "E-ZIP-LIMIT"
    many = pack({f"{i}.png": b"x" for i in range(51)})
    assert attempt(tmp_path / "2", bytes(many)) == "E-ZIP-LIMIT"
    spread = pack({f"{i}.png": bytes(300_000) for i in range(6)})
    assert attempt(tmp_path / "3", bytes(spread)) == "E-ZIP-LIMIT"


@pytest.fixture(autouse=True)
def folders(tmp_path) -> None:
    for name in ("1", "2", "3"):
        (tmp_path / name).mkdir()


def test_a_lie_about_the_size(tmp_path) -> None:
    body = pack({"a.png": bytes(900_000)})
    central = body.rindex(b"PK\1\2")
    body[central + 24 : central + 28] = struct.pack("<I", 10)
    assert attempt(tmp_path / "1", bytes(body)) in ("E-ZIP-LIMIT", "E-ZIP-DAMAGED")


def test_overlapping_entries(tmp_path) -> None:
    body = pack({"a.png": random.Random(0).randbytes(5000), "b.png": b"x" * 50})
    central = body.rindex(b"PK\1\2")
    body[central + 42 : central + 46] = struct.pack("<I", 0)
    assert attempt(tmp_path / "1", bytes(body)) == "E-ZIP-ENTRY"


def test_links_nested_and_encrypted(tmp_path) -> None:
    link = io.BytesIO()
    with zipfile.ZipFile(link, "w") as archive:
        entry = zipfile.ZipInfo("a.png")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    assert attempt(tmp_path / "1", link.getvalue()) == "E-ZIP-ENTRY"
    assert attempt(tmp_path / "2", bytes(pack({"a.png": b"1", "b.zip": b"PK"}))) == "E-ZIP-ENTRY"
    body = pack({"a.png": b"1"})
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        body[body.index(signature) + place] |= 1
    assert attempt(tmp_path / "3", bytes(body)) == "E-ZIP-ENTRY"


def test_empty_and_damaged(tmp_path) -> None:
    assert attempt(tmp_path / "1", bytes(pack({"readme.txt": b"1"}))) == "none"
    assert attempt(tmp_path / "2", bytes(pack({"a.png": bytes(100)})[:-30])) == "E-ZIP-FORMAT"


def test_compressed_images_are_no_archives(tmp_path) -> None:
    assert attempt(tmp_path / "1", bytes(pack({"t1.nii.gz": b"1", "T2.NII.GZ": b"2"}))) == "unpacked"
    assert attempt(tmp_path / "2", bytes(pack({"t1.nii.gz": b"1", "more.gz": b"2"}))) == "E-ZIP-ENTRY"


def test_pictures_beside_dicom_files_are_previews(tmp_path) -> None:
    slices = {f"IM{number}": bytes(128) + b"DICM" + bytes(50) for number in range(3)}
    assert attempt(tmp_path / "1", bytes(pack({"preview.jpg": b"1", **slices}))) == "none"
    assert attempt(tmp_path / "2", bytes(pack({"a.png": b"1", "IM0": bytes(200)}))) == "unpacked"


def test_what_is_unpacked_is_its_owners_alone(tmp_path) -> None:
    (tmp_path / "a.zip").write_bytes(pack({"a.png": b"1"}))
    (path,) = unpack_images(tmp_path / "a.zip", tmp_path / "1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_order_is_by_number(tmp_path) -> None:
    (tmp_path / "a.zip").write_bytes(pack({"x_10.png": b"ten", "x_2.png": b"two", "dir/": b""}))
    (tmp_path / "out").mkdir()
    paths = unpack_images(tmp_path / "a.zip", tmp_path / "out", limits=CAP)
    assert [path.read_bytes() for path in paths] == [b"two", b"ten"]


def test_random_damage_is_refused_or_harmless(tmp_path) -> None:
    generator = random.Random(7)
    sound = pack({f"{i}.png": generator.randbytes(200) for i in range(5)})
    for number in range(150):
        body = bytearray(sound)
        for _ in range(generator.randint(1, 6)):
            body[generator.randrange(len(body))] = generator.randrange(256)
        folder = tmp_path / f"r{number}"
        folder.mkdir()
        attempt(folder, bytes(body))
