"""One peer that asks: whom it is connected to, as `peer/gossip.py` chooses them, and its directory, kept fresh by pings."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from protocol.policy.attention import Attention
from protocol.policy.demand import Demand
from protocol.policy.directory import Directory
from protocol.policy.lookups import Errand, Lookups, answer
from protocol.policy.neighbours import CONNECTIONS, MOST_CONNECTIONS, SWAP_EVERY_US, Changes, Neighbours
from protocol.policy.prediction import CONNECT_ROUND_TRIPS, Candidate
from protocol.policy.shards import Shards
from protocol.policy.shortlist import Shortlists
from protocol.wire.hello import LiveState

from .provider import name_of

if TYPE_CHECKING:
    from .nearlight import Nearlight

# As peer/ has them; testnet does not import peer.
BURST = 6  # pings when a link opens
UNUSED_AFTER_US = 50_000_000
DIAL_EVERY_US = 2_000_000
CHOOSE_EVERY_US = 10_000_000  # more, where not all can be connected
ROUND_EVERY_US, ERRANDS_PER_ROUND = 5_000_000, 3
DIAL_AGAIN_US = (2_000_000, 300_000_000)

ROUNDS_BEFORE = 20  # of swaps before the world begins: ten minutes
LOOK_EVERY_US = 100_000  # whose live state is old enough to ask for
PING_GROUPS = 8  # links whose round trips are alike are asked in one event
LOOKUP_ROUND_TRIPS = 2  # a stream is opened for it
STREAM_ROUND_TRIPS = 1  # to open one on a connection: a first dial span of 212 ms at a round trip of 200 ms

_Pong = tuple[
    str, int, LiveState, int | None
]  # from whom, the round trip, and for how long it will tell, if asked to


class Requester:
    def __init__(self, index: int, swarm: "Nearlight", known: Sequence[int]) -> None:
        """`known`: the providers whose adverts it has."""
        self.index = index
        self.swarm = swarm
        self.directory = Directory(name_of(index))
        self.attention = Attention()
        self.shortlists = Shortlists()
        self.demand = Demand(CONNECTIONS, MOST_CONNECTIONS)
        self.connected: set[str] = set()
        self.talks: Counter[str] = Counter()  # lines in use
        self._neighbours = Neighbours(name_of(index))
        self._lookups = Lookups(name_of(index))
        self._shards = Shards(name_of(index))
        self._shards.bits = swarm.acquaintance.bits
        self._dialling: set[str] = set()
        self._pause_us: dict[str, int] = {}  # after a failed dial
        self._barred_until_us: dict[str, int] = {}
        self._asked_us: dict[str, int] = {}  # for live state, last
        self._ahead: dict[str, tuple[int, int]] = {}  # streams opened ahead: usable from, until
        self._bounds: list[int] = []  # the longest round trip of each group but the last
        self._groups: list[list[int]] = [[]]
        for provider in known:
            self.directory.on_advert(swarm.adverts[provider], 0, 0)
        self._settle()
        swarm.clock.at(int(swarm.dice.random() * DIAL_EVERY_US), self._choose_again)
        if self._shards.bits:
            swarm.clock.at(int(swarm.dice.random() * ROUND_EVERY_US), self._round)
        for number, group in enumerate(self._groups):  # each has its own moment
            swarm.clock.at(LOOK_EVERY_US * number // len(self._groups), self._look, group)

    # adverts

    def _round(self) -> None:
        """Asks those it is connected to for adverts of other shards."""
        swarm, now_us = self.swarm, self.swarm.clock.now_us
        swarm.clock.at(now_us + ROUND_EVERY_US, self._round)
        candidates = self.directory.candidates(now_us, own=False)
        at = swarm.acquaintance.requesters_at[self.index]
        for _ in range(ERRANDS_PER_ROUND):
            errand = self._lookups.errand(
                candidates, self._shards, at, now_us, asking=self.demand.asking(now_us)
            )
            if errand is not None:
                provider = swarm.number_of[errand.peer]
                rtt_us = swarm.world.round_trip_us(self.index, provider, swarm.dice)
                swarm.costs.messages["lookup"] += 1
                swarm.clock.at(now_us + LOOKUP_ROUND_TRIPS * rtt_us, self._on_found, errand, provider)

    def _on_found(self, errand: Errand, provider: int) -> None:
        swarm, now_us = self.swarm, self.swarm.clock.now_us
        if swarm.providers[provider].gone:
            return
        held = [provider, *swarm.acquaintance.held[provider]]
        found = answer(errand.find, [swarm.adverts[each] for each in held])
        swarm.costs.messages["found"] += len(found)
        told = [self.directory.on_advert(signed, now_us, now_us) for signed in found]
        if errand.look:
            self._lookups.on_looked(sum(verdict.outcome == "new" for verdict in told))

    # connections

    def on_returned(self, peer: str) -> None:
        """Who left is there again, and dials those that it was in touch with."""
        self._barred_until_us.pop(peer, None)
        if len(self.connected) < self.demand.links(self.swarm.clock.now_us):
            self._choose()

    def on_dialled(self, peer: str) -> None:
        self._dialling.discard(peer)
        now_us = self.swarm.clock.now_us
        if self.swarm.providers[self.swarm.number_of[peer]].gone:
            self.directory.on_unreached(peer, now_us)
            self._bar(peer)
        elif peer not in self.connected:
            self._pause_us.pop(peer, None)
            self._meet(peer)
            self.directory.on_reached(peer, now_us)

    def on_disconnected(self, peer: str) -> None:
        if peer in self.connected:
            self.connected.discard(peer)
            self._ahead.pop(peer, None)
            self.directory.on_disconnected(peer)
            self._group(provider := self.swarm.number_of[peer]).remove(provider)

    def _meet(self, peer: str) -> None:
        swarm, now_us = self.swarm, self.swarm.clock.now_us
        provider = swarm.number_of[peer]
        self.connected.add(peer)
        self.directory.on_connected(peer)
        self._group(provider).append(provider)
        for _ in range(BURST):
            self.directory.on_rtt(peer, swarm.world.round_trip_us(self.index, provider, swarm.dice), now_us)

    def _group(self, provider: int) -> list[int]:
        """Of those as near as this one."""
        return self._groups[bisect_left(self._bounds, self.swarm.world.rtt_us[self.index][provider])]

    def _settle(self) -> None:
        """What it came to before the world began."""
        for turn in range(ROUNDS_BEFORE):
            changes = self._changes(self.directory.candidates(0, own=False), turn * SWAP_EVERY_US)
            for peer in changes.drop:
                self.on_disconnected(peer)
            for peer in changes.dial:
                self._meet(peer)
            if not changes.dial and not changes.drop:
                break
        row, (everyone,) = self.swarm.world.rtt_us[self.index], self._groups
        everyone.sort(key=lambda provider: (row[provider], provider))
        size = max(1, -(-len(everyone) // PING_GROUPS))
        self._bounds = [row[everyone[at]] for at in range(size - 1, len(everyone) - 1, size)]
        self._groups = [[] for _ in range(len(self._bounds) + 1)]
        for provider in everyone:
            self._group(provider).append(provider)

    def _changes(self, candidates: Sequence[Candidate], at_us: int) -> Changes:
        """`at_us`: since it began to choose."""
        now_us = self.swarm.clock.now_us
        return self._neighbours.changes(
            candidates,
            bits=self.swarm.acquaintance.bits,
            coordinate=self.swarm.acquaintance.requesters_at[self.index],
            now_us=at_us,
            dialling=self._dialling,
            barred={peer for peer, until_us in self._barred_until_us.items() if now_us < until_us},
            droppable={peer for peer in self.connected if not self.talks[peer]},
            connections=self.demand.links(now_us),
            asked=self.demand.asked,
        )

    def _choose_again(self) -> None:
        known, now_us = self._choose(), self.swarm.clock.now_us
        wanted = self.demand.links(now_us)
        crowded = known > wanted <= len(self.connected)
        pause_us = DIAL_EVERY_US + CHOOSE_EVERY_US * crowded
        self.swarm.clock.at(now_us + pause_us, self._choose_again)

    def _choose(self) -> int:
        """Whom to connect to now, and whom no longer.  How many it knows."""
        now_us = self.swarm.clock.now_us
        candidates = self.directory.candidates(now_us, own=False)
        changes = self._changes(candidates, ROUNDS_BEFORE * SWAP_EVERY_US + now_us)
        for peer in changes.drop:
            self.on_disconnected(peer)
        for peer in changes.dial:
            self._dial(peer)
        return len(candidates)

    def _dial(self, peer: str) -> None:
        swarm, now_us = self.swarm, self.swarm.clock.now_us
        provider = swarm.number_of[peer]
        rtt_us = swarm.world.round_trip_us(self.index, provider, swarm.dice)
        self._dialling.add(peer)
        swarm.costs.dials += 1
        swarm.costs.messages["dial"] += 2 * CONNECT_ROUND_TRIPS
        round_trips = 1 if swarm.providers[provider].gone else CONNECT_ROUND_TRIPS
        swarm.clock.at(now_us + round_trips * rtt_us, self.on_dialled, peer)

    def _bar(self, peer: str) -> None:
        first_us, last_us = DIAL_AGAIN_US
        pause_us = self._pause_us[peer] = min(last_us, 2 * self._pause_us.get(peer, first_us // 2))
        self._barred_until_us[peer] = self.swarm.clock.now_us + pause_us

    def stream_us(self, peer: str, rtt_us: int) -> int:
        """When a stream to a connected peer can carry an offer: one opened ahead, or one that is opened now."""
        now_us = self.swarm.clock.now_us
        from_us, until_us = self._ahead.pop(peer, (0, 0))
        return max(now_us, from_us) if now_us < until_us else now_us + STREAM_ROUND_TRIPS * rtt_us

    def open_ahead(self, peer: str, rtt_us: int) -> None:
        """It is in use: a stream to it should be ready when the next one is needed."""
        now_us = self.swarm.clock.now_us
        if now_us >= self._ahead.get(peer, (0, 0))[1]:
            from_us = now_us + STREAM_ROUND_TRIPS * rtt_us
            self._ahead[peer] = from_us, from_us + UNUSED_AFTER_US

    # live state

    def stay_active(self) -> None:
        """It is about to ask: live state should be fresh for a while."""
        if self.attention.on_ask(self.swarm.clock.now_us):
            for group in self._groups:
                self._ping(group)

    def heard_us(self, peer: str) -> int | None:
        return self.directory.heard_us(peer, self.swarm.clock.now_us) if peer in self.connected else None

    def look(self, peers: Iterable[str]) -> int:
        """Asks them for their live state; so long from now the last of those that answer has told it."""
        swarm, now_us = self.swarm, self.swarm.clock.now_us
        told_us = 0
        for peer in peers:
            index = swarm.number_of[peer]
            self._asked_us[peer] = now_us
            swarm.costs.on_ping(index)
            rtt_us = swarm.world.round_trip_us(self.index, index, swarm.dice)
            told_us = max(told_us, rtt_us)
            swarm.clock.at(now_us + rtt_us // 2, self._on_look, index, rtt_us)
        return told_us

    def _look(self, group: list[int]) -> None:
        self._ping(group)
        self.swarm.clock.at(self.swarm.clock.now_us + LOOK_EVERY_US, self._look, group)

    def _ping(self, group: list[int]) -> None:
        """Those of a group whose live state is old are asked; the farthest decides when the answers are here."""
        swarm, directory = self.swarm, self.directory
        now_us, links = swarm.clock.now_us, len(self.connected)
        heard: list[_Pong] = []
        for index in group:
            peer = swarm.names[index]
            asked_us = self._asked_us.get(peer)
            if asked_us is not None and now_us < self.attention.due_us(
                peer,
                asked_us,
                directory.heard_us(peer, now_us),
                links,
                now_us,
                watched=directory.watched(peer, now_us),
            ):
                continue
            self._asked_us[peer] = now_us
            swarm.costs.on_ping(index)
            rtt_us = swarm.world.round_trip_us(self.index, index, swarm.dice)
            provider = swarm.providers[index]
            state = provider.live_state(self.index)
            watches = self.attention.watches(peer, now_us)
            watch_us = provider.watchers.on_asked(name_of(self.index), state, now_us) if watches else None
            heard.append((peer, rtt_us, state, watch_us))
        swarm.costs.messages["pong"] += len(heard)
        if heard:
            way_us = max(rtt_us for _, rtt_us, *_ in heard) // 2
            swarm.clock.at(now_us + way_us, self._pongs, heard)

    def _on_look(self, index: int, rtt_us: int) -> None:
        swarm, provider = self.swarm, self.swarm.providers[index]
        if not provider.gone:
            swarm.costs.messages["pong"] += 1
            state = provider.live_state(self.index)
            provider.watchers.on_told(name_of(self.index), state, swarm.clock.now_us)
            heard: list[_Pong] = [(swarm.names[index], rtt_us, state, None)]
            swarm.clock.at(swarm.clock.now_us + rtt_us - rtt_us // 2, self._pongs, heard)

    def _pongs(self, heard: list[_Pong]) -> None:
        directory, now_us = self.directory, self.swarm.clock.now_us
        for peer, rtt_us, state, watch_us in heard:
            if peer in self.connected:
                directory.on_rtt(peer, rtt_us, now_us)
                directory.on_state(peer, state, now_us)
                if watch_us is not None:
                    self.attention.on_watched(peer, watch_us)
                    directory.on_watched(peer, now_us - rtt_us + watch_us)

    def on_told(self, peer: str, state: LiveState) -> None:
        if peer in self.connected:
            self.directory.on_state(peer, state, self.swarm.clock.now_us)
