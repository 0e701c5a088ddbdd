"""The picture of patches while a network trains, looked at in its pixels."""

import numpy as np
import pytest
from PIL import Image as PillowImage

from scanseg.errors import UsageError
from scanseg.reporting.palette import label_colours, rgb
from scanseg.reporting.samples import samples_figure
from scanseg.types import Label, PatchSample

LABELS = [Label(0, "background"), Label(1, "edema"), Label(4, "core")]


def sample(*, rows: int = 28, columns: int = 28, channels: int = 1) -> PatchSample:
    """A square of class 2 at the upper left in truth; the prediction is of class 1 and one column wider."""
    image = np.zeros((channels, rows, columns), dtype=np.float32)
    truth, prediction = (np.zeros((rows, columns), dtype=np.int16) for _ in range(2))
    truth[:14, :14], prediction[:14, :15] = 2, 1
    return PatchSample(image, truth, prediction)


def pixels(path) -> np.ndarray:
    return np.asarray(PillowImage.open(path)).astype(int)


def test_reference_above_and_prediction_below_in_their_colours(tmp_path) -> None:
    picture = pixels(samples_figure([sample()], LABELS, tmp_path / "samples.png", title="after epoch 3"))
    colours = {value: 255 * rgb(colour) for value, colour in label_colours(LABELS).items()}
    # A constant image is black; an area lets 30 % of its colour through, its rim all of it.
    top, left, edge = 44, 8, 280
    below = top + edge + 8 + 22
    assert np.allclose(picture[top + 70, left + 70], 0.3 * colours[4], atol=1)
    assert np.allclose(picture[below + 70, left + 70], 0.3 * colours[1], atol=1)
    assert np.allclose(picture[top + 70, left + 139], colours[4], atol=1)
    assert np.allclose(picture[below + 70, left + 149], colours[1], atol=1)
    assert picture[top + 70, left + 141].tolist() == [0, 0, 0]
    assert picture[top + 200, left + 200].tolist() == [0, 0, 0]
    # Exactly the voxels of the class are coloured: 14 x 14 of 28 x 28 in 280 x 280 pixels.
    assert (picture[top : top + edge, left : left + edge].any(-1)).sum() == 140 * 140
    assert (picture[below : below + edge, left : left + edge].any(-1)).sum() == 140 * 150


def test_it_is_small_and_the_same_every_time(tmp_path) -> None:
    labels = [Label(n, f"structure number {n} with a long name\n") for n in range(60)]
    noise = np.random.default_rng(0)
    samples = [
        PatchSample(noise.normal(size=(1, 512, 512)), *noise.integers(0, 60, (2, 512, 512))) for _ in range(4)
    ]
    first = samples_figure(samples, labels, tmp_path / "a.png", title="after epoch 1000")
    second = samples_figure(samples, labels, tmp_path / "b.png", title="after epoch 1000")
    assert first.read_bytes() == second.read_bytes()
    height, width, _ = pixels(first).shape
    assert width == 1160
    assert height < 900
    assert first.stat().st_size < 2_500_000  # noise does not compress
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("rows", "columns", "spacing", "size"),
    [(28, 28, (1.0, 1.0), (280, 280)), (10, 40, (1.0, 1.0), (70, 280)), (20, 20, (3.0, 1.5), (280, 140))],
)
def test_patches_have_their_physical_aspect(tmp_path, rows, columns, spacing, size) -> None:
    patch = sample(rows=rows, columns=columns)
    white = PatchSample(np.ones((1, rows, columns)), *(np.ones((rows, columns), np.int16) for _ in range(2)))
    one = samples_figure([patch], LABELS, tmp_path / "one.png", spacing=spacing)
    two = samples_figure([white], LABELS, tmp_path / "two.png", spacing=spacing)
    bottom = slice(44, 44 + size[0])
    assert pixels(one).shape == pixels(two).shape
    assert np.ptp(pixels(two)[bottom, 8 : 8 + size[1]], axis=(0, 1)).tolist() == [0, 0, 0]
    assert pixels(two)[bottom, 8 + size[1] + 1].std(axis=0).tolist() == [0, 0, 0]


def test_three_channels_are_colours_and_stay_so(tmp_path) -> None:
    image = np.zeros((3, 20, 20))
    image[0, :, 10:] = 1.0
    patch = PatchSample(image, *(np.zeros((20, 20), np.int16) for _ in range(2)))
    picture = pixels(samples_figure([patch], LABELS, tmp_path / "a.png"))
    assert picture[44 + 100, 8 + 270].tolist() == [255, 0, 0]
    assert picture[44 + 100, 8 + 10].tolist() == [0, 0, 0]


@pytest.mark.parametrize("count", [0, 5])
def test_too_many_are_refused(tmp_path, count) -> None:
    with pytest.raises(UsageError, match=f"got {count}"):
        samples_figure([sample()] * count, LABELS, tmp_path / "a.png")


def test_a_dataset_without_labels_is_drawn(tmp_path) -> None:
    patch = PatchSample(np.ones((1, 8, 8)), *(np.zeros((8, 8), np.int16) for _ in range(2)))
    assert samples_figure([patch], LABELS[:1], tmp_path / "a.png").is_file()
