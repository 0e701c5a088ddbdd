"""The outbox: a peer that is away is tried until it takes what waits."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from scanseg.dicomnet.outbox import Outbox
from scanseg.dicomnet.peers import Peer
from scanseg.dicomnet.send import send_files
from scanseg.errors import Error


class Away:
    """A peer that refuses some times, and one file for ever."""

    def __init__(self, times: int, never: str = "") -> None:
        self.times, self.never, self.taken = times, never, []

    def __call__(self, paths: Sequence[Path]) -> None:
        self.times -= 1
        if self.times >= 0 or paths[0].stem == self.never:
            raise Error("Away.", code="E-X-Y")
        self.taken += [path.stem for path in paths]


def soon(what, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    return what()


def test_what_waits_is_sent_once_and_erased(tmp_path):
    (tmp_path / "old.dcm").write_bytes(b"1")
    peer = Away(3)
    box = Outbox(tmp_path, peer, first_wait_s=0.01)
    (tmp_path / "new.dcm").write_bytes(b"2")
    (tmp_path / ".tmp-half.dcm").write_bytes(b"3")
    assert soon(lambda: not list(tmp_path.glob("[!.]*.dcm")))
    box.stop()
    assert sorted(peer.taken) == ["new", "old"]
    assert (tmp_path / ".tmp-half.dcm").exists()


def test_a_refused_file_keeps_no_other_back(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.dcm").write_bytes(b"1")
    peer = Away(0, never="a")
    box = Outbox(tmp_path, peer, first_wait_s=0.01)
    assert soon(lambda: sorted(peer.taken) == ["b", "c"])
    box.stop()
    assert [path.stem for path in tmp_path.glob("*.dcm")] == ["a"]


def test_a_damaged_file_ends_nothing(tmp_path, caplog):
    """It is named by its place in the log, and what comes later is sent as ever."""
    pytest.importorskip("pynetdicom", reason="DICOM networking needs pip install 'scanseg[dicom]'")
    (tmp_path / "a.dcm").write_bytes(b"whole, but no DICOM")
    taken = []

    def send(paths: Sequence[Path]) -> None:
        if paths[0].stem == "a":
            send_files(paths, Peer("NOBODY", "127.0.0.1", 1))
        taken.append(paths[0].stem)

    box = Outbox(tmp_path, send, first_wait_s=0.01)
    assert soon(lambda: "a is not sent yet. A file that was to be sent is damaged" in caplog.text)
    (tmp_path / "b.dcm").write_bytes(b"1")
    assert soon(lambda: taken == ["b"])
    box.stop()
    assert (tmp_path / "a.dcm").exists()
