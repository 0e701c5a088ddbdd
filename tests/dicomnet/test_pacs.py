"""With a real PACS: a series goes to the receiver, its segmentation comes back, by C-STORE and DICOMweb."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import scanseg
from scanseg.data.dicom_seg_read import read_segmentation
from scanseg.data.image import read_image
from scanseg.dicomnet.peers import Peer
from scanseg.dicomnet.send import echo, send_files
from scanseg.dicomnet.web import Web, retrieve, search, store
from scanseg.errors import Error

pytest.importorskip("pynetdicom", reason="DICOM networking needs pip install 'scanseg[dicom]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")


@pytest.fixture(scope="module")
def series(demo_data: Path, tmp_path_factory: pytest.TempPathFactory, write_series) -> list[Path]:
    image = nibabel.load(sorted((demo_data / "hippocampus" / "imagesTs").iterdir())[0])

    def change(_: int, one: Any) -> None:
        one.PatientName, one.PatientID = "TEST^PACS", "P1"

    volume = np.asarray(image.dataobj).astype(np.int16).T
    return write_series(tmp_path_factory.mktemp("series") / "case", volume, image.affine, change=change)


def wait_for(what: Any, seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError("it did not happen in time")


def test_store_predict_and_send_back(pacs, run_3d, series, tmp_path):
    peer = Peer("ORTHANC", "127.0.0.1", pacs.dicom_port)
    echo(peer)
    send_files(series, peer)
    (stored,) = httpx.get(f"{pacs.url}/series").json()
    command = [sys.executable, "-m", "scanseg", "dicom", "listen", "-m", run_3d, "--port", pacs.listener_port]
    command += ["--send-to", f"ORTHANC@127.0.0.1:{pacs.dicom_port}", "--allow", "ORTHANC", "--threads", 1]
    command += ["--inbox", tmp_path / "inbox", "-o", tmp_path / "masks", "--quiet-seconds", 1, "--json"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
    try:
        wait_for(lambda: '"port"' in (tmp_path / "log").read_text())
        httpx.post(f"{pacs.url}/modalities/scanseg/store", content=stored, timeout=60).raise_for_status()
        back = wait_for(lambda: [one for one in httpx.get(f"{pacs.url}/series").json() if one != stored])
        instance = httpx.get(f"{pacs.url}/series/{back[0]}").json()["Instances"][0]
        (tmp_path / "seg.dcm").write_bytes(httpx.get(f"{pacs.url}/instances/{instance}/file").content)
        wait_for(lambda: not [*(tmp_path / "inbox").rglob("*.dcm"), *(tmp_path / "masks").glob("*.dcm")])
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
    model = scanseg.load(run_3d, threads=1)
    expected = model.predict(series[0].parent)
    found = read_segmentation(tmp_path / "seg.dcm", labels=model.labels, geometry=expected.geometry)
    np.testing.assert_array_equal(found.array, expected.mask)
    assert not re.search(r"TEST\^PACS|P1\b|Traceback", (tmp_path / "log").read_text())
    parents = {httpx.get(f"{pacs.url}/series/{one}/study").json()["ID"] for one in (stored, back[0])}
    assert len(parents) == 1


def test_dicomweb_store_search_retrieve(pacs, series, tmp_path, write_series):
    web = Web(f"{pacs.url}/dicom-web")
    volume = np.arange(5 * 9 * 8).reshape(5, 9, 8).astype(np.int16)

    def change(_: int, one: Any) -> None:
        one.PatientName, one.PatientID = "WEB^TEST", "W7"

    paths = write_series(tmp_path / "case", volume, np.diag([1, 1, 2, 1.0]), change=change, seed="web")
    assert store(web, paths) == 5
    (study,) = search(web, "studies", filters={"PatientID": "W7"})
    study_uid = study["0020000D"]["Value"][0]
    (found,) = search(web, "series", study=study_uid)
    assert found["00080060"]["Value"] == ["MR"]
    assert len(search(web, "instances", study=study_uid)) == 5
    assert search(web, "studies", filters={"PatientID": "nobody"}) == []
    fetched = retrieve(web, study_uid, found["0020000E"]["Value"][0], tmp_path / "back")
    assert len(fetched) == 5
    ours, theirs = read_image(tmp_path / "case"), read_image(tmp_path / "back")
    np.testing.assert_array_equal(theirs.array, ours.array)
    np.testing.assert_array_equal(theirs.geometry.affine, ours.geometry.affine)
    with pytest.raises(Error, match="more bytes"):
        retrieve(Web(web.url, most_bytes=1000), study_uid, found["0020000E"]["Value"][0], tmp_path / "x")
    with pytest.raises(Error, match="more files"):
        retrieve(Web(web.url, most_files=2), study_uid, found["0020000E"]["Value"][0], tmp_path / "y")


def test_dicomweb_refusals(pacs, tmp_path):
    web = Web(f"{pacs.url}/dicom-web")
    with pytest.raises(Error):
        retrieve(web, "1.2.3", "4.5.6", tmp_path)
    (tmp_path / "x").write_bytes(b"no DICOM")
    with pytest.raises(Error):
        store(web, [tmp_path / "x"])
    with pytest.raises(Error, match="cannot be reached"):
        search(Web("http://127.0.0.1:9"), "studies")
    assert "secret" not in repr(Web("http://127.0.0.1:9", token="secret"))
