"""How often to advertise, and to how many: what gossip costs an idle peer stays within a budget at any size of the swarm.

A swarm is one topic while that fits.  As it grows, adverts come less often; when they come as seldom as their lifetime
allows, the topic is split by the peers' places, in two, in four, ...  Everyone counts the same shard and so comes to
the same depth; who does not follows the others of its shard.  (README section 7.)
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..wire.advert import MAX_LIFETIME_S, MAX_SHARD_BITS
from ..wire.lookup import place_of, shard_of
from .neighbours import CONNECTIONS, MATES

TOPIC_BYTES_PER_S = 2_000  # of the 5 kB/s of an idle peer, as much of the 1 % of a core as pings leave
OFTEN_US, SELDOM_US = 45_000_000, 360_000_000  # means; each time is drawn between 2/3 and 4/3 of it
INTERVALS_ALIVE = 4  # an advert outlives so many mean intervals, as far as MAX_LIFETIME_S goes
MOST_PEERS = 128  # of a shard, whatever its adverts cost in bytes: each takes some ms of a core
SPLIT_PERCENT, MERGE_PERCENT = 105, 60  # of the budget: two halves do not merge again at once
SETTLED_US = 60_000_000
GRACE_US = 1_000_000 * MAX_LIFETIME_S  # for so long also at the old depth: nobody who knew us forgets us
FEW = 4  # of so few peers nobody follows the majority

# gossipsub with the parameters of peer/transport.py.  Bytes on the wire with TCP/IP, noise and yamux, as counted by
# testnet/simulation/control.py
MESH_DEGREE = 5  # the mean where everyone looks for 4 and takes up to 8
RPC_BYTES = 360  # of an advert's message: author, signature, topic, and the record of its sender
PACKET_BYTES = 108  # yamux 12, noise 18, TCP/IP 52, and half an acknowledgement
IHAVE_BYTES = 350  # a packet that tells one message, to each of GOSSIP_DEGREE peers outside of the mesh
GOSSIP_DEGREE = 6


def neighbours_in_topic(bits: int) -> int:
    """Connections within a shard of so many bits, in a large swarm."""
    if not bits:
        return CONNECTIONS
    return 2 * MATES + ((CONNECTIONS - MATES) >> bits)  # as many choose us as we choose


def advert_cost_bytes(advert_bytes: int, neighbours: int) -> int:
    """What one advert costs each peer of its topic, sent and received together."""
    mesh = min(neighbours, MESH_DEGREE)
    told = 2 * min(GOSSIP_DEGREE, neighbours - mesh)  # by us, and to us
    copies = max(1, 2 * (mesh - 1))  # each passes it on to all but who it came from
    return copies * (advert_bytes + RPC_BYTES + PACKET_BYTES) + told * IHAVE_BYTES


@dataclass(frozen=True)
class Pace:
    interval_us: int  # between two adverts, at the mean
    lifetime_s: int


def pace(advert_bytes: int, peers: int, bits: int) -> Pace:
    """For a topic with `peers`, this one included."""
    interval_us = _interval_us(advert_bytes, peers, bits)
    interval_us = min(SELDOM_US, max(OFTEN_US, interval_us))
    return Pace(interval_us, min(MAX_LIFETIME_S, INTERVALS_ALIVE * interval_us // 1_000_000))


class Shards:
    """The depth of one peer's shard: `bits` of its place.  `now_us` is monotonic and never runs backwards."""

    def __init__(self, own_peer: str) -> None:
        self.place = place_of(own_peer)
        self.bits = 0
        self.peers = 1  # in this shard, this one included, as of the last round
        self._until_us: dict[int, int] = {}  # depths left lately
        self._pressed: tuple[int, int] | None = None  # in which direction, since when
        self._leads_until_us = 0  # who goes ahead gives the others time to come along
        self._changes = 0

    def holds(self, peer: str) -> bool:
        """Whether `peer` is in this shard."""
        return not self.bits or shard_of(place_of(peer), self.bits) == shard_of(self.place, self.bits)

    def depths(self, now_us: int) -> tuple[int, ...]:
        """Where to listen and to publish, the present one first."""
        return self.bits, *(bits for bits, until_us in self._until_us.items() if now_us < until_us)

    def pace(self, advert_bytes: int) -> Pace:
        return pace(advert_bytes, self.peers, self.bits)

    def on_round(self, known: Iterable[tuple[str, int]], advert_bytes: int, now_us: int) -> bool:
        """Every few seconds: all peers known, with the depths that they tell.  Whether this peer's has changed."""
        mates = [bits for peer, bits in known if self.holds(peer)]
        self.peers = len(mates) + 1
        for bits in [bits for bits, until_us in self._until_us.items() if now_us >= until_us]:
            del self._until_us[bits]
        step = self._press(advert_bytes, now_us)
        if step:
            self._leads_until_us = now_us + GRACE_US
        elif len(mates) >= FEW and now_us >= self._leads_until_us:
            step = self._follow(mates)
        if not step or not 0 <= self.bits + step <= MAX_SHARD_BITS:
            return False
        self._until_us.pop(self.bits + step, None)
        self._until_us[self.bits] = now_us + GRACE_US
        self.bits += step
        self._pressed = None
        self._changes += 1
        return True

    def statistics(self) -> dict[str, int]:
        return {"shard_bits": self.bits, "shard_peers": self.peers, "shard_changes": self._changes}

    def _follow(self, mates: list[int]) -> int:
        """One step to where more than half of this shard are."""
        deeper, shallower = sum(bits > self.bits for bits in mates), sum(bits < self.bits for bits in mates)
        return (2 * deeper > len(mates)) - (2 * shallower > len(mates))

    def _press(self, advert_bytes: int, now_us: int) -> int:
        """One step where the adverts, come they as seldom as they may, cost too much, or so little that twice would fit."""
        direction = 0
        if too_many(advert_bytes, self.peers, self.bits):
            direction = 1
        elif self.bits and too_few(advert_bytes, self.peers, self.bits):
            direction = -1
        if not direction or self._pressed is None or self._pressed[0] != direction:
            self._pressed = (direction, now_us) if direction else None
            return 0
        return direction if now_us >= self._pressed[1] + SETTLED_US else 0


def too_many(advert_bytes: int, peers: int, bits: int) -> bool:
    """In a shard of that depth."""
    return peers > MOST_PEERS or _percent(advert_bytes, peers, bits) > SPLIT_PERCENT


def too_few(advert_bytes: int, peers: int, bits: int) -> bool:
    """For a shard of its own: with the other half it would still be far from full."""
    fits = _percent(advert_bytes, 2 * peers, bits - 1) < MERGE_PERCENT
    return fits and 200 * peers < MERGE_PERCENT * MOST_PEERS


def _percent(advert_bytes: int, peers: int, bits: int) -> int:
    """Of the budget, with the longest intervals."""
    return 100 * _interval_us(advert_bytes, peers, bits) // SELDOM_US


def _interval_us(advert_bytes: int, peers: int, bits: int) -> int:
    """That spends the budget of a topic with `peers`."""
    cost_bytes = advert_cost_bytes(advert_bytes, min(peers - 1, neighbours_in_topic(bits)))
    return peers * cost_bytes * 1_000_000 // TOPIC_BYTES_PER_S
