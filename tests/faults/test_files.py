"""Files that are damaged, cut, flipped or crafted: a clear error, never a wrong array, a crash or a hang."""

import gzip
import io
import json
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from scanseg.data.image import read_geometry, read_image, read_label_map, write_label_map
from scanseg.errors import DataError, Error
from scanseg.types import Geometry

pytestmark = pytest.mark.faults
SEED = 20_261_121
SHAPE = (6, 7, 8)
AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.6, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])
SCAN = Geometry(SHAPE, (2.5, 0.6, 0.5), affine=AFFINE)
FLAT = Geometry((40, 50), (1.0, 1.0), "px")
FORMATS = (".nii", ".nii.gz", ".nrrd", ".mha", ".tif", ".png")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> dict[str, bytes]:
    """One sound file of each format with random voxels, which show every change."""
    folder = tmp_path_factory.mktemp("seeds")
    generator, contents = np.random.default_rng(SEED), {}
    for ending in FORMATS:
        geometry = FLAT if ending == ".png" else SCAN
        write_label_map(folder / f"a{ending}", generator.integers(0, 256, geometry.shape), geometry)
        contents[ending] = (folder / f"a{ending}").read_bytes()
    return contents


def outcome(path: Path, content: bytes) -> np.ndarray | str:
    """The array of an image with this content, or the code of the error."""
    path.write_bytes(content)
    try:
        return read_image(path).array
    except Error as error:
        return error.code if error.code.startswith("E-") and str(path) in error.message else "UNCLEAR"


def is_refused(path: Path, content: bytes) -> bool:
    """Whether reading gives an error of ours that names the file."""
    result = outcome(path, content)
    return isinstance(result, str) and result.startswith("E-")


NOT_IMAGES = {
    "nothing": b"", "one byte": b"x", "zeros": bytes(5000), "text": b"hello world\n" * 100,
    "web page": b"<!DOCTYPE html><html>404 Not Found</html>", "json": b'{"error": "no such file"}',
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(500), "zip": b"PK\3\4" + bytes(500),
    "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "gzip of nothing": gzip.compress(b""), "gzip of text": gzip.compress(b"hello" * 200),
    "gzip of gzip": gzip.compress(gzip.compress(bytes(1000))), "gzip magic only": b"\x1f\x8b",
    "gzip header only": gzip.compress(b"x" * 1000)[:10], "dicom": bytes(128) + b"DICM" + bytes(300),
    "elf": b"\x7fELF" + bytes(400), "pickle": b"\x80\4\x95" + bytes(400),
    "random": random.Random(1).randbytes(4000),
}  # fmt: skip


@pytest.mark.parametrize("ending", [*FORMATS, ".mhd", ".jpg"])
@pytest.mark.parametrize("name", NOT_IMAGES)
def test_what_is_no_image_gets_a_clear_error(tmp_path, ending, name):
    path = tmp_path / f"a{ending}"
    assert is_refused(path, NOT_IMAGES[name])
    for read in (read_geometry, read_label_map):
        with pytest.raises(DataError):
            read(path)


@pytest.mark.parametrize("ending", FORMATS)
def test_cut_files_are_never_read(tmp_path, seeds, ending):
    whole, path = seeds[ending], tmp_path / f"a{ending}"
    places = {
        *range(min(len(whole), 600)),
        *random.Random(SEED).choices(range(len(whole)), k=100),
        len(whole) - 1,
    }
    for place in sorted(places):
        assert is_refused(path, whole[:place]), f"cut at byte {place} of {len(whole)}"


def test_files_that_grew_are_never_read(tmp_path, seeds):
    for ending in (".nii", ".nii.gz", ".nrrd", ".mha", ".png"):
        for tail in (b"\0", b"x" * 4096):
            assert is_refused(tmp_path / f"a{ending}", seeds[ending] + tail), ending


