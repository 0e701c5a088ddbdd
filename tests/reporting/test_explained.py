"""Pictures of maps: colours where the map is high, none where it is 0; the same bytes twice."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from scanseg.reporting.explained import TokenMap, map_figure, order_figure, uncertainty_figure
from scanseg.types import Geometry, Image

SIZE = 32


@pytest.fixture
def image() -> Image:
    grey = np.random.default_rng(0).random((1, SIZE, SIZE)).astype(np.float32)
    return Image(grey, Geometry((SIZE, SIZE), (1.0, 1.0), unit="px"))


def _coloured(path: Path) -> int:
    """Returns how many pixels are strongly coloured, left of the bar of colours."""
    pixels = np.asarray(Pillow.open(path).convert("RGB"), dtype=int)
    inside = pixels[80:, : int(0.7 * pixels.shape[1])]
    return int((inside.max(-1) - inside.min(-1) > 80).sum())


def test_only_high_values_are_coloured(image: Image, tmp_path: Path) -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    values = np.zeros((SIZE, SIZE), np.float32)
    nothing = _coloured(map_figure(image, values, mask, tmp_path / "0.png", title="t", unit="u"))
    values[8:24, 8:24] = 1
    something = _coloured(map_figure(image, values, mask, tmp_path / "1.png", title="t", unit="u"))
    assert nothing == 0
    assert something > 1000


def test_every_block_has_a_panel_and_nothing_is_by_chance(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    grey, classes = rng.random((SIZE, SIZE)), np.zeros((SIZE, SIZE), int)
    classes[4:12, 4:12] = 1
    uncertainty = rng.random((8, 8))
    order = np.argsort(-uncertainty.ravel())
    ranks = np.empty(64, int)
    ranks[order] = np.arange(64)
    maps = [TokenMap(f"block {n} $x$", uncertainty, np.stack([ranks.reshape(8, 8)] * 2)) for n in range(5)]
    paths = [
        uncertainty_figure(grey, classes, maps, tmp_path / f"{n}.png", title="a $case$") for n in range(2)
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    few = uncertainty_figure(grey, classes, maps[:2], tmp_path / "few.png", title="a")
    with Pillow.open(paths[0]) as many, Pillow.open(few) as less:
        assert many.height > 1.5 * less.height  # six panels need two rows, three need one
    drawn = order_figure(grey, maps[:3], ["sequential_down", "skip_down"], tmp_path / "o.png", title="a")
    with Pillow.open(drawn) as picture:
        assert picture.height > picture.width * 0.8  # three rows of three columns


def test_a_flat_map_is_drawn(image: Image, tmp_path: Path) -> None:
    grey, classes = np.ones((16, 16)), np.zeros((16, 16), int)
    one = TokenMap("b", np.full((4, 4), 0.5), np.arange(16).reshape(1, 4, 4))
    assert uncertainty_figure(grey, classes, [one], tmp_path / "u.png", title="t").is_file()
    assert order_figure(grey, [one], ["sequential_down"], tmp_path / "o.png", title="t").is_file()
