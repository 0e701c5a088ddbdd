"""Limits and races of the web process, without workers: what is accepted, refused, swept and shown."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from scanseg.errors import DataError
from scanseg.server.app import make_app
from scanseg.server.limits import Limits
from scanseg.server.settings import Settings, prepare_folder

pytestmark = pytest.mark.timeout(300)  # the first test waits for the model to be trained
NAMED = {"X-Scanseg-Name": "a.nii.gz"}


@pytest.fixture
def make(run_3d: Path, tmp_path: Path):
    """Makes an application that nobody has started: no workers, no sweeper."""
    services = []

    def build(**limits: object):
        prepare_folder(tmp_path / "data")
        settings = Settings(runs={"m": run_3d}, data=tmp_path / "data", limits=Limits(**limits))  # type: ignore[arg-type]
        app, service = make_app(settings)
        services.append(service)
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://localhost"), service

    yield build
    for service in services:
        service.jobs.close()


async def slow(first: bytes, gate: asyncio.Event) -> AsyncIterator[bytes]:
    yield first
    await gate.wait()
    yield b"end"


def test_a_full_disk_refuses_before_the_body(make) -> None:
    api, service = make(free_bytes=1 << 60)
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"x"

    async def run() -> None:
        answer = await api.put("/api/v1/predictions", content=body(), headers=NAMED)
        assert (answer.status_code, answer.json()["code"]) == (507, "E-SERVE-DISK")

    asyncio.run(run())
    assert not read
    assert not list(service.settings.jobs.iterdir())


def test_jobs_and_bytes_of_an_owner_are_bounded(make) -> None:
    api, _ = make(queued=2, stored_bytes=25)

    async def run() -> None:
        async def put(count: int) -> int:
            answer = await api.put("/api/v1/predictions", content=bytes(count), headers=NAMED)
            assert "retry-after" in answer.headers or answer.status_code == 202
            return answer.status_code

        assert await put(20) == 202
        assert await put(20) == 429  # bytes
        assert await put(1) == 202
        assert await put(1) == 429  # jobs

    asyncio.run(run())


def test_two_uploads_of_one_input(make) -> None:
    api, service = make()

    async def run() -> None:
        job = (await api.post("/api/v1/predictions", json={"inputs": [{"name": "a.nii"}]})).json()
        gate, url = asyncio.Event(), job["inputs"][0]["href"]
        first = asyncio.create_task(api.put(url, content=slow(b"one", gate)))
        while not list((service.settings.folder(job["id"]) / "inputs").iterdir()):
            await asyncio.sleep(0.01)
        second = await api.put(url, content=b"two")
        gate.set()
        assert ((await first).status_code, second.status_code) == (202, 409)
        stored = list((service.settings.folder(job["id"]) / "inputs").iterdir())
        assert [path.read_bytes() for path in stored] == [b"oneend"]

    asyncio.run(run())


def test_a_job_that_is_erased_while_it_is_uploaded_leaves_nothing(make) -> None:
    api, service = make()

    async def run() -> None:
        job = (await api.post("/api/v1/predictions", json={"inputs": [{"name": "a.nii"}]})).json()
        gate = asyncio.Event()
        upload = asyncio.create_task(api.put(job["inputs"][0]["href"], content=slow(b"one", gate)))
        while not list((service.settings.folder(job["id"]) / "inputs").iterdir()):
            await asyncio.sleep(0.01)
        assert (await api.delete(job["links"]["self"])).status_code == 204
        gate.set()
        assert (await upload).status_code == 404

    asyncio.run(run())
    assert not list(service.settings.jobs.iterdir())


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"inputs": []}, "E-SERVE-CHANNELS"),
        ({"inputs": [{"name": "a.nii"}, {"name": "b.nii"}]}, "E-SERVE-CHANNELS"),
        ({"inputs": [{"name": "a.exe"}]}, "E-SERVE-ENDING"),
        ({"inputs": [{"name": "a.nii"}], "options": {"step_size": 0}}, "E-SERVE-INVALID"),
        ({"inputs": [{"name": "a.nii"}], "options": {"spacing": [1]}}, "E-SERVE-INVALID"),
        ({"inputs": [{"name": "a.nii"}], "surprise": 1}, "E-SERVE-INVALID"),
        ({"sample": "nothing"}, "E-SERVE-SAMPLE"),
        ({"model": "other", "inputs": [{"name": "a.nii"}]}, "E-SERVE-MODEL"),
    ],
)
def test_orders_that_make_no_sense(make, order, code) -> None:
    api, service = make()
    answer = asyncio.run(api.post("/api/v1/predictions", json=order))
    assert (answer.json()["code"], answer.headers["content-type"]) == (code, "application/problem+json")
    assert not list(service.settings.jobs.iterdir())


def test_an_empty_body_is_no_image(make) -> None:
    api, service = make()
    answer = asyncio.run(api.put("/api/v1/predictions", content=b"", headers=NAMED))
    assert answer.json()["code"] == "E-SERVE-EMPTY"
    assert not list(service.settings.jobs.iterdir())


def test_time_erases(make) -> None:
    api, service = make(ttl_s=0.0, waiting_s=0.0)

    async def run() -> None:
        job = (await api.post("/api/v1/predictions", json={"inputs": [{"name": "a.nii"}]})).json()
        await asyncio.sleep(0.01)
        sweeper = asyncio.create_task(service._sweep())
        while list(service.settings.jobs.iterdir()):
            await asyncio.sleep(0.01)
        sweeper.cancel()
        assert (await api.get(job["links"]["self"])).status_code == 404

    asyncio.run(run())


def test_what_a_killed_server_left_is_swept(make) -> None:
    api, service = make()
    job = asyncio.run(api.post("/api/v1/predictions", json={"inputs": [{"name": "a.nii"}]})).json()["id"]
    jobs = service.settings.jobs
    (jobs / job / "inputs" / ".0000.nii.abc.part").write_bytes(b"half")
    (jobs / "p_orphan" / "inputs").mkdir(parents=True)
    make()
    assert [path.name for path in jobs.iterdir()] == [job]
    assert not list((jobs / job / "inputs").iterdir())


def test_queue_position_and_estimate(make) -> None:
    api, service = make()

    async def run() -> None:
        made = [await api.put("/api/v1/predictions", content=b"x", headers=NAMED) for _ in range(3)]
        assert [answer.json()["position"] for answer in made] == [1, 2, 3]
        assert made[2].json()["eta_s"] is None
        first = service.jobs.claim("m", "w")
        service.jobs._db.execute("UPDATE jobs SET started_s=? WHERE id=?", (time.time() - 10, first.id))
        service.jobs.finish(first.id, "w", "done", ttl_s=60)
        last = (await api.get(made[2].json()["links"]["self"])).json()
        assert last["position"] == 2
        assert last["eta_s"] == pytest.approx(20, abs=1)

    asyncio.run(run())


def test_a_faulty_rule_table_stops_the_start(make, run_3d, tmp_path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((run_3d / name).read_bytes())
    (tmp_path / "rules.yaml").write_text("rules: 3")
    prepare_folder(tmp_path / "data")
    with pytest.raises(DataError, match=r"rules\.yaml"):
        make_app(Settings(runs={"m": tmp_path}, data=tmp_path / "data"))
