"""Messages out of a byte stream: a 4-byte big-endian length, then one canonical value.  (README section 4.)"""

from collections.abc import Iterator

from ..errors import MalformedMessage
from .canonical import MAX_MESSAGE_BYTES, Value, decode_untrusted, encode

HEADER_BYTES = 4


def pack(value: Value) -> bytes:
    body = encode(value)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class FrameReader:
    """Feed it bytes in any sizes; take whole messages out."""

    def __init__(self, *, at_most_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._at_most_bytes = at_most_bytes
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer)

    def feed_untrusted(self, data: bytes) -> Iterator[Value]:
        """The messages completed by `data`.  Consume the iterator before feeding again."""
        self._buffer += data
        while len(self._buffer) >= HEADER_BYTES:
            size = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
            if size > self._at_most_bytes:  # before we buffer it, not after
                raise MalformedMessage(f"a message of {size} bytes, limit {self._at_most_bytes}")
            if len(self._buffer) < HEADER_BYTES + size:
                return
            body = bytes(self._buffer[HEADER_BYTES : HEADER_BYTES + size])
            del self._buffer[: HEADER_BYTES + size]
            yield decode_untrusted(body, at_most_bytes=self._at_most_bytes)

    def close(self) -> None:
        """The peer closed its side; half a message is its error."""
        if self._buffer:
            raise MalformedMessage(f"the stream ended inside a message, {len(self._buffer)} bytes left over")
