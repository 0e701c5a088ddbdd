"""Phrases of the messages about datasets, fit for one line of a log whatever a file is called."""

from collections.abc import Iterable, Sequence


def shown(text: str) -> str:
    """Returns `text` with what cannot be printed (control, direction, unpaired characters) as escapes.

    Example:
        >>> shown("a\\nb")
        'a\\\\nb'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def listed(names: Sequence[str], *, most: int = 5) -> str:
    """Returns the names as one phrase.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    head = ", ".join(shown(name) for name in names[:most])
    return head + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(count: int, noun: str, plural: str = "") -> str:
    """Returns `1 case`, `2 cases`, `0 cases`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def in_xyz(numbers: Iterable[float]) -> str:
    """Returns sizes or spacings, given as (z, y, x), the way headers and viewers show them: x first.

    Example:
        >>> in_xyz((10.0, 1.37, 1.37))
        '1.37x1.37x10'
    """
    return "x".join(f"{number:.6g}" for number in reversed(list(numbers)))
