"""A libp2p stream as a trio stream."""

from collections import deque
from typing import Any

import trio
from libp2p.network.stream.exceptions import StreamEOF, StreamError

from protocol.policy.names import short

from . import hardening
from .clock import now_us
from .hardening import PIECE_BYTES
from .network import StreamLost

STREAM_CLOSE_S = 2.0  # for what was sent to leave before a closed stream is given up


class PeerStream(trio.abc.Stream):
    """A libp2p stream as a trio stream, between this peer and the authenticated `peer` (a base58 peer id).

    One task sends and one receives.  A cancelled send_all resets this stream, never its connection; a
    cancelled receive_some loses nothing.  A clean end does not prove that what came before is complete.

    `heard_us` is when the last byte of what was last received came to this machine, `left_us` when the last byte of
    what was last sent was handed to its system.
    """

    def __init__(self, net_stream: Any) -> None:
        self.peer: str = net_stream.muxed_conn.peer_id.to_base58()
        self._net = net_stream
        self._unread = b""
        self._came: deque[tuple[int, int]] = deque()  # (bytes, when they came) of what is unread
        self.heard_us = self.left_us = now_us()
        self._sending = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<PeerStream to {self.peer}>"

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Returns once everything is on its way; fastest with multiples of PIECE_BYTES.  StreamLost."""
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._net.write(bytes(data))
            self.left_us = hardening.left_us.get(now_us())
        except StreamError as exc:
            await self._give_up()
            raise StreamLost(f"the stream to {short(self.peer)} was lost") from exc
        except trio.Cancelled:
            await self.reset()
            raise
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """Says that nothing more will be sent, and goes on receiving.  StreamLost."""
        try:
            await self._net.close_write()
        except StreamError as exc:
            raise StreamLost(f"the stream to {short(self.peer)} was lost") from exc

    async def receive_some(self, max_bytes: int | None = PIECE_BYTES) -> bytes:
        """What arrived together, at most `max_bytes`; b"" when the peer has closed its side.  StreamLost."""
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        at_most_bytes = PIECE_BYTES if max_bytes is None else max_bytes
        if self._unread:
            await trio.lowlevel.checkpoint()
        else:
            self._unread = await self._read(at_most_bytes)
            self._came.extend(self._net.muxed_stream.came)
        if not self._unread:
            return b""
        together, self.heard_us = self._came.popleft() if self._came else (len(self._unread), now_us())
        size = min(together, at_most_bytes)
        if size < together:
            self._came.appendleft((together - size, self.heard_us))
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    async def _read(self, at_most_bytes: int) -> bytes:
        try:
            data: bytes = await self._net.read(at_most_bytes)
        except StreamEOF as exc:
            muxed = self._net.muxed_stream
            if muxed.reset_received or muxed.conn.event_shutting_down.is_set():
                raise StreamLost(f"the stream to {short(self.peer)} was lost") from exc
            return b""
        except StreamError as exc:
            raise StreamLost(f"the stream to {short(self.peer)} was lost") from exc
        return data

    async def aclose(self) -> None:
        """Closes gracefully: what was sent arrives.  Takes STREAM_CLOSE_S at most, also when cancelled."""
        if not self._closed:
            self._closed = True
            with hardening.at_most(STREAM_CLOSE_S) as scope:
                await self._net.close()
            if scope.cancelled_caught:
                self._forget()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """Ends the stream now, in both directions; what was sent may be lost.  Takes a second at most."""
        self._closed = True
        await self._give_up()

    async def _give_up(self) -> None:
        await hardening.abandon(self._net.muxed_stream)
        self._forget()

    def _forget(self) -> None:
        hardening.forget(self._net.muxed_stream)
        self._net.swarm_conn.remove_stream(self._net)
