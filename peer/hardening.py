"""Work-arounds for libp2p 0.8.1: one function each, all applied before the first host is made.

Each replaces a method of exactly that release, hence the pin in pyproject.toml.  tests/test_hardening.py
takes one away at a time and shows the failure come back.  `isolated` counts the errors that would have ended
the process, and what peers did beyond their limits.
"""

import logging
import socket
import struct
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from operator import attrgetter
from typing import Any

import trio
from libp2p.exceptions import ParseError
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import HostException
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.io.trio import TrioTCPStream
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub import pubsub
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, SIZE_NOISE_MESSAGE_LEN
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.tools.anyio_service.trio_manager import TrioManager
from libp2p.transport.tcp import tcp
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from .clock import now_us, stamped_us

# The most one yamux frame in one noise message carries.
PIECE_BYTES = MAX_PLAINTEXT_LENGTH - yamux.HEADER_SIZE
RPC_BYTES = 256 * 1024  # of one pubsub RPC: several adverts of 4 KiB each, many times over
INBOUND_STREAMS_PER_CONNECTION = 64  # gossip, ping and some tasks; each may hold a window of 256 KiB unread
OUTBOX_BYTES = 1 << 20  # left behind by cancelled writers; more means that the peer has stopped reading
NEGOTIATION_BYTES = 1024  # of one multistream message; a protocol id is a few dozen
RESET_S = 1.0  # to tell the peer that a stream is dead; it also learns it from the connection's end
STALLED_S = 20.0  # without credit, before a stream is given up; readers have deadlines of their own
GO_AWAY_S = 0.25  # to say goodbye to a peer that may be frozen
ARRIVALS = 64  # told apart in what one stream has not read; more would take more memory than the bytes
SMALLEST_SIGNED_MESSAGE_BYTES = 128  # signature 64, author 38, sequence 8, field headers and topic

_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; also the type of its control message
_STAMP = struct.Struct("@ll")  # struct timespec
_STAMP_SPACE_BYTES = socket.CMSG_SPACE(_STAMP.size)

isolated: Counter[str] = Counter()
arrived_us: ContextVar[int] = ContextVar("arrived_us")  # what this task last read from a TCP stream
left_us: ContextVar[int] = ContextVar("left_us")  # what this task last wrote to one
YamuxStream.came = ()  # (bytes, when they arrived, us) of what was last read from it


def apply() -> None:
    for work_around in WORK_AROUNDS:
        work_around()


def isolate_stream_handlers() -> None:
    """An exception in any stream handler, ours, pubsub's or a negotiation's, ended the process."""
    handle = BasicHost._swarm_stream_handler

    async def isolated_handle(self: Any, stream: Any) -> None:
        try:
            await handle(self, stream)
        except Exception as exc:  # noqa: BLE001  the outermost stream handler
            isolated[type(exc).__name__] += 1
            with at_most(RESET_S):
                await stream.reset()

    BasicHost._swarm_stream_handler = isolated_handle


