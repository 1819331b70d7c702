"""Reaching a peer: a connection if there is none, its hello, and a task stream to say something on."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from protocol.policy.directory import Directory
from protocol.wire.conversation import Conversation, Role
from protocol.wire.task import OfferMessage, Resume

from .addresses import dialable_of
from .ahead import Ahead, Opened
from .clock import now_us
from .link import Links, Session
from .network import DialFailed, HostError, NobodyListens
from .task_stream import HungUp, TaskStream

HELLO_WITHIN_S = 5.0
DIAL_WITHIN_S = 10.0  # all of a peer's addresses together: a picture waits


class Line:
    """A task stream to a peer, and what is known of that peer's clock and boot."""

    def __init__(self, talk: TaskStream, session: Session, opened: Opened | None, ahead: Ahead) -> None:
        self.talk = talk
        self.session = session
        self._opened = opened
        self._ahead = ahead

    @property
    def opened_ahead(self) -> bool:
        """It was opened before it was needed, and may have ended since: nobody's fault.  (README section 9.6.)"""
        return self._opened is not None and self._opened.ahead

    async def say(self, first: OfferMessage | Resume) -> int:
        """The first word on the stream: when it left, us.  HungUp."""
        try:
            return await self.talk.send(first)
        finally:
            self._spoke()

    async def aclose(self) -> None:
        self._spoke()
        await self.talk.aclose()

    def _spoke(self) -> None:
        if self._opened is not None:
            self._ahead.spoke(self._opened)


class Reach:
    """Opens lines, to this very peer too."""

    def __init__(
        self, host: Any, links: Links, directory: Directory, own_stream: Callable[[], Awaitable[Any]]
    ) -> None:
        self._host = host
        self._links = links
        self._directory = directory
        self._own_stream = own_stream
        self._ahead = Ahead(host)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """While this runs, streams to peers in use are opened ahead."""
        await self._ahead.run(task_status=task_status)

    async def open(self, peer: str, *, fresh: bool = False) -> Line:
        """A line to `peer`, opened ahead unless it must be `fresh`.  HostError, PeerLost."""
        opened = None
        if peer == self._host.peer_id:
            stream: Any = await self._own_stream()
        else:
            if peer not in self._host.connected():
                await self._dial(peer)
            await self._links.wait_session(peer, HELLO_WITHIN_S)
            opened = await self._ahead.open(peer, fresh=fresh)
            stream = opened.stream
        rtt = self._directory.rtt(peer)
        conversation = Conversation(Role.REQUESTER, round_trip_us=rtt.min_us + rtt.jitter_us if rtt else 0)
        talk = TaskStream(stream, conversation)
        session = self._links.session(peer)
        if session is None:
            if opened is not None:
                self._ahead.spoke(opened)
            await talk.aclose()
            raise HungUp("the connection was lost")
        return Line(talk, session, opened, self._ahead)

    def keep(self, peer: str) -> None:
        """`peer` is in use: the next line to it should cost nothing."""
        if peer in self._host.connected():
            self._ahead.keep(peer)

    def statistics(self) -> dict[str, int]:
        return {f"streams_{name}": count for name, count in self._ahead.statistics().items()}

    async def _dial(self, peer: str) -> None:
        signed = self._directory.signed_advert(peer)
        told = signed.advert.addresses if signed else ()
        addresses = dialable_of(peer, told, own_addresses=self._host.addresses)
        errors: list[HostError] = []
        for address in addresses:
            try:
                await self._host.dial(address, timeout_s=DIAL_WITHIN_S / len(addresses))
                self._directory.on_reached(peer, now_us(), for_picture=True)
                return
            except HostError as exc:
                errors.append(exc)
        # That nobody listens at one address says little where another one did not answer.
        unsure = (each for each in errors if not isinstance(each, NobodyListens))
        raise next(
            unsure, errors[-1] if errors else DialFailed(peer, "it told no address that may be dialled")
        )