@pytest.mark.parametrize(
    ("ending", "flips"), [(".nii.gz", 500), (".nrrd", 200), (".mha", 200), (".tif", 200)]
)
def test_flipped_bits_in_compressed_voxels_never_change_them(tmp_path, seeds, ending, flips):
    whole, path = seeds[ending], tmp_path / f"a{ending}"
    sound = outcome(path, whole)
    # The text headers and TIFF directories have no checksum: only voxels are flipped there.
    start = {".nrrd": whole.find(b"\n\n") + 2, ".mha": whole.find(b"LOCAL\n") + 6}.get(ending, 0)
    places = list(range(8 * start, 8 * len(whole)))
    if ending == ".tif":
        with tifffile.TiffFile(io.BytesIO(whole)) as tiff:
            parts = [
                (o, n)
                for page in tiff.pages
                for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
        places = [8 * byte + bit for o, n in parts for byte in range(o, o + n) for bit in range(8)]
    accepted = 0
    for place in random.Random(SEED).choices(places, k=flips):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        result = outcome(path, bytes(content))
        if not isinstance(result, str):
            accepted += 1
            np.testing.assert_array_equal(result, sound, err_msg=f"bit {place}")
    assert accepted < flips / 4


def nifti_header(dim: tuple[int, ...], *, offset: float = 352.0, code: int = 4, bits: int = 16) -> bytes:
    """A NIfTI-1 header that is sound but for what is given."""
    raw = bytearray(352)
    struct.pack_into("<i", raw, 0, 348)
    struct.pack_into("<8h", raw, 40, *dim, *[1] * (8 - len(dim)))
    struct.pack_into("<2h", raw, 70, code, bits)
    struct.pack_into("<8f", raw, 76, *[1.0] * 8)
    struct.pack_into("<f", raw, 108, offset)
    struct.pack_into("<h", raw, 254, 1)
    struct.pack_into("<12f", raw, 280, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    raw[344:348] = b"n+1\0"
    return bytes(raw)


LIES = {
    "30000 cubed": nifti_header((3, 30_000, 30_000, 30_000)),
    "32767 to the 7th": nifti_header((7, *[32_767] * 7)),
    "32767 to the 4th": nifti_header((4, *[32_767] * 4)),
    "1024 x 1024 x 1000, no voxels": nifti_header((3, 1024, 1024, 250), code=2, bits=8),
    "largest allowed, no voxels": nifti_header((3, 1024, 1024, 512), code=64, bits=64),
    "negative": nifti_header((3, 10, -10, 10)), "zero": nifti_header((3, 10, 0, 10)),
    "no axis": nifti_header((0, 10, 10, 10)), "nine axes": nifti_header((9, 10, 10, 10)),
    "minus three axes": nifti_header((-3, 10, 10, 10)),
    "voxels at NaN": nifti_header((3, 10, 10, 10), offset=float("nan")),
    "voxels at 1e30": nifti_header((3, 10, 10, 10), offset=1e30),
    "voxels at -1e30": nifti_header((3, 10, 10, 10), offset=-1e30),
    "voxels at 3e9": nifti_header((3, 10, 10, 10), offset=3e9),
}  # fmt: skip


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", LIES)
def test_headers_that_lie_are_refused_at_once(tmp_path, name, ending):
    path = tmp_path / f"a{ending}"
    content = LIES[name]
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for read in (read_geometry, read_image, read_label_map):
        with pytest.raises(DataError):
            read(path)
    assert time.process_time() - start < 0.1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def deflated(count: int, level: int = 9) -> bytes:
    """A zlib stream of many zeros, made without holding them."""
    packer = zlib.compressobj(level)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join([*parts, packer.flush()])


def bombs() -> dict[str, tuple[str, bytes]]:
    """Files that unpack to far more than they announce, or announce far more than they have."""
    member = gzip.compress(bytes(1 << 24))
    head = gzip.compress(nifti_header((3, 10, 10, 10)) + bytes(2000))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(width: int, height: int, packed: bytes, colour: int = 0) -> bytes:
        size = struct.pack(">2I5B", width, height, 8, colour, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")

    def tiff(width: int, height: int, packed: bytes, compression: int = 8) -> bytes:
        values = {
            256: width,
            257: height,
            258: 8,
            259: compression,
            262: 1,
            273: 200,
            277: 1,
            278: height,
            279: len(packed),
        }
        entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in values.items())
        return (b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4)).ljust(200, b"\0") + packed

    big = deflated(1 << 28)
    mha = "ObjectType = Image\nNDims = 3\nCompressedData = True\nDimSize = 9 9 9\nElementType = MET_UCHAR\n"
    mha += "ElementDataFile = LOCAL\n"
    nrrd = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 9 9 9\nencoding: gzip\n\n"
    return {
        "gzip that goes on": (".nii.gz", head + member * 30),
        "gzip before the header": (".nii.gz", member * 30),
        "gzip of 512 MiB": (".nii.gz", gzip.compress(nifti_header((3, 10, 10, 10))) + member * 32),
        "nrrd": (".nrrd", nrrd.encode() + member * 30),
        "nrrd header without end": (".nrrd", b"NRRD0004\n" + b"# x\n" * 5_000_000),
        "mha": (".mha", mha.encode() + big),
        "mha header without end": (".mha", b"ObjectType = Image\n" + b"\n" * 20_000_000),
        "png that holds more": (".png", png(10, 10, big)),
        "png that holds less": (".png", png(20_000, 20_000, deflated(1 << 20))),
        "png too large": (".png", png(30_000, 30_000, big)),
        "tiff that holds more": (".tif", tiff(10, 10, big)),
        "tiff too large": (".tif", tiff(30_000, 30_000, big)),
        "tiff that holds less": (".tif", tiff(20_000, 20_000, deflated(1 << 20))),
        "tiff lzw": (".tif", tiff(20_000, 20_000, b"\x80" * 5000, 5)),
        "tiff packbits": (".tif", tiff(20_000, 20_000, b"\x81\0" * 5000, 32773)),
        "tiff of one-pixel tiles": (".tif", tiff(20_000, 20_000, b"\0" * 5000, 1)),
    }


RUN = """
import json, resource, sys, time
from pathlib import Path
import imagecodecs, scanseg.data.image as door, scanseg.data.raster, scanseg.data.tiff
from scanseg.errors import Error
limit, seconds, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
for path in sorted(folder.iterdir()):
    start = time.process_time()
    try:
        result = "read " + str(door.read_image(path).array.shape)
        door.read_label_map(path) if result.startswith("read (1,") else None
    except Error as error:
        result = error.code
    except BaseException as error:
        result = "UNCLEAR " + repr(error)[:300]
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
    print(json.dumps([path.name, result, time.process_time() - start, peak]), flush=True)
"""


def in_a_child(folder: Path, *, limit_bytes: int, seconds: int) -> list[tuple[str, str, float, int]]:
    """Reads every file of a folder in one process with limits: name, result, seconds, peak kilobytes."""
    command = [sys.executable, "-c", RUN, str(limit_bytes), str(seconds), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=4 * seconds)
    lines = [tuple(json.loads(line)) for line in run.stdout.splitlines()]
    done = {line[0] for line in lines}
    left = sorted(path.name for path in folder.iterdir() if path.name not in done)
    assert run.returncode == 0, f"died with {run.returncode} at {left[:1]}: {run.stderr[-500:]}"
    return lines


def test_bombs_are_refused_in_little_memory_and_time(tmp_path):
    for name, (ending, content) in bombs().items():
        (tmp_path / f"{name}{ending}").write_bytes(content)
    for name, result, seconds, peak in in_a_child(tmp_path, limit_bytes=2 << 30, seconds=60):
        assert result.startswith("E-"), (name, result)
        assert seconds < 5, name
        assert peak < 400_000, name


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to eight random edits: bytes set, bits flipped, ranges cut or repeated, extreme numbers."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        if len(data) < 16:
            break
        # half of the edits hit the first bytes, where the headers are
        place = chance.randrange(min(len(data), 512) if chance.random() < 0.5 else len(data))
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
            number = chance.choice(
                [0, 1, -1, 2**31 - 1, -(2**31), 65_535, 2**32 - 1, 256, 0x7FC00000, 0x7F800000]
            )
            data[place : place + 4] = struct.pack(chance.choice("<>") + "I", number & 0xFFFFFFFF)
        else:
            data = data[: chance.randrange(len(data))] if chance.random() < 0.3 else data
    return bytes(data)


def more_seeds(folder: Path) -> list[tuple[str, bytes]]:
    """Sound files of further kinds: other TIFF layouts, colours, floats, NIfTI-2, headers of ITK."""
    import nibabel
    import SimpleITK
    from PIL import Image as Pillow

    generator = np.random.default_rng(SEED)
    grey, colours = (
        generator.integers(0, 255, (40, 50)).astype("u1"),
        generator.integers(0, 255, (40, 50, 3)).astype("u1"),
    )
    tiffs = [
        {"compression": "lzw", "predictor": True}, {"compression": "packbits"}, {"compression": "lzma"},
        {"tile": (16, 16), "compression": "zlib"}, {"compression": "zstd"}, {"bigtiff": True},
        {"byteorder": ">"}, {"rowsperstrip": 3},
    ]  # fmt: skip
    for index, options in enumerate(tiffs):
        tifffile.imwrite(folder / f"{index}.tif", grey, photometric="minisblack", **options)
    tifffile.imwrite(folder / "rgb.tif", colours, photometric="rgb", compression="zlib")
    tifffile.imwrite(folder / "stack.tif", np.stack([grey] * 5), photometric="minisblack")
    tifffile.imwrite(folder / "float.tif", grey.astype("f4"), compression="zlib", predictor=3)
    for fax in ("group3", "group4"):
        Pillow.fromarray(grey > 128).save(folder / f"{fax}.tif", compression=fax)
    for mode in ("RGBA", "P", "1", "I;16"):
        picture = (
            Pillow.fromarray(grey.astype("u2")) if mode == "I;16" else Pillow.fromarray(colours).convert(mode)
        )
        picture.save(folder / f"{mode.replace(';', '')}.png")
    Pillow.fromarray(colours).save(folder / "a.jpg")
    volume = generator.normal(size=SHAPE).astype("f4")
    nibabel.save(nibabel.Nifti2Image(volume, AFFINE), folder / "two.nii.gz")
    nibabel.save(nibabel.Nifti1Image(volume, AFFINE), folder / "float.nii")
    for name in ("itk.mha", "itk.nrrd"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume), folder / name)
    return [
        (path.suffix if path.suffix != ".gz" else ".nii.gz", path.read_bytes())
        for path in sorted(folder.iterdir())
    ]


