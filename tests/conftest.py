"""Fixtures shared by all tests."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]
PLUGIN = "libOrthancDicomWeb.so"
OUTCOME = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keeps how a test ended, for the figures that it notes."""
    report = yield
    if report.when == "call":
        item.stash[OUTCOME] = report.outcome
    return report


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Notes values of a figure: `figure("S3", lost=0)`; see figure.py beside this file.

    With SCANSEG_FIGURES=FOLDER each figure becomes a JSON file there, with whether its test passed.
    """
    noted: dict[str, dict[str, Any]] = {}
    yield lambda name, **values: noted.setdefault(name, {}).update(values)
    folder = os.environ.get("SCANSEG_FIGURES")
    for name, values in noted.items() if folder else ():
        size = "full" if os.environ.get("SCANSEG_FAULTS") == "full" else "quick"
        passed = request.node.stash.get(OUTCOME, "") == "passed"
        document = {"figure": name, "size": size, "passed": passed, **values}
        path = Path(str(folder)) / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of larger real datasets; skips where it is absent."""
    folder = Path(os.environ.get("SCANSEG_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real datasets at {folder} (set SCANSEG_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def demo_data() -> Path:
    """The small real datasets that ship in the package."""
    return REPOSITORY / "src" / "scanseg" / "demo_data"


@pytest.fixture(scope="session")
def write_series() -> Callable[..., list[Path]]:
    """Writes a volume (z, y, x) of integers with a RAS+ affine as a DICOM series; see `_write_series`."""
    pytest.importorskip("pydicom", reason="DICOM needs pip install 'scanseg[dicom]'")
    return _write_series


def _write_series(
    folder: Path,
    volume: np.ndarray,
    affine: np.ndarray,
    *,
    change: Callable[[int, Any], None] | None = None,
    syntax: str = "1.2.840.10008.1.2.1",
    modality: str = "MR",
    seed: str = "series",
) -> list[Path]:
    """Returns the files, one a slice, in the order of the volume.

    Args:
        folder: Created.
        volume: Integers that fit 16 bits.
        affine: (4, 4), index (x, y, z, 1) to mm in RAS+.
        change: Called with the number of the slice and its data set before that is written.
        syntax: Transfer syntax; other than the four uncompressed ones are compressed by pydicom.
        modality: Of every slice.
        seed: UIDs follow from it.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    signed = int(volume.min()) < 0
    kinds = {"MR": "1.2.840.10008.5.1.4.1.1.4", "CT": "1.2.840.10008.5.1.4.1.1.2"}
    paths = []
    for number, plane in enumerate(volume):
        one = Dataset()
        one.SOPClassUID, one.SOPInstanceUID = kinds[modality], generate_uid(entropy_srcs=[seed, str(number)])
        one.StudyInstanceUID = generate_uid(entropy_srcs=[seed, "study"])
        one.SeriesInstanceUID = generate_uid(entropy_srcs=[seed, "series"])
        one.FrameOfReferenceUID = generate_uid(entropy_srcs=[seed, "frame"])
        one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = "", "", "", ""
        one.StudyDate, one.StudyTime, one.AccessionNumber, one.StudyID = "20200101", "120000", "", "1"
        one.ReferringPhysicianName, one.SeriesNumber, one.InstanceNumber = "", 1, number + 1
        one.Modality, one.ImageType, one.Manufacturer = modality, ["ORIGINAL", "PRIMARY", "OTHER"], "none"
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.Rows, one.Columns = plane.shape
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, int(signed)
        one.PixelSpacing = [float(f"{value:.10g}") for value in (spacing[1], spacing[0])]
        one.SliceThickness = float(f"{spacing[2]:.10g}")
        directions = lps[:3, :2] / spacing[:2]
        one.ImageOrientationPatient = [float(f"{value:.10f}") + 0.0 for value in directions.T.ravel()]
        one.ImagePositionPatient = [float(f"{v:.10g}") for v in (lps @ [0, 0, number, 1])[:3]]
        big = syntax == "1.2.840.10008.1.2.2"
        one.PixelData = plane.astype((">" if big else "<") + ("i2" if signed else "u2")).tobytes()
        one["PixelData"].VR = "OW"
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = UID(syntax)
        compressed = UID(syntax).is_compressed and not UID(syntax).is_deflated
        if compressed:
            one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            one.compress(syntax, generate_instance_uid=False)
        if change is not None:
            change(number, one)
        path = folder / f"{number + 1}.dcm"
        one.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


@pytest.fixture(scope="session")
def write_enhanced() -> Callable[..., None]:
    """Writes a volume (z, y, x) of integers as one enhanced image of many frames; see `_write_enhanced`."""
    pytest.importorskip("pydicom", reason="DICOM needs pip install 'scanseg[dicom]'")
    return _write_enhanced


def _write_enhanced(
    path: Path,
    volume: np.ndarray,
    affine: np.ndarray,
    *,
    order: Sequence[int] | None = None,
    change: Callable[[Any], None] | None = None,
    modality: str = "MR",
    syntax: str = "1.2.840.10008.1.2.1",
    shared: bool = True,
) -> None:
    """Writes one file.

    Args:
        path: Its folder is made.
        volume: Integers that fit 16 bits.
        affine: (4, 4), index (x, y, z, 1) to mm in RAS+.
        order: The frames as places along the stack; that of the volume by default.
        change: Called with the data set before that is written.
        modality: `CT`, `MR` or `PT`.
        syntax: Transfer syntax; other than the uncompressed ones are compressed by pydicom.
        shared: Orientation and spacing stand once for all frames, else in each of them.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    kinds = {"CT": "2.1", "MR": "4.1", "PT": "130"}
    signed, order = int(volume.min()) < 0, list(range(len(volume)) if order is None else order)
    measures = _group(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2])
    plane = _group(ImageOrientationPatient=[float(v) for v in (lps[:3, :2] / spacing[:2]).T.ravel()])
    one = _group(
        SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{kinds[modality]}", SOPInstanceUID=generate_uid(),
        StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4", FrameOfReferenceUID="1.2.3.5",
        PatientID="p", Modality=modality, ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", Rows=volume.shape[1],
        Columns=volume.shape[2], BitsAllocated=16, BitsStored=16, HighBit=15,
        PixelRepresentation=int(signed), NumberOfFrames=len(order), PerFrameFunctionalGroupsSequence=[],
    )  # fmt: skip
    common = {"PixelMeasuresSequence": [measures], "PlaneOrientationSequence": [plane]}
    one.SharedFunctionalGroupsSequence = [_group(**common)] if shared else []
    for number, place in enumerate(order):
        position = [float(v) for v in (lps @ [0, 0, place, 1])[:3]]
        content = _group(StackID="1", InStackPositionNumber=place + 1, TemporalPositionIndex=1)
        content.FrameAcquisitionNumber = number + 1
        own = _group(
            FrameContentSequence=[content],
            PlanePositionSequence=[_group(ImagePositionPatient=position)],
            PixelValueTransformationSequence=[_group(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")],
            **({} if shared else common),
        )
        one.PerFrameFunctionalGroupsSequence.append(own)
    one.PixelData = volume[order].astype("<i2" if signed else "<u2").tobytes()
    one["PixelData"].VR = "OW"
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = UID(syntax)
    if UID(syntax).is_compressed and not UID(syntax).is_deflated:
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.compress(syntax, generate_instance_uid=False)
    if change is not None:
        change(one)
    path.parent.mkdir(parents=True, exist_ok=True)
    one.save_as(path, enforce_file_format=True)


def _group(**values: Any) -> Any:
    from pydicom.dataset import Dataset

    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return found


@dataclass(frozen=True)
class Pacs:
    """Where the running Orthanc listens."""

    dicom_port: int
    http_port: int
    listener_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Returns a port of the loopback interface that nobody listens on, a new one at each call."""
    return _free_port


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    """An empty Orthanc with its DICOMweb plugin; skips where they are not installed."""
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
    found = Pacs(_free_port(), _free_port(), _free_port())
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
