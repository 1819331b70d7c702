"""The link stream of each connection: HELLO once, then pings whose pongs carry live state.  (README section 6.)"""

import secrets
from collections.abc import Callable, Collection, Iterable
from typing import Any

import trio

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.policy.attention import Attention
from protocol.policy.directory import Directory
from protocol.policy.rtt import narrow, offset_interval
from protocol.policy.watching import Watchers
from protocol.wire.frames import FrameReader, pack
from protocol.wire.hello import (
    BOOT_ID_BYTES,
    MAX_LINK_MESSAGE_BYTES,
    PROTOCOL,
    VERSION,
    Hello,
    LiveState,
    Ping,
    Pong,
    StateMessage,
    WaitMessage,
    link_message_untrusted,
)

from .changed import Changed
from .clock import now_us
from .network import HostError
from .task_stream import PeerLost

PING_NUMBER_BITS = 16  # a guess that is wrong ends the connection
BURST = 6  # pings in a row when a link opens: the minimum of several is the distance
BURST_EVERY_S = 0.05
LOST_AFTER_S = 10.0  # a ping without an answer: frozen, or gone without a word
EPOCH_BITS = 40
HELLO_WITHIN_S = 5.0
LINK_WITHIN_S = 15.0  # for the other side to open one, and to say hello on it


class Session:
    """What both sides know of each other on this connection.

    `epoch_us` is where our clock of this connection starts; `offset_us` is (lowest, highest) of the remote clock minus
    our monotonic one.
    """

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.epoch_us = secrets.randbits(EPOCH_BITS) - now_us()
        self.hello: Hello | None = None
        self.offset_us: tuple[int, int] | None = None
        self._compared_us = 0  # when the offset was last narrowed

    def clock_us(self, at_us: int | None = None) -> int:
        """Our clock of this connection, at the monotonic reading `at_us` or now."""
        return self.epoch_us + (now_us() if at_us is None else at_us)

    def remote_now_us(self) -> int:
        """The remote clock, at least.  LocalProtocolError before hello: nothing is known of it."""
        if self.offset_us is None:
            raise LocalProtocolError("the peer has not said hello")
        return now_us() + self.offset_us[0]

    def to_local_us(self, remote_us: int) -> int:
        """A reading of the remote clock on ours: the middle of the interval, wrong by at most half a round trip.

        LocalProtocolError before hello.
        """
        if self.offset_us is None:
            raise LocalProtocolError("the peer has not said hello")
        return remote_us - sum(self.offset_us) // 2

    def on_hello(self, hello: Hello, heard_us: int) -> None:
        self.hello = hello
        self.offset_us = (hello.sent_us - heard_us, hello.sent_us - heard_us + LOST_AFTER_S_US)
        self._compared_us = heard_us

    def on_exchange(self, sent_us: int, remote_heard_us: int, remote_sent_us: int, heard_us: int) -> None:
        """Four timestamps: ours monotonic, theirs on their clock of this connection."""
        interval = offset_interval(sent_us, remote_heard_us, remote_sent_us, heard_us)
        later_us, self._compared_us = max(0, heard_us - self._compared_us), heard_us
        if self.offset_us is not None:
            interval = narrow(self.offset_us, interval, later_us=later_us)
        self.offset_us = interval


LOST_AFTER_S_US = int(LOST_AFTER_S * 1e6)


class OwnSession(Session):
    """This peer talking to itself: one clock."""

    def __init__(self, peer: str, hello: Hello) -> None:
        super().__init__(peer)
        self.hello = hello
        self.offset_us = (self.epoch_us, self.epoch_us)


