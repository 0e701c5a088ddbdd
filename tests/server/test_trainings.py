"""Trainings that are watched: a real one, stopped over HTTP, and everything that a run folder can be."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scanseg.client import Client, ServiceError
from scanseg.errors import TrainingError, UsageError
from scanseg.server.app import make_app
from scanseg.server.limits import Limits
from scanseg.server.run_folders import run_id
from scanseg.server.settings import Settings, prepare_folder
from scanseg.training.lock import LOCK, exclusive

pytestmark = pytest.mark.timeout(400)
RECIPE = 'network = "umamba_bot"\nepochs = 10\niterations_per_epoch = 5\npretrained = "/home/a/x"\n'


def make_run(folder: Path, epochs: int = 3, *, seconds: float = 100.0) -> Path:
    """Writes what a training leaves after some epochs."""
    folder.mkdir(parents=True)
    command = f"scanseg train {folder} -o {folder}"
    (folder / "run.json").write_text(json.dumps({"schema_version": 1, "command": command}))
    (folder / "recipe.toml").write_text(RECIPE)
    config = {"dataset_name": "hearts\x07", "fold": 0, "training": None, "path": str(folder)}
    labels = [{"value": 0, "name": "background"}, {"value": 1, "name": "myocardium"}]
    (folder / "config.json").write_text(json.dumps({**config, "labels": labels}))
    with open(folder / "metrics.jsonl", "w") as stream:
        for epoch in range(1, epochs + 1):
            record = {"epoch": epoch, "step": 5 * epoch, "seconds": seconds, "train_loss": 1 / epoch}
            record |= {"best": epoch == 2, "elapsed_seconds": seconds * epoch, "file": str(folder)}
            stream.write(json.dumps(record) + "\n")
    return folder


class Site:
    """The application without a server around it."""

    def __init__(self, root: Path, *folders: Path, allow: bool = False, limits: Limits | None = None) -> None:
        prepare_folder(root / "data")
        settings = Settings({}, root / "data", watch=folders, allow_training=allow, limits=limits or Limits())
        self.app, self.service = make_app(settings)

    def ask(self, *calls: tuple[str, str]) -> list[httpx.Response]:
        async def run() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self.app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as api:
                return [await api.request(method, f"/api/v1/trainings{path}") for method, path in calls]

        return asyncio.run(run())

    def get(self, path: str) -> httpx.Response:
        return self.ask(("GET", path))[0]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[object]:
    sites: list[Site] = []

    def build(*folders: Path, **options: object) -> Site:
        sites.append(Site(tmp_path / f"site{len(sites)}", *folders, **options))  # type: ignore[arg-type]
        return sites[-1]

    yield build
    for one in sites:
        one.service.jobs.close()


# -- a real training --------------------


def events(client: httpx.Client, path: str) -> Iterator[tuple[str, dict]]:
    with client.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for text in answer.iter_lines():
            if text.startswith("event: "):
                kind = text.removeprefix("event: ")
            elif text.startswith("data: "):
                yield kind, json.loads(text.removeprefix("data: "))


def test_a_real_training_is_watched_and_stopped(watch, begin_training, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    server = watch(tmp_path / "service", runs, "--allow-training")
    told: list[str] = []
    with server.client() as api, Client(server.url, token=server.token) as client:
        check_strangers(server, api)
        assert api.get("/api/v1/version").json()["trainings"] is True
        assert client.trainings() == []
        process = begin_training(runs / "tiny")
        until(lambda: [one.state for one in client.trainings()] == ["running"], process)
        training = client.trainings()[0]
        epochs: dict[int, dict] = {}
        last: dict = {}
        asked_s: float | None = None
        for kind, facts in events(api, f"/api/v1/trainings/{training.id}/events"):
            assert kind == "state"
            told.append(json.dumps(facts))
            new = [record["epoch"] for record in facts["metrics"]]
            assert new == list(range(facts["metrics_after"] + 1, facts["epoch"] + 1))
            epochs |= {record["epoch"]: record for record in facts["metrics"]}
            last = facts
            if len(epochs) >= 4 and len(told) >= 3 and asked_s is None:
                asked_s = time.monotonic()
                first, second = (api.delete(f"/api/v1/trainings/{training.id}") for _ in range(2))
                assert (first.status_code, first.json()["stopping"]) == (202, True)
                assert second.status_code == 202 or second.json()["code"] == "E-TRAIN-IDLE"
            assert len(told) < 200
        assert process.wait(30) == 130  # as after Ctrl-C
        assert (last["state"], last["stopping"], last["problems"]) == ("stopped", False, [])
        written = [json.loads(text) for text in (runs / "tiny" / "metrics.jsonl").read_text().splitlines()]
        assert [epochs[record["epoch"]]["train_loss"] for record in written] == [
            record["train_loss"] for record in written
        ]
        # The step at hand was saved: at or after the end of the last epoch.
        newest = max((runs / "tiny" / "checkpoint").glob("step-*.safetensors"))
        assert int(newest.stem.partition("-")[2]) >= written[-1]["step"]
        shown = client.training(training.id)
        assert (shown.state, shown.epoch, len(shown.metrics)) == ("stopped", len(written), len(written))
        assert shown.facts["recipe"]["network"] == "nnunet_plain"
        assert (shown.facts["epochs"], shown.facts["steps"]) == (5000, 10_000)
        assert shown.facts["labels"] == ["Anterior", "Posterior"]
        assert shown.facts["memory"]["kind"] == "process"
        assert 0 < shown.facts["memory"]["peak_bytes"] < shown.facts["memory"]["total_bytes"]
        picture = client.save_samples(training.id, tmp_path / "samples.png")
        assert picture.read_bytes() == (runs / "tiny" / "samples.png").read_bytes()
        with pytest.raises(ServiceError) as caught:
            client.stop_training(training.id)
        assert (caught.value.code, caught.value.status) == ("E-TRAIN-IDLE", 409)
        told += [api.get("/api/v1/trainings").text, api.get(f"/api/v1/trainings/{training.id}").text]
    assert not [text for text in told if str(tmp_path) in text or "/" + "home" in text]
    assert "unexpected" not in server.log.read_text()
    assert str(tmp_path) not in server.log.read_text()


def check_strangers(server, api: httpx.Client) -> None:
    """Asks every route of trainings with wrong tokens, on a server that has some."""
    paths = api.get("/openapi.json").json()["paths"]
    asked = [(method, path) for path in paths if "trainings" in path for method in paths[path]]
    assert len(asked) == 5
    for method, path in asked:
        for head in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": server.token}):
            url = server.url + path.replace("{training_id}", "t_0")
            answer = httpx.request(method, url, headers=head, trust_env=False)
            assert (answer.status_code, answer.json()["code"]) == (401, "E-SERVE-TOKEN")


def until(condition, process: subprocess.Popen | None = None, limit_s: float = 280) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        assert process is None or process.poll() is None
        time.sleep(0.1)


# -- states --------------------

KILLED = "from pathlib import Path; import os, sys; from scanseg.training.lock import exclusive\n"
KILLED += "held = exclusive(Path(sys.argv[1])); held.__enter__(); os.kill(os.getpid(), 9)"


def end(run: Path, how: str) -> None:
    """Trains nothing, and ends as a training may end."""
    if how == "killed":
        subprocess.run([sys.executable, "-c", KILLED, str(run)], check=False)
        return
    errors = {"stopped": KeyboardInterrupt(), "failed": TrainingError("x", code="E-TRAIN-NONFINITE")}
    try:
        with exclusive(run):
            raise errors[how]
    except (KeyboardInterrupt, TrainingError):
        pass


@pytest.mark.parametrize(
    ("how", "state", "code"),
    [
        ("stopped", "stopped", None),
        ("failed", "failed", "E-WATCH-FAILED"),
        ("killed", "failed", "E-WATCH-KILLED"),
    ],
)
def test_how_it_ended(site, tmp_path, how, state, code) -> None:
    run = make_run(tmp_path / "runs" / "a")
    end(run, how)
    facts = site(run).get("").json()["trainings"][0]
    assert (facts["state"], facts["eta_s"], facts["epochs_left"]) == (state, None, None)
    assert [problem["code"] for problem in facts["problems"]] == ([code] if code else [])
    assert how != "failed" or "E-TRAIN-NONFINITE" in facts["problems"][0]["detail"]


def test_not_begun_running_and_finished(site, tmp_path) -> None:
    runs = tmp_path / "runs"
    fresh, running, done, folds = (runs / name for name in ("fresh", "running", "done", "folds"))
    make_run(fresh, 0)
    make_run(running)
    make_run(done, 4)
    config = json.loads((done / "config.json").read_text())
    (done / "config.json").write_text(json.dumps({**config, "training": {"epochs": 4}}))
    make_run(folds, 0)
    for fold in range(2):
        make_run(folds / f"fold_{fold}", fold + 1)
    (runs / "notes").mkdir()
    with exclusive(running):
        found = site(runs).get("").json()
    assert found["stop_allowed"] is False
    states = {(one["name"], one["fold"]): (one["state"], one["epoch"]) for one in found["trainings"]}
    assert states == {
        ("fresh", "0"): ("waiting", 0),
        ("running", "0"): ("running", 3),
        ("done", "0"): ("finished", 4),
        ("folds", "0"): ("waiting", 1),
        ("folds", "1"): ("waiting", 2),
    }
    facts = next(one for one in found["trainings"] if one["name"] == "done")
    assert (facts["epochs"], facts["best"]["epoch"], facts["dataset"]) == (4, 2, "hearts?")
    assert facts["recipe"] == {"network": "umamba_bot", "epochs": 10, "iterations_per_epoch": 5}
    assert str(tmp_path) not in json.dumps(found)


def test_the_time_left(site, tmp_path) -> None:
    run = make_run(tmp_path / "a", 3, seconds=100)
    then_s = time.time() - 30
    os.utime(run / "metrics.jsonl", (then_s, then_s))
    with exclusive(run):
        shown = site(run)
        begun = shown.get("").json()["trainings"][0]
        # Six epochs of 100 s after this one, of which nothing has passed: the session began just now.
        assert begun["eta_s"] == pytest.approx(700, abs=5)
        assert (begun["epochs_left"], begun["epoch_s"], begun["steps"]) == (7, 100, 50)
        facts = json.loads((run / LOCK).read_text())
        (run / LOCK).write_text(json.dumps({**facts, "since": "2026-01-01T00:00:00+00:00"}))
        assert site(run).get("").json()["trainings"][0]["eta_s"] == pytest.approx(670, abs=5)
        (run / "recipe.toml").write_text("minutes = 10.0\nepochs = 1000\n")
        budget = site(run).get("").json()["trainings"][0]
        # 600 s, less 300 s before and 30 s since the last epoch; 2.7 epochs of 100 s are left.
        assert budget["eta_s"] == pytest.approx(270, abs=5)
        assert (budget["epochs"], budget["epochs_left"]) == (None, 3)


def test_only_later_epochs_are_sent_on_request(site, tmp_path) -> None:
    run = make_run(tmp_path / "a", 5)
    shown = site(run)
    base = f"/{run_id(run)}"
    for after, epochs in ((0, [1, 2, 3, 4, 5]), (3, [4, 5]), (5, []), (9, [1, 2, 3, 4, 5])):
        facts = shown.get(f"{base}?after={after}").json()
        assert [record["epoch"] for record in facts["metrics"]] == epochs
        assert facts["metrics_after"] == 5 - len(epochs)
    assert shown.get(f"{base}?after=-1").status_code == 422
    assert shown.get("").json()["trainings"][0]["last"]["epoch"] == 5


# -- who may stop --------------------


def test_stopping_must_be_allowed(site, tmp_path) -> None:
    run = make_run(tmp_path / "a")
    with exclusive(run):  # By this process, which a signal would end.
        for path in (f"/{run_id(run)}", "/t_0"):
            answer = site(run).ask(("DELETE", path))[0]
            assert (answer.status_code, answer.json()["code"]) == (403, "E-WATCH-STOP")
            assert "--allow-training" in answer.json()["hint"]


def test_what_cannot_be_stopped_is_told(site, tmp_path) -> None:
    run = make_run(tmp_path / "a")
    path = f"/{run_id(run)}"
    idle, unknown = site(run, allow=True).ask(("DELETE", path), ("DELETE", "/t_0"))
    assert (idle.status_code, idle.json()["code"]) == (409, "E-TRAIN-IDLE")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "E-WATCH-UNKNOWN")
    with exclusive(run):
        facts = {"pid": os.getpid(), "host": f"not-{socket.gethostname()}", "since": "x"}
        (run / LOCK).write_text(json.dumps(facts))
        answer = site(run, allow=True).ask(("DELETE", path))[0]
    assert (answer.status_code, answer.json()["code"]) == (409, "E-TRAIN-ELSEWHERE")


# -- what is wrong with folders --------------------


def test_a_folder_without_runs_is_refused(tmp_path) -> None:
    from typer.testing import CliRunner

    from scanseg.cli.app import app

    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    for folder, word in (("pictures", "holds none"), ("nothing", "does not exist")):
        with pytest.raises(UsageError, match=word) as caught:
            Site(tmp_path / "site", tmp_path / folder)
        assert caught.value.code == "E-WATCH-FOLDER"
    for options, code in (
        (["--watch", str(tmp_path / "nothing")], "E-WATCH-FOLDER"),
        ([], "E-SERVE-NOTHING"),
        (["-m", str(tmp_path), "--allow-training"], "E-SERVE-WATCH"),
    ):
        answer = CliRunner().invoke(app, ["serve", "--json", "--data-dir", str(tmp_path / "d"), *options])
        assert answer.exit_code == 2
        assert code in answer.stdout


def test_damaged_files_are_told_and_the_rest_is_shown(site, tmp_path) -> None:
    run = make_run(tmp_path / "a", 3)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[1] = lines[1][:20]
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"epoch": 4, "tr')
    (run / "recipe.toml").write_text("network = ")
    (run / "config.json").write_text('{"labels": 5, "fold": [], "dataset_name": {}}')
    facts = site(run).get(f"/{run_id(run)}").json()
    assert [record["epoch"] for record in facts["metrics"]] == [1, 3]
    assert [problem["code"] for problem in facts["problems"]] == ["E-WATCH-METRICS", "E-WATCH-FILE"]
    assert facts["problems"][0]["detail"] == "Line 2 of metrics.jsonl is no record of an epoch; left out."
    assert "recipe.toml" in facts["problems"][1]["detail"]
    assert (facts["recipe"], facts["labels"], facts["epochs"]) == ({}, [], None)
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    assert site(run).get(f"/{run_id(run)}").json()["metrics"] == []


def test_a_run_that_is_removed_while_watched(site, tmp_path) -> None:
    kept, run = make_run(tmp_path / "runs" / "kept"), make_run(tmp_path / "runs" / "a")
    shown = site(tmp_path / "runs")

    async def follow() -> list[str]:
        transport = httpx.ASGITransport(app=shown.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as api:
            base = f"/api/v1/trainings/{run_id(run)}"
            assert (await api.get(base)).status_code == 200
            asyncio.get_running_loop().call_later(0.5, shutil.rmtree, run)
            texts = (await api.get(f"{base}/events")).text.strip().split("\n\n")
            after = (await api.get(base)).json()
            assert (after["status"], after["code"]) == (404, "E-WATCH-UNKNOWN")
            return texts

    first, last = asyncio.run(follow())
    assert first.startswith("event: state\n")
    assert last.startswith("event: gone\ndata: ")
    problem = json.loads(last.partition("data: ")[2])
    assert (problem["status"], problem["code"]) == (404, "E-WATCH-GONE")
    assert [one["name"] for one in shown.get("").json()["trainings"]] == [kept.name]
    assert shown.service.streams["local"] == 0


def test_streams_of_an_owner_are_bounded(site, tmp_path) -> None:
    run = make_run(tmp_path / "a")
    answer = site(run, limits=Limits(streams=0)).get(f"/{run_id(run)}/events")
    assert (answer.status_code, answer.json()["code"]) == (429, "E-SERVE-STREAMS")


def test_finished_curves_are_not_kept_in_memory(site, tmp_path, monkeypatch) -> None:
    from scanseg.server.metrics_tail import MetricsTail

    run = make_run(tmp_path / "a")
    end(run, "stopped")
    shown, read = site(run), []
    original = MetricsTail.read
    monkeypatch.setattr(MetricsTail, "read", lambda tail: (read.append(1), original(tail))[1])
    for _ in range(3):
        assert shown.get("").json()["trainings"][0]["epoch"] == 3
        time.sleep(0.45)
    assert len(read) == 1
    with open(run / "metrics.jsonl", "a") as stream:
        stream.write('{"epoch": 4}\n')
    assert shown.get("").json()["trainings"][0]["epoch"] == 4
    assert len(shown.get(f"/{run_id(run)}").json()["metrics"]) == 4


# -- memory and pictures --------------------


def test_the_most_memory_of_all_sessions(site, tmp_path) -> None:
    run = make_run(tmp_path / "a")
    assert site(run).get("").json()["trainings"][0]["memory"] is None
    told = [(1, 7_000, 9_000, "gpu"), (2, 5_000, None, "x"), (3, None, None, None), (4, -1, 9_000, "process")]
    keys = ("epoch", "peak_memory_bytes", "total_memory_bytes", "memory_kind")
    lines = [json.dumps(dict(zip(keys, one, strict=True))) for one in told]
    (run / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    facts = site(run).get(f"/{run_id(run)}").json()
    assert facts["memory"] == {"peak_bytes": 7_000, "total_bytes": 9_000, "kind": "gpu"}
    assert [record["memory_kind"] for record in facts["metrics"]] == ["gpu", None, None, "process"]


PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


def test_the_picture_of_samples(site, tmp_path) -> None:
    run = make_run(tmp_path / "a")
    path = f"/{run_id(run)}"
    shown = site(run)
    facts = shown.get(path).json()
    assert "samples" not in facts["links"]
    absent = shown.get(f"{path}/samples.png")
    assert (absent.status_code, absent.json()["code"]) == (404, "E-WATCH-SAMPLES")
    (run / "samples.png").write_bytes(PNG)
    answer = shown.get(f"{path}/samples.png")
    assert (answer.status_code, answer.content) == (200, PNG)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    time.sleep(0.45)
    assert shown.get(path).json()["links"]["samples"] == f"/api/v1/trainings{path}/samples.png"
    assert shown.get("/t_0/samples.png").json()["code"] == "E-WATCH-UNKNOWN"
    assert shown.get("/a/samples.png").json()["code"] == "E-WATCH-UNKNOWN"
    for other in ("metrics.jsonl", "config.json", "samples.png/", "%2e%2e%2fa%2fsamples.png"):
        assert shown.get(f"{path}/{other}").json()["code"] == "E-SERVE-PATH"
    shutil.rmtree(run)
    assert shown.get(f"{path}/samples.png").json()["code"] == "E-WATCH-GONE"


def test_only_pictures_are_given_away_as_pictures(site, tmp_path) -> None:
    run = make_run(tmp_path / "a")
    (tmp_path / "secret").write_text("a secret")
    picture = run / "samples.png"

    def write(how: str) -> None:
        if how == "link":
            picture.symlink_to(tmp_path / "secret")
        elif how == "folder":
            picture.mkdir()
        elif how == "pipe":
            os.mkfifo(picture)
        else:
            picture.write_bytes({"empty": b"", "half": PNG[:5], "large": PNG + bytes(8 << 20)}[how])

    for how in ("empty", "half", "large", "link", "pipe", "folder"):
        write(how)
        answer = site(run).get(f"/{run_id(run)}/samples.png")
        assert (answer.status_code, answer.json()["code"]) == (404, "E-WATCH-SAMPLES"), how
        picture.rmdir() if how == "folder" else picture.unlink()
