"""Limits and races of the web process, without workers: what is accepted, refused, swept and shown."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from scanseg.errors import DataError
from scanseg.server.app import _page_file, make_app
from scanseg.server.limits import Limits
from scanseg.server.middleware import owner_of
from scanseg.server.problems import Refusal
from scanseg.server.service import reviews_csv
from scanseg.server.settings import Settings, prepare_folder

NAMED = {"X-Scanseg-Name": "a.nii.gz"}


@pytest.fixture
def make(described: Path, tmp_path: Path):
    """Makes an application that nobody has started: no workers, no sweeper."""
    services = []

    def build(tokens: tuple[str, ...] = (), **limits: object):
        prepare_folder(tmp_path / "data")
        settings = Settings(
            runs={"m": described}, data=tmp_path / "data", limits=Limits(**limits),  # type: ignore[arg-type]
            tokens={owner_of(token): token for token in tokens},
        )  # fmt: skip
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


def test_an_upload_to_a_job_without_a_row_leaves_nothing(make) -> None:
    """As where the files of a job are erased just before the upload writes another one."""
    api, service = make()

    async def run() -> None:
        job = (await api.post("/api/v1/predictions", json={"inputs": [{"name": "a.nii"}]})).json()
        gate, folder = asyncio.Event(), service.settings.folder(job["id"])
        upload = asyncio.create_task(api.put(job["inputs"][0]["href"], content=slow(b"one", gate)))
        while not list((folder / "inputs").iterdir()):
            await asyncio.sleep(0.01)
        await service.store("delete", job["id"])
        gate.set()
        assert (await upload).status_code == 404
        assert not folder.exists()

    asyncio.run(run())


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


def test_a_faulty_rule_table_stops_the_start(make, described, tmp_path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((described / name).read_bytes())
    (tmp_path / "rules.yaml").write_text("rules: 3")
    prepare_folder(tmp_path / "data")
    with pytest.raises(DataError, match=r"rules\.yaml"):
        make_app(Settings(runs={"m": tmp_path}, data=tmp_path / "data"))


def test_jobs_of_others_are_not_there(make) -> None:
    """Every route with an id answers a stranger as it answers for an id that nobody has."""
    mine, yours = "a" * 40, "b" * 40
    api, service = make(tokens=(mine, yours))

    def head(token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    async def run() -> int:
        order = {"inputs": [{"name": "a.nii"}]}
        job = (await api.post("/api/v1/predictions", json=order, headers=head(mine))).json()["id"]
        paths = (await api.get("/openapi.json", headers=head(mine))).json()["paths"]
        asked = 0
        for path, operations in paths.items():
            if "{job_id}" not in path:
                continue
            for method in operations:
                url = path.format(job_id="ID", slot="0", value="1", axis="axial", index="1")
                body = {"json": {"verdict": "accept"}} if path.endswith("review") else {}
                answers = [
                    await api.request(method, url.replace("ID", one), headers=head(yours), **body)
                    for one in (job, "p_" + "0" * 32)
                ]
                assert {answer.status_code for answer in answers} == {404}, (method, path)
                assert answers[0].text == answers[1].text, (method, path)
                asked += 1
        assert (await api.get("/api/v1/predictions", headers=head(yours))).json()["predictions"] == []
        assert (await api.get(f"/api/v1/predictions/{job}", headers=head(mine))).status_code == 200
        return asked

    assert asyncio.run(run()) > 20
    service.jobs.check()


def test_a_repeated_request_is_one_job(make) -> None:
    api, service = make()
    named = {**NAMED, "Idempotency-Key": "k"}

    async def run() -> None:
        first = await api.put("/api/v1/predictions", content=b"x", headers=named)
        again = await api.put("/api/v1/predictions", content=b"x", headers=named)
        assert first.json()["id"] == again.json()["id"]
        other = await api.put("/api/v1/predictions?tta=true", content=b"x", headers=named)
        assert (other.status_code, other.json()["code"]) == (422, "E-SERVE-KEY")

    asyncio.run(run())
    assert len(list(service.settings.jobs.iterdir())) == 1


def test_what_was_wrong_is_not_repeated(make) -> None:
    api, _ = make()
    order = {"inputs": [{"name": "a.nii"}], "options": {"step_size": "MARKER^ONE"}, "model": ["MARKER^TWO"]}
    answer = asyncio.run(api.post("/api/v1/predictions", json=order))
    assert answer.status_code == 422
    assert "MARKER" not in answer.text


def test_the_page_is_all_that_is_served_of_the_folder() -> None:
    assert _page_file("index.html").status_code == 200
    for path in (
        "../README.md",
        "x/../../README.md",
        "/etc/hosts",
        "../app.py",
        "app.py",
        "\0",
        "nothing.html",
    ):
        with pytest.raises(Refusal) as caught:
            _page_file(path)
        assert caught.value.status == 404, path


def test_the_description_is_not_shown_as_a_page_unless_asked_for(make) -> None:
    api, service = make()

    async def run() -> None:
        for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
            assert (await api.get(path)).status_code == 404, path

    asyncio.run(run())
    assert service.settings.docs is False


def test_a_comment_is_no_formula() -> None:
    texts = ['=HYPERLINK("x")', "+1", "-1", "@SUM(A1)", "\t=1", "fine"]
    table = reviews_csv([("p_1", "m", {"verdict": "accept", "comment": text}) for text in texts])
    cells = [line.split(",", 3)[3].lstrip('"') for line in table.splitlines()[1:]]
    assert [cell[0] for cell in cells] == ["'"] * 5 + ["f"]
