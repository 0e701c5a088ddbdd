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
    boxes, height = _place(stages)
    first_right = _first_right(stages)
    width = 2 * (_WIDTH + _MARGIN) + _MIDDLE
    body = [
        f'<rect width="{width}" height="{height:g}" fill="#FFFFFF"/>',
        _text(_MARGIN, 28, title, size=15, colour=_INK, weight="bold"),
        *(_connection(boxes, source, target, first_right) for source, target in flow),
        *(_box(stage, box) for stage, box in zip(stages, boxes, strict=True)),
        *_legend(height, [kind for kind in _TEXTS if any(stage["mamba"] == kind for stage in stages)]),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" '
        f'height="{height:g}" font-family="Helvetica, Arial, sans-serif" role="img">'
    )
    marker = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{_LINE}"/></marker></defs>'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", marker, *body, "</svg>"]) + "\n"


def _first_right(stages: Sequence[Mapping[str, Any]]) -> int:
    """Returns the index of the first stage of the decoder, by name, else behind the smallest map."""
    for index, stage in enumerate(stages):
        if str(stage["name"]).startswith(("decoder", "head")):
            return index
    sizes = [prod(stage["size"]) for stage in stages]
    return sizes.index(min(sizes)) + 1 if sizes else 0


def _place(stages: Sequence[Mapping[str, Any]]) -> tuple[list[Box], float]:
    """Returns the upper left corner of every box, and the height of the drawing."""
    sizes = [prod(stage["size"]) for stage in stages]
    first_right = _first_right(stages)
    boxes: list[Box] = [(0.0, 0.0)] * len(stages)
    y = float(_HEADER)
    for size in sorted(set(sizes), reverse=True):
        left = [i for i, own in enumerate(sizes) if own == size and i < first_right]
        # The decoder goes up: of equal sizes the later stage is above.
        right = [i for i, own in enumerate(sizes) if own == size and i >= first_right][::-1]
        rows = max(len(left), len(right))
        for column, x in ((left, _MARGIN), (right, _MARGIN + _WIDTH + _MIDDLE)):
            # Both columns end at the lower edge of the level, where skips leave and arrive.
            for place, index in enumerate(column):
                boxes[index] = (float(x), y + (rows - len(column) + place) * (_HEIGHT + _GAP))
        y += rows * (_HEIGHT + _GAP)
    return boxes, y + _FOOTER


def _connection(boxes: Sequence[Box], source: int, target: int, first_right: int) -> str:
    (x1, y1), (x2, y2) = boxes[source], boxes[target]
    dashed = target != source + 1
    if (source < first_right) != (target < first_right):
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
