"""Adverts: our own published, those of our shard heard, others looked up; and whom to stay connected to.  (README 7.)"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import trio

from protocol.errors import MalformedMessage, ProtocolError, RemoteProtocolError, UnknownCriticalField
from protocol.policy.coordinates import Coordinates
from protocol.policy.demand import Demand
from protocol.policy.directory import Directory
from protocol.policy.lookups import Errand, Lookups, answer
from protocol.policy.neighbours import Changes, Neighbours
from protocol.policy.prediction import Candidate
from protocol.policy.rtt import Way
from protocol.policy.shards import Shards
from protocol.policy.sources import Allowance
from protocol.policy.telling import Telling
from protocol.wire.advert import (
    MAX_ADVERT_BYTES,
    MAX_SYNC_ADVERTS,
    SYNC_PROTOCOL,
    Advert,
    SignedAdvert,
    adverts_untrusted,
    known_untrusted,
    sync_reply,
    sync_request,
)
from protocol.wire.canonical import MAX_MESSAGE_BYTES, Value
from protocol.wire.envelope import Envelope
from protocol.wire.frames import FrameReader, pack
from protocol.wire.lookup import MAX_FIND_BYTES, Find, place_of, topic_of
from protocol.wire.lookup import PROTOCOL as LOOKUP_PROTOCOL

from .addresses import dialable_of
from .changed import Changed
from .clock import now_us, wall_us
from .network import HostError

PUBLISH_SPREAD = (2 / 3, 4 / 3)  # of the mean interval, so that not everyone speaks at once
ROUND_EVERY_S = 5.0  # expiry, the shard, lookups
ERRANDS_PER_ROUND = 3  # 32 adverts of 180 s are asked for again in time
# Adverts that we check for one forwarder: honest ones pass on half a one a second.
RELAY_BURST, RELAY_EVERY_US = 256, 500_000
ASK_BURST, ASK_EVERY_US = 16, 5_000_000  # syncs and lookups that we answer one peer
SYNC_WITHIN_S = 5.0
CHECKED = 64  # adverts, the last ones, of 4 KiB at most
DIAL_EVERY_S = 2.0  # and whenever a peer appears or leaves
CHOOSE_EVERY_S = 10.0  # where not all can be connected: choosing among thousands takes tens of ms
DIAL_JITTER_S = 0.2  # so that not everyone dials a newcomer at once
YIELD_S = 1.0  # for the one of two with the smaller id to dial first: far away, a dial takes 0.75 s
DIALS_AT_ONCE = 4
DIAL_WITHIN_S = 10.0  # five round trips by satellite, with lost packets
DIAL_AGAIN_S = (2.0, 300.0)  # the pause after a failed dial doubles from the first to the second
GONE = HostError, trio.BrokenResourceError, trio.ClosedResourceError  # what a stream of who left raises


class Gossip:
    """Keeps the directory filled, and connections to the peers in it while they are few."""

    def __init__(
        self,
        host: Any,
        directory: Directory,
        *,
        network: str,
        private_key: bytes,
        able: Callable[[], Advert],
        provide: bool,
        demand: Demand,
        on_fresh: Callable[[SignedAdvert, str | None], None],
        on_sought: Callable[[str, bytes], None] = lambda peer, model: None,
        in_use: Callable[[str], bool] = lambda peer: False,
    ) -> None:
        """`demand`: what this peer asks of others, and so how many it connects to.  `on_sought`: a peer looks up a model.

        `in_use`: whether a peer's connection carries something that should not be cut off."""
        self._host = host
        self._directory = directory
        self._network = network
        # A message is looked at to be relayed and again to be delivered; neighbours tell the same adverts.
        self._checked = lru_cache(CHECKED)(partial(SignedAdvert.from_untrusted, network=network))
        self._private_key = private_key
        self._able = able
        self._provide = provide
        self._demand = demand
        self._on_fresh = on_fresh
        self._on_sought = on_sought
        self._in_use = in_use
        self.coordinates = Coordinates(host.peer_id.encode())
        self.shards = Shards(host.peer_id)
        self._neighbours = Neighbours(host.peer_id)
        self._lookups = Lookups(host.peer_id)
        self._relays = Allowance(RELAY_BURST, RELAY_EVERY_US)
        self._asked = Allowance(ASK_BURST, ASK_EVERY_US)
        self._topics: tuple[str, ...] = ()  # listened to, the present depth first
        self._advert_bytes = MAX_ADVERT_BYTES // 4  # of our own, once it is made
        self._dialled: set[str] = set()
        self._telling = Telling(now_us())
        self._sooner = Changed()
        self._peers_changed = Changed()
        self._nursery: trio.Nursery | None = None
        self._seeking: Counter[bytes] = Counter()  # by model: how many have not answered yet
        self._answered = Changed()
        self._retry_at_s: dict[str, float] = {}
        self._pause_s: dict[str, float] = {}
        host.set_handler(SYNC_PROTOCOL, self._answer_sync)
        host.set_handler(LOOKUP_PROTOCOL, self._answer_lookup)

    def renew(self, *, urgent: bool = False) -> None:
        """Our capabilities changed: tell everyone, if not at once then soon.  `urgent`: such a change comes seldom."""
        self._tell_sooner(urgent=urgent)

    def _tell_sooner(self, *, urgent: bool) -> None:
        if self._telling.on_change(urgent=urgent):
            self._sooner.notify()

    def may_leave(self, peer: str) -> None:
        """A connection that another part of this peer opened is kept only where there is room, as our own are."""
        self._dialled.add(peer)

    def on_disconnected(self) -> None:
        """A connection ended: there may be reason to dial."""
        self._peers_changed.notify()

    def on_measured(self, peer: str) -> None:
        """There is a new round trip to `peer`."""
        signed, rtt = self._directory.signed_advert(peer), self._directory.rtt(peer)
        if signed is not None and rtt is not None and rtt.way is Way.DIRECT:
            self.coordinates.on_rtt(peer, signed.advert.coordinate, rtt.min_us, now_us())

    def statistics(self) -> dict[str, int]:
        counts = {**self.shards.statistics(), **self._neighbours.statistics()}
        counts |= {f"coordinate_{name}": count for name, count in self.coordinates.statistics().items()}
        counts |= {f"relays_{name}": count for name, count in self._relays.statistics().items()}
        return counts | {f"asked_{name}": count for name, count in self._asked.statistics().items()}

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        self._sign()
        await self._listen()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._publish)
            nursery.start_soon(self._connect)
            nursery.start_soon(self._rounds)
            task_status.started()

    async def _listen(self) -> None:
        """Subscribes to the topics of our shard, present and late, and to no others."""
        depths = self.shards.depths(now_us())
        wanted = tuple(topic_of(self._network, self.shards.place, bits) for bits in depths)
        before, self._topics = self._topics, wanted
        for topic in wanted:
            if topic not in before:
                await self._host.subscribe(topic, self._valid, self._deliver)
        for topic in before:
            if topic not in wanted:
                await self._host.unsubscribe(topic)

    def _sign(self) -> SignedAdvert:
        able = self._able()
        told = (
            able if self._provide else replace(able, kinds=(), models=(), limits=None, price_millionths=None)
        )
        told = replace(
            told,
            lifetime_s=max(told.lifetime_s, self.shards.pace(self._advert_bytes).lifetime_s),
            coordinate=self.coordinates.own,
            shard_bits=self.shards.bits,
        )
        signed = SignedAdvert.sign(told, network=self._network, private_key=self._private_key)
        self._directory.on_own_advert(signed, able)
        self._advert_bytes = len(signed.envelope.to_bytes())
        return signed

    async def _publish(self) -> None:
        while True:
            while (left_us := self._telling.due_us - now_us()) > 0:
                with trio.move_on_after(left_us / 1e6):
                    await self._sooner.wait()
            data = self._sign().envelope.to_bytes()
            interval_us = self.shards.pace(self._advert_bytes).interval_us
            pause_us = int(interval_us * random.uniform(*PUBLISH_SPREAD))
            self._telling.on_told(now_us(), pause_us, interval_us)
            for topic in self._topics:
                await self._host.publish(topic, data)

    def _valid(self, forwarder: str, _author: str, data: bytes) -> bool:
        """Whether to relay it.  An advert newer than we understand is worth relaying."""
        if not self._relays.take(forwarder, now_us()):
            return False
        try:
            self._checked(data)
        except UnknownCriticalField:
            return True
        except ProtocolError:
            return False
        return True

    def _deliver(self, _author: str, data: bytes) -> None:
        self._take(data)

    def _take(self, data: bytes) -> SignedAdvert | None:
        """The advert, if it was news."""
        try:
            signed = self._checked(data)
        except ProtocolError:
            return None  # `_valid` scored it, or it is newer than we understand
        verdict = self._directory.on_advert(signed, now_us(), wall_us())
        if verdict.outcome == "new" and self._host.peer_id > signed.peer:
            self._retry_at_s.setdefault(signed.peer, trio.current_time() + YIELD_S)
        if verdict.fresh:
            self._peers_changed.notify()
            self._on_fresh(signed, verdict.note)
        return signed if verdict.fresh else None

    async def sync(self, peer: str) -> None:
        """Fetches what a newly connected `peer` knows and we do not; tells the others of our shard what was news.

        Of a peer of another shard only its own advert is of interest.
        """
        if not self.shards.holds(peer):
            await self._ask(Errand(peer, Find(place=place_of(peer), at_most=1)))
            return
        for signed in await self._exchange(peer, SYNC_PROTOCOL, sync_request(self._directory.versions())):
            if signed.advert.shard_bits == self.shards.bits and self.shards.holds(signed.peer):
                await self._host.publish(self._topics[0], signed.envelope.to_bytes())

    async def seek(self, model: bytes, enough: Callable[[], bool] = lambda: False) -> None:
        """Has several peers asked who offers `model`, where our own shard is not everyone and few are known who do.

        Returns when that is `enough`, or when all have answered, as far as they do.
        """
        if self.shards.bits and self._nursery is not None:
            candidates = self._directory.candidates(now_us(), own=False)
            for errand in self._lookups.to_seek(candidates, model, self.coordinates.own, now_us()):
                self._seeking[model] += 1
                self._nursery.start_soon(self._seek, errand, model)
        while model in self._seeking and not enough():
            await self._answered.wait()

    async def _seek(self, errand: Errand, model: bytes) -> None:
        try:
            await self._ask(errand)
        finally:
            self._seeking -= Counter([model])
            self._answered.notify()

    async def _ask(self, errand: Errand) -> None:
        find = errand.find
        known = self._directory.versions() if errand.look else {}
        news = await self._exchange(errand.peer, LOOKUP_PROTOCOL, find.to_value(), find.at_most)
        if errand.look:
            self._lookups.on_looked(sum(signed.peer not in known for signed in news))

    async def _exchange(
        self, peer: str, protocol: str, request: Value, at_most: int = MAX_SYNC_ADVERTS
    ) -> list[SignedAdvert]:
        """Asks `peer` for adverts, and takes them in; those that were news."""
        news: list[SignedAdvert] = []
        try:
            with trio.move_on_after(SYNC_WITHIN_S):
                stream = await self._host.open_stream(peer, protocol)
                try:
                    await stream.send_all(pack(request))
                    told = adverts_untrusted(await _one(stream))[:at_most]
                    news = [signed for data in told if (signed := self._take(data)) is not None]
                finally:
                    await stream.aclose()
        except GONE:
            pass  # it left, or does not know the protocol: gossip goes on with the others
        except RemoteProtocolError:
            self._directory.on_penalty(peer, now_us())
        return news

    async def _answer_sync(self, stream: Any) -> None:
        def newer(request: Value) -> list[Envelope]:
            known = known_untrusted(request)
            told = self._asked.take(stream.peer, now_us())
            return self._directory.newer_than(known, now_us()) if told else []

        await self._answer(stream, newer)

    async def _answer_lookup(self, stream: Any) -> None:
        def found(request: Value) -> list[Envelope]:
            find = Find.from_untrusted(request)
            if not self._asked.take(stream.peer, now_us()):
                return []
            here = answer(find, self._directory.young(now_us()))
            if find.model is not None:
                self._on_sought(stream.peer, find.model)
            return [signed.envelope for signed in here]

        await self._answer(stream, found, at_most_bytes=MAX_FIND_BYTES)

    async def _answer(
        self,
        stream: Any,
        adverts: Callable[[Value], list[Envelope]],
        *,
        at_most_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        """Answers the one message of a stream with adverts; whoever asked may have left meanwhile."""
        try:
            with trio.move_on_after(SYNC_WITHIN_S):
                told = adverts(await _one(stream, at_most_bytes=at_most_bytes))
                await stream.send_all(pack(sync_reply(told)))
            await stream.aclose()
        except GONE:
            pass

    async def _rounds(self) -> None:
        while True:
            await trio.sleep(ROUND_EVERY_S)
            self._directory.expire(now_us())
            for dials in self._retry_at_s, self._pause_s:
                for peer in [peer for peer in dials if self._directory.signed_advert(peer) is None]:
                    del dials[peer]
            candidates = self._directory.candidates(now_us(), own=False)
            known = [(candidate.peer, candidate.advert.shard_bits) for candidate in candidates]
            if self.shards.on_round(known, self._advert_bytes, now_us()):
                self._tell_sooner(urgent=True)
            await self._listen()
            strangers = self._host.connected() - {peer for peer, _ in known}
            if strangers:
                peer = random.choice(sorted(strangers))
                await self._ask(Errand(peer, Find(place=place_of(peer), at_most=1)))
            for _ in range(ERRANDS_PER_ROUND):
                errand = self._lookups.errand(
                    candidates,
                    self.shards,
                    self.coordinates.own,
                    now_us(),
                    asking=self._demand.asking(now_us()),
                )
                if errand is not None:
                    await self._ask(errand)

    async def _connect(self) -> None:
        """Dials peers from the directory, a few at a time, and leaves some where they are too many."""
        async with trio.open_nursery() as nursery:
            limit = trio.CapacityLimiter(DIALS_AT_ONCE)
            dialling: set[str] = set()
            while True:
                candidates = self._directory.candidates(now_us(), own=False)
                changes = self._choose(candidates, dialling)
                for peer in changes.dial:
                    signed = self._directory.signed_advert(peer)
                    if signed is not None:
                        dialling.add(peer)
                        nursery.start_soon(self._dial, signed.advert.addresses, peer, limit, dialling)
                for peer in changes.drop:
                    nursery.start_soon(self._host.disconnect, peer)
                with trio.move_on_after(DIAL_EVERY_S):
                    await self._peers_changed.wait()
                wanted = self._demand.links(now_us())
                crowded = len(candidates) > wanted <= len(self._host.connected())
                await trio.sleep(CHOOSE_EVERY_S if crowded else random.uniform(0, DIAL_JITTER_S))

    def _choose(self, candidates: Sequence[Candidate], dialling: set[str]) -> Changes:
        self._dialled &= self._host.connected()
        busy = {candidate.peer for candidate in candidates if candidate.own_in_flight_us}
        return self._neighbours.changes(
            candidates,
            bits=self.shards.bits,
            coordinate=self.coordinates.own,
            now_us=now_us(),
            dialling=dialling,
            barred={peer for peer, at_s in self._retry_at_s.items() if at_s > trio.current_time()},
            droppable={peer for peer in self._dialled - busy if not self._in_use(peer)},
            connections=self._demand.links(now_us()),
            asked=self._demand.asked,
        )

    async def _dial(
        self, addresses: tuple[str, ...], peer: str, limit: trio.CapacityLimiter, dialling: set[str]
    ) -> None:
        async with limit:
            try:
                dialable = dialable_of(peer, addresses, own_addresses=self._host.addresses)
                for address in dialable:
                    if peer in self._host.connected():
                        return
                    try:
                        await self._host.dial(address, timeout_s=DIAL_WITHIN_S)
                        self._pause_s.pop(peer, None)
                        self._dialled.add(peer)
                        self._directory.on_reached(peer, now_us())
                        return
                    except HostError:
                        continue
                if dialable:
                    self._directory.on_unreached(peer, now_us())
                first, last = DIAL_AGAIN_S
                pause_s = self._pause_s[peer] = min(last, 2 * self._pause_s.get(peer, first / 2))
                self._retry_at_s[peer] = trio.current_time() + pause_s
            finally:
                dialling.discard(peer)


async def _one(stream: Any, *, at_most_bytes: int = MAX_MESSAGE_BYTES) -> Value:
    """The one message of a stream."""
    reader = FrameReader(at_most_bytes=at_most_bytes)
    while data := await stream.receive_some():
        for value in reader.feed_untrusted(data):
            return value
    raise MalformedMessage("the stream ended before its message")
