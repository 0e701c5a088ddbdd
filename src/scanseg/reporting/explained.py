"""Pictures of what a network sees: maps over an image, the order in which its scans read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scanseg.reporting.drawing import (
    LIGHT,
    Background,
    draw_plane,
    drawable,
    new_figure,
    outline,
    save,
    shorten,
)
from scanseg.reporting.planes import choose_planes, grey_window, make_scene
from scanseg.types import Array, Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 5
_PANEL = 2.5
_OUTLINE = "#FFFFFF"
# Of the tokens, those marked as read first and last.
_ENDS = 0.03
_FIRST, _LAST = "#FFFFFF", "#FF2D95"


@dataclass(frozen=True)
class TokenMap:
    """A block's map over a flat image.

    Attributes:
        title: Above its panel.
        uncertainty: (rows, columns).
        ranks: (K, rows, columns), the place at which each scan reads each token.
    """

    title: str
    uncertainty: Array
    ranks: Array


def map_figure(
    image: Image, values: Array, label_map: Array, path: Path, *, title: str, unit: str, highest: float = 1.0
) -> Path:
    """Writes a picture of a map over an image with the outline of its labels: one plane in 2D, three in 3D.

    Args:
        image: The image; its first channel is shown.
        values: The map, (*spatial) on the grid of the image, from 0.
        label_map: Label values on the same grid.
        path: PNG file to write.
        title: Above the picture.
        unit: Below the bar of colours.
        highest: Value at the upper end of the colours.

    Returns:
        `path`.
    """
    scene = make_scene(image, [label_map])
    turned = make_scene(image, [values]).label_maps[0]
    planes = choose_planes(scene)
    background = Background(scene.image[:1], grey_window(scene.image[0], scene.label_maps[0]))
    widths = [plane.size[1] / plane.size[0] for plane in planes]
    figure = new_figure(3.6 * sum(widths) + 1.3, 4.3)
    grid = figure.add_gridspec(1, len(planes) + 1, width_ratios=[*widths, 0.07])
    for place, plane in enumerate(planes):
        axes = figure.add_subplot(grid[0, place])
        draw_plane(axes, plane, background)
        part = plane.cut(turned)
        height, width = plane.size
        opacity = np.clip(part / highest, 0, 1) * 0.85
        axes.imshow(
            part, cmap="turbo", vmin=0, vmax=highest, alpha=opacity, extent=(0, width, height, 0),
            interpolation="nearest",
        )  # fmt: skip
        mask = plane.cut(scene.label_maps[0]) > 0
        if mask.any() and not mask.all():
            outline(axes, mask, plane.size, _OUTLINE, width=0.8, rim=0.8)
    _colour_bar(figure, figure.add_subplot(grid[0, -1]), highest, unit)
    _title(figure, title)
    figure.subplots_adjust(0.02, 0.04, 1 - 0.62 / figure.get_figwidth(), 0.88, wspace=0.06)
    return save(figure, path, dpi=120)


def uncertainty_figure(
    image: Array, classes: Array, maps: Sequence[TokenMap], path: Path, *, title: str
) -> Path:
    """Writes the uncertainty of every block over a flat image: red is read early by `down`, blue late.

    Each panel has colours of its own, from the 2nd to the 98th percentile of its map.

    Args:
        image: (rows, columns), as the network sees it.
        classes: Predicted class of each place, (rows, columns); its outline is drawn.
        maps: One per block.
        path: PNG file to write.
        title: Above the picture.

    Returns:
        `path`.
    """
    rows = -(-(len(maps) + 1) // _COLUMNS)
    figure, panels = _panels(image, rows, _COLUMNS)
    _draw_image(panels[0], image)
    _draw_outline(panels[0], classes)
    _panel_title(panels[0], "image, prediction")
    for axes, one in zip(panels[1:], maps, strict=False):
        _draw_image(axes, image)
        low, high = np.percentile(one.uncertainty, [2, 98])
        _overlay(axes, image, one.uncertainty, "turbo", float(low), float(max(high, low + 1e-9)), alpha=0.62)
        _draw_outline(axes, classes)
        _panel_title(axes, one.title)
    for axes in panels[len(maps) + 1 :]:
        axes.set_visible(False)
    _title(figure, title)
    return save(figure, path, dpi=120)


def order_figure(
    image: Array, maps: Sequence[TokenMap], scans: Sequence[str], path: Path, *, title: str
) -> Path:
    """Writes in which order the scans of some blocks read a flat image.

    Columns: the image's tokens sorted by uncertainty, row by row (figure 1d of the paper); then for each scan
    the place of each token, dark first, bright last. White dots are read first, pink ones last.

    Args:
        image: (rows, columns), as the network sees it.
        maps: One per block to show.
        scans: Names of the scans.
        path: PNG file to write.
        title: Above the picture.

    Returns:
        `path`.
    """
    figure, panels = _panels(image, len(maps), 1 + len(scans))
    for row, one in enumerate(maps):
        line = panels[row * (1 + len(scans)) :]
        _draw_image(line[0], _sorted_tokens(image, one))
        _panel_title(line[0], f"{one.title}: sorted")
        for axes, scan, ranks in zip(line[1:], scans, one.ranks, strict=False):
            _draw_image(axes, image)
            _overlay(axes, image, ranks.astype(float), "cividis", 0, ranks.size - 1, alpha=0.75)
            _draw_ends(axes, image, ranks)
            _panel_title(axes, scan.replace("_", " "))
    _title(figure, title)
    return save(figure, path, dpi=120)


def _sorted_tokens(image: Array, one: TokenMap) -> Array:
    """Returns the mean grey of each token, laid out row by row from high to low uncertainty."""
    rows, columns = one.uncertainty.shape
    trimmed = image[: image.shape[0] // rows * rows, : image.shape[1] // columns * columns]
    cells = trimmed.reshape(rows, trimmed.shape[0] // rows, columns, trimmed.shape[1] // columns)
    means = cells.mean(axis=(1, 3)).ravel()
    order = np.argsort(-one.uncertainty.ravel(), kind="stable")
    tokens: Array = means[order].reshape(rows, columns)
    return tokens


def _panels(image: Array, rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    ratio = image.shape[0] / image.shape[1]
    width, height = columns * (_PANEL + 0.12) + 0.1, rows * (_PANEL * ratio + 0.36) + 0.5
    figure = new_figure(width, height)
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel().tolist()
    figure.subplots_adjust(0.015, 0.015, 0.985, 1 - 0.75 / height, wspace=0.05, hspace=0.3 / ratio / _PANEL)
    for place in axes:
        place.set_axis_off()
    return figure, axes


def _draw_image(axes: Axes, image: Array) -> None:
    low, high = np.percentile(image, [0.5, 99.5])
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-9), interpolation="nearest")


def _overlay(
    axes: Axes, image: Array, values: Array, colours: str, low: float, high: float, *, alpha: float
) -> None:
    rows, columns = image.shape
    axes.imshow(
        values, cmap=colours, vmin=low, vmax=high, alpha=alpha, interpolation="nearest",
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
    )  # fmt: skip


def _draw_outline(axes: Axes, classes: Array) -> None:
    for value in np.unique(classes[classes > 0]):
        axes.contour(classes == value, levels=[0.5], colors=[_OUTLINE], linewidths=[0.9])


def _draw_ends(axes: Axes, image: Array, ranks: Array) -> None:
    count = max(1, round(_ENDS * ranks.size))
    steps = [edge / tokens for edge, tokens in zip(image.shape, ranks.shape, strict=True)]
    for chosen, colour in ((ranks < count, _FIRST), (ranks >= ranks.size - count, _LAST)):
        rows, columns = np.nonzero(chosen)
        axes.scatter(
            (columns + 0.5) * steps[1] - 0.5, (rows + 0.5) * steps[0] - 0.5, s=5, c=colour, linewidths=0
        )
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)


def _panel_title(axes: Axes, text: str) -> None:
    axes.set_title(drawable(shorten(text, 34)), color=LIGHT, fontsize=8, pad=3, parse_math=False)


def _title(figure: Figure, text: str) -> None:
    figure.text(
        0.012, 1 - 0.1 / figure.get_figheight(), drawable(shorten(text, 110)), color=LIGHT, fontsize=11,
        va="top", weight="bold", parse_math=False,
    )  # fmt: skip


def _colour_bar(figure: Figure, axes: Axes, highest: float, unit: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(ScalarMappable(Normalize(0, highest), "turbo"), cax=axes)
    bar.set_label(unit, color=LIGHT, fontsize=9)
    bar.ax.tick_params(colors=LIGHT, labelsize=8)
