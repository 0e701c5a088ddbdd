"""A real PACS on loopback ports, and a really trained, very small model."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scanseg import pipeline

PLUGIN = "libOrthancDicomWeb.so"


@dataclass(frozen=True)
class Pacs:
    """Where the running Orthanc listens."""

    dicom_port: int
    http_port: int
    listener_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    """Orthanc with its DICOMweb plugin; skips where they are not installed."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    folders = [
        Path("/usr/share/orthanc/plugins"),
        Path("/usr/lib/orthanc"),
        Path("/usr/local/share/orthanc/plugins"),
    ]
    plugin = next((folder / PLUGIN for folder in folders if (folder / PLUGIN).exists()), None)
    if program is None or plugin is None:
        pytest.skip("Orthanc and its DICOMweb plugin are not installed (make system-packages)")
    folder = tmp_path_factory.mktemp("orthanc")
    found = Pacs(free_port(), free_port(), free_port())
    modality = {"AET": "SCANSEG", "Host": "127.0.0.1", "Port": found.listener_port}
    settings = {
        "Name": "test", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
        "Plugins": [str(plugin)], "HttpPort": found.http_port, "DicomPort": found.dicom_port,
        "DicomAet": "ORTHANC", "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "DicomModalities": {"scanseg": modality}, "DicomAlwaysAllowStore": True, "StableAge": 1,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, "DicomServerEnabled": True,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        for _ in range(300):
            if process.poll() is not None:
                pytest.fail(f"Orthanc ended: {(folder / 'log').read_text()[-1000:]}")
            try:
                httpx.get(f"{found.url}/system", timeout=2).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="session")
def run_3d(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of a few steps on the hippocampus images."""
    folder = tmp_path_factory.mktemp("runs") / "hippocampus"
    pipeline.train(
        demo_data / "hippocampus",
        folder,
        changes={
            "network": "nnunet_plain", "patch_size": (24, 32, 24), "epochs": 1, "iterations_per_epoch": 3,
            "validation_iterations": 1, "batch_size": 2,
        },
        network_options={"base_features": 4},
        fold="all",
        threads=1,
        tensorboard=False,
    )  # fmt: skip
    return folder
