"""Mutated DICOM files and archives: an error of ours or an image, never a crash, hang or surprise."""

import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from scanseg.data.image import read_image
from scanseg.errors import DataError

pytest.importorskip("pydicom", reason="DICOM needs pip install 'scanseg[dicom]'")
pytestmark = pytest.mark.faults
CORPUS = Path(__file__).parent / "corpus"
SEED = 20_261_121
COUNT = 10_000 if os.environ.get("SCANSEG_FAULTS") == "full" else 250
SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "deflated": "1.2.840.10008.1.2.1.99",
    "big": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5",
    "jpegls": "1.2.840.10008.1.2.4.80",
}

RUN = """
import json, resource, sys, time
from pathlib import Path
import numpy, pydicom.pixels, scanseg.data.dicom, scanseg.data.image as door
from scanseg.errors import Error
limit, seconds, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
for path in sorted(folder.iterdir()):
    start = time.process_time()
    try:
        result = "read " + str(door.read_image(path).array.shape)
    except Error as error:
        result = error.code
    except BaseException as error:
        result = "UNCLEAR " + repr(error)[:300]
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
    print(json.dumps([path.name, result, time.process_time() - start, peak]), flush=True)
"""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, write_series) -> list[bytes]:
    """Sound slices of each transfer syntax that can be written here, and a zip archive.

    Compressed ones are few: each needs a decoder process of its own.
    """
    folder = tmp_path_factory.mktemp("seeds")
    volume = np.random.default_rng(SEED).integers(0, 900, (1, 24, 20)).astype(np.int16)
    found = [
        write_series(folder / name, volume, np.eye(4), syntax=syntax)[0].read_bytes()
        for name, syntax in SYNTAXES.items()
    ]
    found += [
        by_gdcm(folder / "explicit" / "1.dcm", kind)
        for kind in ("JPEGLosslessProcess14_1", "JPEG2000Lossless")
    ]
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.dcm", found[0])
    plain, compressed = [*found[:4], (folder / "a.zip").read_bytes()], found[4:]
    return [*plain * 4, *compressed]


def by_gdcm(path: Path, kind: str) -> bytes:
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path.with_name(kind)))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path.with_name(kind).read_bytes()


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to eight random edits; half of them in the first 1,500 bytes, where the header is."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(min(len(data), 1500) if chance.random() < 0.5 else len(data))
        kind = chance.randrange(6)
        if kind == 0:
            data[place] = chance.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del data[place : place + chance.randint(1, 64)]
        elif kind == 3:
            data[place:place] = data[place : place + chance.randint(1, 64)]
        elif kind == 4:
            data[place : place + 4] = chance.choice(
                [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xfe\xff\x00\xe0"]
            )
        elif chance.random() < 0.3:
            data = data[: max(chance.randrange(len(data)), 16)]
    return bytes(data)


def test_mutated_files_neither_crash_nor_hang_nor_surprise(tmp_path, seeds):
    chance = random.Random(SEED)
    (tmp_path / "mutants").mkdir()
    for index in range(COUNT):
        content = seeds[index % len(seeds)]
        packed = content.startswith(b"PK")
        path = tmp_path / "mutants" / (f"{index:05d}.zip" if packed else f"{index:05d}/1")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if index < len(seeds) else mutated(content, chance))
    seconds = max(60, COUNT // 10)
    command = [sys.executable, "-c", RUN, str(4 << 30), str(seconds), str(tmp_path / "mutants")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=4 * seconds)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0, f"died with {run.returncode} behind {lines[-1:]}: {run.stderr[-500:]}"
    assert [line for line in lines[: len(seeds)] if not line[1].startswith("read")] == []
    assert [line for line in lines if line[1].startswith("UNCLEAR")] == [], f"seed {SEED}"
    assert max(line[2] for line in lines) < 10
    assert max(line[3] for line in lines) < 512_000
    assert 0.05 * COUNT < sum(line[1].startswith("read") for line in lines) < 0.95 * COUNT


def test_what_ends_a_codec_does_not_end_us(tmp_path, write_series):
    """The codec of this file calls `abort`; series that come afterwards are still decoded."""
    (tmp_path / "bad").mkdir()
    shutil.copy(CORPUS / "jpeg_lossless_ends_the_codec.dcm", tmp_path / "bad")
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "bad")
    assert caught.value.code == "E-DICOM-DECODE"
    volume = np.arange(3 * 8 * 8).reshape(3, 8, 8).astype(np.int16)
    write_series(tmp_path / "good", volume, np.eye(4), syntax=SYNTAXES["jpegls"])
    np.testing.assert_array_equal(read_image(tmp_path / "good").array[0], volume)


def test_a_decoder_that_hangs_is_ended(monkeypatch):
    from scanseg.data import dicom_decode

    def sleeper() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(dicom_decode, "_SECONDS", 0.2)
    monkeypatch.setattr(dicom_decode, "_started", sleeper)
    with dicom_decode.Decoder() as decoder, pytest.raises(ValueError, match="damaged"):
        decoder.decode(b"x" * 100, 2, 2)
