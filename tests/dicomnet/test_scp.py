"""The receiver on loopback: what it takes, what it refuses, what it keeps."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="DICOM networking needs pip install 'scanseg[dicom]'")

from scanseg.data.image import read_image
from scanseg.dicomnet import scp
from scanseg.dicomnet.inbox import Received
from scanseg.dicomnet.peers import Peer
from scanseg.dicomnet.scp import Listener, ListenOptions, NotNow, serve_dicom
from scanseg.dicomnet.send import echo, send_files
from scanseg.errors import Error, UsageError

VOLUME = np.arange(6 * 8 * 7).reshape(6, 8, 7).astype(np.int16)
QUICK = {"quiet_s": 0.3, "free_bytes": 0, "idle_s": 5.0}


class Box:
    """Reads each series it is called with."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []
        self.came = threading.Event()

    def __call__(self, received: Received) -> None:
        self.images.append(read_image(received.folder).array[0])
        self.came.set()


@pytest.fixture
def box() -> Box:
    return Box()


def listen(tmp_path: Path, box: Any, **options: Any) -> Listener:
    return serve_dicom(0, box, inbox=tmp_path / "inbox", options=ListenOptions(**{**QUICK, **options}))


@pytest.fixture
def listener(tmp_path: Path, box: Box) -> Iterator[Listener]:
    with listen(tmp_path, box) as running:
        yield running


def peer_of(listener: Listener, title: str = "SCANSEG") -> Peer:
    return Peer(title, "127.0.0.1", listener.port)


def left(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "inbox").rglob("*") if path.is_file() and path.name != ".lock"]


def soon(what: Any, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return False


def test_a_series_arrives_whole_and_is_erased_afterwards(tmp_path, listener, box, write_series):
    paths = write_series(tmp_path / "case", VOLUME, np.eye(4))
    send_files(paths[:2], peer_of(listener))
    send_files(paths[2:], peer_of(listener))  # a second association within the quiet time
    assert box.came.wait(10)
    (image,) = box.images
    np.testing.assert_array_equal(np.sort(image.ravel()), np.sort(VOLUME.ravel()))
    assert soon(lambda: left(tmp_path) == [])


def test_two_series_are_two_calls(tmp_path, listener, box, write_series):
    first = write_series(tmp_path / "a", VOLUME, np.eye(4), seed="a")
    second = write_series(tmp_path / "b", VOLUME[:4] + 1, np.eye(4), seed="b")
    send_files([*first, *second], peer_of(listener))
    assert soon(lambda: len(box.images) == 2)
    assert sorted(len(image) for image in box.images) == [4, 6]


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_an_enhanced_image_is_a_series_of_one_file(tmp_path, listener, box, write_enhanced, modality):
    write_enhanced(tmp_path / "one", VOLUME, np.eye(4), modality=modality, order=[3, 0, 5, 1, 4, 2])
    send_files([tmp_path / "one"], peer_of(listener))
    assert box.came.wait(10)
    (image,) = box.images
    np.testing.assert_array_equal(image, VOLUME)
    assert soon(lambda: left(tmp_path) == [])


def test_an_enhanced_image_of_many_parts_and_syntaxes(tmp_path, listener, box, write_enhanced):
    write_enhanced(tmp_path / "odd", VOLUME, np.eye(4), order=[1, 3, 5], syntax="1.2.840.10008.1.2.5")
    write_enhanced(tmp_path / "even", VOLUME, np.eye(4), order=[0, 2, 4])
    send_files([tmp_path / "odd"], peer_of(listener))
    send_files([tmp_path / "even"], peer_of(listener))
    assert box.came.wait(10)
    (image,) = box.images
    np.testing.assert_array_equal(image, VOLUME)


def test_an_echo_is_answered(listener):
    echo(peer_of(listener))


@pytest.mark.parametrize(("called", "calling"), [("OTHER", "GOOD"), ("SCANSEG", "BAD")])
def test_strangers_are_refused(tmp_path, box, write_series, called, calling):
    paths = write_series(tmp_path / "case", VOLUME, np.eye(4))
    with listen(tmp_path, box, callers=("GOOD",)) as listener:
        with pytest.raises(Error, match="refused the association"):
            send_files(paths, peer_of(listener, called), ae_title=calling)
        send_files(paths, peer_of(listener), ae_title="GOOD")
        assert box.came.wait(10)


def test_an_open_address_needs_callers(tmp_path, box):
    with pytest.raises(UsageError, match="needs the AE titles"):
        listen(tmp_path, box, host="0.0.0.0")
    assert not (tmp_path / "inbox").exists()


def test_the_default_address_is_this_machine(listener):
    assert listener._server.socket.getsockname()[0] == "127.0.0.1"


def test_kinds_that_are_not_read_are_not_taken(tmp_path, listener, write_series):
    def change(_: int, one: Any) -> None:
        one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.22"

    paths = write_series(tmp_path / "case", VOLUME[:1], np.eye(4), change=change)
    with pytest.raises(Error, match="takes no files of this kind"):
        send_files(paths, peer_of(listener))


def test_a_full_inbox_says_so_and_keeps_nothing(tmp_path, box, write_series):
    paths = write_series(tmp_path / "case", VOLUME, np.eye(4))
    with listen(tmp_path, box, most_files=2, quiet_s=60) as listener:
        with pytest.raises(Error, match="0xA700"):
            send_files(paths, peer_of(listener))
        assert len(left(tmp_path)) == 2


@pytest.mark.parametrize("limit", ["_MOST_INSTANCE_BYTES", "_MOST_RECEIVING_BYTES"])
def test_a_huge_instance_is_cut_off(tmp_path, box, write_series, monkeypatch, limit):
    monkeypatch.setattr(scp, limit, 200_000)
    big = write_series(tmp_path / "big", np.zeros((1, 400, 400), np.int16), np.eye(4))
    small = write_series(tmp_path / "case", VOLUME, np.eye(4))
    with listen(tmp_path, box) as listener:
        with pytest.raises(Error):
            send_files(big, peer_of(listener), timeout_s=5)
        send_files(small, peer_of(listener))
        assert box.came.wait(10)
        assert len(box.images) == 1


def test_a_bad_series_is_put_aside_and_the_next_one_works(tmp_path, listener, box, write_series):
    gap = write_series(tmp_path / "gap", VOLUME, np.eye(4), seed="gap")
    send_files([*gap[:2], *gap[3:]], peer_of(listener))
    assert soon(lambda: list((tmp_path / "inbox" / "failed").glob("*/error.json")))
    send_files(write_series(tmp_path / "case", VOLUME, np.eye(4)), peer_of(listener))
    assert box.came.wait(10)


def test_nothing_is_lost_by_a_restart(tmp_path, box, write_series):
    paths = write_series(tmp_path / "case", VOLUME, np.eye(4))
    with listen(tmp_path, box, quiet_s=60) as listener:
        send_files(paths, peer_of(listener))
    assert len(left(tmp_path)) == len(paths)
    with listen(tmp_path, box):
        assert box.came.wait(10)


def test_an_answer_comes_only_behind_the_disk(tmp_path, box, write_series, monkeypatch):
    from scanseg.dicomnet import inbox

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    paths = write_series(tmp_path / "case", VOLUME, np.eye(4))
    with listen(tmp_path, box) as listener:
        monkeypatch.setattr(inbox, "write_bytes", full)
        with pytest.raises(Error, match="0xA700"):
            send_files(paths, peer_of(listener))
    assert left(tmp_path) == []


def test_a_callback_may_keep_the_folder(tmp_path, write_series):
    def keep(received: Received) -> None:
        received.folder.rename(tmp_path / "kept")

    paths = write_series(tmp_path / "case", VOLUME, np.eye(4))
    with listen(tmp_path, keep) as listener:
        send_files(paths, peer_of(listener))
        assert soon((tmp_path / "kept").exists)
        send_files(paths, peer_of(listener, "SCANSEG"))
        assert soon(lambda: list((tmp_path / "inbox" / "failed").glob("*/error.json")))  # `kept` is there
    assert read_image(tmp_path / "kept").array.shape == (1, 6, 8, 7)


def test_at_release_does_not_wait(tmp_path, box, write_series):
    paths = write_series(tmp_path / "case", VOLUME, np.eye(4))
    with listen(tmp_path, box, quiet_s=600, at_release=True) as listener:
        send_files(paths, peer_of(listener))
        assert box.came.wait(10)


def test_noise_on_the_port_harms_nothing(tmp_path, listener, box, write_series):
    for noise in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x01\x00\xff\xff\xff\xff" + bytes(100),
        bytes(range(256)) * 40,
    ):
        with socket.create_connection(("127.0.0.1", listener.port)) as connection:
            connection.sendall(noise)
    send_files(write_series(tmp_path / "case", VOLUME, np.eye(4)), peer_of(listener))
    assert box.came.wait(10)


