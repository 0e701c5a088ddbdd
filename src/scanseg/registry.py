"""A table from names to builders; unknown names list their nearest neighbours."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from scanseg.errors import UsageError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Maps snake_case names to functions or classes, in order of registration.

    Example:
        >>> colours = Registry[object]("colour")
        >>> @colours.register("red")
        ... def red(): ...
        >>> list(colours)
        ['red']
        >>> colours["rod"]
        Traceback (most recent call last):
        scanseg.errors.UsageError: Unknown colour 'rod'. Did you mean red? Known: red.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that files its argument under `name`.

        Raises:
            ValueError: `name` is taken.
        """

        def decorate(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self._kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return decorate

    def __getitem__(self, name: str) -> T:
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.5)
        suggestion = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            f"Unknown {self._kind} {name!r}.",
            code=f"E-{self._kind.upper().replace(' ', '-')}-UNKNOWN",
            hint=f"{suggestion}Known: {', '.join(self._entries)}.",
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
