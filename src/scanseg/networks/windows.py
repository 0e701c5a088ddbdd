"""What the networks built on window attention share: their options and the sizes that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from scanseg.errors import UsageError
from scanseg.networks.registry import Option
from scanseg.networks.topology import per_stage, positive_integer

HEAD_WIDTH = 32
HEADS_OPTION = {
    "heads": Option(None, "heads of the attention per stage, finest first; None: one for each 32 channels"),
}
DROP_PATH_OPTION = {
    "drop_path_rate": Option(0.2, "highest rate of stochastic depth while training; it rises from 0"),
}


def head_counts(
    heads: Sequence[int] | None, widths: Sequence[int], *, width: int = HEAD_WIDTH
) -> tuple[int, ...]:
    """Returns the number of heads of each stage; None: about one for each `width` channels.

    Raises:
        UsageError: Not one positive integer for each stage, or one that does not divide its width.
    """
    if heads is None:
        return tuple(_heads(features, width) for features in widths)
    counts = per_stage("heads", heads, len(widths))
    for count, features in zip(counts, widths, strict=True):
        if features % count:
            raise UsageError(
                f"heads must divide the width of each stage, {tuple(widths)}, got {counts}.",
                code="E-NETWORK-ARGUMENT",
            )
    return counts


def _heads(features: int, width: int) -> int:
    wanted = max(features // width, 1)
    return next(count for count in range(wanted, 0, -1) if features % count == 0)


def window_sizes(
    windows: int | Sequence[int | Sequence[int]], maps: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], ...]:
    """Returns the window of each stage, nowhere larger than the map at the planned patch.

    Args:
        windows: One number for all, or one entry for each stage: a number, or one for each axis.
        maps: Size of the map of each stage.

    Raises:
        UsageError: Not of that form.
    """
    entries = [windows] * len(maps) if isinstance(windows, Integral) else windows
    if not isinstance(entries, Sequence) or isinstance(entries, str) or len(entries) != len(maps):
        raise UsageError(
            f"window_size must be an integer or one entry for each of the {len(maps)} stages, got "
            f"{windows!r}.",
            code="E-NETWORK-ARGUMENT",
        )
    return tuple(_window(entry, size) for entry, size in zip(entries, maps, strict=True))


def _window(entry: object, size: Sequence[int]) -> tuple[int, ...]:
    edges = entry if isinstance(entry, Sequence) and not isinstance(entry, str) else [entry] * len(size)
    if len(edges) != len(size):
        raise UsageError(
            f"A window needs a number for each of the {len(size)} axes, got {entry!r}.",
            code="E-NETWORK-ARGUMENT",
        )
    return tuple(
        min(positive_integer("window_size", edge), full) for edge, full in zip(edges, size, strict=True)
    )
