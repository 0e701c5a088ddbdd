"""A network as a U-shaped drawing: SVG from its stage table, the same bytes on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any
from xml.sax.saxutils import escape

_INK, _SOFT, _LINE = "#1F2933", "#66727F", "#9AA5B1"
_FILLS = {"": "#DCE9F5", "patch": "#FBE0B5", "channel": "#F3C6DC"}
_TEXTS = {"": "without Mamba", "patch": "Mamba, tokens are places", "channel": "Mamba, tokens are channels"}
_WIDTH, _HEIGHT, _GAP, _MIDDLE, _MARGIN = 236, 46, 18, 120, 16
_HEADER, _FOOTER = 52, 54

Box = tuple[float, float]


def architecture_svg(title: str, stages: Sequence[Mapping[str, Any]], flow: Sequence[Sequence[int]]) -> str:
    """Returns an SVG: a box per stage, the encoder going down, the decoder up, equal sizes at equal heights.

    Nested decoders lie beside each other, a column for each.

    Args:
        title: Above the drawing.
        stages: `name size features blocks mamba` of each stage in the order of the network, as
            `describe_network` gives them.
        flow: Pairs of indices between which a map passes; neighbours are drawn as arrows, others dashed.

    Example:
        >>> stage = {"name": "stem", "size": [8, 8], "features": 4, "blocks": 1, "mamba": ""}
        >>> architecture_svg("small", [stage], []).count("<rect")
        3
    """
    boxes, width, height = _place(stages)
    body = [
        f'<rect width="{width:g}" height="{height:g}" fill="#FFFFFF"/>',
        _text(_MARGIN, 28, title, size=15, colour=_INK, weight="bold"),
        *(_connection(boxes, source, target) for source, target in flow),
        *(_box(stage, box) for stage, box in zip(stages, boxes, strict=True)),
        *_legend(height, [kind for kind in _TEXTS if any(stage["mamba"] == kind for stage in stages)]),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="Helvetica, Arial, sans-serif" role="img">'
    )
    marker = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{_LINE}"/></marker></defs>'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", marker, *body, "</svg>"]) + "\n"


def _columns(stages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Returns the column of every stage: 0 for the encoder, 1 for a decoder that goes up.

    What follows the encoder and goes down again, as nested decoders do, gets a column for each way down.
    """
    sizes = [prod(stage["size"]) for stage in stages]
    last = len(sizes) - 1 - sizes[::-1].index(min(sizes)) if sizes else 0
    smallest = next((i for i in range(sizes.index(min(sizes)), last) if sizes[i + 1] > sizes[i]), last)
    named = [i for i, s in enumerate(stages) if str(s["name"]).startswith(("decoder", "head"))]
    first = min([smallest + 1, *named])
    behind = sizes[first:]
    if behind == sorted(behind):
        return [int(index >= first) for index in range(len(stages))]
    columns = [0] * first
    for index in range(first, len(stages)):
        higher = index == first or sizes[index] > sizes[index - 1]
        columns.append(columns[-1] + higher)
    return columns


def _place(stages: Sequence[Mapping[str, Any]]) -> tuple[list[Box], float, float]:
    """Returns the upper left corner of every box, and width and height of the drawing."""
    sizes = [prod(stage["size"]) for stage in stages]
    column_of = _columns(stages)
    boxes: list[Box] = [(0.0, 0.0)] * len(stages)
    y, count = float(_HEADER), max(1, max(column_of, default=0)) + 1
    for size in sorted(set(sizes), reverse=True):
        level = [
            [i for i, own in enumerate(sizes) if own == size and column_of[i] == column]
            for column in range(count)
        ]
        rows = max(map(len, level))
        for column, members in enumerate(level):
            # A decoder goes up: of equal sizes the later stage is above.
            ordered = members[::-1] if column else members
            x = _MARGIN + column * (_WIDTH + _MIDDLE)
            # All columns end at the lower edge of the level, where skips leave and arrive.
            for place, index in enumerate(ordered):
                boxes[index] = (float(x), y + (rows - len(ordered) + place) * (_HEIGHT + _GAP))
        y += rows * (_HEIGHT + _GAP)
    return boxes, 2 * _MARGIN + count * _WIDTH + (count - 1) * _MIDDLE, y + _FOOTER


def _connection(boxes: Sequence[Box], source: int, target: int) -> str:
    (x1, y1), (x2, y2) = boxes[source], boxes[target]
    dashed = target != source + 1
    if x1 != x2:
        start, end = (x1 + _WIDTH, y1 + _HEIGHT / 2), (x2, y2 + _HEIGHT / 2)
    elif dashed:
        return _bow(boxes[source], boxes[target])
    elif y2 > y1:
        start, end = (x1 + _WIDTH / 2, y1 + _HEIGHT), (x2 + _WIDTH / 2, y2)
    else:
        start, end = (x1 + _WIDTH / 2, y1), (x2 + _WIDTH / 2, y2 + _HEIGHT)
    return _path(f"M{start[0]:g} {start[1]:g}L{end[0]:g} {end[1]:g}", dashed=dashed)


def _bow(source: Box, target: Box) -> str:
    """Returns a curve between two boxes of one column, on the side of the middle."""
    side = source[0] + _WIDTH if source[0] == _MARGIN else source[0]
    reach = side + (34 if source[0] == _MARGIN else -34)
    y1, y2 = source[1] + _HEIGHT / 2, target[1] + _HEIGHT / 2
    return _path(f"M{side:g} {y1:g}C{reach:g} {y1:g} {reach:g} {y2:g} {side:g} {y2:g}", dashed=True)


def _path(shape: str, *, dashed: bool) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{shape}" fill="none" stroke="{_LINE}" stroke-width="1.6"{dash} marker-end="url(#tip)"/>'


def _box(stage: Mapping[str, Any], box: Box) -> str:
    x, y = box
    size = " × ".join(map(str, stage["size"]))
    blocks = f"{stage['blocks']} block{'s' if stage['blocks'] != 1 else ''}" if stage["blocks"] else ""
    fill = _FILLS.get(stage["mamba"], _FILLS["patch"])
    return "".join(
        [
            f'<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="5" fill="{fill}" ',
            f'stroke="{_SOFT}" stroke-width="0.8"/>',
            _text(x + 10, y + 19, str(stage["name"]), size=13, colour=_INK, weight="bold"),
            _text(x + _WIDTH - 10, y + 19, blocks, size=11, colour=_SOFT, anchor="end"),
            _text(x + 10, y + 37, f"{stage['features']} channels, {size}", size=12, colour=_INK),
        ]
    )


def _legend(height: float, kinds: Sequence[str]) -> list[str]:
    parts, x, y = [], float(_MARGIN), height - 38
    for kind in kinds:
        text = _TEXTS[kind]
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="12" height="12" rx="2" fill="{_FILLS[kind]}" stroke="{_SOFT}" '
            f'stroke-width="0.6"/>{_text(x + 18, y + 10, text, size=11, colour=_INK)}'
        )
        x += 40 + 6.4 * len(text)
    note = "Arrows: the way through. Dashed: maps that skip stages. Sizes are those of each stage's output."
    return [*parts, _text(_MARGIN, height - 10, note, size=11, colour=_SOFT)]


def _text(
    x: float, y: float, text: str, *, size: int, colour: str, weight: str = "normal", anchor: str = "start"
) -> str:
    if not text:
        return ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
