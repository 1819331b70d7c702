"""Getting to know somebody: whom this peer was told to join, else those it was in touch with when it last ran."""

from collections.abc import Callable, Sequence

import trio

from protocol.policy.directory import Directory

from .addresses import dialable_of
from .clock import wall_us
from .gossip import DIAL_WITHIN_S
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
        ledger: Ledger,
        *,
        addresses: Sequence[str],
        rejoin: bool,
        journal: Callable[..., None],
    ) -> None:
        """`addresses`: whom to join, multiaddrs.  `rejoin`: where none of them answers, also whom it knew before."""
        self._host = host
        self._directory = directory
        self._ledger = ledger
        self._addresses = addresses
        self._rejoin = rejoin
        self._journal = journal
        self._kept: frozenset[str] = frozenset()
        self._told, self._remembered = _Pause(*TOLD_AGAIN_S), _Pause(*REMEMBERED_AGAIN_S)
        self._why: dict[str, str] = {}  # what was wrong with an address when it was last tried

    async def run(self) -> None:
        """Keeps trying while nobody is connected, and keeps in the ledger who is."""
        while True:
            if not self._host.connected():
                await self._join()
            if self._host.connected():
                self._told.reset()
                self._remembered.reset()
                self._why.clear()
            await self.remember()
            await trio.sleep(LOOK_EVERY_S if self._host.connected() else ALONE_EVERY_S)

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

    async def _join(self) -> None:
        if self._told.over:
            for address in self._addresses:
                try:
                    await self._host.dial(address)
                except HostError as exc:
                    self._failed(address, exc)
            self._told.on_try()
        if self._rejoin and self._remembered.over and not self._host.connected():
            await self._dial_remembered()
            self._remembered.on_try()

    async def _dial_remembered(self) -> None:
        known = await trio.to_thread.run_sync(self._ledger.known_peers)
        async with trio.open_nursery() as nursery:
            for each in known[:REMEMBERED]:
                nursery.start_soon(self._dial, each)

    async def _dial(self, known: KnownPeer) -> None:
        for address in dialable_of(known.peer, known.addresses, own_addresses=self._host.addresses):
            try:
                await self._host.dial(address, timeout_s=DIAL_WITHIN_S)
                return
            except HostError as exc:
                self._failed(address, exc)

    def _failed(self, address: str, error: HostError) -> None:
        """Into the journal, where that is news."""
        why = str(error)
        if self._why.get(address) != why:
            self._why[address] = why
            self._journal("join_failed", address=address, why=why)
