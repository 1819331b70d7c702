"""Adverts: our own published, everyone's heard, and what was missed fetched on connect.  (README section 7.)"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import trio

from protocol.errors import MalformedMessage, ProtocolError, UnknownCriticalField
from protocol.policy.directory import Directory
from protocol.wire.advert import (
    SYNC_PROTOCOL,
    TOPIC,
    Advert,
    SignedAdvert,
    adverts_untrusted,
    known_untrusted,
    sync_reply,
    sync_request,
)
from protocol.wire.canonical import MAX_MESSAGE_BYTES, Value
from protocol.wire.frames import FrameReader, pack

from .addresses import dialable_from_advert
from .changed import Changed
from .clock import now_us, wall_us
from .network import HostError

PUBLISH_EVERY_S = (30.0, 60.0)
PUBLISH_GAP_S = 1.0  # between two adverts of one peer, however often it changes
SYNC_WITHIN_S = 5.0
DIAL_EVERY_S = 2.0  # and whenever a peer appears or leaves
DIAL_JITTER_S = 0.2  # so that not everyone dials a newcomer at once
YIELD_S = 1.0  # for the one of two with the smaller id to dial first: far away, a dial takes 0.75 s
DIALS_AT_ONCE = 4
DIAL_WITHIN_S = 5.0
DIAL_AGAIN_S = (2.0, 300.0)  # the pause after a failed dial doubles from the first to the second
CONNECTIONS = 32  # more peers than these are measured when they are needed


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
        on_fresh: Callable[[SignedAdvert, str | None], None],
    ) -> None:
        self._host = host
        self._directory = directory
        self._network = network
        self._private_key = private_key
        self._able = able
        self._provide = provide
        self._on_fresh = on_fresh
        self._topic = TOPIC.format(network=network)
        self._changed = Changed()
        self._peers_changed = Changed()
        self._retry_at_s: dict[str, float] = {}
        self._pause_s: dict[str, float] = {}
        host.set_handler(SYNC_PROTOCOL, self._answer_sync)

    def renew(self) -> None:
        """Our capabilities changed: tell everyone."""
        self._changed.notify()

    def on_disconnected(self) -> None:
        """A connection ended: there may be reason to dial."""
        self._peers_changed.notify()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        self._sign()
        await self._host.subscribe(self._topic, self._valid, self._deliver)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._publish)
            nursery.start_soon(self._connect)
            nursery.start_soon(self._expire)
            task_status.started()

    def _sign(self) -> SignedAdvert:
        able = self._able()
        told = (
            able if self._provide else replace(able, kinds=(), models=(), limits=None, price_millionths=None)
        )
        signed = SignedAdvert.sign(told, network=self._network, private_key=self._private_key)
        self._directory.on_own_advert(signed, able)
        return signed

    async def _publish(self) -> None:
        while True:
            await self._host.publish(self._topic, self._sign().envelope.to_bytes())
            with trio.move_on_after(random.uniform(*PUBLISH_EVERY_S)):
                await self._changed.wait()
            await trio.sleep(PUBLISH_GAP_S)

    def _valid(self, _forwarder: str, _author: str, data: bytes) -> bool:
        """Whether to relay it.  An advert newer than we understand is worth relaying."""
        try:
            SignedAdvert.from_untrusted(data, network=self._network)
        except UnknownCriticalField:
            return True
        except ProtocolError:
            return False
        return True

    def _deliver(self, _author: str, data: bytes) -> None:
        self._take(data)

    def _take(self, data: bytes) -> bool:
        """Whether the advert was news."""
        try:
            signed = SignedAdvert.from_untrusted(data, network=self._network)
        except ProtocolError:
            return False  # `_valid` scored it, or it is newer than we understand
        verdict = self._directory.on_advert(signed, now_us(), wall_us())
        if verdict.outcome == "new" and self._host.peer_id > signed.peer:
            self._retry_at_s.setdefault(signed.peer, trio.current_time() + YIELD_S)
        if verdict.fresh:
            self._peers_changed.notify()
            self._on_fresh(signed, verdict.note)
        return verdict.fresh

    async def sync(self, peer: str) -> None:
        """Fetches what `peer` knows and we do not; tells the others what was news."""
        try:
            with trio.move_on_after(SYNC_WITHIN_S):
                stream = await self._host.open_stream(peer, SYNC_PROTOCOL)
                try:
                    await stream.send_all(pack(sync_request(self._directory.versions())))
                    news = [data for data in adverts_untrusted(await _one(stream)) if self._take(data)]
                finally:
                    await stream.aclose()
                for data in news:
                    await self._host.publish(self._topic, data)
        except (HostError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it left: gossip goes on with the others

    async def _answer_sync(self, stream: Any) -> None:
        with trio.move_on_after(SYNC_WITHIN_S):
            known = known_untrusted(await _one(stream))
            await stream.send_all(pack(sync_reply(self._directory.newer_than(known, now_us()))))
        await stream.aclose()

    async def _expire(self) -> None:
        while True:
            await trio.sleep(5)
            for peer in self._directory.expire(now_us()):
                self._retry_at_s.pop(peer, None)
                self._pause_s.pop(peer, None)

    async def _connect(self) -> None:
        """Dials peers from the directory, a few at a time, the longest unheard-of last."""
        async with trio.open_nursery() as nursery:
            limit = trio.CapacityLimiter(DIALS_AT_ONCE)
            dialling: set[str] = set()
            while True:
                connected = self._host.connected()
                room = CONNECTIONS - len(connected) - len(dialling)
                for candidate in self._directory.candidates(now_us(), own=False):
                    peer = candidate.peer
                    if room <= 0 or peer in connected or peer in dialling:
                        continue
                    if self._retry_at_s.get(peer, 0) > trio.current_time():
                        continue
                    room -= 1
                    dialling.add(peer)
                    nursery.start_soon(self._dial, candidate.advert.addresses, peer, limit, dialling)
                with trio.move_on_after(DIAL_EVERY_S):
                    await self._peers_changed.wait()
                await trio.sleep(random.uniform(0, DIAL_JITTER_S))

    async def _dial(
        self, addresses: tuple[str, ...], peer: str, limit: trio.CapacityLimiter, dialling: set[str]
    ) -> None:
        async with limit:
            try:
                for address in addresses:
                    if peer in self._host.connected():
                        return
                    if not address.endswith(f"/p2p/{peer}"):
                        continue
                    if not dialable_from_advert(address, own_addresses=self._host.addresses):
                        continue
                    try:
                        await self._host.dial(address, timeout_s=DIAL_WITHIN_S)
                        self._pause_s.pop(peer, None)
                        return
                    except HostError:
                        continue
                first, last = DIAL_AGAIN_S
                pause_s = self._pause_s[peer] = min(last, 2 * self._pause_s.get(peer, first / 2))
                self._retry_at_s[peer] = trio.current_time() + pause_s
            finally:
                dialling.discard(peer)


async def _one(stream: Any) -> Value:
    """The one message of a stream."""
    reader = FrameReader(at_most_bytes=MAX_MESSAGE_BYTES)
    while data := await stream.receive_some():
        for value in reader.feed_untrusted(data):
            return value
    raise MalformedMessage("the stream ended before its message")