def isolate_service_tasks() -> None:
    """A validator that raised, or a gossip message with a strange key, ended the process."""
    run_task = TrioManager.run_task

    async def isolated_task(task: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            await task(*args)
        except Exception as exc:  # noqa: BLE001  the outermost frame of work done for one message or peer
            isolated[type(exc).__name__] += 1

    def run_isolated_task(
        self: Any,
        task: Any,
        *args: Any,
        daemon: bool = False,
        name: str | None = None,
        _internal: bool = False,
    ) -> None:
        if daemon or _internal:
            run_task(self, task, *args, daemon=daemon, name=name, _internal=_internal)
        else:
            run_task(self, isolated_task, task, *args, name=name or getattr(task, "__qualname__", str(task)))

    TrioManager.run_task = run_isolated_task


def finish_cancelled_writes() -> None:
    """A cancelled write tore a frame and left the noise cipher a message ahead, so the whole connection died.

    What is once handed to the TCP stream now leaves in order, whatever becomes of the task that handed it
    over.  A frame is kept to one noise message, so that encrypting and handing over is one unbroken step.
    """
    yamux.MAX_MESSAGE_SIZE = MAX_PLAINTEXT_LENGTH
    initialise = TrioTCPStream.__init__

    def __init__(self: Any, stream: trio.SocketStream) -> None:
        initialise(self, stream)
        self.outbox = bytearray()
        self.finishing = False

    async def write(self: Any, data: bytes) -> None:
        left_us.set(now_us())
        self.outbox += data
        if len(self.outbox) > OUTBOX_BYTES:
            await self.close()
        try:
            await flush(self)
        except trio.Cancelled:
            if self.outbox and not self.finishing:
                self.finishing = True
                trio.lowlevel.spawn_system_task(finish, self)
            raise

    async def flush(self: Any) -> None:
        async with self.write_lock:
            try:
                while self.outbox:
                    left_us.set(now_us())
                    sent = await self.stream.socket.send(self.outbox)
                    del self.outbox[:sent]
            except (OSError, trio.ClosedResourceError) as exc:
                self.outbox.clear()
                raise ConnectionClosedError(f"connection closed: {exc}", transport="tcp") from exc

    async def finish(self: Any) -> None:
        try:
            await flush(self)
        except ConnectionClosedError:
            return  # whoever reads from this connection, or writes next, learns it
        finally:
            self.finishing = False

    TrioTCPStream.__init__ = __init__
    TrioTCPStream.write = write


def keep_what_cancelled_reads_took() -> None:
    """A cancelled read lost the bytes it had taken, or the credit it was about to grant (the stream starves).

    Credit is granted by a task of the connection, and, as in go-yamux, only by halves of the window: granting
    with every read doubled the frames of a small exchange.
    """

    async def read(self: Any, n: int | None = -1) -> bytes:
        data: bytes = await self.conn.read_stream(self.stream_id, -1 if n is None else n)
        self.came = _came(self, len(data))
        buffered = len(self.conn.stream_buffers.get(self.stream_id, b""))
        owed = self.target_recv_window - self.recv_window - buffered
        if owed >= self.target_recv_window // 2 and not self.conn.event_shutting_down.is_set():
            credit = self._grow_to_delta(buffered) + self._apply_autotune_epoch(buffered)
            self.conn._nursery.start_soon(grant, self, credit)
        return data

    async def grant(self: Any, credit: int) -> None:
        try:
            await self.conn._write_frame(_header(yamux.TYPE_WINDOW_UPDATE, 0, self.stream_id, credit))
        except IOException:
            return  # the connection is ending, and the next read says so

    YamuxStream.read = read


def _came(stream: Any, size: int) -> list[tuple[int, int]]:
    """(bytes, when they arrived, us) of the next `size` bytes of a yamux stream."""
    came, arrivals = [], vars(stream).get("arrivals", ())
    while size and arrivals:
        frame_bytes, at_us = arrivals.popleft()
        taken = min(size, frame_bytes)
        if taken < frame_bytes:
            arrivals.appendleft((frame_bytes - taken, at_us))
        came.append((taken, at_us))
        size -= taken
    return came


def tell_when_bytes_came() -> None:
    """Nobody could know when bytes came: what they waited for a busy machine looked like the network's doing.

    Linux tells.  Packets that wait to be read it joins, and keeps the time of the last one.
    """
    initialise = TrioTCPStream.__init__
    read_unstamped = TrioTCPStream.read

    def __init__(self: Any, stream: trio.SocketStream) -> None:
        initialise(self, stream)
        self.came_us = now_us()
        self.stamps = sys.platform == "linux"
        if self.stamps:
            stream.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    async def read(self: Any, n: int | None = None) -> bytes:
        if not self.stamps or n is None or n <= SIZE_NOISE_MESSAGE_LEN:  # the body tells when a message came
            data: bytes = await read_unstamped(self, n)
            at_us = self.came_us if self.stamps else now_us()
        else:
            data, at_us = await read_stamped(self, n)
        self.came_us = max(self.came_us, at_us)  # in order, whatever becomes of the wall clock
        arrived_us.set(self.came_us)
        return data

    async def read_stamped(self: Any, n: int) -> tuple[bytes, int]:
        async with self.read_lock:
            try:
                data, told, _, _ = await self.stream.socket.recvmsg(n, _STAMP_SPACE_BYTES)
            except trio.ClosedResourceError:
                return b"", now_us()
            except OSError as exc:
                raise ConnectionClosedError(f"connection closed: {exc}", transport="tcp") from exc
        for level, kind, stamp in told:
            if (level, kind, len(stamp)) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS, _STAMP.size):
                seconds, ns = _STAMP.unpack(stamp)
                return data, stamped_us(seconds * 1_000_000_000 + ns)
        return data, now_us()

    TrioTCPStream.__init__ = __init__
    TrioTCPStream.read = read


