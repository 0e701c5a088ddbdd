"""Conditions of rule tables: a few comparisons over named facts. Nothing is executed.

    label.touches_border and not (label.volume_ml > 1.5 or label.name == "cyst")

`and or not`, parentheses, `< <= > >= == !=`, numbers, texts in quotes, true and false, and names of facts. A
fact that is not known makes a comparison unknown; a rule holds only where its condition is certainly true.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from scanseg.errors import DataError

Fact = bool | float | str | None
Check = Callable[[Mapping[str, Any]], Fact]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?\d+(?:\.\d+)?)|(?P<text>\"[^\"]*\")|(?P<name>[a-z_]+(?:\.[a-z0-9_]+)*)"
    r"|(?P<sign><=|>=|==|!=|<|>|\(|\)))"
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_DEEPEST = 20
_LONGEST = 500


@dataclass(frozen=True)
class Condition:
    """A parsed condition.

    Attributes:
        text: As written.
        names: The facts that it asks for.
    """

    text: str
    names: frozenset[str]
    _check: Check

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Tells whether it is certainly true."""
        return self._check(facts) is True


def parse_condition(text: str, known: Collection[str]) -> Condition:
    """Returns the condition that a text says.

    Args:
        text: See the module.
        known: Names of facts that may be used.

    Raises:
        DataError: It does not follow the grammar, or uses an unknown name.

    Example:
        >>> parse_condition("a.b > 2 and not c", {"a.b", "c"}).holds({"a.b": 3, "c": False})
        True
        >>> parse_condition("a.b > 2", {"a.b"}).holds({"a.b": None})
        False
    """
    parser = _Parser(text, frozenset(known))
    check = parser.alternatives(0)
    if parser.here is not None:
        raise parser.fault()
    return Condition(text, frozenset(parser.used), check)


class _Parser:
    def __init__(self, text: str, known: frozenset[str]) -> None:
        self._text, self._known, self.used = text, known, set[str]()
        self._tokens = list(_tokens(text))
        self._at = 0

    @property
    def here(self) -> tuple[str, str] | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def fault(self) -> DataError:
        found = "its end" if self.here is None else repr(self.here[1])
        return _refused(self._text, f"{found} was not expected")

    def _take(self, *words: str) -> str | None:
        if self.here is not None and self.here[0] in ("name", "sign") and self.here[1] in words:
            self._at += 1
            return self._tokens[self._at - 1][1]
        return None

    def alternatives(self, depth: int) -> Check:
        if depth > _DEEPEST:
            raise _refused(self._text, "it is nested too deeply")
        parts = [self._conjunction(depth)]
        while self._take("or"):
            parts.append(self._conjunction(depth))
        return parts[0] if len(parts) == 1 else _any(parts)

    def _conjunction(self, depth: int) -> Check:
        parts = [self._negation(depth)]
        while self._take("and"):
            parts.append(self._negation(depth))
        return parts[0] if len(parts) == 1 else _all(parts)

    def _negation(self, depth: int) -> Check:
        if self._take("not"):
            if depth > _DEEPEST:
                raise _refused(self._text, "it is nested too deeply")
            inner = self._negation(depth + 1)
            return lambda facts: None if (value := inner(facts)) is None else not value
        if self._take("("):
            inner = self.alternatives(depth + 1)
            if not self._take(")"):
                raise self.fault()
            return inner
        left = self._value()
        sign = self._take(*_COMPARE)
        return _truth(left) if sign is None else _compared(left, sign, self._value())

    def _value(self) -> Check:
        if self.here is None or self.here[0] == "sign":
            raise self.fault()
        kind, word = self.here
        self._at += 1
        if kind == "number":
            number = float(word)
            return lambda facts: number
        if kind == "text":
            return lambda facts: word[1:-1]
        if word in ("true", "false"):
            return lambda facts: word == "true"
        if word in ("and", "or", "not"):
            self._at -= 1
            raise self.fault()
        if word not in self._known:
            raise _refused(self._text, f"{word!r} is no fact; known are {', '.join(sorted(self._known))}")
        self.used.add(word)
        return lambda facts: facts.get(word)


def _tokens(text: str) -> list[tuple[str, str]]:
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST:
        raise _refused(str(text)[:60], f"it must be a text of 1 to {_LONGEST} characters")
    found, place = [], 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise _refused(text, f"{text[place : place + 10]!r} is not understood")
        found.append((match.lastgroup, match[match.lastgroup]))
        place = match.end()
    return found


def _truth(value: Check) -> Check:
    """A fact that stands alone must be true or false; numbers and texts are neither."""
    return lambda facts: found if isinstance(found := value(facts), bool) else None


def _compared(left: Check, sign: str, right: Check) -> Check:
    def check(facts: Mapping[str, Any]) -> Fact:
        one, two = left(facts), right(facts)
        if one is None or two is None or isinstance(one, str) != isinstance(two, str):
            return None
        return _COMPARE[sign](one, two)

    return check


def _all(parts: list[Check]) -> Check:
    def check(facts: Mapping[str, Any]) -> Fact:
        found = [part(facts) for part in parts]
        return False if False in found else None if None in found else True

    return check


def _any(parts: list[Check]) -> Check:
    def check(facts: Mapping[str, Any]) -> Fact:
        found = [part(facts) for part in parts]
        return True if True in found else None if None in found else False

    return check


def _refused(text: str, what: str) -> DataError:
    return DataError(
        f"The condition {text!r} cannot be used: {what}.",
        code="E-RULES-CONDITION",
        hint="Write comparisons of facts joined by and, or, not; see docs/how-to/serve.md.",
    )
