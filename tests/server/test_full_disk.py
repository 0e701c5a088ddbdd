"""The disk under the data folder fills up while the service works: a real, small file system of its own."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MOUNT = 'mount -t tmpfs -o size=1100m tmpfs "$0" && exec "$@"'
FULL = os.environ.get("SCANSEG_FAULTS") == "full"
pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def prefix(folder: Path) -> tuple[str, ...]:
    return ("unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, str(folder))


def fill(path: Path) -> None:
    """Writes until nothing fits any more."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with open(path, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


def finished(api: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Returns a job at its end."""
    while job["state"] in ("queued", "running"):
        job = api.get(f"{job['links']['self']}?wait=60").json()
    return job


@pytest.fixture
def small(start: Callable[..., Any], tmp_path: Path) -> Any:
    """A server whose data folder is a file system of 1100 MiB that only it and its children see."""
    data = tmp_path / "data"
    data.mkdir()
    if sys.platform != "linux":
        pytest.skip("mounts a file system as Linux does")
    tried = subprocess.run([*prefix(data), "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"may not mount a file system here: {tried.stderr.strip()}")
    return start(data, prefix=prefix(data))


def test_a_disk_that_fills_up(small: Any, image_3d: Path, reference_mask: bytes) -> None:
    """What was done stays, what runs ends in words, what comes is refused; with room again all goes on."""
    small.wait_ready()
    workers = small.workers()
    inside = Path(f"/proc/{small.process.pid}/root{small.data}")
    content, head = image_3d.read_bytes(), {"X-Scanseg-Name": "a.nii.gz"}
    with small.client() as api:
        done, other = (
            finished(api, api.put("/api/v1/predictions", content=content, headers=head).json())
            for _ in range(2)
        )
        assert (done["state"], other["state"]) == ("done", "done")
        slow = api.put("/api/v1/predictions?step_size=0.4&tta=true", content=content, headers=head).json()
        while api.get(slow["links"]["self"]).json()["state"] == "queued":
            time.sleep(0.02)
        fill(inside / "filler")
        refused = api.put("/api/v1/predictions", content=content, headers=head)
        assert (refused.status_code, refused.json()["code"]) == (507, "E-SERVE-DISK")
        review = api.put(f"{done['links']['self']}/review", json={"verdict": "accept"})
        assert review.status_code in (200, 507), review.text
        # At full size longer than a worker may be silent; and until the result did not fit.
        began_s = time.monotonic()
        while (
            time.monotonic() - began_s < (35 if FULL else 0)
            or "failed: errno 28" not in small.log.read_text()
        ):
            assert time.monotonic() - began_s < 200, small.log.read_text()
            time.sleep(0.5)
        assert api.get("/healthz").status_code == 200
        assert api.get(done["links"]["mask"]).content == reference_mask
        assert api.get(slow["links"]["self"]).json()["state"] in ("running", "failed")
        erased = api.delete(other["links"]["self"])
        assert erased.status_code in (204, 507), erased.text
        (inside / "filler").unlink()
        ended = finished(api, slow)
        assert (ended["state"], ended["error"]["code"]) == ("failed", "E-PREDICT-IO")
        assert "full" in ended["error"]["detail"]
        again = finished(api, api.put("/api/v1/predictions", content=content, headers=head).json())
        assert again["state"] == "done"
        assert api.get(again["links"]["mask"]).content == reference_mask
        assert api.delete(other["links"]["self"]).status_code == (404 if erased.is_success else 204)
    assert small.workers() == workers
    assert "unexpected" not in small.log.read_text()
    assert "Traceback" not in small.log.read_text()
