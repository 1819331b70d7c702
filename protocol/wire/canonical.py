"""One value, one encoding: the msgpack subset that is hashed and signed.  (README section 3.)

Values are None, bool, int, bytes, str, list and dict with str keys.  There are no floats: a float has several
encodings and no portable rounding.  Maps are sorted by the UTF-8 bytes of their keys.

A function whose argument came off the wire ends in ``_untrusted`` and raises nothing but RemoteProtocolError.
"""

from typing import TypeAlias

import msgpack

from ..errors import MalformedMessage

Value: TypeAlias = "bool | int | bytes | str | list[Value] | dict[str, Value] | None"

MAX_MESSAGE_BYTES = 1 << 20
MAX_DEPTH = 16  # maps and lists together
MAX_ITEMS = 4096  # in one list or map: msgpack allocates what a header claims, at each of its 1,024 levels


def encode(value: Value) -> bytes:
    """The one encoding of `value`; TypeError or ValueError on a bug of our own."""
    return msgpack.packb(_sorted(value, MAX_DEPTH), use_bin_type=True, strict_types=True)  # type: ignore[no-any-return]


def decode_untrusted(data: bytes, *, at_most_bytes: int = MAX_MESSAGE_BYTES) -> Value:
    """The value `data` encodes, if `data` is its one encoding; MalformedMessage otherwise."""
    if len(data) > at_most_bytes:
        raise MalformedMessage(f"{len(data)} bytes, limit {at_most_bytes}")
    try:
        value: Value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            ext_hook=_refuse_ext,
        )
        again = encode(value)
    except (ValueError, TypeError) as exc:
        raise MalformedMessage(str(exc) or type(exc).__name__) from exc
    # Rules out long-form integers, unsorted or repeated keys, and the rest, at once.
    if again != data:
        raise MalformedMessage("not the canonical encoding")
    return value


def _sorted(value: Value, depth: int) -> Value:
    match value:
        case None | bool() | bytes() | str():
            return value
        case int() if -(1 << 63) <= value < 1 << 64:
            return value
        case list() | dict() if depth == 0:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        case list():
            return [_sorted(item, depth - 1) for item in value]
        case dict():
            return {key: _sorted(value[key], depth - 1) for key in sorted(value, key=str.encode)}
    raise TypeError(f"no canonical encoding for a {type(value).__name__}")


def _refuse_ext(code: int, data: bytes) -> None:
    raise ValueError(f"extension type {code}")