class Links:
    """The sessions with all connected peers."""

    def __init__(
        self,
        host: Any,
        directory: Directory,
        *,
        network: str,
        state: Callable[[str], LiveState | None],
        on_ready: Callable[[str], None],
        on_measured: Callable[[str], None],
        agent: str,
    ) -> None:
        self.boot_id = secrets.token_bytes(BOOT_ID_BYTES)
        self._host = host
        self._directory = directory
        self._network = network
        self._state = state
        self._on_ready = on_ready
        self._on_measured = on_measured
        self._agent = agent
        self._sessions: dict[str, Session] = {}
        self._changed = Changed()
        self._attention = Attention()
        self._wake = Changed()
        self._told = Changed()
        self._looked_at: set[str] = set()  # asked as soon as may be
        self._watchers = Watchers()
        self._news = Changed()  # of one's own work
        self.own = OwnSession(host.peer_id, self._hello(0))
        host.set_handler(PROTOCOL, self._serve)

    def session(self, peer: str) -> Session | None:
        """The session with `peer`, once it has said hello."""
        return self.own if peer == self._host.peer_id else self._sessions.get(peer)

    def min_rtt_us(self, peer: str) -> int | None:
        """The distance to a peer, once it has answered a ping."""
        rtt = self._directory.rtt(peer)
        return rtt.min_us if rtt else None

    async def wait_session(self, peer: str, within_s: float) -> Session:
        """PeerLost if it does not say hello in time: slow, or gone."""
        with trio.move_on_after(within_s):
            while True:
                session = self.session(peer)
                if session is not None:
                    return session
                await self._changed.wait()
        raise PeerLost("the peer did not say hello in time")

    def stay_active(self) -> None:
        """This peer is about to ask for pictures: live state should be fresh for a while."""
        if self._attention.on_ask(now_us()):
            self._wake.notify()

    def on_plan(self, ranked: Iterable[str]) -> None:
        """The peers of a plan, the best first."""
        if self._attention.on_plan(ranked):
            self._wake.notify()

    def heard_us(self, peer: str) -> int | None:
        """Of when a connected peer's live state is, as far as is known; None: it is not connected, or told none."""
        return self._directory.heard_us(peer, now_us()) if peer in self._sessions else None

    def state_for(self, peer: str) -> LiveState | None:
        """What `peer` is told now, by whatever message; None: this peer does not provide."""
        state = self._state(peer)
        if state is not None:
            self._watchers.on_told(peer, state, now_us())
        return state

    def on_work(self) -> None:
        """What this peer has to do has changed: whoever watches may have to be told."""
        self._news.notify()

    async def look(self, peers: Collection[str], within_us: int) -> None:
        """Asks them for their live state now, and waits for their answers, so long at most."""
        asked_us = now_us()
        self._looked_at.update(peers)
        self._wake.notify()
        with trio.move_on_after(within_us / 1e6):
            while any(
                (heard_us := self.heard_us(peer)) is not None and heard_us < asked_us for peer in peers
            ):
                await self._told.wait()

    def watches(self, peer: str) -> bool:
        """Whether `peer` is asked to tell unasked."""
        return self._attention.watches(peer, now_us())

    def on_watched(self, peer: str, watch_us: int, asked_us: int) -> None:
        """It was asked at `asked_us` to tell unasked, and will for so long from then."""
        self._attention.on_watched(peer, watch_us)
        self._directory.on_watched(peer, asked_us + watch_us)

    def state_due_us(self, peer: str, asked_us: int) -> int:
        """When a peer that was last asked for its live state at `asked_us` is asked again."""
        if peer in self._looked_at:
            return asked_us
        now, directory = now_us(), self._directory
        heard_us, watched = directory.heard_us(peer, now), directory.watched(peer, now)
        return self._attention.due_us(peer, asked_us, heard_us, len(self._sessions), now, watched=watched)

    def on_disconnected(self, peer: str) -> None:
        self._sessions.pop(peer, None)
        self._looked_at.discard(peer)
        self._watchers.on_disconnected(peer)

    async def open(self, peer: str) -> None:
        """Opens the link to a peer that just connected, if it is for us to do; runs until the link ends.

        The peer whose id is smaller opens it, so that two that meet do not open two.  A connection without one ends.
        """
        try:
            if self._host.peer_id > peer:
                await self.wait_session(peer, LINK_WITHIN_S)
                return
            stream = await self._host.open_stream(peer, PROTOCOL)
        except (HostError, PeerLost):
            await self._host.disconnect(peer)
            return
        await self._serve(stream)

    async def _serve(self, stream: Any) -> None:
        session = Session(stream.peer)
        try:
            await _Link(stream, session, self).run()
        except* (HostError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the connection is gone: on_disconnected says so
        finally:
            with trio.CancelScope(shield=True):
                if self._sessions.get(session.peer, session) is session:  # or it never said hello
                    self._sessions.pop(session.peer, None)
                    await self._host.disconnect(session.peer)  # without a link it is no use
                await stream.reset()

    def _hello(self, sent_us: int) -> Hello:
        return Hello(
            network=self._network,
            versions=(VERSION,),
            boot_id=self.boot_id,
            sent_us=sent_us,
            agent=self._agent,
        )

    def _ready(self, session: Session) -> None:
        self._sessions[session.peer] = session
        self._changed.notify()
        self._on_ready(session.peer)

    @property
    def _active(self) -> bool:
        return self._attention.active(now_us())


class _Link:
    """One link stream."""

    def __init__(self, stream: Any, session: Session, links: Links) -> None:
        self._stream = stream
        self._session = session
        self._links = links
        self._unanswered: dict[
            int, tuple[int, bool]
        ] = {}  # ping number -> when it was sent, and whether to watch
        self._pings = 0
        self._sending = trio.Lock()
        self._asked_to_be_told = False
        self._telling = False

    async def run(self) -> None:
        await self._send(self._links._hello(self._session.clock_us()).to_value())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, nursery)

    async def _hear(self, nursery: trio.Nursery) -> None:
        reader = FrameReader(at_most_bytes=MAX_LINK_MESSAGE_BYTES)
        with trio.CancelScope(deadline=trio.current_time() + HELLO_WITHIN_S) as hello_scope:
            while True:
                data = await self._stream.receive_some()
                if not data:
                    break
                heard_us = now_us()
                for value in reader.feed_untrusted(data):
                    message = link_message_untrusted(value)
                    if isinstance(message, Hello):
                        self._on_hello(message, heard_us)
                        hello_scope.deadline = float("inf")
                        nursery.start_soon(self._ping)
                    elif self._session.hello is None:
                        raise RemoteProtocolError("a link begins with hello")
                    elif isinstance(message, Ping):
                        await self._answer(message, heard_us, nursery)
                    elif isinstance(message, Pong):
                        self._on_pong(message, heard_us)
                    else:
                        self._on_told(message, heard_us)
        nursery.cancel_scope.cancel()

    def _on_hello(self, hello: Hello, heard_us: int) -> None:
        if self._session.hello is not None:
            raise RemoteProtocolError("hello is said once")
        if hello.network != self._links._network:
            raise RemoteProtocolError("the peer belongs to another network")
        if VERSION not in hello.versions:
            raise RemoteProtocolError("the peer speaks no version of the protocol that we do")
        self._session.on_hello(hello, heard_us)
        self._links._ready(self._session)

    async def _answer(self, ping: Ping, heard_us: int, nursery: trio.Nursery) -> None:
        links, peer, clock = self._links, self._session.peer, self._session.clock_us
        state = links.state_for(peer) if ping.want_state else None
        watch_us = links._watchers.on_asked(peer, state, now_us()) if ping.watch and state else 0
        await self._send(Pong(ping.number, clock(heard_us), clock(), state, watch_us).to_value())
        if watch_us and not self._telling:
            self._telling = True
            nursery.start_soon(self._tell)

    async def _tell(self) -> None:
        """Live state, when it is news to who watches; until it watches no longer."""
        links, peer = self._links, self._session.peer
        while links._watchers.watches(peer, now_us()):
            state = links._state(peer)
            due_us = links._watchers.due_us(peer, state, now_us()) if state else None
            if state is None or due_us is None:
                await links._news.wait()
            elif (left_us := due_us - now_us()) > 0:
                await trio.sleep(left_us / 1e6)
            else:
                whole = links._watchers.on_news(peer, state, now_us())
                await self._send((StateMessage(state) if whole else WaitMessage.of(state)).to_value())
        self._telling = False

    def _on_told(self, message: StateMessage | WaitMessage, heard_us: int) -> None:
        if not self._asked_to_be_told:
            raise RemoteProtocolError("live state that nobody asked for")
        directory, peer = self._links._directory, self._session.peer
        if isinstance(message, StateMessage):
            directory.on_state(peer, message.state, heard_us)
        else:
            directory.on_wait(peer, message, heard_us)
        self._links._told.notify()

    def _on_pong(self, pong: Pong, heard_us: int) -> None:
        asked = self._unanswered.pop(pong.number, None)
        if asked is None:
            raise RemoteProtocolError("a pong without a ping")
        sent_us, watch = asked
        self._session.on_exchange(sent_us, pong.heard_us, pong.sent_us, heard_us)
        directory, peer = self._links._directory, self._session.peer
        # Its word on how long it held the ping is not taken.
        directory.on_rtt(peer, heard_us - sent_us, heard_us)
        if pong.state is not None:
            directory.on_state(peer, pong.state, heard_us)
            if watch:
                self._links.on_watched(peer, pong.watch_us, sent_us)
            self._links._told.notify()
        self._links._on_measured(peer)

    async def _ping(self) -> None:
        while True:
            now = now_us()
            if any(now - sent_us > LOST_AFTER_S_US for sent_us, _ in self._unanswered.values()):
                with trio.CancelScope(shield=True):
                    await self._links._host.disconnect(self._session.peer)
                return
            peer = self._session.peer
            looked_at, watch = peer in self._links._looked_at, self._links.watches(peer)
            self._links._looked_at.discard(peer)
            self._asked_to_be_told |= watch
            self._pings += 1
            number = self._new_number()
            self._unanswered[number] = now, watch
            first = self._pings <= BURST
            want_state = first or looked_at or self._links._active
            await self._send(Ping(number, self._session.clock_us(now), want_state, watch).to_value())
            if first:
                await trio.sleep(BURST_EVERY_S)
            else:
                while (left_us := self._links.state_due_us(peer, now) - now_us()) > 0:
                    with trio.move_on_after(left_us / 1e6):
                        await self._links._wake.wait()

    def _new_number(self) -> int:
        """By chance: a peer that knew the next one could answer before it hears it, and seem near."""
        while (number := secrets.randbits(PING_NUMBER_BITS)) in self._unanswered:
            pass
        return number

    async def _send(self, value: Any) -> None:
        async with self._sending:
            await self._stream.send_all(pack(value))