def wake_waiting_writers() -> None:
    """A writer without credit looked again every 10 ms, which caps a stream at a window per 10 ms."""

    def waking(name: str) -> property:
        def put(self: Any, value: int) -> None:
            setattr(self, name, value)
            if hasattr(self, "may_write"):
                self.may_write.set()

        return property(attrgetter(name), put)

    async def write(self: Any, data: bytes) -> None:
        sent = 0
        while sent < len(data):
            if self.closed or self.send_closed:
                raise MuxedStreamError("stream is closed for sending")
            if self.send_window <= 0:
                self.may_write = trio.Event()
                with trio.move_on_after(STALLED_S) as scope:
                    await self.may_write.wait()
                if scope.cancelled_caught:
                    raise MuxedStreamError(f"the peer has read nothing for {STALLED_S:g} s")
                continue
            piece = data[sent : sent + min(self.send_window, PIECE_BYTES)]
            sent += len(piece)
            self.send_window -= len(piece)
            await self.conn._write_frame(_header(yamux.TYPE_DATA, 0, self.stream_id, len(piece)) + piece)

    YamuxStream.send_window = waking("_credit_bytes")
    YamuxStream.closed = waking("_is_closed")
    YamuxStream.write = write


def return_cancelled_slots() -> None:
    """A cancelled open kept one of a connection's 256 outbound slots; when all are gone, opening hangs."""

    async def open_stream(self: Any) -> Any:
        await self.stream_backlog_semaphore.acquire()
        try:
            async with self.streams_lock:
                if self.event_shutting_down.is_set():
                    raise MuxedStreamError("connection is shutting down")
                stream = YamuxStream(self.next_stream_id, self, True)
                self.next_stream_id += 2
                self.streams[stream.stream_id] = stream
                self.stream_buffers[stream.stream_id] = bytearray()
                self.stream_events[stream.stream_id] = trio.Event()
        except BaseException:
            self.stream_backlog_semaphore.release()
            raise
        stream._owns_backlog_slot = True
        try:
            await self._write_frame(_header(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN, stream.stream_id, 0))
        except IOException as exc:
            forget(stream)
            raise MuxedStreamError(f"could not open: {exc}") from exc
        except BaseException:
            await abandon(stream)
            raise
        return stream

    async def new_stream(self: Any) -> Any:
        muxed = await self.muxed_conn.open_stream()
        try:
            return await self._add_stream(muxed)
        except BaseException:
            self.streams = {stream for stream in self.streams if stream.muxed_stream is not muxed}
            await abandon(muxed)
            raise

    Yamux.open_stream = open_stream
    SwarmConn.new_stream = new_stream


async def abandon(stream: Any) -> None:
    """Give a yamux stream up for good, telling the peer if that is possible within RESET_S."""
    with at_most(RESET_S):
        await stream.reset()
    forget(stream)


def at_most(seconds: float) -> trio.CancelScope:
    """A scope for clean-up: whatever is cancelled outside, it gets this long."""
    return trio.CancelScope(deadline=trio.current_time() + seconds, shield=True)


def forget(stream: Any) -> None:
    """Drop what the connection holds for a yamux stream, and give its slot back, at once."""
    stream.closed = stream.send_closed = stream.recv_closed = stream.reset_received = True
    stream.conn.stream_buffers.pop(stream.stream_id, None)
    stream.conn._finalize_stream_locked(stream, fully_closed=True)


class WindowOverrun(trio.TooSlowError):
    """The peer sent more than it was granted.  (Yamux's reader hangs up on an exception of this type.)"""


