"""TIFF: against tifffile for what is accepted, by code for what is refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from scanseg.data.image import read_geometry, read_image, read_label_map, write_array, write_label_map
from scanseg.data.limits import Limits
from scanseg.errors import DataError

RANDOM = np.random.default_rng(0)


def picture(dtype, shape=(37, 45)) -> np.ndarray:
    """Random samples over the range of a type."""
    if np.dtype(dtype).kind == "f":
        return RANDOM.normal(size=shape).astype(dtype)
    bits = np.iinfo(dtype)
    return RANDOM.integers(max(bits.min, -1000), min(bits.max, 60_000), shape).astype(dtype)


def code_of(path: Path, read=read_image, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    return caught.value.code


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("options", [
    {}, {"rowsperstrip": 5}, {"tile": (16, 32)}, {"bigtiff": True},
    {"compression": "zlib"}, {"compression": "zlib", "predictor": True, "rowsperstrip": 4},
    {"compression": "lzw", "predictor": True, "tile": (16, 16)}, {"compression": "packbits"},
    {"compression": "lzma"}, {"compression": "zstd", "rowsperstrip": 9},
], ids=str)  # fmt: skip
def test_reads_what_tifffile_wrote(tmp_path, dtype, order, options):
    array = picture(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, byteorder=order, photometric="minisblack", **options)
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.array[0], array.astype(np.float32))
    assert (image.geometry.unit, image.geometry.spacing) == ("px", (1.0, 1.0))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize(
    "options", [{}, {"tile": (16, 16), "compression": "zlib", "predictor": True}], ids=str
)
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_colours_are_channels_and_alpha_is_dropped(tmp_path, planar, samples, options, dtype):
    array = picture(dtype, (37, 45, samples))
    stored = array if planar == "contig" else np.moveaxis(array, -1, 0)
    extra = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, **extra, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, np.moveaxis(array, -1, 0)[:3])
    assert read_geometry(tmp_path / "a.tif")[1] == 3


def test_samples_that_are_not_said_to_be_alpha_stay(tmp_path):
    array = picture("u1", (5, 37, 45))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, array)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"imagej": True}, {"ome": True}], ids=str)
def test_equal_pages_are_a_stack(tmp_path, options):
    array = picture("u2", (6, 37, 45))
    path = tmp_path / ("a.ome.tif" if "ome" in options else "a.tif")
    axes = {"metadata": {"axes": "ZYX"}} if options.keys() & {"imagej", "ome"} else {}
    tifffile.imwrite(path, array, photometric="minisblack", **axes, **options)
    image = read_image(path)
    np.testing.assert_array_equal(image.array[0], array)
    assert image.geometry.shape == (6, 37, 45)


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}], ids=str)
def test_channels_as_pages_are_not_taken_for_slices(tmp_path, options):
    array = picture("u2", (6, 2, 37, 45))
    path = tmp_path / ("a.ome.tif" if "ome" in options else "a.tif")
    tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": "ZCYX"}, **options)
    assert code_of(path) == "E-TIFF-PAGES"


def test_pages_that_imagej_left_out_are_noticed(tmp_path):
    text = "ImageJ=1.53t\nimages=7\nslices=7\n"
    tifffile.imwrite(tmp_path / "a.tif", picture("u1"), description=text, metadata=None)
    assert code_of(tmp_path / "a.tif") == "E-TIFF-PAGES"


def test_pages_that_differ_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(picture("u1"))
        writer.write(picture("u1", (20, 20)))
    assert code_of(tmp_path / "a.tif") == "E-TIFF-PAGES"


def test_every_page_must_be_of_a_kind_that_is_read(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for compression in (None, "jpeg"):
            writer.write(np.zeros((16, 16), np.uint8), compression=compression, metadata=None)
    assert code_of(tmp_path / "a.tif") == "E-TIFF-KIND"


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "ccitt_g4"}], ids=str)
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_one_bit_is_zero_for_black(tmp_path, options, photometric):
    if "ccitt_g4" in options.values():
        pillow = pytest.importorskip("PIL.Image")
        bits = RANDOM.integers(0, 2, (37, 45)).astype(bool)
        pillow.fromarray(bits).save(tmp_path / "a.tif", compression="group4")
    else:
        bits = RANDOM.integers(0, 2, (37, 45)).astype(bool)
        stored = bits if photometric == "minisblack" else ~bits
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric, bitspersample=1, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], bits)
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.tif").array, bits)


def test_twelve_bits_equal_tifffile(test_data):
    path = test_data / "odd_files" / "tiff" / "pillow" / "12bit.cropped.tif"
    np.testing.assert_array_equal(read_image(path).array[0], tifffile.imread(path))


def test_white_as_zero_is_inverted_for_images_and_refused_for_labels(tmp_path):
    array = picture("u1")
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], 255 - array.astype(float))
    assert code_of(tmp_path / "a.tif", read_label_map) == "E-LABEL-INVERTED"


def test_a_palette_is_colours_for_images_and_indices_for_labels(tmp_path):
    array = RANDOM.integers(0, 4, (37, 45)).astype(np.uint8)
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :4] = RANDOM.integers(0, 256, (3, 4)) * 257
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, colours[:, array] // 257)
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.tif").array, array)


@pytest.mark.parametrize("photometric", ["separated", "cielab"])
def test_colours_that_are_not_rgb_are_refused(tmp_path, photometric):
    samples = 4 if photometric == "separated" else 3
    tifffile.imwrite(tmp_path / "a.tif", picture("u1", (37, 45, samples)), photometric=photometric)
    assert code_of(tmp_path / "a.tif") == "E-TIFF-KIND"


@pytest.mark.parametrize("options", [{"compression": "jpeg"}, {"dtype": "c8"}], ids=str)
def test_kinds_that_are_not_read_are_refused(tmp_path, options):
    array = picture("u1", (32, 48)).astype(options.pop("dtype", "u1"))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **options)
    assert code_of(tmp_path / "a.tif") == "E-TIFF-KIND"


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize("shape", [(37, 45), (6, 37, 45)])
def test_masks_keep_resolution_and_orientation_tags(tmp_path, dtype, shape):
    tifffile.imwrite(
        tmp_path / "a.tif", picture("u1", shape), photometric="minisblack", metadata=None,
        resolution=((7, 2), (9, 2)), resolutionunit=3, extratags=[(274, 3, 1, 3, True)],
    )  # fmt: skip
    geometry, _ = read_geometry(tmp_path / "a.tif")
    labels = np.zeros(shape, np.int64)
    labels[..., 3] = {"u1": 255, "u2": 256, "u4": 65_536}[dtype]
    write_label_map(tmp_path / "b.tif", labels, geometry)
    with tifffile.TiffFile(tmp_path / "b.tif") as written:
        assert len(written.pages) == (1 if len(shape) == 2 else 6)
        assert written.pages[0].dtype == np.dtype(dtype)
        for page in written.pages:
            tags = {code: page.aspage().tags[code].value for code in (282, 283, 296, 274)}
            assert tags == {282: (7, 2), 283: (9, 2), 296: 3, 274: 3}
    np.testing.assert_array_equal(read_label_map(tmp_path / "b.tif").array, labels)


@pytest.mark.parametrize("shape", [(37, 45), (6, 37, 45), (3, 37, 45)])
@pytest.mark.parametrize("channels", [0, 2, 4])
def test_floats_with_channels_come_back(tmp_path, shape, channels):
    from scanseg.types import Geometry

    array = picture("f4", ((channels, *shape) if channels else shape))
    write_array(tmp_path / "a.tif", array, Geometry(shape, (1.0,) * len(shape), "px"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, array if channels else array[None])


def test_a_spacing_can_be_given(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture("u1", (6, 37, 45)), photometric="minisblack")
    geometry, _ = read_geometry(tmp_path / "a.tif", spacing=(2.0, 0.5, 0.5))
    assert (geometry.spacing, geometry.unit, geometry.affine) == ((2.0, 0.5, 0.5), "mm", None)


def tiny(*, pages: int = 1, last: int | None = 0, **tags: tuple[int, int]) -> bytes:
    """A grey 8-bit TIFF of 8 x 8 pixels, directories first; `last` is the offset behind the last page."""
    entries = {
        256: (3, 8), 257: (3, 8), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 0), 277: (3, 1),
        278: (3, 8), 279: (4, 64),
    }  # fmt: skip
    entries.update({int(name[1:]): value for name, value in tags.items()})
    size = 2 + 12 * len(entries) + 4
    out = b"II*\0" + struct.pack("<I", 8)
    for page in range(pages):
        entries[273] = tags.get("t273", (4, 8 + pages * size + 64 * page))
        out += struct.pack("<H", len(entries))
        for code in sorted(entries):
            out += struct.pack("<HHII", code, entries[code][0], 1, entries[code][1])
        following = 8 + (page + 1) * size if page + 1 < pages else last
        out += struct.pack("<I", 8 if following is None else following)
    return out + bytes(range(64)) * pages


def test_the_tiny_file_is_sound(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiny(pages=3))
    assert read_image(tmp_path / "a.tif").array.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(("content", "code"), [
    (tiny(pages=3, last=None), "E-TIFF-DAMAGED"),  # a loop
    (tiny(pages=3, last=1 << 20), "E-FILE-TRUNCATED"),
    (tiny(t273=(4, 1 << 30)), "E-FILE-TRUNCATED"),
    (tiny(t279=(4, 0)), "E-TIFF-DAMAGED"),
    (tiny(t279=(4, 63)), "E-FILE-TRUNCATED"),
    (tiny(t256=(4, 1 << 31)), "E-IMAGE-LIMIT"),
    (tiny(t256=(3, 0)), "E-TIFF-DAMAGED"),
    (tiny(t258=(3, 200)), "E-TIFF-DAMAGED"),
    (tiny(t277=(3, 60_000)), "E-FILE-TRUNCATED"),
    (tiny(t278=(4, 1)), "E-TIFF-DAMAGED"),
    (tiny(t317=(3, 9)), "E-TIFF-KIND"),
    (tiny(t322=(4, 1 << 30), t323=(4, 1 << 30), t324=(4, 200), t325=(4, 64)), "E-IMAGE-LIMIT"),
    (tiny()[:20], "E-FILE-TRUNCATED"),
    (b"II*\0" + bytes(4), "E-TIFF-DAMAGED"),
    (b"II*\0", "E-FILE-TRUNCATED"),
    (b"\x89PNG\r\n\x1a\n" + bytes(60), "E-TIFF-MAGIC"),
])  # fmt: skip
def test_crafted_directories_are_refused(tmp_path, content, code):
    (tmp_path / "a.tif").write_bytes(content)
    assert code_of(tmp_path / "a.tif") == code


def test_a_looped_chain_is_called_so(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiny(pages=3, last=None))
    with pytest.raises(DataError, match="is a loop"):
        read_image(tmp_path / "a.tif")


def test_pages_must_not_share_their_pixels(tmp_path):
    """A small file whose pages all point to one large strip would unpack without bound."""
    shared = tiny(pages=20, t257=(4, 800), t278=(4, 800), t273=(4, 8 + 20 * 114), t279=(4, 6400))
    (tmp_path / "a.tif").write_bytes(shared[:-1280] + bytes(6400))
    assert code_of(tmp_path / "a.tif") == "E-TIFF-DAMAGED"


def test_pages_must_not_share_their_tables(tmp_path):
    """A table of strips that all pages point to would be read over and over."""
    pages, rows = 20, 400
    size = 2 + 12 * 9 + 4
    table, out = 8 + pages * size, b"II*\0" + struct.pack("<I", 8)
    for page in range(pages):
        values = {
            256: 1,
            257: rows,
            258: 8,
            259: 1,
            262: 1,
            273: table,
            277: 1,
            278: 1,
            279: table + 4 * rows,
        }
        out += struct.pack("<H", 9)
        for code, value in values.items():
            out += struct.pack("<HHII", code, 4, rows if code in (273, 279) else 1, value)
        out += struct.pack("<I", 8 + (page + 1) * size if page + 1 < pages else 0)
    end = table + 8 * rows
    out += struct.pack(f"<{rows}I", *range(end, end + rows)) + struct.pack(f"<{rows}I", *[1] * rows)
    (tmp_path / "a.tif").write_bytes(out + bytes(rows))
    with pytest.raises(DataError, match="directories overlap"):
        read_image(tmp_path / "a.tif")


def test_pages_are_limited(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiny(pages=5))
    assert code_of(tmp_path / "a.tif", limits=Limits(pages=4)) == "E-IMAGE-LIMIT"


@pytest.mark.parametrize("packed", [
    zlib.compress(bytes(63)), zlib.compress(bytes(65)), zlib.compress(bytes(64))[:-1],
    zlib.compress(bytes(64))[:-1] + b"x", zlib.compress(bytes(1 << 24)), b"nothing at all",
], ids=["short", "long", "no end", "checksum", "bomb", "garbage"])  # fmt: skip
def test_a_deflated_strip_must_hold_its_pixels_exactly(tmp_path, packed):
    (tmp_path / "a.tif").write_bytes(tiny(t259=(3, 8), t279=(4, len(packed)))[:-64] + packed)
    assert code_of(tmp_path / "a.tif") in ("E-FILE-DAMAGED", "E-FILE-TRUNCATED")
