"""Two patients one after another in one process: nothing of the first is in what is said of the second."""

import io
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from scanseg.data.image import write_label_map
from scanseg.errors import Error
from scanseg.pipeline.serving import read_view
from scanseg.server.reading import _parse
from scanseg.types import Geometry

FULL = os.environ.get("SCANSEG_FAULTS") == "full"
PAIRS = 2000 if FULL else 200
SEED, MARKER = 8, 0xBEEF
SHAPE = (5, 16, 18)
AFFINE = np.array([[-0.5, 0, 0, 10], [0, -0.6, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])
FORMATS = (".nii", ".nii.gz", ".mha", ".zip")  # the archive holds a DICOM series
DAMAGES = ("none", "cut", "cut at the end", "flips", "claims more")

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600 if FULL else 300)]


@pytest.fixture(scope="module")
def patients(tmp_path_factory, write_series) -> dict[str, tuple[bytes, list[bytes]]]:
    """Ending -> a file of the first patient, all marker, and the parts of one of the second, who has none.

    The parts are one file, or the files of a series.
    """
    folder = tmp_path_factory.mktemp("patients")
    first = np.full(SHAPE, MARKER, np.uint16)
    second = np.random.default_rng(SEED).integers(0, 1000, SHAPE).astype(np.uint16)
    found = {}
    for ending in FORMATS:
        if ending == ".zip":
            series = [
                [path.read_bytes() for path in write_series(folder / name, volume, AFFINE, seed=name)]
                for name, volume in (("first", first), ("second", second))
            ]
            found[ending] = (packed(series[0]), series[1])
            continue
        for name, volume in (("first", first), ("second", second)):
            spacing = tuple(float(step) for step in (2.5, 0.6, 0.5))
            write_label_map(folder / f"{name}{ending}", volume, Geometry(SHAPE, spacing, affine=AFFINE))
        found[ending] = tuple((folder / f"{name}{ending}").read_bytes() for name in ("first", "second"))
        found[ending] = (found[ending][0], [found[ending][1]])
    return found


def packed(parts: list[bytes]) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for number, part in enumerate(parts):
            archive.writestr(f"{number}.dcm", part)
    return body.getvalue()


def damaged(parts: list[bytes], ending: str, damage: str, generator: random.Random) -> bytes:
    """The second patient's file with less, other or more than was written."""
    parts = [*parts]
    number = generator.randrange(len(parts))
    content = bytearray(parts[number])
    if damage == "cut":
        del content[generator.randrange(len(content)) :]
    elif damage == "cut at the end":
        del content[-generator.randint(1, 200) :]
    elif damage == "flips":
        for _ in range(generator.randint(1, 20)):
            content[generator.randrange(len(content))] = generator.randrange(256)
    elif damage == "claims more":
        for old, new in (
            (b"DimSize = 18 16 5", b"DimSize = 18 16 9"),
            (b"\x12\0\x10\0\x05\0", b"\x12\0\x10\0\x09\0"),
        ):
            content = content.replace(old, new)
        # Rows of a DICOM slice, (0028,0010) US.
        content = content.replace(b"\x28\0\x10\0US\x02\0\x10\0", b"\x28\0\x10\0US\x02\0\x20\0")
    parts[number] = bytes(content)
    return packed(parts) if ending == ".zip" else parts[0]


def read(content: bytes, ending: str, folder: Path) -> np.ndarray | str:
    """The voxels that cross from the reading process, or all that its error says."""
    (folder / "out").mkdir(parents=True)
    path = folder / f"0000{ending}"
    path.write_bytes(content)
    try:
        _parse({"paths": [str(path)], "out": str(folder / "out"), "options": {}})
    except Error as error:
        return f"{error.code} {error.message} {error.hint}"
    return np.array(read_view(folder / "out")[0]["image"])


def test_nothing_of_one_patient_is_in_the_next(patients, tmp_path, figure) -> None:
    """Figure S8: pairs whose second image or error holds a voxel of the first; must be none."""
    generator = random.Random(SEED)
    outcomes = dict.fromkeys(("sound", "refused", "read"), 0)
    leaks = []
    for number in range(PAIRS):
        ending = FORMATS[number % len(FORMATS)]
        damage = DAMAGES[number // len(FORMATS) % len(DAMAGES)]
        first, parts = patients[ending]
        voxels = read(first, ending, tmp_path / f"{number}a")
        assert (voxels == MARKER).all(), "the marker is not where it must be"
        found = read(damaged(parts, ending, damage, generator), ending, tmp_path / f"{number}b")
        if isinstance(found, str):
            outcomes["refused"] += 1
            leaking = str(MARKER) in found or "beef" in found.lower()
        else:
            outcomes["sound" if damage == "none" else "read"] += 1
            leaking = bool((found == MARKER).any())
        if leaking:
            leaks.append((number, ending, damage))
    figure("S8", pairs=PAIRS, formats=list(FORMATS), leaks=len(leaks), outcomes=outcomes, seed=SEED)
    assert not leaks, (SEED, leaks)
    assert outcomes["sound"] == PAIRS // len(DAMAGES)
    assert outcomes["refused"] > PAIRS // 4
