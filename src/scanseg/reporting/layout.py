"""Where panels lie on a figure: all at one scale, so that a millimetre is as long in every panel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

GAP = 0.08


@dataclass(frozen=True)
class Grid:
    """Panels in rows and columns; lengths in inches.

    Attributes:
        width: Of the figure.
        height: Of the figure.
        rectangles: [row][column] -> left, bottom, width, height in [0, 1], as matplotlib takes them.
        below: Lower edge of the panels in [0, 1].
        above: Upper edge of the panels in [0, 1].
    """

    width: float
    height: float
    rectangles: list[list[tuple[float, float, float, float]]]
    below: float
    above: float


def make_grid(
    sizes: Sequence[tuple[float, float]],
    *,
    rows: int = 1,
    width: float = 12.0,
    highest: float = 6.0,
    least_width: float = 6.0,
    left: float = 0.0,
    header: float = 0.45,
    footer: Callable[[float], float],
) -> Grid:
    """Returns a grid with one column for each size and equal rows.

    Args:
        sizes: Height and width of the columns in physical units.
        rows: How many rows.
        width: Of the figure at most.
        highest: Height of a row at most.
        least_width: Of the figure, so that texts fit.
        left: Margin for row titles.
        header: Margin above the panels.
        footer: Width of the figure -> margin below the panels.
    """
    gaps = GAP * (len(sizes) + 1)
    scale = (width - left - gaps) / sum(size[1] for size in sizes)
    scale = min(scale, highest / max(size[0] for size in sizes))
    row_height = scale * max(size[0] for size in sizes)
    needed = left + gaps + scale * sum(size[1] for size in sizes)
    total_width = max(needed, least_width)
    margin = footer(total_width)
    total_height = header + margin + rows * row_height + (rows + 1) * GAP
    rectangles = []
    for row in range(rows):
        centre = total_height - header - GAP - row * (row_height + GAP) - row_height / 2
        x = left + GAP + (total_width - needed) / 2
        line = []
        for size in sizes:
            high, wide = scale * size[0], scale * size[1]
            line.append(
                (x / total_width, (centre - high / 2) / total_height, wide / total_width, high / total_height)
            )
            x += wide + GAP
        rectangles.append(line)
    return Grid(total_width, total_height, rectangles, margin / total_height, 1 - header / total_height)
