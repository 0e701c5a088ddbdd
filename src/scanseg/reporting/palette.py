"""Colours of labels: the same label has the same colour in every picture, also for colour-blind eyes."""

from collections.abc import Sequence

import numpy as np

from scanseg.types import Array, Label

# Okabe and Ito 2008, without black; those that stand out on grey images first. Their vermillion and blue are
# kept for differences.
_BASE = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73")
# The same hues lighter, then darker, then much lighter, for the sixth label and on.
_MIXES = ((0.0, 1.0), (0.45, 1.0), (0.35, 0.0), (0.75, 1.0))

MISSED, EXTRA, CONFUSED, OUTLINE = "#E8412A", "#2F6BFF", "#D9C2FF", "#D0D5DA"
"""Colours of differences: in the reference only, in the prediction only, another label; then the outline."""


def label_colours(labels: Sequence[Label]) -> dict[int, str]:
    """Returns value -> `#RRGGBB` for every label but the background (value 0), by its place in the list.

    Five hues that colour-blind people tell apart, then the same hues lighter and darker; after 20 labels they
    repeat.

    Example:
        >>> label_colours([Label(0, "background"), Label(4, "liver")])
        {4: '#E69F00'}
    """
    values = [label.value for label in labels if label.value != 0]
    return {value: _colour(place) for place, value in enumerate(values)}


def rgb(colour: str) -> Array:
    """Returns `#RRGGBB` as three floats in [0, 1]."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _colour(place: int) -> str:
    amount, target = _MIXES[place // len(_BASE) % len(_MIXES)]
    mixed = (1 - amount) * rgb(_BASE[place % len(_BASE)]) + amount * target
    return "#" + "".join(f"{round(255 * part):02X}" for part in mixed)
