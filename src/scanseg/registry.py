"""A table from names to builders; unknown names list their nearest neighbours."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
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


def accepted_options(build: Callable[..., object], *, reserved: Iterable[str] = ()) -> tuple[str, ...]:
    """Returns the names of the keyword-only arguments of `build`, without the `reserved` ones."""
    parameters = inspect.signature(build).parameters.values()
    hidden = set(reserved)
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in hidden)


def check_options(
    kind: str,
    name: str,
    build: Callable[..., object],
    options: Iterable[str],
    *,
    reserved: Iterable[str] = (),
) -> None:
    """Refuses options that the entry `name` of the table `kind` does not take.

    Args:
        kind: Word for the message, for example `loss`.
        name: Name of the entry.
        build: Its builder; its keyword-only arguments are what it accepts.
        options: Names that somebody wants to pass.
        reserved: Keyword-only arguments that are not options, because the caller sets them.

    Raises:
        UsageError: An option is unknown; the hint lists the accepted ones.
    """
    accepted = accepted_options(build, reserved=reserved)
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise UsageError(
            f"The {kind} {name!r} has no option {', '.join(map(repr, unknown))}.",
            code=f"E-{kind.upper().replace(' ', '-')}-OPTION",
            hint=f"Accepted: {', '.join(accepted) or 'none'}.",
        )