def test_a_thousand_mutated_files_neither_crash_nor_hang_nor_surprise(tmp_path, seeds):
    chance = random.Random(SEED)
    (tmp_path / "seeds").mkdir()
    (tmp_path / "mutants").mkdir()
    sound = [*seeds.items(), *more_seeds(tmp_path / "seeds")]
    for index in range(1000):
        ending, content = sound[index % len(sound)]
        (tmp_path / "mutants" / f"{index:05d}{ending}").write_bytes(mutated(content, chance))
    lines = in_a_child(tmp_path / "mutants", limit_bytes=4 << 30, seconds=60)
    assert len(lines) == 1000
    assert [line for line in lines if line[1].startswith("UNCLEAR")] == [], f"seed {SEED}"
    assert max(line[2] for line in lines) < 10
    assert max(line[3] for line in lines) < 512_000
    assert 50 < sum(line[1].startswith("read") for line in lines) < 950


def test_looped_and_cut_page_chains(tmp_path):
    """Every offset of every page is pointed at every other page, at itself, and behind the end."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for page in range(4):
            writer.write(np.full((8, 8), page, np.uint8), contiguous=False, metadata=None)
    whole, path = stream.getvalue(), tmp_path / "a.tif"
    with tifffile.TiffFile(io.BytesIO(whole)) as tiff:
        starts = [page.offset for page in tiff.pages]
    ends = [start + 2 + 12 * struct.unpack_from("<H", whole, start)[0] for start in starts]
    for number, end in enumerate(ends):
        for target in [*starts, len(whole) - 4, len(whole) + 4, 2**32 - 1, 1]:
            if number + 1 < len(starts) and target == starts[number + 1]:
                continue
            content = bytearray(whole)
            struct.pack_into("<I", content, end, target)
            skips = target in starts and starts.index(target) > number
            assert skips or is_refused(path, bytes(content)), (number, target)
    for cut in range(len(whole)):
        assert is_refused(path, whole[:cut])
