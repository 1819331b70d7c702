"""Places, shards and lookups: how adverts of more peers than one topic carries are found.  (README section 7.)"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from ..errors import MalformedMessage
from .advert import MAX_SHARD_BITS, MAX_SYNC_ADVERTS, TOPIC
from .canonical import Value
from .coordinate import Coordinate
from .fields import Fields
from .hello import MODEL_ID_BYTES

PROTOCOL = "/nearlight/lookup/1"
PLACE_BYTES = 32
MAX_FOUND = 32  # adverts in one answer
MAX_FIND_BYTES = 1024
assert MAX_FOUND <= MAX_SYNC_ADVERTS  # the answer is that of a sync


@lru_cache(maxsize=8192)  # twice as many as a directory knows
def place_of(peer: str) -> bytes:
    """Where a peer id is among all: its first bits name its shards."""
    return sha256(b"nearlight/place/1\0" + peer.encode()).digest()


def bits_in_common(first: bytes, second: bytes) -> int:
    """How many leading bits two places share."""
    differing = int.from_bytes(first, "big") ^ int.from_bytes(second, "big")
    return 8 * PLACE_BYTES - differing.bit_length()


def shard_of(place: bytes, bits: int) -> int:
    """The first `bits` bits of a place, at most MAX_SHARD_BITS."""
    return int.from_bytes(place[:2], "big") >> (MAX_SHARD_BITS - bits)


def topic_of(network: str, place: bytes, bits: int) -> str:
    """The topic of the shard of `bits` bits that `place` is in."""
    topic = TOPIC.format(network=network)
    return f"{topic}/{shard_of(place, bits):0{bits}b}" if bits else topic


@dataclass(frozen=True)
class Find:
    """Which adverts are looked for: of those who offer `model`, if it is given, the nearest to `near` or to `place`."""

    place: bytes | None = None
    near: Coordinate | None = None
    model: bytes | None = None
    at_most: int = MAX_FOUND

    def to_value(self) -> Value:
        near = self.near.to_bytes() if self.near else None
        return [
            "find",
            {"~near": near, "at_most": self.at_most, "model": self.model, "~place": self.place},
        ]

    @classmethod
    def from_untrusted(cls, value: Value) -> "Find":
        match value:
            case ["find", body]:
                fields = Fields(body, "find")
                near = fields.maybe("~near", lambda key: fields.data(key, at_most=64))
                find = cls(
                    place=fields.maybe("~place", lambda key: fields.data(key, exactly=PLACE_BYTES)),
                    near=Coordinate.from_untrusted(near) if near is not None else None,
                    model=fields.maybe("model", lambda key: fields.data(key, exactly=MODEL_ID_BYTES)),
                    at_most=fields.integer("at_most", 1, MAX_FOUND),
                )
                fields.end()
                return find
        raise MalformedMessage("not a lookup")
