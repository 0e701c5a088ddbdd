import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image as PillowImage

from scanseg.data.image import read_image, read_label_map
from scanseg.errors import UsageError
from scanseg.reporting.figures import comparison, preview
from scanseg.reporting.palette import CONFUSED, EXTRA, MISSED, label_colours, rgb
from scanseg.types import Geometry, Image, Label

LABELS = [Label(0, "background"), Label(1, "Anterior"), Label(2, "Posterior")]


def pixels(path):
    return np.asarray(opened(path).convert("RGB")).astype(float) / 255


def opened(path):
    return PillowImage.open(io.BytesIO(path.read_bytes()))


def near(picture, colour, tolerance=0.06):
    """Which pixels have (nearly) that colour."""
    return np.abs(picture - rgb(colour)).max(axis=-1) < tolerance


def grey_image(shape, **geometry):
    rng = np.random.default_rng(0)
    array = (100 + 20 * rng.standard_normal((1, *shape))).astype(np.float32)
    return Image(array, Geometry(shape, geometry.pop("spacing", (1.0,) * len(shape)), **geometry))


@pytest.fixture
def hippocampus(demo_data):
    folder = demo_data / "hippocampus"
    image = folder / "imagesTr" / "hippocampus_023_0000.nii.gz"
    return image, folder / "labelsTr" / "hippocampus_023.nii.gz"


def test_preview_of_a_volume(hippocampus, tmp_path):
    image, label_map = read_image(hippocampus[0]), read_label_map(hippocampus[1])
    path = preview(image, label_map.array, LABELS, tmp_path / "new" / "x.png", title="case 23")
    picture = pixels(path)
    assert picture.shape[1] == 1200
    colours = label_colours(LABELS)
    for value in (1, 2):
        assert near(picture, colours[value]).sum() > 200  # outlines and the legend
    bare = pixels(
        preview(image, np.zeros_like(label_map.array), LABELS, tmp_path / "bare.png", title="case 23")
    )
    assert near(bare, colours[1]).sum() == 0


def test_preview_of_colours_keeps_them(test_data, tmp_path):
    folder = test_data / "NucleiHE_MoNuSeg"
    file = sorted((folder / "imagesTr").iterdir())[0]
    image = read_image(file)
    label_map = read_label_map(folder / "labelsTr" / file.name.replace("_0000", ""))
    path = preview(image, label_map.array, [Label(1, "nucleus")], tmp_path / "x.png")
    picture = pixels(path)
    shown = picture[20:560, 20:560]  # inside the left panel, without overlay
    assert shown.mean(axis=(0, 1)) == pytest.approx(image.array.mean(axis=(1, 2)) / 255, abs=0.03)


def test_comparison_shows_each_kind_of_difference_in_its_place(tmp_path):
    # A flat image, so that rows and columns of the panels are rows and columns of the image.
    image = grey_image((40, 40))
    reference = np.zeros((40, 40), dtype=np.uint8)
    reference[10:30, 10:30] = 1
    prediction = np.zeros_like(reference)
    prediction[10:30, 15:35] = 1
    prediction[10:15, 15:30] = 2
    picture = pixels(comparison(image, prediction, reference, LABELS, tmp_path / "x.png"))
    # Colours are drawn with 85 % opacity over grey.
    kinds = {}
    for name, colour in (("missed", MISSED), ("extra", EXTRA), ("confused", CONFUSED)):
        mixed = 0.85 * rgb(colour) + 0.15 * 0.5
        found = np.abs(picture - mixed).max(axis=-1) < 0.12
        found[-90:] = False  # the legend
        kinds[name] = np.argwhere(found)
        assert len(kinds[name]) > 500
    columns = {name: places[:, 1].mean() for name, places in kinds.items()}
    assert 2 / 3 * picture.shape[1] < columns["missed"] < columns["confused"] < columns["extra"]
    assert kinds["confused"][:, 0].mean() < kinds["missed"][:, 0].mean()


