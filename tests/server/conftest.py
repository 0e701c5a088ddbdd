"""A really trained, tiny model and real server processes on the loopback interface."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from scanseg import pipeline
from scanseg.files import read_json, write_json

SMALL = {"epochs": 1, "iterations_per_epoch": 2, "validation_iterations": 1, "batch_size": 2}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def subset(source: Path, folder: Path, count: int) -> Path:
    """Copies the first labelled cases of a dataset, one of each patient."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    groups = dict(line.split(",")[:2] for line in (source / "cases.csv").read_text().splitlines()[1:])
    taken: set[str] = set()
    for label in sorted((source / "labelsTr").iterdir()):
        case = label.name.partition(".")[0]
        if len(taken) < count and groups.get(case, case) not in taken:
            taken.add(groups.get(case, case))
            shutil.copy(label, folder / "labelsTr")
            for image in (source / "imagesTr").glob(f"{case}_*"):
                shutil.copy(image, folder / "imagesTr")
    facts = read_json(source / "dataset.json")
    write_json(folder / "dataset.json", {**facts, "numTraining": count})
    return folder


@pytest.fixture(scope="session")
def run_3d(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """U-Mamba (Bot), trained for seconds on five hippocampi."""
    root = tmp_path_factory.mktemp("served")
    pipeline.train(
        subset(demo_data / "hippocampus", root / "data", 5),
        root / "hippocampus",
        changes={**SMALL, "network": "umamba_bot", "patch_size": (24, 32, 24)},
        network_options={"base_features": 4},
        threads=1,
        tensorboard=False,
    )
    return root / "hippocampus"


@pytest.fixture(scope="session")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that describes a model and holds no weights, for what never predicts."""
    folder = tmp_path_factory.mktemp("described")
    network = {"name": "umamba_bot", "spatial_dims": 3}
    labels = [{"value": value, "name": name} for value, name in enumerate(("background", "one", "two"))]
    config = {"network": network, "labels": labels, "channel_names": ["MRI"], "weights_sha256": "0" * 64}
    write_json(folder / "config.json", config)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture(scope="session")
def image_3d(demo_data: Path) -> Path:
    """A real image that the model has not seen."""
    return sorted((demo_data / "hippocampus" / "imagesTs").iterdir())[0]


@pytest.fixture(scope="session")
def reference_mask(run_3d: Path, image_3d: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What `scanseg predict` writes for `image_3d`."""
    folder = tmp_path_factory.mktemp("reference")
    pipeline.predict(image_3d, run_3d, folder, threads=1, preview=False)
    return next(folder.glob("*.nii.gz")).read_bytes()


@dataclass
class Server:
    """A server process.

    Attributes:
        log: What it logged.
        said: What it printed when it began to listen.
        tokens: Of its users; the first is ours.
        data: Its data folder.
    """

    process: subprocess.Popen
    url: str
    data: Path
    log: Path
    tokens: list[str]
    said: str

    @property
    def token(self) -> str:
        return self.tokens[0] if self.tokens else ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: object) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120, trust_env=False, **options)

    def wait_ready(self, limit_s: float = 120.0) -> None:
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"not ready:\n{self.log.read_text()}")

    def workers(self) -> list[int]:
        """Process ids of the model workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = []
        for pid in children:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
                if b"scanseg.server.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
        return found

    def kill(self) -> None:
        """Kills the server, not its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """Ends the server as a service manager does: the whole group is told."""
        os.killpg(self.process.pid, signal.SIGTERM)
        return self.process.wait(20)


def start_server(
    data: Path,
    *runs: Path,
    options: tuple[str, ...] = (),
    port: int = 0,
    prefix: tuple[str, ...] = (),
) -> Server:
    """Starts `scanseg serve`, behind `prefix` if there is one, and returns when it listens."""
    data.mkdir(parents=True, exist_ok=True)
    log = data.parent / f"{data.name}.log"
    command = [*prefix, sys.executable, "-m", "scanseg", "serve", "--json", "--port", str(port)]
    command += ["--threads", "1"]
    for run in runs:
        command += ["-m", str(run)]
    with open(log, "ab") as errors:
        process = subprocess.Popen(
            [*command, "--data-dir", str(data), *options],
            stdout=subprocess.PIPE, stderr=errors, env=ENVIRONMENT, text=True,
            start_new_session=True,
        )  # fmt: skip
    text = ""
    while process.stdout is not None and (line := process.stdout.readline()):
        text += line
        if line == "}\n":
            break
    assert '"listening"' in text, text + log.read_text()
    facts = json.loads(text)
    token_file = facts["token_file"]
    tokens = Path(token_file).read_text().split() if token_file else []
    return Server(process, facts["url"], data, log, tokens, text)


@pytest.fixture(scope="session")
def start(run_3d: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of `run_3d` and ends them."""
    started: list[Server] = []

    def begin(
        data: Path, *, options: tuple[str, ...] = (), port: int = 0, prefix: tuple[str, ...] = ()
    ) -> Server:
        started.append(start_server(data, run_3d, options=options, port=port, prefix=prefix))
        return started[-1]

    yield begin
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """One server with a token, shared by the tests that do it no harm."""
    root = tmp_path_factory.mktemp("server")
    (root / "token").write_text("".join(f"{secrets.token_urlsafe(32)}\n" for _ in range(2)))
    (root / "token").chmod(0o600)
    server = start(root / "data", options=("--token-file", str(root / "token"), "--max-upload", "4M"))
    server.wait_ready()
    return server


@pytest.fixture(scope="session")
def api(server: Server) -> Iterator[httpx.Client]:
    """A client of the shared server."""
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def done(api: httpx.Client, image_3d: Path) -> str:
    """Id of a finished prediction with everything asked for."""
    answer = api.put(
        "/api/v1/predictions?wait=60&probabilities=true",
        content=image_3d.read_bytes(),
        headers={"X-Scanseg-Name": "scan.nii.gz"},
    )
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "done", answer.text
    return str(answer.json()["id"])


@pytest.fixture(scope="session")
def begin_training(
    demo_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], subprocess.Popen]]:
    """Begins trainings of a tiny network on real images, in processes of their own that take very long."""
    root = tmp_path_factory.mktemp("training")
    data = subset(demo_data / "hippocampus", root / "data", 5)
    (root / "long.toml").write_text(
        'network = "nnunet_plain"\nepochs = 5000\niterations_per_epoch = 2\nvalidation_iterations = 1\n'
        "batch_size = 2\npatch_size = [16, 16, 16]\n\n[network_options]\nbase_features = 4\n"
    )
    begun: list[subprocess.Popen] = []

    def begin(run: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "scanseg", "train", str(data), "-o", str(run), "--threads", "1"]
        options = ["--recipe", str(root / "long.toml"), "--workspace", str(root / "work"), "--quiet"]
        with open(root / f"{run.name}.log", "ab") as log:
            process = subprocess.Popen(
                [*command, *options, "--no-tensorboard"], stdout=log, stderr=log, env=ENVIRONMENT
            )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.wait(10)


@pytest.fixture(scope="session")
def watch() -> Iterator[Callable[..., Server]]:
    """Starts servers without models that show the trainings of a folder, and ends them."""
    started: list[Server] = []

    def begin(root: Path, folder: Path, *options: str) -> Server:
        token = ("--token-file", str(root / "token"))
        started.append(start_server(root / "data", options=("--watch", str(folder), *token, *options)))
        return started[-1]

    yield begin
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
