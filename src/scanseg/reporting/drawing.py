"""Pieces of pictures: panels with overlays, letters, scale bars, legends. Matplotlib without global state."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.evaluation.metrics.surface import surface_voxels
from scanseg.files import write_bytes
from scanseg.reporting.palette import rgb
from scanseg.reporting.planes import Plane
from scanseg.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DARK, LIGHT = "#0B0D10", "#F2F4F6"
NOTE = "Research software. Not a medical device."
_MOST_PIXELS = 1400
_MOST_LEGEND = 24
# Letters do not fit into lower panels, in figure pixels.
_LEAST_HEIGHT = 100
_LONGEST_NAME = 36
_BAR_LENGTHS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Background:
    """The image behind an overlay.

    Attributes:
        channels: (channel, *spatial): one for grey, three for colours.
        window: Values shown as black and white, for grey.
    """

    channels: Array
    window: tuple[float, float]

    def cut(self, plane: Plane) -> Array:
        """Returns what imshow takes: (rows, columns), or (rows, columns, 3) in [0, 1]."""
        parts = [plane.cut(channel) for channel in self.channels]
        if len(parts) == 1:
            return parts[0]
        low, high = self.window
        return np.clip((np.stack(parts, axis=-1) - low) / (high - low), 0, 1)


def new_figure(width: float, height: float, *, colour: str = DARK) -> Figure:
    """Returns a figure of so many inches that is drawn by Agg and belongs to nobody else."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=colour)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, *, dpi: int = 100) -> Path:
    """Writes the figure as PNG, atomically, and returns the path."""
    write_bytes(Path(path), png_bytes(figure, dpi=dpi))
    return Path(path)


def png_bytes(figure: Figure, *, dpi: int = 100) -> bytes:
    """Returns the figure as the content of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(
        stream, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata={"Software": None}
    )
    return stream.getvalue()


def draw_plane(axes: Axes, plane: Plane, background: Background) -> None:
    """Draws the image of a plane at its physical aspect, with title and directions where there is room."""
    height, width = plane.size
    image = thinned(background.cut(plane))
    low, high = background.window
    axes.imshow(
        image,
        cmap="gray",
        vmin=low,
        vmax=high,
        extent=(0, width, height, 0),
        interpolation="antialiased" if max(image.shape[:2]) > 512 else "bilinear",
    )
    axes.set_axis_off()
    if axes.bbox.height < _LEAST_HEIGHT:
        write(axes, 0.0, 1.03, plane.title.replace("\n", ", "), size=9, ha="left", va="bottom")
        return
    write(axes, 0.02, 0.98, plane.title, size=9, ha="left", va="top")
    spots = {0: (0.5, 0.985, "center", "top"), 1: (0.5, 0.015, "center", "bottom")}
    spots |= {2: (0.012, 0.5, "left", "center"), 3: (0.988, 0.5, "right", "center")}
    for place, letter in enumerate(plane.letters):
        x, y, across, along = spots[place]
        write(axes, x, y, letter, size=11, weight="bold", ha=across, va=along)


def draw_labels(
    axes: Axes, plane: Plane, label_map: Array, colours: Mapping[int, str], *, fill: float
) -> None:
    """Draws each label as a translucent area with an outline.

    Args:
        axes: Holds the plane already.
        plane: The plane.
        label_map: (*spatial) of the scene.
        colours: value -> colour; other values are not drawn.
        fill: Opacity of the area.
    """
    part = thinned(plane.cut(label_map))
    for value in _present(part, colours):
        mask = part == value
        thin = is_thin(axes, mask)
        draw_area(axes, plane, mask, {1: colours[value]}, fill=0.9 if thin else fill)
        if not thin:
            outline(axes, mask, plane.size, colours[value])


def is_thin(axes: Axes, mask: Array) -> bool:
    """Returns whether an outline would bury the mask because it is as thin as the outline, as vessels are."""
    rim = np.count_nonzero(surface_voxels(mask))
    pixels_per_voxel = axes.bbox.width / mask.shape[1]
    return bool(rim) and 2 * np.count_nonzero(mask) / rim * pixels_per_voxel < 4


def draw_area(axes: Axes, plane: Plane, part: Array, colours: Mapping[int, str], *, fill: float) -> None:
    """Draws the values of a plane (rows, columns) as areas of their colours."""
    area = np.zeros((*part.shape, 4))
    for value in _present(part, colours):
        area[part == value] = (*rgb(colours[value]), fill)
    height, width = plane.size
    axes.imshow(area, extent=(0, width, height, 0), interpolation="nearest")


def _present(part: Array, colours: Mapping[int, str]) -> list[int]:
    return [int(value) for value in np.unique(part) if int(value) in colours]


def outline(
    axes: Axes, mask: Array, size: tuple[float, float], colour: str, *, width: float = 1.3, rim: float = 1.2
) -> None:
    """Draws the outline of a mask (rows, columns), with a dark rim so that it shows on any background."""
    from matplotlib.patheffects import Normal, Stroke

    rows, columns = mask.shape
    y = (np.arange(-1, rows + 1) + 0.5) * size[0] / rows
    x = (np.arange(-1, columns + 1) + 0.5) * size[1] / columns
    padded = np.pad(mask, 1).astype(np.float32)
    lines = axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=[width])
    if rim:
        lines.set_path_effects([Stroke(linewidth=width + rim, foreground="black", alpha=0.55), Normal()])
    axes.set_xlim(0, size[1])
    axes.set_ylim(size[0], 0)


def draw_scale_bar(axes: Axes, plane: Plane, unit: str) -> None:
    """Draws a bar of a round length, at most a third of the width, at the lower right."""
    height, width = plane.size
    fitting = [length for length in _BAR_LENGTHS if length <= width / 3]
    if not fitting:
        return
    length = fitting[-1]
    right, y = 0.955 * width, height - 0.05 * min(height, width)
    for colour, thickness in (("black", 4.5), ("white", 2.2)):
        axes.plot([right - length, right], [y, y], color=colour, linewidth=thickness, solid_capstyle="butt")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    write(
        axes,
        (right - length / 2) / width,
        1 - y / height + 0.012,
        f"{length:g} {unit}",
        size=8.5,
        ha="center",
        va="bottom",
    )


def write(axes: Axes, x: float, y: float, text: str, *, size: float, **style: Any) -> None:
    """Writes light text with a dark rim at a place in [0, 1] of the axes; nothing in it is markup."""
    from matplotlib.patheffects import withStroke

    rim = [withStroke(linewidth=2.2, foreground="black", alpha=0.75)]
    axes.text(
        x, y, drawable(text), transform=axes.transAxes, color=LIGHT, fontsize=size, parse_math=False,
        path_effects=rim, **style,
    )  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A line of a legend: a coloured square, unless `colour` is empty, and a text."""

    colour: str
    text: str