def test_logs_name_no_patient(tmp_path, box, write_series, caplog, capfd):
    def change(_: int, one: Any) -> None:
        one.PatientName, one.PatientID, one.StudyDescription = "ZANZIBAR^Q", "PID-771-Q", "ZANZIBAR"

    paths = write_series(tmp_path / "case", np.delete(VOLUME, 2, axis=0), np.eye(4), change=change)
    paths[2].unlink()
    with caplog.at_level(logging.DEBUG, logger="scanseg"), listen(tmp_path, box) as listener:
        send_files([*paths[:2], *paths[3:]], peer_of(listener))
        assert soon(lambda: "failed" in caplog.text)
    said = caplog.text + "".join(capfd.readouterr())
    said += "".join(path.read_text() for path in (tmp_path / "inbox").rglob("error.json"))
    assert not [mark for mark in ("ZANZIBAR", "771") if mark in said]


def test_a_port_that_is_taken(tmp_path, listener, box):
    with pytest.raises(Error, match="cannot be opened"):
        serve_dicom(listener.port, box, inbox=tmp_path / "other")


def test_a_peer_that_is_not_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Error, match="cannot be reached"):
        echo(Peer("X", "127.0.0.1", port), timeout_s=2)


def test_a_series_that_cannot_be_taken_yet_comes_again(tmp_path, box, write_series):
    ids = []

    def busy(received: Received) -> None:
        ids.append(received.case_id)
        if len(ids) < 3:
            raise NotNow
        box(received)

    paths = write_series(tmp_path / "case", VOLUME, np.eye(4))
    with listen(tmp_path, busy) as listener:
        send_files(paths, peer_of(listener))
        assert box.came.wait(10)
        assert soon(lambda: left(tmp_path) == [])
    assert (len(ids), len(set(ids))) == (3, 1)