def test_comparison_reads_files_and_names_the_scores(hippocampus, tmp_path):
    image, reference = hippocampus
    from_files = comparison([image], reference, reference, LABELS, tmp_path / "a.png", title="same")
    label_map = read_label_map(reference)
    from_arrays = comparison(
        read_image(image), label_map.array, label_map.array, LABELS, tmp_path / "b.png", title="same"
    )
    assert from_files.read_bytes() == from_arrays.read_bytes()
    picture = pixels(from_files)[: -int(0.08 * pixels(from_files).shape[0])]
    assert not near(picture, MISSED, 0.15).any()
    assert not near(picture, EXTRA, 0.15).any()


@pytest.mark.parametrize(
    "image",
    [
        grey_image((1, 12, 13)),
        grey_image((6, 7, 200), spacing=(10.0, 0.5, 0.5)),
        grey_image((5, 900), unit="px"),
        grey_image((3, 3, 3), affine=np.diag([1.0, 1.0, 1.0, 1.0])),
        Image(np.zeros((2, 9, 9), np.float32), Geometry((9, 9), (1.0, 1.0))),
        Image(np.full((3, 9, 9), 70000.0, np.float32), Geometry((9, 9), (1.0, 1.0))),
    ],
    ids=["one slice", "anisotropic", "long", "tiny", "two channels", "wide range"],
)
@pytest.mark.parametrize("filled", [False, True])
def test_odd_sizes_make_a_picture(image, filled, tmp_path):
    mask = np.full(image.geometry.shape, 2 if filled else 0, dtype=np.uint8)
    for path in (
        preview(image, mask, LABELS, tmp_path / "p.png"),
        comparison(image, mask, np.zeros_like(mask), LABELS, tmp_path / "c.png"),
    ):
        size = opened(path).size
        assert 70 < min(size) <= max(size) < 3000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "name", ["$x_{", "_hidden", "<script>", "a\nb", "日本", "🫀", "x" * 300, "\\frac{", "%s {0}", ""]
)
def test_names_are_drawn_as_they_are(name, tmp_path):
    image, mask = grey_image((12, 12)), np.ones((12, 12), dtype=np.uint8)
    labels = [Label(1, name), Label(2, "other")]
    preview(image, mask, labels, tmp_path / "p.png", title=name)
    comparison(image, mask, 2 * mask, labels, tmp_path / "c.png", title=name)


def test_many_labels_fit(tmp_path):
    mask = np.arange(64, dtype=np.int32).reshape(8, 8)
    labels = [Label(value, f"structure number {value}") for value in range(64)]
    picture = opened(preview(grey_image((8, 8)), mask, labels, tmp_path / "p.png"))
    assert picture.size[1] < 1100


def test_the_label_map_must_fit(tmp_path):
    image = grey_image((12, 12))
    with pytest.raises(UsageError, match=r"label map must have the size of the image \(12, 12\)"):
        preview(image, np.zeros((12, 11), np.uint8), LABELS, tmp_path / "p.png")
    with pytest.raises(UsageError, match="prediction"):
        comparison(
            image, np.zeros((12, 11), np.uint8), np.zeros((12, 12), np.uint8), LABELS, tmp_path / "c.png"
        )
    assert not list(tmp_path.iterdir())


def test_threads_do_not_disturb_each_other(hippocampus, tmp_path):
    image, label_map = read_image(hippocampus[0]), read_label_map(hippocampus[1])

    def draw(number):
        moved = np.roll(label_map.array, number % 2, axis=0)
        return preview(image, moved, LABELS, tmp_path / f"{number}.png", title="x").read_bytes()

    expected = [draw(0), draw(1)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(draw, range(6)))
    assert found == expected * 3


def test_no_global_state_of_matplotlib_is_touched(tmp_path):
    code = """
import sys
import numpy as np
from scanseg.reporting.figures import preview
from scanseg.types import Geometry, Image, Label
image = Image(np.random.default_rng(0).random((1, 9, 9), dtype=np.float32), Geometry((9, 9), (1.0, 1.0)))
preview(image, np.ones((9, 9), np.uint8), [Label(1, "a")], __import__("pathlib").Path(sys.argv[1]))
sys.exit("matplotlib.pyplot" in sys.modules or "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.png")], check=False)
    assert result.returncode == 0