def enforce_receive_window() -> None:
    """A peer that ignored its window filled our memory (314 MB were seen).  It now loses its connection."""
    read_body = Yamux._read_data_body

    def get(self: Any) -> int:
        window: int = self.window_left
        return window

    def put(self: Any, window: int) -> None:
        if window < 0:
            isolated["WindowOverrun"] += 1
            raise WindowOverrun(f"{-window} bytes more than granted")
        if window < getattr(self, "window_left", 0):
            arrive(self, self.window_left - window)
        self.window_left = window

    def arrive(self: Any, size: int) -> None:
        arrivals: deque[tuple[int, int]] = vars(self).setdefault("arrivals", deque())
        if len(arrivals) == ARRIVALS:
            size += arrivals.pop()[0]
        arrivals.append((size, arrived_us.get(now_us())))

    async def read_bounded_body(self: Any, length: int) -> bytes:
        if length > yamux.DEFAULT_WINDOW_SIZE:  # then some stream must have been granted that much
            granted = max((stream.window_left for stream in self.streams.values()), default=0)
            if length > granted:
                isolated["WindowOverrun"] += 1
                raise WindowOverrun(f"{length} bytes announced, {granted} granted")
        body: bytes = await read_body(self, length)
        return body

    YamuxStream.recv_window = property(get, put)
    Yamux._read_data_body = read_bounded_body


def limit_inbound_streams() -> None:
    """A peer could open any number of streams, each with a window of unread bytes."""
    handle = SwarmConn._handle_muxed_stream

    async def handle_within_limit(self: Any, muxed: Any) -> None:
        inbound = sum(not stream.is_initiator for stream in self.muxed_conn.streams.values())
        if inbound > INBOUND_STREAMS_PER_CONNECTION:
            isolated["TooManyStreams"] += 1
            await abandon(muxed)
        else:
            await handle(self, muxed)

    SwarmConn._handle_muxed_stream = handle_within_limit


def admit_inbound() -> None:
    """An inbound connection's place was freed only when the host stopped: deaf after 250 to 300 of them.

    The swarm asks its `inbound_gate` (an InboundGate, set by transport.py) instead, which also bounds floods.
    """

    async def handle_inbound(self: Any, stream: Any, address: Any) -> None:
        try:
            ip = stream.stream.socket.getpeername()[0]
        except OSError:  # it has already gone
            await stream.close()
            return
        admission = self.inbound_gate.admit(ip)
        if admission is None:
            await stream.close()
            return
        try:
            muxed = await self.upgrade_inbound_raw_conn(RawConnection(stream, False), address)
            admission.finished_handshake()
            await muxed.event_closed.wait()
        finally:
            admission.left()
            await stream.close()

    Swarm._handle_inbound_connection = handle_inbound


def close_at_once() -> None:
    """Closing waited until a farewell was written, holding the streams' lock: for ever, to a frozen peer."""

    async def close(self: Any, error_code: int = yamux.GO_AWAY_NORMAL) -> None:
        with trio.CancelScope(shield=True):
            if not self.event_shutting_down.is_set():
                self.event_shutting_down.set()
                with trio.move_on_after(GO_AWAY_S):
                    try:
                        await self._write_frame(_header(yamux.TYPE_GO_AWAY, 0, 0, error_code))
                    except IOException:
                        self.event_shutting_down.set()  # it is gone already
            await self.secured_conn.close()
            await self._cleanup_on_error()

    Yamux.close = close


def never_dial_unasked() -> None:
    """Opening a stream, gossip's peer exchange and retries dialled addresses that strangers had handed in.

    Only Host.dial dials, one address at a time; so neither the 250 ms head start between two addresses nor
    the refusal to dial a peer for 60 s after a failure, both part of `dial_peer`, are met any more.
    """

    async def dial_peer(self: Any, peer: Any) -> list[Any]:
        raise SwarmException(f"not connected to {peer}")

    async def exchange_peers(self: Any, peers: Any) -> None:
        await trio.lowlevel.checkpoint()

    async def connect_unasked(self: Any) -> None:
        await trio.lowlevel.checkpoint()

    Swarm.dial_peer = dial_peer
    AutoConnector.maybe_connect = connect_unasked
    GossipSub._do_px = exchange_peers


