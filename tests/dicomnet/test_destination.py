"""Where segmentations go: peers and DICOMweb services, never unencrypted or with a secret in the address."""

import time
from typing import Any

import numpy as np
import pytest

from scanseg.dicomnet.destination import parse_destination, sender
from scanseg.dicomnet.outbox import Outbox
from scanseg.dicomnet.peers import Peer
from scanseg.dicomnet.web import Web
from scanseg.errors import DataError, Error, UsageError

pytest.importorskip("pynetdicom", reason="DICOM networking needs pip install 'scanseg[dicom]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")


def test_what_may_be_written(tmp_path) -> None:
    assert parse_destination("PACS@10.0.0.7:104") == Peer("PACS", "10.0.0.7", 104)
    assert parse_destination("http://127.0.0.1:8042/dicom-web") == Web("http://127.0.0.1:8042/dicom-web")
    url = "https://pacs.example.org/dicom-web"
    (tmp_path / "token").write_text("abc.def\n")
    (tmp_path / "user").write_text("anna:geheim:1\n")
    assert parse_destination(url, secret_file=tmp_path / "token").token == "abc.def"
    assert parse_destination(url, secret_file=tmp_path / "user").user == ("anna", "geheim:1")


@pytest.mark.parametrize(
    "text",
    ["http://10.0.0.7/dicom-web", "https://anna:geheim@pacs/dicom-web", "https:///x", "ftp://a:1", "PACS"],
)
def test_what_is_refused(text) -> None:
    with pytest.raises(UsageError) as caught:
        parse_destination(text)
    assert "geheim" not in caught.value.message + caught.value.hint


def test_secrets_are_one_line_and_only_for_services(tmp_path) -> None:
    (tmp_path / "two").write_text("a\nb")
    for path in (tmp_path / "two", tmp_path / "missing"):
        with pytest.raises(DataError):
            parse_destination("https://pacs/dicom-web", secret_file=path)
    (tmp_path / "one").write_text("a")
    with pytest.raises(UsageError):
        parse_destination("PACS@10.0.0.7:104", secret_file=tmp_path / "one")


def test_a_service_that_is_away_loses_nothing(tmp_path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"1")
    send = sender(Web("http://127.0.0.1:9/dicom-web"), ae_title="SCANSEG", tls=None)
    with pytest.raises(Error):
        send([tmp_path / "a.dcm"])
    box = Outbox(tmp_path, send, first_wait_s=0.01)
    time.sleep(0.1)
    box.stop()
    assert (tmp_path / "a.dcm").exists()


def test_a_real_service_gets_what_waits_once(pacs, tmp_path, write_series) -> None:
    def change(_: int, one: Any) -> None:
        one.PatientID = "STOW7"

    web = Web(f"{pacs.url}/dicom-web")
    volume = np.arange(72, dtype=np.int16).reshape(1, 9, 8)
    (path,) = write_series(tmp_path / "case", volume, np.eye(4), change=change, seed="stow")
    send = sender(web, ae_title="SCANSEG", tls=None)
    send([path])  # as after a crash between sending and erasing
    box = Outbox(path.parent, send, first_wait_s=0.05)
    end = time.monotonic() + 20
    while path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    box.stop()
    assert not path.exists()
    found = httpx.post(
        f"{pacs.url}/tools/find", json={"Level": "Instance", "Query": {"PatientID": "STOW7"}}
    ).json()
    assert len(found) == 1
