"""Reads the fields of one map, each against its bound; what is left over decides by its name.  (README section 3.)

An unknown key that begins with ``~`` may be ignored; any other unknown key is critical.
"""

import unicodedata
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..errors import MalformedMessage, UnknownCriticalField
from .canonical import Value

IGNORABLE = "~"
T = TypeVar("T")

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1


class Fields:
    """One map off the wire.  Each reader removes its key; `end` judges what nobody asked for."""

    def __init__(self, value: Value, what: str) -> None:
        if not isinstance(value, dict):
            raise MalformedMessage(f"{what}: not a map")
        self._left = dict(value)
        self._what = what

    def _take(self, key: str) -> Value:
        try:
            return self._left.pop(key)
        except KeyError:
            raise MalformedMessage(f"{self._what}: no {key!r}") from None

    def _wrong(self, key: str, expected: str) -> MalformedMessage:
        return MalformedMessage(f"{self._what}: {key!r} must be {expected}")

    def integer(self, key: str, low: int = 0, high: int = U64) -> int:
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(key, f"an integer from {low} to {high}")
        return value

    def flag(self, key: str) -> bool:
        value = self._take(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def data(self, key: str, *, exactly: int | None = None, at_most: int | None = None) -> bytes:
        value = self._take(key)
        if not isinstance(value, bytes):
            raise self._wrong(key, "bytes")
        if exactly is not None and len(value) != exactly:
            raise self._wrong(key, f"{exactly} bytes")
        if at_most is not None and len(value) > at_most:
            raise self._wrong(key, f"at most {at_most} bytes")
        return value

    def text(self, key: str, *, at_most_bytes: int, allow: str = "") -> str:
        """Text without control characters, but for those in `allow`."""
        value = self._take(key)
        if not isinstance(value, str) or len(value.encode()) > at_most_bytes:
            raise self._wrong(key, f"text of at most {at_most_bytes} bytes")
        if any(unicodedata.category(char) == "Cc" and char not in allow for char in value):
            raise self._wrong(key, "free of control characters")
        return value

    def choice(self, key: str, options: frozenset[str]) -> str:
        value = self._take(key)
        if not isinstance(value, str) or value not in options:
            raise self._wrong(key, "one of " + ", ".join(sorted(options)))
        return value

    def items(self, key: str, *, at_most: int, at_least: int = 0) -> list[Value]:
        value = self._take(key)
        if not isinstance(value, list) or not at_least <= len(value) <= at_most:
            raise self._wrong(key, f"a list of {at_least} to {at_most}")
        return value

    def map(self, key: str) -> "Fields":
        return Fields(self._take(key), f"{self._what}.{key}")

    def value(self, key: str) -> Value:
        return self._take(key)

    def maybe(self, key: str, read: Callable[[str], T]) -> T | None:
        """`read(key)`, or None where the field is nil (stated as unknown) or ignorable and absent."""
        if self._left.get(key, None if key.startswith(IGNORABLE) else False) is None:
            self._left.pop(key, None)
            return None
        return read(key)

    def each(self, key: str, *, at_most: int) -> Iterator["Fields"]:
        for index, item in enumerate(self.items(key, at_most=at_most)):
            yield Fields(item, f"{self._what}.{key}[{index}]")

    def end(self) -> None:
        """Every known field was read: an unknown critical one is left, or the map is done."""
        for key in self._left:
            if not key.startswith(IGNORABLE):
                raise UnknownCriticalField(f"{self._what}: unknown critical field {key!r:.64}")


def plain(text: str, at_most: int = 64) -> str:
    """A peer's words, fit to be shown: no control, bidi or other format character, at most `at_most` characters."""
    shown = "".join(
        char for char in text if unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    )
    return shown[:at_most]
