"""Pictures of cases and of trainings, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scanseg.data.image import read_channels, read_label_map
from scanseg.errors import UsageError
from scanseg.evaluation.metrics import dice
from scanseg.evaluation.stats import foreground, size_unit
from scanseg.reporting.curves import progress_figure, scores_figure
from scanseg.reporting.drawing import (
    LIGHT,
    NOTE,
    Background,
    Entry,
    draw_area,
    draw_labels,
    draw_legend,
    draw_plane,
    draw_scale_bar,
    drawable,
    is_thin,
    legend_height,
    new_figure,
    outline,
    save,
    shorten,
    write,
)
from scanseg.reporting.layout import Grid, make_grid
from scanseg.reporting.palette import CONFUSED, EXTRA, MISSED, OUTLINE, label_colours
from scanseg.reporting.planes import Plane, Scene, choose_planes, grey_window, make_scene
from scanseg.types import Array, Geometry, Image, Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["comparison", "preview", "progress_figure", "scores_figure"]

_DIFFERENCES = (Entry(MISSED, "missed"), Entry(EXTRA, "extra"), Entry(CONFUSED, "another label"))
_HEADINGS = ("reference", "prediction", "differences")


def preview(image: Image, label_map: Array, labels: Sequence[Label], path: Path, *, title: str = "") -> Path:
    """Writes a picture of an image with its label map as coloured outlines and translucent areas.

    3D images are shown in three orthogonal planes through the structures, in radiological convention with the
    directions written on them where the image has an affine; 2D images beside themselves without overlay.

    Args:
        image: As read; of several channels that are no colours the first is shown.
        label_map: Label values on the grid of the image, (*spatial).
        labels: The classes; the background (value 0) is not drawn.
        path: PNG file to write.
        title: Above the picture, for example the case.

    Returns:
        `path`.

    Raises:
        UsageError: The label map does not have the size of the image.
    """
    _check_shapes(image.geometry, {"label map": label_map})
    scene = make_scene(image, [label_map])
    planes = choose_planes(scene)
    flat = len(scene.geometry.shape) == 2
    shown = planes * 2 if flat else planes
    legends = [_sized_entries(label_map, labels, image.geometry)]
    grid = make_grid(
        [plane.size for plane in shown],
        header=0.42 if title else 0.08,
        footer=partial(_footer, legends),
    )
    figure = new_figure(grid.width, grid.height)
    background, colours = _background(scene), label_colours(labels)
    for place, (plane, rectangle) in enumerate(zip(shown, grid.rectangles[0], strict=True)):
        axes = figure.add_axes(rectangle)
        draw_plane(axes, plane, background)
        if place == 0:
            draw_scale_bar(axes, plane, scene.geometry.unit)
        if not flat or place == 1:
            draw_labels(axes, plane, scene.label_maps[0], colours, fill=_opacity(background))
    _finish(figure, grid, title, legends)
    return save(figure, path)


def comparison(
    image: Image | Path | Sequence[Path],
    prediction: Array | Path,
    reference: Array | Path,
    labels: Sequence[Label],
    path: Path,
    *,
    title: str = "",
) -> Path:
    """Writes a picture of a prediction beside its reference, with their differences.

    Shows the surroundings of the structures, in 3D in three orthogonal planes as `preview` does: the
    reference, the prediction, and what was missed, what is extra and what got another label. The Dice of each
    label over the whole image stands in the legend.

    Args:
        image: The image, or its files, one or more per channel.
        prediction: Label values on the grid of the image, or their file; so is `reference`.
        reference: The truth.
        labels: The classes; the background (value 0) is not drawn.
        path: PNG file to write.
        title: Above the picture; the name of `path` by default.

    Returns:
        `path`.

    Raises:
        UsageError: A label map does not have the size of the image.
        DataError: A file cannot be read.
    """
    image = _loaded(image)
    ours, theirs = _label_array(prediction), _label_array(reference)
    _check_shapes(image.geometry, {"prediction": ours, "reference": theirs})
    scene = make_scene(image, [theirs, ours])
    planes = choose_planes(scene, zoom=True)
    several = len(foreground(labels)) > 1
    legends = [
        _scored_entries(ours, theirs, labels, image.geometry),
        [*_DIFFERENCES[: 3 if several else 2], Entry("", "thin line: reference")],
    ]
    sizes = [plane.size for plane in planes]
    if len(planes) == 1:
        grid = make_grid(sizes * 3, footer=partial(_footer, legends))
        cells = [(planes[0], rectangle) for rectangle in grid.rectangles[0]]
    else:
        grid = make_grid(sizes, rows=3, left=0.28, highest=3.6, footer=partial(_footer, legends))
        cells = [pair for line in grid.rectangles for pair in zip(planes, line, strict=True)]
    figure = new_figure(grid.width, grid.height)
    background, colours = _background(scene), label_colours(labels)
    for place, (plane, rectangle) in enumerate(cells):
        kind = place // len(planes)
        axes = figure.add_axes(rectangle)
        draw_plane(axes, plane, background)
        if place == 0:
            draw_scale_bar(axes, plane, scene.geometry.unit)
        if kind == 2:
            _draw_differences(axes, plane, scene, labels)
        else:
            draw_labels(axes, plane, scene.label_maps[kind], colours, fill=_opacity(background))
        if len(planes) == 1:
            write(axes, 0.02, 0.86 if plane.title else 0.98, _HEADINGS[kind], size=10, ha="left", va="top")
        elif place % len(planes) == 0:
            middle = 1 - (0.45 + (kind + 0.5) * (grid.above - grid.below) * grid.height / 3) / grid.height
            figure.text(
                0.14 / grid.width, middle, _HEADINGS[kind], rotation=90, ha="center", va="center",
                color=LIGHT, fontsize=10,
            )  # fmt: skip
    _finish(figure, grid, title or Path(path).stem, legends)
    return save(figure, path)


def _loaded(image: Image | Path | Sequence[Path]) -> Image:
    if isinstance(image, Image):
        return image
    return read_channels([image] if isinstance(image, Path) else list(image))


def _label_array(label_map: Array | Path) -> Array:
    return read_label_map(label_map).array if isinstance(label_map, Path) else label_map


def _check_shapes(geometry: Geometry, arrays: dict[str, Array]) -> None:
    for name, array in arrays.items():
        if array.shape != tuple(geometry.shape):
            raise UsageError(
                f"The {name} must have the size of the image {tuple(geometry.shape)}, got {array.shape}.",
                code="E-FIGURE-SHAPE",
            )


def _background(scene: Scene) -> Background:
    """Returns colours for three channels of a 2D image, else the first channel in grey."""
    channels = scene.image
    if len(scene.geometry.shape) == 2 and len(channels) == 3:
        top = float(channels.max())
        if channels.min() >= 0 and top <= 255:
            return Background(channels, (0.0, 255.0 if top > 1 else 1.0))
        low, high = np.percentile(channels, [0.5, 99.5])
        return Background(channels, (float(low), float(max(high, low + 1e-6))))
    union = scene.label_maps[0]
    for label_map in scene.label_maps[1:]:
        union = np.maximum(union, label_map)
    return Background(channels[:1], grey_window(channels[0], union))


def _opacity(background: Background) -> float:
    """Colour images keep their colours; grey ones can bear more of ours."""
    return 0.12 if len(background.channels) == 3 else 0.25


def _draw_differences(axes: Axes, plane: Plane, scene: Scene, labels: Sequence[Label]) -> None:
    known = [0, *(label.value for label in foreground(labels))]
    theirs, ours = (
        np.where(np.isin(part, known), part, 0) for part in (plane.cut(m) for m in scene.label_maps)
    )
    kinds = np.select([ours == theirs, ours == 0, theirs == 0], [0, 1, 2], default=3)
    draw_area(axes, plane, kinds, {1: MISSED, 2: EXTRA, 3: CONFUSED}, fill=0.85)
    if not is_thin(axes, theirs > 0):
        outline(axes, theirs > 0, plane.size, OUTLINE, width=0.6, rim=0)


def _sized_entries(label_map: Array, labels: Sequence[Label], geometry: Geometry) -> list[Entry]:
    """Returns colour, name and size of every label that occurs."""
    unit, voxel = size_unit(geometry)
    colours = label_colours(labels)
    entries = []
    for label in foreground(labels):
        voxels = int(np.count_nonzero(label_map == label.value))
        if voxels:
            name = {"mm2": "mm²", "px": "px" if len(geometry.shape) == 2 else "voxels"}.get(unit, unit)
            size = _figure_text(voxels * voxel)
            entries.append(Entry(colours[label.value], f"{shorten(label.name)}  {size} {name}"))
    return entries or [Entry("", "no structure found")]


def _scored_entries(ours: Array, theirs: Array, labels: Sequence[Label], geometry: Geometry) -> list[Entry]:
    """Returns colour, name and Dice of every label that occurs in either label map."""
    colours = label_colours(labels)
    entries = []
    for label in foreground(labels):
        prediction, reference = ours == label.value, theirs == label.value
        if prediction.any() or reference.any():
            score = dice(prediction, reference, geometry.spacing)
            entries.append(Entry(colours[label.value], f"{shorten(label.name)}  Dice {score:.2f}"))
    return entries or [Entry("", "no structure in either")]


def _figure_text(size: float) -> str:
    """Returns three digits, or all before the point."""
    return f"{size:.3g}" if size < 100 else f"{size:,.0f}".replace(",", " ")


def _footer(legends: Sequence[Sequence[Entry]], width: float) -> float:
    return 0.34 + sum(legend_height(entries, width) for entries in legends)


def _finish(figure: Figure, grid: Grid, title: str, legends: Sequence[Sequence[Entry]]) -> None:
    top = grid.below * grid.height - 0.06
    for entries in legends:
        draw_legend(figure, entries, y=top / grid.height)
        top -= legend_height(entries, grid.width)
    left = 0.1 / grid.width
    figure.text(left, 0.09 / grid.height, NOTE, color="#8A939C", fontsize=7.5, va="bottom")
    if title:
        figure.text(
            left, 1 - 0.13 / grid.height, drawable(shorten(title, 90)), color=LIGHT, fontsize=12, va="top",
            weight="bold", parse_math=False,
        )  # fmt: skip
