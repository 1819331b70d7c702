"""Getting to know somebody: whom this peer was told to join, else those it was in touch with when it last ran.

And getting to know again, while others are connected, those of whom nothing is known any more: policy/reunion.py.
"""

import random
from collections.abc import Callable, Iterable, Sequence

import trio

from protocol.policy.directory import Directory
from protocol.policy.reunion import Reunion
from protocol.wire.advert import SignedAdvert

from .addresses import dialable_of
from .clock import now_us, wall_us
from .gossip import DIAL_WITHIN_S, Gossip
from .host import Host
from .network import HostError
from .store.ledger import KnownPeer, Ledger

LOOK_EVERY_S = 5.0
ALONE_EVERY_S = 1.0  # while nobody is connected
REMEMBERED = 16  # so many of those seen last are tried, all at once
# While nobody is connected, the pause before they are tried again doubles from the first to the second.  Who was named is
# expected: a bootstrap peer that starts a moment later is not waited for.
TOLD_AGAIN_S = (1.0, 30.0)
REMEMBERED_AGAIN_S = (5.0, 300.0)
REUNION_SPREAD = (2 / 3, 4 / 3)  # of the pause
MOST_REASONS = 256  # addresses of which it is known why they were of no use


class _Pause:
    """Between tries that fail, ever longer."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self.reset()

    @property
    def over(self) -> bool:
        return trio.current_time() >= self._over_s

    def reset(self) -> None:
        self._pause_s, self._over_s = self._first_s, trio.current_time()

    def on_try(self) -> None:
        self._over_s = trio.current_time() + self._pause_s
        self._pause_s = min(self._longest_s, 2 * self._pause_s)


class Joining:
    """Run `run` in a nursery; call `remember` once more when the peer stops."""

    def __init__(
        self,
        host: Host,
        directory: Directory,
        gossip: Gossip,
        ledger: Ledger,
        *,
        addresses: Sequence[str],
        rejoin: bool,
        journal: Callable[..., None],
    ) -> None:
        """`addresses`: whom to join, multiaddrs.  `rejoin`: where none of them answers, also whom it knew before."""
        self._host = host
        self._directory = directory
        self._gossip = gossip
        self._ledger = ledger
        self._addresses = addresses
        self._rejoin = rejoin
        self._journal = journal
        self._kept: frozenset[str] = frozenset()
        self._told, self._remembered = _Pause(*TOLD_AGAIN_S), _Pause(*REMEMBERED_AGAIN_S)
        self._reunion = Reunion(now_us())
        self._found: str | None = None  # who answered the last try to reunite
        self._why: dict[str, str] = {}  # what was wrong with an address when it was last tried

    async def run(self) -> None:
        """Keeps trying while nobody is connected, then now and then; and keeps in the ledger who is."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_in_touch)
            nursery.start_soon(self._keep_together)

    def on_advert(self, signed: SignedAdvert) -> None:
        """It was news."""
        self._reunion.on_advert(signed.peer, signed.advert.addresses)

    def statistics(self) -> dict[str, int]:
        return self._reunion.statistics()

    async def remember(self) -> None:
        """Writes down those connected of whom an advert tells the addresses, if others are than when it last did."""
        adverts = {peer: self._directory.signed_advert(peer) for peer in self._host.connected()}
        known = frozenset(peer for peer, signed in adverts.items() if signed)
        if known <= self._kept:
            return
        self._kept = known
        seen_us = wall_us()
        records = [
            KnownPeer(peer, signed.advert.addresses, seen_us) for peer, signed in adverts.items() if signed
        ]
        await trio.to_thread.run_sync(self._ledger.put_peers, records)

    async def _keep_in_touch(self) -> None:
        while True:
            if not self._host.connected():
                await self._join()
            if self._host.connected():
                self._told.reset()
                self._remembered.reset()
            await self.remember()
            await trio.sleep(LOOK_EVERY_S if self._host.connected() else ALONE_EVERY_S)

    async def _join(self) -> None:
        if self._told.over:
            for address in self._addresses:
                await self._dial([address])
            self._told.on_try()
        if self._rejoin and self._remembered.over and not self._host.connected():
            known = await trio.to_thread.run_sync(self._ledger.known_peers)
            async with trio.open_nursery() as nursery:
                for each in known[:REMEMBERED]:
                    nursery.start_soon(self._dial, self._dialable(each.peer, each.addresses))
            self._remembered.on_try()

    async def _keep_together(self) -> None:
        while True:
            await trio.sleep(LOOK_EVERY_S)
            self._reunion.on_look(self._is_known, now_us())
            if self._host.connected() and self._reunion.is_due(self._gossip.shards.bits, now_us()):
                await self._reunite()
                self._reunion.on_tried(random.uniform(*REUNION_SPREAD), now_us())

    async def _reunite(self) -> None:
        """Dials whom it was told to join, or once knew, and knows nothing of: the next of each, until one answers."""
        if self._found is not None:
            self._gossip.may_leave(self._found)
        told = [address for address in self._addresses if self._is_lost(address.rpartition("/")[2])]
        others = await self._lost() if self._rejoin else {}
        self._found = None
        for each in self._reunion.pick(told, list(others)):
            self._found = await self._dial(self._dialable(each, others[each]) if each in others else [each])
            if self._found is not None:
                return

    async def _lost(self) -> dict[str, tuple[str, ...]]:
        """The addresses of those known before of whom nothing is known now."""
        lost = {peer: addresses for peer, addresses in self._reunion.gone.items() if self._is_lost(peer)}
        known = await trio.to_thread.run_sync(self._ledger.known_peers)
        kept = [each for each in known if each.peer not in lost and self._is_lost(each.peer)]
        return lost | {each.peer: each.addresses for each in kept[:REMEMBERED]}

    def _is_known(self, peer: str) -> bool:
        return self._directory.signed_advert(peer) is not None

    def _is_lost(self, peer: str) -> bool:
        return peer not in self._host.connected() and not self._is_known(peer)

    def _dialable(self, peer: str, addresses: Iterable[str]) -> list[str]:
        return dialable_of(peer, addresses, own_addresses=self._host.addresses)

    async def _dial(self, addresses: Iterable[str]) -> str | None:
        """Who answers at the first of them where somebody does."""
        for address in addresses:
            try:
                peer = await self._host.dial(address, timeout_s=DIAL_WITHIN_S)
            except HostError as exc:
                self._failed(address, exc)
            else:
                self._why.pop(address, None)
                return peer
        return None

    def _failed(self, address: str, error: HostError) -> None:
        """Into the journal, where that is news."""
        why = str(error)
        if self._why.get(address) != why:
            if len(self._why) >= MOST_REASONS:
                self._why.clear()
            self._why[address] = why
            self._journal("join_failed", address=address, why=why)
