"""Where a peer is in the space of round trips, as it says itself: three dimensions and a height.  (README section 7.)"""

import struct
from dataclasses import dataclass
from math import sqrt

COORDINATE_BYTES = 20
MAX_OFFSET_US = 10_000_000  # along one dimension, and of the height: nothing on earth is 10 s away
MAX_ERROR_MILLIONTHS = 2_000_000
_LAYOUT = struct.Struct(">iiiII")


@dataclass(frozen=True)
class Coordinate:
    """A claim.  The round trip between two is estimated as the distance in space and both heights."""

    x_us: int
    y_us: int
    z_us: int
    height_us: int  # of the access line: it is part of every way
    error_millionths: int  # of an estimate: its usual relative error, as the peer sees it

    def __post_init__(self) -> None:
        if not self._possible:
            raise ValueError("a coordinate beyond its bounds")

    @property
    def _possible(self) -> bool:
        return (
            max(abs(self.x_us), abs(self.y_us), abs(self.z_us)) <= MAX_OFFSET_US
            and 0 <= self.height_us <= MAX_OFFSET_US
            and 0 <= self.error_millionths <= MAX_ERROR_MILLIONTHS
        )

    def to_bytes(self) -> bytes:
        return _LAYOUT.pack(self.x_us, self.y_us, self.z_us, self.height_us, self.error_millionths)

    @classmethod
    def from_untrusted(cls, data: bytes) -> "Coordinate | None":
        """None where the bytes are none that this version knows: a peer without a coordinate is a peer like any other."""
        if len(data) != COORDINATE_BYTES:
            return None
        try:
            return cls(*_LAYOUT.unpack(data))
        except ValueError:
            return None

    def rtt_us(self, other: "Coordinate") -> int:
        """The estimated round trip to `other`."""
        x, y, z = self.x_us - other.x_us, self.y_us - other.y_us, self.z_us - other.z_us
        return round(sqrt(x * x + y * y + z * z)) + self.height_us + other.height_us
