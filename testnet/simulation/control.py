"""What staying in touch costs one peer, by the size of the swarm: counted, not measured, with the peers' own rules.

Depths, intervals and pings are those of protocol/policy; the copies of an advert are counted in gossipsub meshes over
links of many lengths.  Bytes are those on the wire, with TCP/IP, noise and yamux; sent and received together.
"""

import argparse
import heapq
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from rich.console import Console
from rich.table import Table

from protocol.policy import attention, lookups, neighbours, shards
from protocol.wire.advert import MAX_SHARD_BITS
from protocol.wire.lookup import MAX_FOUND

from .costs import (
    ADVERT_CPU_S,
    DIAL_BYTES,
    DIAL_CPU_S,
    EXCHANGE_BYTES,
    EXCHANGE_CPU_S,
    FOUND_CPU_S,
    HEAR_CPU_S,
    IN_STATE_BYTES,
    PLAN_CPU_S,
    SILENT_CPU_SHARE,
    TELL_CPU_S,
    WAIT_BYTES,
    Costs,
)

PEERS = (10, 20, 50, 100, 300, 1_000, 3_000, 10_000, 100_000)
ADVERT_BYTES = 850  # one device, one model, one address, a coordinate
# A lookup beside its adverts: the stream opened, agreed on and closed, the question, the frame.
STREAM_BYTES = 700
UNASKED_PER_S = 4.6  # told by a peer that is watched: `simulate` at load .85
# An offer with its statement and signature, the answer with live state, and their headers.
REFUSED_BYTES = 1_900
# Of one advert, sent and received, where ADVERT_CPU_S was measured: five peers, all connected.
COPIES_MEASURED = 5.0
DEGREE, HIGH = 4, 8  # of gossipsub's mesh, as in peer/transport.py
TRIALS = 20  # adverts that are followed through the mesh of a shard
DELAY_MS = (1, 150)  # one way

WIDTH = 115  # where it goes into a file

IDLE_BYTES_PER_S, ACTIVE_BYTES_PER_S = 5_000, 30_000
IDLE_CPU_SHARE, ACTIVE_CPU_SHARE = 0.01, 0.05


@dataclass(frozen=True)
class Account:
    """Of one peer among `peers`, on average."""

    peers: int
    bits: int  # depth of its shard
    shard_peers: int
    interval_s: int  # between two adverts of one peer
    connections: int
    copies: float  # of one advert, sent and received by one peer
    gossip_bytes_per_s: int
    ping_bytes_per_s: int
    lookup_bytes_per_s: int
    idle_bytes_per_s: int
    idle_cpu_share: float
    active_bytes_per_s: int
    active_cpu_share: float

    @property
    def met(self) -> bool:
        return (
            self.idle_bytes_per_s <= IDLE_BYTES_PER_S
            and self.idle_cpu_share <= IDLE_CPU_SHARE
            and self.active_bytes_per_s <= ACTIVE_BYTES_PER_S
            and self.active_cpu_share <= ACTIVE_CPU_SHARE
        )


def account(peers: int, advert_bytes: int = ADVERT_BYTES) -> Account:
    """With every shard as full as the mean one."""
    bits, shard_peers = depth(peers, advert_bytes)
    connections = min(peers - 1, neighbours.CONNECTIONS)
    in_topic = min(shard_peers - 1, shards.neighbours_in_topic(bits))
    copies, links = mesh_copies(shard_peers, in_topic)
    pace = shards.pace(advert_bytes, shard_peers, bits)
    interval_us = pace.interval_us
    adverts_per_s = shard_peers * 1e6 / interval_us
    packet_bytes = advert_bytes + shards.RPC_BYTES + shards.PACKET_BYTES
    told = 2 * min(shards.GOSSIP_DEGREE, max(0, in_topic - links))
    gossip = adverts_per_s * (copies * packet_bytes + told * shards.IHAVE_BYTES)
    exchanges_per_s = 2 * connections * 1e6 / attention.idle_every_us(connections)  # we ask them, and they us
    pings = exchanges_per_s * (EXCHANGE_BYTES - IN_STATE_BYTES)
    looked, looks_per_s = (
        _lookups(connections - in_topic, pace.lifetime_s, advert_bytes) if bits else (0.0, 0.0)
    )
    idle_cpu = (
        SILENT_CPU_SHARE
        + adverts_per_s * ADVERT_CPU_S * copies / COPIES_MEASURED
        + exchanges_per_s * EXCHANGE_CPU_S
        + looks_per_s * EXCHANGE_CPU_S * 3  # a stream is opened and closed for it
    )
    likely = min(connections, attention.LIKELY)
    others_per_s = attention.OTHERS_PER_S if connections > attention.LIKELY else 0
    told_per_s = likely * UNASKED_PER_S
    asked_per_s = likely * 1e6 / attention.WATCHED_EVERY_US + others_per_s
    idle = gossip + pings + looked
    return Account(
        peers,
        bits,
        shard_peers,
        interval_us // 1_000_000,
        connections,
        round(copies, 1),
        round(gossip),
        round(pings),
        round(looked),
        round(idle),
        round(idle_cpu, 4),
        round(idle + asked_per_s * EXCHANGE_BYTES + told_per_s * WAIT_BYTES),
        round(idle_cpu + asked_per_s * EXCHANGE_CPU_S + told_per_s * HEAR_CPU_S, 4),
    )


