"""PNG and JPEG: every colour type and depth, and files that are damaged or claim too much."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from scanseg.data.image import read_geometry, read_image, read_label_map, write_label_map
from scanseg.data.limits import Limits
from scanseg.errors import DataError, UsageError
from scanseg.types import Geometry

RANDOM = np.random.default_rng(0)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    rows: bytes,
    *extra: bytes,
    interlace: int = 0,
) -> bytes:
    """A PNG made by hand from unfiltered rows (each starting with 0)."""
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlace))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(extra)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def code_of(path: Path, read=read_image, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    return caught.value.code


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("LA", 1), ("RGBA", 3)])
def test_grey_and_colours_without_alpha(tmp_path, mode, channels):
    samples = len(mode)
    array = RANDOM.integers(0, 256, (23, 31, samples)).astype(np.uint8)
    Pillow.fromarray(array.squeeze(), mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.array, np.moveaxis(array, -1, 0)[:channels])
    assert read_geometry(tmp_path / "a.png") == (image.geometry, channels)
    assert (image.geometry.unit, image.geometry.affine) == ("px", None)


def test_sixteen_bit_grey_keeps_all_bits(tmp_path):
    array = RANDOM.integers(0, 65_536, (23, 31)).astype(np.uint16)
    Pillow.fromarray(array).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array[0], array)


@pytest.mark.parametrize(("colour", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_colours_keep_all_bits(tmp_path, colour, samples):
    array = RANDOM.integers(0, 65_536, (7, 5, samples)).astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    path = saved(tmp_path / "a.png", png(5, 7, 16, colour, rows))
    kept = {2: 1, 3: 3, 4: 3}[samples]
    np.testing.assert_array_equal(read_image(path).array, np.moveaxis(array, -1, 0)[:kept])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
def test_few_bits_are_read_as_they_are(tmp_path, depth, colour):
    values = RANDOM.integers(0, 2**depth, (6, 16)).astype(np.uint8)
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :].reshape(6, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    palette = RANDOM.integers(0, 256, (2**depth, 3)).astype(np.uint8)
    extra = [chunk(b"PLTE", palette.tobytes())] if colour == 3 else []
    path = saved(tmp_path / "a.png", png(16, 6, depth, colour, rows, *extra))
    np.testing.assert_array_equal(read_label_map(path).array, values)
    expected = np.moveaxis(palette[values], -1, 0) if colour == 3 else values[None]
    np.testing.assert_array_equal(read_image(path).array, expected)


def test_interlaced_pictures(tmp_path):
    # one row of one pixel in each pass that a picture of one pixel has
    path = saved(tmp_path / "a.png", png(1, 1, 8, 0, b"\0\x07", interlace=1))
    assert read_image(path).array.item() == 7
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    array = RANDOM.integers(0, 256, (13, 11)).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in array[y::dy, x::dx])
    np.testing.assert_array_equal(
        read_image(saved(path, png(11, 13, 8, 0, rows, interlace=1))).array[0], array
    )


def test_labels_in_three_equal_channels_are_one(tmp_path):
    array = RANDOM.integers(0, 5, (23, 31)).astype(np.uint8)
    Pillow.fromarray(np.stack([array] * 3, -1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png").array, array)
    Pillow.fromarray(np.stack([array, array, array + 1], -1)).save(tmp_path / "a.png")
    assert code_of(tmp_path / "a.png", read_label_map) == "E-LABEL-CHANNELS"


@pytest.mark.parametrize(("top", "bits"), [(1, 8), (255, 8), (256, 16), (65_535, 16)])
def test_masks_are_written_with_8_or_16_bits(tmp_path, top, bits):
    labels = np.zeros((23, 31), np.int64)
    labels[5, 7] = top
    write_label_map(tmp_path / "a.png", labels, Geometry((23, 31), (1.0, 1.0), "px"))
    assert (tmp_path / "a.png").read_bytes()[24] == bits
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png").array, labels)


@pytest.mark.parametrize(("shape", "value"), [((23, 31), 65_536), ((2, 23, 31), 1)])
def test_what_a_png_cannot_hold_is_refused(tmp_path, shape, value):
    with pytest.raises(UsageError, match="PNG holds 2D integers"):
        write_label_map(tmp_path / "a.png", np.full(shape, value), Geometry(shape, (1.0,) * len(shape), "px"))
    assert not list(tmp_path.iterdir())


ROWS = b"".join(b"\0" + bytes(range(9)) for _ in range(8))
GOOD = png(9, 8, 8, 0, ROWS)


def test_the_file_made_by_hand_is_sound(tmp_path):
    assert read_image(saved(tmp_path / "a.png", GOOD)).array.shape == (1, 8, 9)


@pytest.mark.parametrize(("content", "code"), [
    (b"", "E-PNG-MAGIC"), (b"\xff\xd8\xff\xe0", "E-PNG-MAGIC"), (GOOD[:20], "E-PNG-DAMAGED"),
    (GOOD[:-1], "E-FILE-TRUNCATED"), (GOOD[:-12], "E-FILE-TRUNCATED"), (GOOD + b"x", "E-FILE-TRAILING"),
    (png(9, 8, 8, 0, ROWS[:-1]), "E-PNG-DAMAGED"), (png(9, 8, 8, 0, ROWS[:40]), "E-PNG-DAMAGED"),
    (png(9, 8, 8, 0, ROWS + b"x"), "E-PNG-DAMAGED"), (png(9, 8, 8, 0, bytes(1 << 24)), "E-PNG-DAMAGED"),
    (png(9, 8, 3, 0, ROWS), "E-PNG-DAMAGED"), (png(0, 8, 8, 0, ROWS), "E-PNG-DAMAGED"),
    (png(9, 8, 8, 5, ROWS), "E-PNG-DAMAGED"), (png(9, 8, 8, 0, ROWS, interlace=2), "E-PNG-DAMAGED"),
    (png(9, 8, 8, 0, ROWS, chunk(b"ABCD", b"")), "E-PNG-DAMAGED"),
    (png(9, 8, 8, 0, ROWS, chunk(b"IHDR", GOOD[16:29])), "E-PNG-DAMAGED"),
    (png(9, 8, 8, 0, b"\x09" + ROWS[1:]), "E-FILE-DAMAGED"),
    (png(9, 8, 8, 3, ROWS), "E-PNG-DAMAGED"),
    (png(30_000, 30_000, 8, 0, ROWS), "E-IMAGE-LIMIT"), (png(20_000, 20_000, 8, 0, ROWS), "E-FILE-TRUNCATED"),
    (png(20_000, 20_000, 8, 3, ROWS), "E-IMAGE-LIMIT"),
])  # fmt: skip
def test_damaged_and_crafted_pictures_are_refused(tmp_path, content, code):
    assert code_of(saved(tmp_path / "a.png", content)) == code


def test_every_single_flipped_bit_is_noticed(tmp_path):
    """Checksums cover the chunks, the rest is magic and lengths: no flip may go unseen."""
    path = tmp_path / "a.png"
    for position in range(8 * len(GOOD)):
        content = bytearray(GOOD)
        content[position // 8] ^= 1 << position % 8
        with pytest.raises(DataError):
            read_image(saved(path, bytes(content)))


def test_text_bombs_are_never_unpacked(tmp_path):
    bomb = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 26)))
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1 << 26)))
    assert read_image(saved(tmp_path / "a.png", png(9, 8, 8, 0, ROWS, bomb, profile))).array.shape == (
        1,
        8,
        9,
    )


def test_a_real_sixteen_bit_picture(test_data):
    image = read_image(test_data / "odd_files" / "png" / "test_RGB_16.png")
    assert image.array.shape == (3, 64, 64)
    assert image.array.max() > 255


def jpeg(mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(RANDOM.integers(0, 256, (23, 31, 3)).astype(np.uint8)).convert(mode).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG"])
def test_photographs(tmp_path, mode, channels, name):
    content = jpeg(mode)
    image = read_image(saved(tmp_path / name, content))
    expected = np.asarray(Pillow.open(io.BytesIO(content)))
    np.testing.assert_array_equal(image.array, np.moveaxis(np.atleast_3d(expected), -1, 0))
    assert image.array.shape[0] == channels


def test_photographs_that_are_cut_or_of_other_kinds_are_refused(tmp_path):
    content, path = jpeg(), tmp_path / "a.jpg"
    for cut in range(0, len(content), 17):
        assert code_of(saved(path, content[:cut])) in ("E-JPEG-MAGIC", "E-FILE-TRUNCATED", "E-FILE-DAMAGED")
    assert code_of(saved(path, jpeg("CMYK"))) == "E-JPEG-KIND"
    assert code_of(saved(path, GOOD)) == "E-JPEG-MAGIC"
    assert code_of(saved(path, content), limits=Limits(voxels=2000)) == "E-IMAGE-LIMIT"


def test_jpeg_is_never_a_label_map(tmp_path):
    assert code_of(saved(tmp_path / "a.jpg", jpeg("L")), read_label_map) == "E-LABEL-JPEG"
