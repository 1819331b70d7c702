"""Whom to stay connected to, and so to measure, when there are more peers than connections.

Coordinates say only who may be worth measuring; of who was measured, only the measured round trip counts.  Claims are
cheap, so what they can take is bounded: no source fills the places while others want them, who said it was near and is
not makes way for the next, a connection is given up only once a better one is open, and some places go by lot, whatever
anybody says.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

from ..wire.coordinate import Coordinate
from ..wire.lookup import place_of, shard_of
from ..wire.statement import Statement
from .prediction import Candidate, Prediction, predict
from .sources import source_of

NEAR = 20
MATES = 2  # of one's shard, by lot; as many choose us, and such a graph holds together
FAR = 8  # of all, by lot: the swarm's graph holds together, and coordinates need the far as well as the near
CONNECTIONS = NEAR + MATES + FAR
# Of one that asks: the further ones go to who would draw soonest what it asks for.  (demand.py)
MOST_CONNECTIONS = 112
SOURCE_SHARE = 4  # one source gets a fourth of each kind of place, and more only where nobody else wants it
# A connected peer counts as so much nearer: peers alike do not take turns.
STAYS_PERCENT, STAYS_US = 75, 5_000
ROUND_TRIPS = 2  # in which an offer and a picture come and go
TOO_SLOW = 4  # times the quickest: who takes longer, or cannot draw it at all, is no better for being near
LOST_MILLIONTHS = 1_000_000  # who is wrong by as much as the distance does not know where it is
# So many connections stay wanted for so long: who asks in bursts does not dial the same peers each time.
KEPT_US = 300_000_000
SWAP_EVERY_US = 30_000_000  # with all places taken: a handshake and a sync are some ten kB
FURTHER_EVERY_US = 1_000_000  # beyond CONNECTIONS: a handshake and what follows it take 25 ms of a core
# At once, once so many could have come one by one: who begins to ask wants the quickest soon.  In simulation of the first
# minute at load .6, p50/p95 over the oracle 1.12/1.21 for 1.20/1.30 with 4, and a twentieth more traffic in that minute.
FURTHER_AT_ONCE = 24
LOT_EVERY_US = 300_000_000  # and one that only the lot wants
LOTS_EVERY_US = 1_800_000_000  # others are drawn


@dataclass(frozen=True)
class Changes:
    """What to do now."""

    dial: tuple[str, ...]  # in this order
    drop: tuple[str, ...]


class Neighbours:
    """`now_us` is monotonic and never runs backwards."""

    def __init__(self, own_peer: str) -> None:
        self._own = own_peer
        self._swapped_us: int | None = None
        self._further_us: int | None = None  # since then there is room, for one each FURTHER_EVERY_US
        self._connections = CONNECTIONS
        self._connections_us = 0  # when so many were wanted last
        self._counts: Counter[str] = Counter()

    def changes(
        self,
        candidates: Sequence[Candidate],
        *,
        bits: int,
        coordinate: Coordinate,
        now_us: int,
        dialling: Collection[str] = (),
        barred: Collection[str] = (),
        droppable: Collection[str] = (),
        connections: int = CONNECTIONS,
        asked: Sequence[Statement] = (),
    ) -> Changes:
        """`candidates`: all who are known, without this peer, which is in a shard of `bits` bits at `coordinate`.

        `barred`: a dial failed lately.  `droppable`: connections that this peer opened and that nothing goes over.
        `connections`: as many are wanted now; bounded, and fewer count only once no more were wanted for KEPT_US.
        `asked`: pictures as this peer asked for lately, each of another kind.
        """
        connections = self._wanted_lately(connections, now_us)
        open_now = sum(candidate.connected for candidate in candidates)
        reachable = [each for each in candidates if each.connected or each.peer not in barred]
        if len(reachable) <= connections:
            wanted = {each.peer: SWAP_EVERY_US for each in reachable}
        else:
            wanted = self._wanted(reachable, bits, coordinate, now_us, connections, asked)
        connected = {each.peer for each in reachable if each.connected}
        missing = [peer for peer in wanted if peer not in connected and peer not in dialling]
        drop: list[str] = []
        if open_now > connections:
            spare = [each for each in reachable if each.peer in droppable and each.peer not in wanted]
            spare.sort(key=lambda each: -_distance_us(each, coordinate))
            drop = [each.peer for each in spare[: open_now - connections]]
        room = connections - open_now - len(dialling)
        if (
            room <= 0
            and missing
            and (self._swapped_us is None or now_us >= self._swapped_us + wanted[missing[0]])
        ):
            self._swapped_us, room = now_us, 1
            self._counts["swaps"] += 1
        elif room > 0 and missing:
            few = max(0, CONNECTIONS - open_now - len(dialling))
            if few < min(room, len(missing)):
                few += self._further(min(room, len(missing)) - few, now_us)
            room = min(room, few)
        self._counts["dropped"] += len(drop)
        return Changes(tuple(missing[: max(0, room)]), tuple(drop))

    def statistics(self) -> dict[str, int]:
        return {name: self._counts[name] for name in ("swaps", "dropped")}

    def _further(self, most: int, now_us: int) -> int:
        """How many beyond CONNECTIONS are dialled now, of so many that might be."""
        full_us = now_us - FURTHER_AT_ONCE * FURTHER_EVERY_US
        since_us = full_us if self._further_us is None else max(full_us, self._further_us)
        further = min(most, (now_us - since_us) // FURTHER_EVERY_US)
        self._further_us = since_us + further * FURTHER_EVERY_US
        return further

    def _wanted_lately(self, connections: int, now_us: int) -> int:
        bounded = max(CONNECTIONS, min(MOST_CONNECTIONS, connections))
        if bounded >= self._connections or now_us >= self._connections_us + KEPT_US:
            self._connections, self._connections_us = bounded, now_us
        return self._connections

    def _wanted(
        self,
        reachable: Sequence[Candidate],
        bits: int,
        coordinate: Coordinate,
        now_us: int,
        connections: int,
        asked: Sequence[Statement],
    ) -> dict[str, int]:
        """At most `connections` peers, those wanted most first; and how long after the last one may be swapped in (us)."""
        wanted: dict[str, int] = {}
        lot = b"%s %d " % (self._own.encode(), now_us // LOTS_EVERY_US)

        def by_lot(candidate: Candidate) -> bytes:
            return sha256(lot + candidate.peer.encode()).digest()

        def by_distance(candidate: Candidate) -> tuple[bool, float, str]:
            return not candidate.advert.kinds, _distance_us(candidate, coordinate), candidate.peer

        if bits:
            own = shard_of(place_of(self._own), bits)
            mates = [each for each in reachable if shard_of(place_of(each.peer), bits) == own]
            _take(mates, by_lot, MATES, wanted, SWAP_EVERY_US)
        _take(reachable, by_distance, NEAR, wanted, SWAP_EVERY_US)
        if further := connections - CONNECTIONS:
            takes_us = _takes_us(reachable, asked, now_us)

            def by_time(candidate: Candidate) -> tuple[bool, float, str]:
                us = ROUND_TRIPS * _distance_us(candidate, coordinate) + takes_us[candidate.peer]
                return not candidate.advert.kinds, us, candidate.peer

            _take(reachable, by_time, further, wanted, SWAP_EVERY_US)
        _take(reachable, by_lot, connections - len(wanted), wanted, LOT_EVERY_US)
        return wanted


def _take(
    candidates: Sequence[Candidate],
    key: Callable[[Candidate], object],
    places: int,
    wanted: dict[str, int],
    pause_us: int,
) -> None:
    """The first `places` by `key` of who is not wanted yet; at first no source gets more than its share."""
    ranked = sorted((each for each in candidates if each.peer not in wanted), key=key)  # type: ignore[arg-type]
    share, taken = -(-places // SOURCE_SHARE), Counter[str | None]()
    late: list[str] = []
    left = places
    for candidate in ranked:
        if left == 0:
            return
        source = source_of(candidate.advert)
        if taken[source] >= share:
            late.append(candidate.peer)
            continue
        taken[source] += 1
        wanted[candidate.peer] = pause_us
        left -= 1
    for peer in late[:left]:
        wanted[peer] = pause_us


def _distance_us(candidate: Candidate, coordinate: Coordinate) -> float:
    """Measured; else by its own word and ours; else beyond all."""
    there = candidate.advert.coordinate
    if candidate.rtt is not None:
        us = candidate.rtt.min_us
    elif there is not None and max(coordinate.error_millionths, there.error_millionths) < LOST_MILLIONTHS:
        us = coordinate.rtt_us(there)
    else:
        return float("inf")
    return us * STAYS_PERCENT / 100 - STAYS_US if candidate.connected else us


def _takes_us(candidates: Sequence[Candidate], asked: Sequence[Statement], now_us: int) -> dict[str, float]:
    """What each peer would take to draw, loading included: the mean over those `asked`.  No way and no wait is in it."""
    sums = dict.fromkeys((each.peer for each in candidates), 0.0)
    for statement in asked:
        found = {each.peer: predict(each, statement, now_us) for each in candidates}
        busy_us = {peer: each.busy_us for peer, each in found.items() if isinstance(each, Prediction)}
        most_us = TOO_SLOW * min(busy_us.values(), default=0)
        for peer in sums:
            sums[peer] += min(most_us, busy_us.get(peer, most_us)) / len(asked)
    return sums