def depth(peers: int, advert_bytes: int = ADVERT_BYTES) -> tuple[int, int]:
    """(bits, peers of a shard) that a swarm comes to."""
    for bits in range(MAX_SHARD_BITS):
        shard_peers = max(1, -(-peers // (1 << bits)))
        if not shards.too_many(advert_bytes, shard_peers, bits):
            return bits, shard_peers
    return MAX_SHARD_BITS, max(1, -(-peers // (1 << MAX_SHARD_BITS)))


def usual_pace(peers: int) -> shards.Pace:
    """Of a swarm with so many."""
    bits, shard_peers = depth(peers)
    return shards.pace(ADVERT_BYTES, shard_peers, bits)


def spent(costs: Costs, seconds: float, providers: int, requesters: int) -> dict[str, float]:
    """Of one peer of a simulated swarm, at the mean: what is counted of staying in touch, and what was simulated.

    Simulated are the providers' adverts, told in their turn and early; of those who ask, the pings, dials, lookups, plans
    and what was refused ("active"); of those who draw and ask nothing, the pings that they answer and what they refuse
    ("asked", and "asked_most" of the one that spends most on it).
    """
    peers = providers + requesters
    usual = account(peers)
    # Requesters tell theirs in their turn: of them, nothing changes.
    adverts = (costs.adverts / seconds * usual.interval_s + requesters) / peers
    gossip_cpu = usual.shard_peers / usual.interval_s * ADVERT_CPU_S * usual.copies / COPIES_MEASURED
    idle_bytes = usual.idle_bytes_per_s + (adverts - 1) * usual.gossip_bytes_per_s
    idle_cpu = usual.idle_cpu_share + (adverts - 1) * gossip_cpu
    # Pings of one side: those are counted as idle.
    counted_per_s = usual.connections * 1e6 / attention.idle_every_us(usual.connections)
    told = costs.messages
    active_bytes = told["found"] * ADVERT_BYTES + told["lookup"] * STREAM_BYTES + costs.dials * DIAL_BYTES
    active_cpu = (
        told["found"] * FOUND_CPU_S
        + told["lookup"] * 3 * EXCHANGE_CPU_S  # as in `account`
        + costs.dials * DIAL_CPU_S
        + costs.plans * PLAN_CPU_S
    )
    refused_bytes, refused_cpu = told["refuse"] * REFUSED_BYTES, told["refuse"] * EXCHANGE_CPU_S
    ask_s, draw_s = seconds * requesters, seconds * providers

    def pings(
        count: float, unasked: float, unasked_bytes: float, each_s: float, of_s: float
    ) -> tuple[float, float]:
        """`each_s`: of a core, one that was told or heard unasked."""
        per_s = count / of_s - counted_per_s
        return (
            per_s * EXCHANGE_BYTES + unasked_bytes / of_s,
            per_s * EXCHANGE_CPU_S + unasked * each_s / of_s,
        )

    unasked, unasked_bytes = costs.told.total(), costs.told_bytes.total()
    ours = pings(told["ping"], unasked, unasked_bytes, HEAR_CPU_S, ask_s)
    asked = pings(told["ping"], unasked, unasked_bytes, TELL_CPU_S, draw_s)
    most = max(
        pings(costs.pinged[each], costs.told[each], costs.told_bytes[each], TELL_CPU_S, seconds)
        for each in range(providers)
    )
    return {
        "idle_bytes_per_s": round(idle_bytes, 1),
        "idle_cpu_share": round(idle_cpu, 5),
        "active_bytes_per_s": round(idle_bytes + ours[0] + (active_bytes + refused_bytes) / ask_s, 1),
        "active_cpu_share": round(idle_cpu + ours[1] + (active_cpu + refused_cpu) / ask_s, 5),
        "asked_bytes_per_s": round(idle_bytes + asked[0] + refused_bytes / draw_s, 1),
        "asked_cpu_share": round(idle_cpu + asked[1] + refused_cpu / draw_s, 5),
        "asked_most_bytes_per_s": round(idle_bytes + most[0] + refused_bytes / draw_s, 1),
        "asked_most_cpu_share": round(idle_cpu + most[1] + refused_cpu / draw_s, 5),
    }


def mesh_copies(peers: int, in_topic: int, seed: int = 1) -> tuple[float, float]:
    """(copies of one advert that a peer sends and receives, links of its mesh), both at the mean."""
    if peers < 2:
        return 0.0, 0.0
    dice = random.Random(seed)
    links = _graph(peers, in_topic, dice)
    mesh: list[set[int]] = [set() for _ in range(peers)]
    for peer in dice.sample(range(peers), peers):
        for other in dice.sample(sorted(links[peer]), len(links[peer])):
            if len(mesh[peer]) < DEGREE and len(mesh[other]) < HIGH:
                mesh[peer].add(other)
                mesh[other].add(peer)
    delays = {
        (min(a, b), max(a, b)): dice.uniform(*DELAY_MS) for a, others in enumerate(mesh) for b in others
    }
    sent = fmean(_flood(mesh, delays, dice.randrange(peers)) for _ in range(TRIALS))
    return 2 * sent / peers, fmean(map(len, mesh))


def _graph(peers: int, in_topic: int, dice: random.Random) -> list[set[int]]:
    """Who is connected to whom: by lot, `in_topic` each at the mean."""
    links: list[set[int]] = [set() for _ in range(peers)]
    for peer in range(peers):
        others = [other for other in range(peers) if other != peer]
        chosen = (in_topic + peer % 2) // 2 if in_topic < peers - 1 else in_topic
        for other in dice.sample(others, min(len(others), chosen)):
            links[peer].add(other)
            links[other].add(peer)
    return links


def _flood(mesh: Sequence[set[int]], delays: dict[tuple[int, int], float], author: int) -> int:
    """How often one message is sent in all: each passes it on once, to all but who it came from."""
    sent, heard = 0, {author}
    arrivals: list[tuple[float, int, int]] = []

    def tell(at_ms: float, peer: int, others: set[int]) -> None:
        nonlocal sent
        for other in others:
            sent += 1
            heapq.heappush(arrivals, (at_ms + delays[min(peer, other), max(peer, other)], other, peer))

    tell(0.0, author, mesh[author])
    while arrivals:
        at_ms, peer, by = heapq.heappop(arrivals)
        if peer not in heard:
            heard.add(peer)
            tell(at_ms, peer, mesh[peer] - {by, author})
    return sent


def _lookups(elsewhere: int, lifetime_s: int, advert_bytes: int) -> tuple[float, float]:
    """(bytes, lookups) a second, of our own and of others at us, with so many connections to other shards."""
    renewals = max(0, elsewhere) * 100 / (lifetime_s * lookups.RENEW_PERCENT)
    looks = 1e6 / lookups.LOOK_EVERY_US
    mates = 1e6 / lookups.MATES_AGAIN_US
    told = renewals + looks * lookups.FOUND_AT_ONCE + mates * MAX_FOUND
    asked = renewals + looks + mates
    return 2 * (told * advert_bytes + asked * STREAM_BYTES), 2 * asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peers", type=_size, nargs="+", default=list(PEERS), metavar="N", help="sizes of swarms"
    )
    parser.add_argument(
        "--advert-bytes",
        type=_size,
        default=ADVERT_BYTES,
        metavar="BYTES",
        help=f"an advert has ({ADVERT_BYTES})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, on the last line")


def _size(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= 4_000_000:
        raise argparse.ArgumentTypeError(f"a whole number from 2 to 4,000,000, not {text!r}")
    return int(text)


def control(options: argparse.Namespace) -> int:
    """Exit code: 0, or 1 where a swarm costs a peer more than it may."""
    accounts = [account(peers, options.advert_bytes) for peers in options.peers]
    if options.json:
        print(json.dumps({"accounts": [asdict(each) | {"met": each.met} for each in accounts]}), flush=True)
    else:
        Console(width=None if sys.stdout.isatty() else WIDTH).print(_table(accounts))
    return 0 if all(each.met for each in accounts) else 1


def _table(accounts: Sequence[Account]) -> Table:
    table = Table(title="What staying in touch costs a peer, kB/s sent and received, % of a core (counted)")
    for name in ("peers", "shard", "depth", "advert every", "copies", "gossip", "pings", "lookups"):
        table.add_column(name, justify="right")
    table.add_column("idle", justify="right")
    table.add_column("active", justify="right")
    table.add_column("")
    for each in accounts:
        table.add_row(
            f"{each.peers:,}",
            str(each.shard_peers),
            str(each.bits),
            f"{each.interval_s} s",
            f"{each.copies:g}",
            *(
                f"{value / 1e3:.2f}"
                for value in (each.gossip_bytes_per_s, each.ping_bytes_per_s, each.lookup_bytes_per_s)
            ),
            f"{each.idle_bytes_per_s / 1e3:.1f}  {100 * each.idle_cpu_share:.2f} %",
            f"{each.active_bytes_per_s / 1e3:.1f}  {100 * each.active_cpu_share:.1f} %",
            "met" if each.met else "missed",
        )
    return table
