"""kill -9 at random moments: every instance that was acknowledged is on disk, whole."""

import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scanseg.data.image import read_image

pytest.importorskip("pynetdicom", reason="DICOM networking needs pip install 'scanseg[dicom]'")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
KILLS = 4
SLICES = 60
SERVER = """
import sys
from pathlib import Path
from scanseg.dicomnet.scp import ListenOptions, serve_dicom
options = ListenOptions(quiet_s=600, free_bytes=0)
with serve_dicom(int(sys.argv[1]), print, inbox=Path(sys.argv[2]), options=options) as listener:
    print("ready", flush=True)
    listener.wait()
"""


def start(port: int, inbox: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SERVER, str(port), str(inbox)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def send_until(
    port: int, paths: list[Path], process: subprocess.Popen[str], kill_after_s: float
) -> list[Path]:
    """Sends over and over until the receiver is gone; returns what was acknowledged."""
    from pynetdicom import AE

    entity = AE()
    entity.add_requested_context("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", port, ae_title="SCANSEG")
    assert association.is_established
    acknowledged, end = [], time.monotonic() + kill_after_s
    for path in paths:
        if time.monotonic() > end and process.poll() is None:
            process.send_signal(signal.SIGKILL)
        try:
            status = association.send_c_store(path)
        except RuntimeError:
            break
        if "Status" not in status:
            break
        assert status.Status == 0
        acknowledged.append(path)
    association.abort()
    return acknowledged


def test_acknowledged_instances_survive_kill_9(tmp_path, write_series):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    volume = np.random.default_rng(0).integers(0, 900, (SLICES, 16, 16)).astype(np.int16)
    paths = write_series(tmp_path / "case", volume, np.eye(4))
    chance, acknowledged = random.Random(0), []
    for number in range(KILLS + 1):
        process = start(port, tmp_path / "inbox")
        left = [path for path in paths if path not in acknowledged]
        kill_after_s = 0.02 + 0.1 * chance.random() if number < KILLS else 1e9
        acknowledged += send_until(port, left, process, kill_after_s)
        process.kill()
        process.wait(10)
        kept = [path for path in (tmp_path / "inbox" / "incoming").rglob("*.dcm") if path.name[0] != "."]
        assert len(kept) >= len(acknowledged) > 0
    (folder,) = (tmp_path / "inbox" / "incoming").iterdir()
    np.testing.assert_array_equal(read_image(folder).array, read_image(tmp_path / "case").array)
