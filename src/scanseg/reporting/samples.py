"""The picture of patches that a network segments while it trains. Drawn after every epoch, so it is quick."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scanseg.errors import UsageError
from scanseg.files import write_bytes
from scanseg.reporting.drawing import DARK, LIGHT, NOTE, drawable, shorten
from scanseg.reporting.palette import label_colours, rgb
from scanseg.types import Array, Label, PatchSample

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

_EDGE = 280
_GAP = 8
_LINE = 22
_LEAST_WIDTH = 420
_MOST_LABELS = 16
_LONGEST_NAME = 24
_QUIET = "#8A939C"


def samples_figure(
    samples: Sequence[PatchSample],
    labels: Sequence[Label],
    path: Path,
    *,
    spacing: Sequence[float] = (1.0, 1.0),
    title: str = "",
) -> Path:
    """Writes patches side by side: above with the reference, below with what a network predicted.

    Labels are translucent areas with an outline, in the colours of all our pictures. No name of a case stands
    in the picture. It is at most 1160 pixels wide.

    Args:
        samples: One to four patches.
        labels: The classes in the order of their indices, the background first.
        path: PNG file to write.
        spacing: Distance of rows and of columns in a patch.
        title: Above the picture.

    Returns:
        `path`.

    Raises:
        UsageError: There is no sample, or there are more than four.
    """
    if not 1 <= len(samples) <= 4:
        raise UsageError(
            f"A picture of samples has one to four of them, got {len(samples)}.", code="E-FIGURE-SAMPLES"
        )
    colours = list(label_colours(labels).values())
    rows = [
        [_tile(sample.image, sample.truth, colours, spacing) for sample in samples],
        [_tile(sample.image, sample.prediction, colours, spacing) for sample in samples],
    ]
    width = max(_LEAST_WIDTH, _GAP + sum(tile.shape[1] + _GAP for tile in rows[0]))
    stream = io.BytesIO()
    _composed(rows, _placed(labels, colours, width), title, width).save(stream, "PNG", compress_level=3)
    write_bytes(Path(path), stream.getvalue())
    return Path(path)


def _composed(
    rows: Sequence[Sequence[Array]], entries: Sequence[tuple[int, int, str, str]], title: str, width: int
) -> Image:
    """Returns the picture: title, a heading above each row of patches, legend, note."""
    from PIL import Image, ImageDraw

    high = max(tile.shape[0] for tile in rows[0])
    foot = _LINE + len(rows) * (_LINE + high + _GAP)
    picture = Image.new("RGB", (width, foot + (entries[-1][1] + 2) * _LINE), DARK)
    draw = ImageDraw.Draw(picture)
    _write(draw, _GAP, 3, title, LIGHT)
    for number, (heading, tiles) in enumerate(zip(("reference", "prediction"), rows, strict=True)):
        top, left = _LINE + number * (_LINE + high + _GAP), _GAP
        _write(draw, left, top + 3, heading, LIGHT)
        for tile in tiles:
            picture.paste(Image.fromarray(tile), (left, top + _LINE))
            left += tile.shape[1] + _GAP
    for left, line, colour, name in entries:
        top = foot + line * _LINE
        if colour:
            draw.rectangle((left, top + 4, left + 12, top + 16), fill=colour)
        _write(draw, left + 18, top + 3, name, LIGHT)
    _write(draw, _GAP, picture.height - _LINE + 3, NOTE, _QUIET)
    return picture


def _tile(image: Array, indices: Array, colours: Sequence[str], spacing: Sequence[float]) -> Array:
    """Returns a patch with its labels at its physical aspect, (height, width, 3) uint8."""
    from PIL import Image

    sides = [count * step for count, step in zip(indices.shape, spacing, strict=True)]
    height, width = (max(16, round(_EDGE * side / max(sides))) for side in sides)
    grey = Image.fromarray(_shades(image)).resize((width, height), Image.Resampling.BILINEAR)
    picture = np.array(grey, dtype=np.float32)
    rows, columns = (
        np.arange(size) * count // size for size, count in zip((height, width), indices.shape, strict=True)
    )
    large = indices[rows][:, columns]
    rim = _rim(large)
    for index in np.unique(large[large > 0]):
        colour = 255 * rgb(colours[index - 1])
        area = large == index
        picture[area] += 0.3 * (colour - picture[area])
        picture[area & rim] = colour
    return np.rint(picture).astype(np.uint8)


def _shades(image: Array) -> Array:
    """Returns (C, rows, columns) as (rows, columns, 3) uint8, from the 0.5th to the 99.5th percentile."""
    low, high = np.percentile(image, [0.5, 99.5])
    if low >= high:
        low, high = float(image.min()), float(image.max()) + 1.0
    parts = np.clip((image - low) / (high - low), 0, 1) * 255
    shades: Array = np.rint(np.broadcast_to(np.moveaxis(parts, 0, -1), (*image.shape[1:], 3)))
    return shades.astype(np.uint8)


def _rim(indices: Array) -> Array:
    """Returns where another class is at most two pixels away along a row or a column."""
    rim = np.zeros(indices.shape, dtype=bool)
    for step in (1, 2):
        for across in (indices, indices.T):
            differs = across[step:] != across[:-step]
            found = rim if across is indices else rim.T
            found[step:] |= differs
            found[:-step] |= differs
    return rim


def _placed(labels: Sequence[Label], colours: Sequence[str], width: int) -> list[tuple[int, int, str, str]]:
    """Returns left edge, line, colour and name of each entry of the legend."""
    foreground = (label for label in labels if label.value != 0)
    named = [
        (colour, shorten(" ".join(label.name.split()), _LONGEST_NAME))
        for colour, label in zip(colours, foreground, strict=True)
    ]
    if len(named) > _MOST_LABELS:
        named = [*named[:_MOST_LABELS], ("", f"and {len(named) - _MOST_LABELS} more")]
    left, line, entries = _GAP, 0, []
    for colour, name in named:
        wide = 18 + round(_font().getlength(drawable(name))) + 2 * _GAP
        if left > _GAP and left + wide > width:
            left, line = _GAP, line + 1
        entries.append((left, line, colour, name))
        left += wide
    return entries or [(_GAP, 0, "", "no label")]


def _write(draw: ImageDraw, left: int, top: int, text: str, colour: str) -> None:
    draw.text((left, top), drawable(text), fill=colour, font=_font())


@lru_cache(maxsize=1)
def _font() -> FreeTypeFont:
    """Returns the letters of all our pictures."""
    from matplotlib.font_manager import FontProperties, findfont
    from PIL import ImageFont

    return ImageFont.truetype(findfont(FontProperties()), 13)
