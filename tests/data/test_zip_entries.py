"""Zip archives: attacks are refused before a byte of them is kept."""

import stat
import struct
import zipfile
from pathlib import Path

import pytest

from scanseg.data.limits import Limits
from scanseg.data.zip_entries import opened_zip
from scanseg.errors import DataError


def make(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def read_all(path: Path, **limits: int) -> dict[str, bytes]:
    with opened_zip(path, Limits(**limits)) as archive:
        return {info.filename: archive.read(info, most=1 << 30) for info in archive.infos}


def refused(path: Path, **limits: int) -> str:
    with pytest.raises(DataError) as caught:
        read_all(path, **limits)
    return caught.value.code


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_good_archives_are_read(tmp_path, method):
    entries = {"b": b"2" * 5000, "a": b"1", "deep/er/c": b""}
    assert read_all(make(tmp_path / "x.zip", entries, method)) == entries


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "a/../../x", "/etc/x", "..\\x", "\\x", "C:\\x", "C:x", "a/..", "//h/x", "a\\..\\..\\x"),
        *("x.zip", "x.tar", "x.tar.gz", "x.7z", "x.jar"),
        *("x\n", "\u202egnp.x", "a/\x1b[2J"),
    ],
)
def test_names_that_lead_outside_or_mislead_and_archives_inside(tmp_path, name):
    assert refused(make(tmp_path / "x.zip", {"good": b"1", name: b"2"})) == "E-ZIP-ENTRY"


def test_unusual_names_that_are_sound(tmp_path):
    entries = {"Schädel mit KM/CT 2\u00a0mm/頭部.dcm": b"1", "-rf": b"2", "CON": b"3"}
    assert read_all(make(tmp_path / "x.zip", entries)) == entries


def test_links(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert refused(tmp_path / "x.zip") == "E-ZIP-ENTRY"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", "1")
        archive.writestr("A", "2")
    assert refused(tmp_path / "x.zip") == "E-ZIP-ENTRY"


def test_encryption_and_other_methods(tmp_path):
    content = bytearray(make(tmp_path / "x.zip", {"a": b"1" * 99}).read_bytes())
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "e.zip").write_bytes(content)
    assert refused(tmp_path / "e.zip") == "E-ZIP-ENTRY"
    assert refused(make(tmp_path / "b.zip", {"a": b"1"}, zipfile.ZIP_BZIP2)) == "E-ZIP-ENTRY"


def test_overlapping_entries(tmp_path):
    whole = make(tmp_path / "x.zip", {"a": bytes(5000)}).read_bytes()
    start = whole.find(b"PK\x01\x02")
    end = whole.find(b"PK\x05\x06")
    entry = whole[start:end]
    twin = entry.replace(b"a", b"b", 1) if entry.count(b"a") == 1 else entry[:46] + b"b" + entry[47:]
    record = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2, 2, len(entry) * 2, start, 0)
    (tmp_path / "o.zip").write_bytes(whole[:start] + entry + twin + record)
    assert zipfile.ZipFile(tmp_path / "o.zip").namelist() == ["a", "b"]
    assert refused(tmp_path / "o.zip") == "E-ZIP-ENTRY"


def test_sizes_and_counts(tmp_path):
    path = make(tmp_path / "x.zip", {str(number): bytes(1000) for number in range(50)})
    assert refused(path, entries=49) == "E-ZIP-LIMIT"
    assert refused(path, decompressed_bytes=49_999) == "E-ZIP-LIMIT"
    assert len(read_all(path, entries=50, decompressed_bytes=50_000)) == 50
    with opened_zip(path, Limits()) as archive, pytest.raises(DataError):
        archive.read(archive.infos[0], most=999)


def test_a_count_that_lies_is_seen(tmp_path):
    content = bytearray(make(tmp_path / "x.zip", {str(n): b"" for n in range(30)}).read_bytes())
    place = content.rfind(b"PK\x05\x06")
    content[place + 8 : place + 12] = struct.pack("<HH", 1, 1)
    (tmp_path / "l.zip").write_bytes(content)
    assert refused(tmp_path / "l.zip", entries=20) == "E-ZIP-LIMIT"


def test_too_many_entries_are_seen_before_the_directory_is_parsed(tmp_path, monkeypatch):
    path = make(tmp_path / "x.zip", {str(number): b"" for number in range(30)})
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert refused(path, entries=20) == "E-ZIP-LIMIT"


@pytest.mark.parametrize("announced", [10, 999, 1001, 4_000_000])
def test_sizes_that_lie_are_seen(tmp_path, announced):
    content = bytearray(make(tmp_path / "x.zip", {"a": b"x" * 1000}).read_bytes())
    content[22:26] = struct.pack("<I", announced)
    place = content.find(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", announced)
    (tmp_path / "l.zip").write_bytes(content)
    assert refused(tmp_path / "l.zip") == "E-ZIP-DAMAGED"


def test_cut_flipped_and_foreign_files(tmp_path):
    whole, path = (
        make(tmp_path / "x.zip", {"a": bytes(range(256)) * 20, "b": b"2"}).read_bytes(),
        tmp_path / "y.zip",
    )
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            read_all(path)
    truth = read_all(tmp_path / "x.zip")
    accepted = 0
    for bit in range(0, 8 * len(whole), 41):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            found = read_all(path)
        except DataError:
            continue
        accepted += 1
        assert sorted(found.values()) == sorted(truth.values())  # a name or a date changed
    assert accepted < len(whole) * 8 // 41
    path.write_bytes(b"GIF89a" * 50)
    assert refused(path) == "E-ZIP-FORMAT"
