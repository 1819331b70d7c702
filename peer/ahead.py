"""Task streams opened ahead, so that an offer to a peer in use waits for no round trip first.  (README section 9.6.)"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import trio

from protocol.wire.task import PROTOCOL

from .network import HostError

IDLE_AT_MOST = 2  # streams to one peer on which nothing was said yet: README section 9.6
UNUSED_AFTER_S = 50.0  # the provider closes an idle stream after 60 s: whoever closes first crosses no offer


@dataclass(eq=False)
class Opened:
    """A task stream on which nothing was said yet: one of the IDLE_AT_MOST to its peer until `Ahead.spoke`."""

    peer: str
    ahead: bool  # opened before it was needed: it may have ended since
    stream: Any = None
    watching: trio.CancelScope = field(default_factory=trio.CancelScope)
    unwatched: trio.Event = field(default_factory=trio.Event)
    ended: bool = False
    unwanted: bool = False  # whoever took it was cancelled meanwhile


class Ahead:
    """Opens task streams, and keeps one ready to each peer in use.  To a peer not used for a while it keeps none."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self._nursery: trio.Nursery | None = None
        self._ready: dict[str, Opened] = {}
        self._places: dict[str, trio.CapacityLimiter] = {}  # of peers with an idle stream
        self._counts: Counter[str] = Counter()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Streams are kept ready while this runs."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def open(self, peer: str, *, fresh: bool = False) -> Opened:
        """A stream to say something on: one that is ready, unless it must be `fresh`, else a new one.  HostError."""
        ready = None if fresh else self._ready.pop(peer, None)
        if ready is not None:
            ready.watching.cancel()
            try:
                await ready.unwatched.wait()
            except trio.Cancelled:
                ready.unwanted = True
                raise
            if not ready.ended:
                self._counts["taken"] += 1
                return ready
        opened = Opened(peer, ahead=False)
        await self._place_of(peer).acquire_on_behalf_of(opened)
        await self._open(opened)
        self._counts["fresh"] += 1
        return opened

    def spoke(self, opened: Opened) -> None:
        """Something was said on it, or never will be: another may be opened."""
        places = self._places.get(opened.peer)
        if places is not None and opened in places.statistics().borrowers:
            places.release_on_behalf_of(opened)
            if not places.borrowed_tokens and not places.statistics().tasks_waiting:
                del self._places[opened.peer]

    def keep(self, peer: str) -> None:
        """`peer` is in use: a stream to it should be ready when the next one is needed."""
        if self._nursery is None or peer in self._ready:
            return
        opened = Opened(peer, ahead=True)
        try:
            self._place_of(peer).acquire_on_behalf_of_nowait(opened)
        except trio.WouldBlock:
            return
        self._ready[peer] = opened
        self._nursery.start_soon(self._hold, opened)

    def statistics(self) -> dict[str, int]:
        """`taken`: streams that were ready; `fresh`: opened when needed; `ended`: ready ones that nobody needed."""
        return {
            "ready": len(self._ready),
            **{name: self._counts[name] for name in ("taken", "fresh", "ended")},
        }

    def _place_of(self, peer: str) -> trio.CapacityLimiter:
        return self._places.setdefault(peer, trio.CapacityLimiter(IDLE_AT_MOST))

    async def _open(self, opened: Opened) -> None:
        try:
            opened.stream = await self._host.open_stream(opened.peer, PROTOCOL)
        except BaseException:
            self.spoke(opened)
            raise

    async def _hold(self, opened: Opened) -> None:
        """Until it is taken, ends, or was not needed for UNUSED_AFTER_S."""
        opened.ended = True  # unless it is taken
        try:
            await self._open(opened)
            opened.watching.deadline = trio.current_time() + UNUSED_AFTER_S
            with opened.watching:
                # A provider says nothing before us: this is the end of it.
                await opened.stream.receive_some(1)
                return
            untaken = self._ready.get(opened.peer) is opened
            opened.ended = untaken or opened.unwanted
        except (HostError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # whoever needs one opens it, and is told then
        finally:
            if self._ready.get(opened.peer) is opened:
                del self._ready[opened.peer]
            if opened.ended:
                self._counts["ended"] += 1
                self.spoke(opened)
            opened.unwatched.set()
            if opened.ended and opened.stream is not None:
                await opened.stream.aclose()