def never_identify() -> None:
    """A system task that outlives its host asked every peer who it is; noise has told us already."""

    def schedule_identify(self: Any, peer: Any, *, reason: str) -> None: ...

    async def push_identify(self: Any) -> None:
        await trio.lowlevel.checkpoint()

    BasicHost._schedule_identify = schedule_identify
    BasicHost._push_identify_to_all_peers = push_identify


def bound_negotiation() -> None:
    """A protocol name could have any length, and one that is not UTF-8 raised what nobody catches."""

    async def read(self: Any) -> str:
        try:
            line = await read_varint_prefixed_bytes_limited(self.read_writer, NEGOTIATION_BYTES)
            if not line.endswith(b"\n"):
                raise MultiselectCommunicatorError("a line without an end")
            return str(line[:-1], "utf-8")
        except (ParseError, IOException, UnicodeDecodeError) as exc:
            raise MultiselectCommunicatorError("not a multistream message") from exc

    MultiselectCommunicator.read = read


def own_the_port() -> None:
    """Two peers could listen on one port, and the kernel dealt connections to either."""

    def set_flags(sock: trio.socket.SocketType) -> None:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)

    tcp._set_reuse_flags = set_flags


def gossip_with_whoever_stays() -> None:
    """One negotiation that took too long, of a busy peer, and gossip never wrote to it again while it stayed."""
    handle = Pubsub._handle_new_peer

    async def handle_new_peer(self: Any, peer: Any) -> None:
        try:
            await handle(self, peer)
        except (HostException, IOException, MuxedStreamError) as exc:
            raise SwarmException("no gossip stream could be opened") from exc  # what it tries again after

    Pubsub._handle_new_peer = handle_new_peer


class QuickLock:
    """As a trio.Lock, and one that is free is taken without a turn of the event loop."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def acquire(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()


def take_free_locks_at_once() -> None:
    """Each lock that was free cost a turn of the event loop, and so a system call: ten for every packet."""

    def with_quick_locks(kind: Any, *names: str) -> None:
        initialise = kind.__init__

        def __init__(self: Any, *args: Any, **more: Any) -> None:
            initialise(self, *args, **more)
            for name in names:
                setattr(self, name, QuickLock())

        kind.__init__ = __init__

    async def write_frame(self: Any, data: bytes) -> None:
        async with self._write_lock:
            await self.secured_conn.write(data)

    with_quick_locks(Yamux, "streams_lock", "_write_lock")
    with_quick_locks(NetStream, "_state_lock")
    with_quick_locks(TrioTCPStream, "read_lock", "write_lock")
    Yamux._write_frame = write_frame


def measure_a_connection_once() -> None:
    """Every half minute each connection was pinged, only to tune its window; the link of each is pinged anyway."""
    yamux.RTT_MEASURE_INTERVAL = float("inf")


def hold_a_whole_rpc() -> None:
    """One RPC of more than 32 messages overflowed the subscription before its reader could run."""
    pubsub.SUBSCRIPTION_CHANNEL_SIZE = RPC_BYTES // SMALLEST_SIGNED_MESSAGE_BYTES


def log_nothing() -> None:
    """It printed warnings about every lost connection, and gave the root logger a handler of its own."""
    logger = logging.getLogger("libp2p")
    logger.handlers[:] = [logging.NullHandler()]
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    # This module calls logging.debug() itself, which configures the root logger if nobody has.
    swarm_connection.logging = logging.getLogger("libp2p.network.connection.swarm_connection")


def _header(kind: int, flags: int, stream_id: int, value: int) -> bytes:
    return struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, kind, flags, stream_id, value)


WORK_AROUNDS: tuple[Callable[[], None], ...] = (
    isolate_stream_handlers,
    isolate_service_tasks,
    finish_cancelled_writes,
    keep_what_cancelled_reads_took,
    tell_when_bytes_came,
    wake_waiting_writers,
    return_cancelled_slots,
    enforce_receive_window,
    limit_inbound_streams,
    admit_inbound,
    close_at_once,
    never_dial_unasked,
    never_identify,
    bound_negotiation,
    own_the_port,
    gossip_with_whoever_stays,
    take_free_locks_at_once,
    measure_a_connection_once,
    hold_a_whole_rpc,
    log_nothing,
)
