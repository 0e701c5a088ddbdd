"""The process of a model, started as the server starts it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scanseg.server.jobs import Received, Slot, Store
from scanseg.server.models import model_ids
from scanseg.server.settings import Settings, prepare_folder


@pytest.mark.timeout(120)
def test_nobody_hears_it_any_more(tmp_path: Path, run_3d: Path, image_3d: Path) -> None:
    """A server that dies while a worker reports takes no job with it: the job is queued again, untried."""
    data = tmp_path / "data"
    prepare_folder(data)
    settings = Settings(runs=model_ids([run_3d]), data=data, host="127.0.0.1", port=0, threads=1)
    model = next(iter(settings.runs))
    command = [sys.executable, "-m", "scanseg.server.worker"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdin
        assert worker.stdout
        assert worker.stderr
        worker.stdin.write(json.dumps(settings.worker_orders(model)) + "\n")
        worker.stdin.flush()
        assert json.loads(worker.stdout.readline())["event"] == "ready"
        worker.stdout.close()
        folder = settings.folder("p_1") / "inputs"
        folder.mkdir(parents=True)
        store = Store(data / "jobs.sqlite3")
        slot = Slot("0", "a.nii.gz", ".nii.gz")
        content = image_3d.read_bytes()
        (folder / slot.file).write_bytes(content)
        store.create(
            job_id="p_1", kind="prediction", model=model, owner="local", name="a.nii.gz",
            options={"step_size": 0.5}, slots=[slot], expires_s=time.time() + 3600,
            received={"0": Received(len(content), "x")},
        )  # fmt: skip
        assert worker.wait(60) == 0, worker.stderr.read()
        found = store.get("p_1")
        assert (found.state, found.tries, found.error) == ("queued", 0, None)
