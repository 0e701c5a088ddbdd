"""Series that come by C-STORE: predictions like all others, and their segmentations go back."""

import asyncio
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="DICOM networking needs pip install 'scanseg[dicom]'")

import scanseg
from scanseg.cli.app import app
from scanseg.data.dicom_seg_read import read_segmentation
from scanseg.data.image import read_image, read_label_map
from scanseg.dicomnet.inbox import Received as Series
from scanseg.dicomnet.peers import Peer
from scanseg.dicomnet.scp import ListenOptions, NotNow
from scanseg.dicomnet.send import send_files
from scanseg.errors import Error, UsageError
from scanseg.server.app import make_app
from scanseg.server.intake import _suitable
from scanseg.server.limits import Limits
from scanseg.server.service import Service
from scanseg.server.settings import DicomSettings, Settings, prepare_folder

pytestmark = [
    pytest.mark.timeout(300),  # the first test waits for the model to be trained
    pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL"),
]
RLE = "1.2.840.10008.1.2.5"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
TOKENS = ("a" * 43, "b" * 43)


def soon(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Returns what `what` returns once that is true."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@pytest.fixture(scope="module")
def series(image_3d, tmp_path_factory, write_series) -> list[Path]:
    """A real image as compressed slices of somebody."""
    image = nibabel.load(image_3d)

    def change(_: int, one: Any) -> None:
        one.PatientName, one.PatientID = "INTAKE^MARKER", "MARKER7"

    volume = np.asarray(image.dataobj).astype(np.int16).T
    folder = tmp_path_factory.mktemp("series") / "case"
    return write_series(folder, volume, image.affine, change=change, syntax=RLE, seed="intake")


@pytest.fixture(scope="module")
def expected(series, run_3d) -> Any:
    """What the model says of the series."""
    return scanseg.load(run_3d, threads=1).predict(series[0].parent)


def mask_of(path: Path, expected: Any) -> np.ndarray:
    return read_segmentation(path, labels=expected.labels, geometry=expected.geometry).array


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Iterator[tuple[int, list[Path]]]:
    """A peer that stores segmentations: its port, and what came."""
    from pynetdicom import AE, evt

    folder, came = tmp_path_factory.mktemp("archive"), []

    def store(event: Any) -> int:
        path = folder / f"{len(came)}.dcm"
        path.write_bytes(event.encoded_dataset())
        came.append(path)
        return 0

    entity = AE(ae_title="ARCHIVE")
    entity.add_supported_context(SEGMENTATION)
    running = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    yield running.socket.getsockname()[1], came
    running.shutdown()


@dataclass
class Intake:
    server: Any
    port: int
    came: list[Path]

    @property
    def peer(self) -> Peer:
        return Peer("SCANSEG", "127.0.0.1", self.port)

    def left(self) -> list[str]:
        """Files that are on their way."""
        folder = self.server.data / "dicom"
        return [path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]

    def predictions(self, api: httpx.Client) -> list[dict]:
        return api.get("/api/v1/predictions").json()["predictions"]


@pytest.fixture(scope="module")
def intake(start, series, archive, tmp_path_factory) -> Intake:
    """A server that was killed when it had acknowledged `series` and made no job of it; started again."""
    root, (port, came) = tmp_path_factory.mktemp("intake"), archive
    (root / "token").write_text("\n".join(TOKENS))
    (root / "token").chmod(0o600)
    options = ("--token-file", str(root / "token"), "--dicom-port", "0", "--dicom-quiet-seconds")
    send_to = ("--send-to", f"ARCHIVE@127.0.0.1:{port}")
    server = start(root / "data", options=(*options, "600", *send_to))
    send_files(series, Peer("SCANSEG", "127.0.0.1", json.loads(server.said)["dicom_port"]))
    assert httpx.get(
        f"{server.url}/api/v1/predictions", headers={"Authorization": f"Bearer {TOKENS[0]}"}, trust_env=False
    ).json() == {"predictions": [], "next": None}
    server.kill()
    server = start(root / "data", options=(*options, "0.5", *send_to))
    return Intake(server, json.loads(server.said)["dicom_port"], came)


def test_an_acknowledged_series_survives_a_kill_and_its_segmentation_comes_back(intake, expected) -> None:
    with intake.server.client() as api:
        (job,) = soon(lambda: intake.predictions(api))
        job = api.get(f"{job['links']['self']}?wait=60").json()
        assert job["state"] == "done", job
        assert re.fullmatch(r"[0-9a-f]{24}-[0-9a-f]+", job["name"])
        (sent,) = soon(lambda: intake.came)
        np.testing.assert_array_equal(mask_of(sent, expected), expected.mask)
        assert expected.mask.any()
        soon(lambda: intake.left() == [])
        result = api.get(job["links"]["result"]).json()
        assert [entry["voxels"] for entry in result["labels"]] == [
            int((expected.mask == label.value).sum()) for label in expected.labels[1:]
        ]
        other = {"Authorization": f"Bearer {TOKENS[1]}"}
        assert api.get("/api/v1/predictions", headers=other).json()["predictions"] == []
        assert "MARKER" not in api.get("/api/v1/predictions").text + json.dumps(result)
    log = intake.server.log.read_text()
    assert f"series {job['name']} is job {job['id']}" in log
    assert not re.search("MARKER|Traceback", log)
    assert not [path for path in intake.server.data.rglob("*") if "MARKER" in str(path)]


def test_a_series_with_a_gap_is_a_failed_prediction_and_nothing_is_sent(intake, series) -> None:
    sent = len(intake.came)
    with intake.server.client() as api:
        before = {job["id"] for job in intake.predictions(api)}
        send_files([*series[:5], *series[6:]], intake.peer)
        (job,) = soon(lambda: [job for job in intake.predictions(api) if job["id"] not in before])
        job = api.get(f"{job['links']['self']}?wait=60").json()
    assert (job["state"], job["error"]["code"]) == ("failed", "E-DICOM-MISSING")
    assert "MARKER" not in json.dumps(job)
    soon(lambda: intake.left() == [])
    assert len(intake.came) == sent


def test_an_uploaded_archive_has_a_segmentation_too(intake, series, expected, tmp_path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "scan"), "zip", series[0].parent))
    with intake.server.client() as api:
        answer = api.put(
            "/api/v1/predictions?wait=60",
            content=packed.read_bytes(),
            headers={"X-Scanseg-Name": "scan.zip"},
        )
        assert answer.json()["state"] == "done", answer.text
        base = answer.json()["links"]["self"]
        found = api.get(f"{base}/dicom-seg")
        assert (found.status_code, found.headers["content-type"]) == (200, "application/dicom")
        (tmp_path / "seg.dcm").write_bytes(found.content)
        (tmp_path / "mask.nii.gz").write_bytes(api.get(f"{base}/mask?format=nii.gz").content)
        assert "dicom-seg" in json.dumps(api.get(f"{base}/result").json()["files"])
    np.testing.assert_array_equal(mask_of(tmp_path / "seg.dcm", expected), expected.mask)
    mask = read_label_map(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(mask.array, expected.mask)


def test_from_a_pacs_and_back(pacs, start, series, expected, tmp_path) -> None:
    send_files(series, Peer("ORTHANC", "127.0.0.1", pacs.dicom_port))
    (stored,) = httpx.get(f"{pacs.url}/series").json()
    server = start(tmp_path / "data", options=(
        "--dicom-port", str(pacs.listener_port), "--dicom-from", "ORTHANC", "--dicom-quiet-seconds", "0.5",
        "--send-to", f"ORTHANC@127.0.0.1:{pacs.dicom_port}",
    ))  # fmt: skip
    httpx.post(f"{pacs.url}/modalities/scanseg/store", content=stored, timeout=60).raise_for_status()
    (back,) = soon(lambda: [one for one in httpx.get(f"{pacs.url}/series").json() if one != stored])
    (instance,) = httpx.get(f"{pacs.url}/series/{back}").json()["Instances"]
    (tmp_path / "seg.dcm").write_bytes(httpx.get(f"{pacs.url}/instances/{instance}/file").content)
    np.testing.assert_array_equal(mask_of(tmp_path / "seg.dcm", expected), expected.mask)
    assert len({httpx.get(f"{pacs.url}/series/{one}/study").json()["ID"] for one in (stored, back)}) == 1
    assert server.stop() == 0


# -- without a process: what a crash can leave --------------------


def settings(run: Path, data: Path, **dicom: Any) -> Settings:
    prepare_folder(data)
    listen = ListenOptions(**dicom)
    return Settings(
        runs={"hippocampus": run}, data=data,
        dicom=DicomSettings(0, listen, send_to=Peer("NOBODY", "127.0.0.1", 9)),
    )  # fmt: skip


def opened(chosen: Settings) -> Service:
    service = make_app(chosen)[1]
    service.intake.open()
    return service


async def taken(service: Service, series: Series) -> str:
    await service.intake.start()
    try:
        return (await service.intake.take(series)).id
    finally:
        await service.intake.close()
        service.jobs.close()


def test_a_series_that_is_handed_over_again_is_one_job(run_3d, series, tmp_path) -> None:
    chosen, one = settings(run_3d, tmp_path / "data"), Series("case-1", series[0].parent, len(series))
    first = asyncio.run(taken(opened(chosen), one))
    again = opened(chosen)
    assert [job.id for job in again.jobs.page("local", kind="prediction", limit=9)] == [first]
    assert asyncio.run(taken(again, one)) == first
    assert asyncio.run(taken(opened(chosen), replace(one, case_id="case-2"))) != first
    assert len(list(chosen.jobs.iterdir())) == 2
    packed = read_image(chosen.folder(first) / "inputs" / "0000.zip")
    np.testing.assert_array_equal(packed.array, read_image(series[0].parent).array)


def test_what_was_not_sent_is_collected_by_the_next_start(run_3d, series, tmp_path) -> None:
    """A mark outlives the server; a deletion takes back what waits, the end of the job's time does not."""
    chosen = settings(run_3d, tmp_path / "data")
    service = opened(chosen)
    names = [asyncio.run(taken(service, Series("case-1", series[0].parent, len(series))))]
    service = opened(chosen)
    names.append(asyncio.run(taken(service, Series("case-2", series[0].parent, len(series)))))
    service = opened(chosen)
    for job_id in names:
        assert service.jobs.claim("hippocampus", "w").id == job_id
        (chosen.folder(job_id) / "result").mkdir()
        (chosen.folder(job_id) / "result" / "segmentation.dcm").write_bytes(b"whole")
        assert service.jobs.finish(job_id, "w", "done", ttl_s=0)
    marks = chosen.dicom_folder / "unsent"
    assert sorted(path.name for path in marks.iterdir()) == sorted(names)

    async def collected() -> None:
        await service.intake.start()
        await service.intake.close()
        assert [chosen.outgoing(job_id).read_bytes() for job_id in names] == [b"whole", b"whole"]
        await service.erase(names[0], keep_review=True)
        await service.erase(names[1])

    asyncio.run(collected())
    assert [chosen.outgoing(job_id).exists() for job_id in names] == [True, False]
    assert list(marks.iterdir()) == []
    service.jobs.close()


def test_a_series_waits_where_there_is_no_room(run_3d, series, tmp_path, caplog) -> None:
    chosen = replace(settings(run_3d, tmp_path / "data"), limits=Limits(queued=0))
    service, one = opened(chosen), Series("case-1", series[0].parent, len(series))

    async def waits() -> None:
        with pytest.raises(NotNow):  # not started yet
            service.intake._on_series(one)
        await service.intake.start()
        for _ in range(2):
            with pytest.raises(NotNow):
                await asyncio.to_thread(service.intake._on_series, one)
        await service.intake.close()

    asyncio.run(waits())
    assert caplog.text.count("case-1 waits in the inbox (E-SERVE-QUEUE)") == 1
    assert list(chosen.jobs.iterdir()) == []
    assert len(list(series[0].parent.iterdir())) == len(series)
    service.jobs.close()


def test_refusals(run_3d, tmp_path) -> None:
    with pytest.raises(UsageError, match="AE titles") as caught:
        opened(settings(run_3d, tmp_path / "a", host="0.0.0.0"))
    assert "--dicom-from" in caught.value.hint
    service = opened(settings(run_3d, tmp_path / "b"))
    taken_port = replace(
        settings(run_3d, tmp_path / "c"), dicom=DicomSettings(service.intake.port, ListenOptions())
    )
    with pytest.raises(Error, match="cannot be opened") as caught:
        opened(taken_port)
    assert "--dicom-port" in caught.value.hint
    service.intake.stop()
    service.jobs.close()
    two = replace(service.settings, runs={"one": run_3d, "two": run_3d})
    with pytest.raises(UsageError, match="say which") as caught:
        make_app(two)
    assert "--dicom-model" in caught.value.hint
    facts = replace(service.models["hippocampus"], channels=("T1", "T2"))
    with pytest.raises(UsageError, match="one channel in 3D"):
        _suitable(facts)


def test_the_port_is_asked_for(capsys, run_3d, tmp_path) -> None:
    from typer.testing import CliRunner

    answer = CliRunner().invoke(
        app, ["serve", "-m", str(run_3d), "--data-dir", str(tmp_path), "--send-to", "A@h:1", "--json"]
    )
    assert json.loads(answer.stdout)["error"]["code"] == "E-SERVE-DICOM"
    assert answer.exit_code == 2
