"""Network coordinates (Vivaldi, 3-D and height): the round trip to peers that nobody here has measured.

They say whom to measure, where there are more peers than can be pinged, and nothing else: a measured round trip always
counts instead.  The algorithm is that of Dabek et al., "Vivaldi: A Decentralized Network Coordinate System" (SIGCOMM
2004), sections 3.3 and 5.4, with its constants.  What others tell is not believed further than this:

- a peer pulls once in `PEER_EVERY_US`, whatever it sends, so that each of the measured has one share;
- one that is wrong by more than `OUTLIER` times the median error over the peers measured last does not pull at all, so
  that fewer than half of them cannot drag further than honest noise does, wherever they say they are; and one that is
  wrong by more than `ABSURD_US` never does.  Who is so wrong about most is lost, and starts anew;
- an error is not believed to be below `LEAST_ERROR`, so that nobody counts for much more than others.
"""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from math import sqrt
from statistics import median

from ..wire.coordinate import MAX_ERROR_MILLIONTHS, MAX_OFFSET_US, Coordinate

SHARE = 0.25  # Vivaldi's c_c and c_e: of the way to where one measurement alone would put it
LEAST_ERROR = 0.05
MOST_ERROR = 1.5  # before anything was measured, and after anything was: serf's coordinate.Config
LEAST_HEIGHT_US = 100.0
OUTLIER = 3.0  # times the median error
FEW = 3  # of so few errors no median is taken
ABSURD_US = 500_000.0  # an error that no way on earth explains
PEER_EVERY_US = 5_000_000
NEIGHBOURS = 64  # measured last, whose errors are compared
MAX_RTT_US = 2 * MAX_OFFSET_US
_NEAR_ZERO_US = 1.0


@dataclass
class _Seen:
    at_us: int
    error_us: float  # estimated minus measured, without its sign


class Coordinates:
    """Where this peer is.  `now_us` is monotonic; the same calls give the same place on every machine."""

    def __init__(self, seed: bytes) -> None:
        """`seed`: anything that others do not share, such as one's key; in what direction to leave a shared place."""
        self._seed = seed
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._moves = self._ignored = 0
        self._at, self._height, self._error = [0.0, 0.0, 0.0], LEAST_HEIGHT_US, MOST_ERROR

    @property
    def own(self) -> Coordinate:
        x, y, z = (round(offset) for offset in self._at)
        error_millionths = min(MAX_ERROR_MILLIONTHS, round(self._error * 1e6))
        return Coordinate(x, y, z, round(self._height), error_millionths)

    def on_rtt(self, peer: str, claimed: Coordinate | None, rtt_us: int, now_us: int) -> None:
        """`rtt_us`: the least that was measured lately to `peer`, which says that it is at `claimed`."""
        if claimed is None or not 0 < rtt_us <= MAX_RTT_US:
            return
        seen = self._seen.get(peer)
        if seen is not None and now_us < seen.at_us + PEER_EVERY_US:
            return
        away = [self._at[0] - claimed.x_us, self._at[1] - claimed.y_us, self._at[2] - claimed.z_us]
        straight = sqrt(away[0] * away[0] + away[1] * away[1] + away[2] * away[2])
        if straight < _NEAR_ZERO_US:
            away, straight = self._some_direction(), 1.0
        estimate = straight + self._height + claimed.height_us
        off = rtt_us - estimate
        self._remember(peer, _Seen(now_us, abs(off)))
        self._move(claimed, rtt_us, off, [offset / straight for offset in away], estimate)

    def _move(
        self, claimed: Coordinate, rtt_us: int, off: float, direction: list[float], estimate: float
    ) -> None:
        theirs = max(LEAST_ERROR, claimed.error_millionths / 1e6)
        weight = self._error / (self._error + theirs)
        usual = median(seen.error_us for seen in self._seen.values()) if len(self._seen) > FEW else ABSURD_US
        if usual > ABSURD_US:
            self._start_anew()
            return
        if abs(off) > min(ABSURD_US, OUTLIER * usual):
            self._ignored += 1
            return
        relative = min(MOST_ERROR, abs(off) / rtt_us)
        share = SHARE * weight
        self._error = min(MOST_ERROR, max(LEAST_ERROR, relative * share + self._error * (1 - share)))
        force = share * off
        self._height = self._height + force * (self._height + claimed.height_us) / estimate
        self._height = min(float(MAX_OFFSET_US), max(LEAST_HEIGHT_US, self._height))
        self._at = [
            min(float(MAX_OFFSET_US), max(-float(MAX_OFFSET_US), at + force * towards))
            for at, towards in zip(self._at, direction, strict=True)
        ]
        self._moves += 1

    def _start_anew(self) -> None:
        self._at, self._height, self._error = [0.0, 0.0, 0.0], LEAST_HEIGHT_US, MOST_ERROR
        self._seen.clear()

    def statistics(self) -> dict[str, int]:
        return {
            "moves": self._moves,
            "ignored": self._ignored,
            "neighbours": len(self._seen),
            "error_millionths": round(self._error * 1e6),
        }

    def _remember(self, peer: str, seen: _Seen) -> None:
        self._seen[peer] = seen
        self._seen.move_to_end(peer)
        if len(self._seen) > NEIGHBOURS:
            self._seen.popitem(last=False)

    def _some_direction(self) -> list[float]:
        """A unit vector, another one with each move: two peers in one place must not leave it side by side."""
        digest = sha256(self._seed + self._moves.to_bytes(8, "big")).digest()
        raw = [int.from_bytes(digest[at : at + 4], "big") / (1 << 31) - 1.0 for at in (0, 4, 8)]
        length = sqrt(raw[0] * raw[0] + raw[1] * raw[1] + raw[2] * raw[2]) or 1.0
        return [each / length for each in raw]