def draw_legend(figure: Figure, entries: Sequence[Entry], *, y: float) -> None:
    """Draws coloured squares with names, centred, their upper edge at `y` in [0, 1] of the figure."""
    from matplotlib.patches import Patch

    shown = list(entries[:_MOST_LEGEND])
    if len(entries) > len(shown):
        shown.append(Entry("", f"and {len(entries) - len(shown)} more"))
    handles = [
        Patch(facecolor=entry.colour or "none", edgecolor=LIGHT if entry.colour else "none", linewidth=0.6)
        for entry in shown
    ]
    legend = figure.legend(
        handles,
        ["x"] * len(shown),
        loc="upper center",
        bbox_to_anchor=(0.5, y),
        ncols=min(_columns(entries, figure.get_figwidth()), len(shown)),
        frameon=False,
        fontsize=10,
        labelcolor=LIGHT,
        handlelength=1.1,
        handleheight=1.0,
        borderpad=0.0,
        borderaxespad=0.0,
        columnspacing=1.6,
    )
    # Set afterwards: names that begin with "_" or hold "$" mean something to the legend itself.
    for text, entry in zip(legend.get_texts(), shown, strict=True):
        text.set_parse_math(False)
        text.set_text(drawable(entry.text))


def legend_height(entries: Sequence[Entry], width: float) -> float:
    """Returns the height of `draw_legend` in inches on a figure of so many inches."""
    return 0.225 * math.ceil(min(len(entries), _MOST_LEGEND + 1) / _columns(entries, width))


def _columns(entries: Sequence[Entry], width: float) -> int:
    widths = [0.09 * len(entry.text) + 0.5 for entry in entries]
    if sum(widths) < width - 0.4:
        return len(entries)
    return max(1, int((width - 0.4) / max(widths)))


def shorten(name: str, longest: int = _LONGEST_NAME) -> str:
    """Returns a name without its middle where it is longer than `longest` characters."""
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def drawable(text: str) -> str:
    """Returns the text with a box for every character that the font does not have."""
    known = _characters() | {ord("\n")}
    return "".join(c if ord(c) in known else "□" for c in text)


@lru_cache(maxsize=1)
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def thinned(array: Array) -> Array:
    """Returns every n-th row and column of a plane that is larger than a picture needs."""
    step = max(1, math.ceil(max(array.shape[:2]) / _MOST_PIXELS))
    return array[::step, ::step]
