"""The only door to libp2p: listen, dial, streams, gossip over TCP, noise, yamux.  Its exceptions end here."""

import errno
import socket
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.io.exceptions import IOException
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_client import MULTISELECT_PROTOCOL_ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.exceptions import MuxerUpgradeFailure, SecurityUpgradeFailure
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils.varint import encode_delim
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from . import hardening
from .addresses import reachable_at
from .clock import now_us
from .hardening import PIECE_BYTES, RPC_BYTES
from .inbound import InboundGate, InboundLimits
from .network import (
    CannotListen,
    DialFailed,
    HostConfig,
    HostError,
    NobodyListens,
    NotConnected,
    PortInUse,
    ProtocolRefused,
    StreamLost,
)

__all__ = [
    "PIECE_BYTES",
    "CannotListen",
    "DialFailed",
    "Host",
    "HostConfig",
    "HostError",
    "NotConnected",
    "PeerStream",
    "PortInUse",
    "ProtocolRefused",
    "StreamLost",
    "open_host",
]

hardening.apply()

KEY_BYTES = 32  # an Ed25519 seed
OUTBOUND_CONNECTIONS = 128  # on top of the inbound ones; a directory holds some hundred peers
STREAM_CLOSE_S = 2.0  # for what was sent to leave before a closed stream is given up
CLOSE_S = 2.0  # for all connections and services to end
# D, D_low, D_high: a topic has 128 peers at most (protocol/policy/shards.py).
MESH_DEGREE, MESH_LOW, MESH_HIGH = 4, 3, 8
HEARTBEAT_S = 1
MESSAGE_BYTES = RPC_BYTES - 1024  # the rest is for signature, author, topic and the sender's record


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
            raise StreamLost(f"the stream to {self.peer} was lost") from exc
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
            raise StreamLost(f"the stream to {self.peer} was lost") from exc

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
                raise StreamLost(f"the stream to {self.peer} was lost") from exc
            return b""
        except StreamError as exc:
            raise StreamLost(f"the stream to {self.peer} was lost") from exc
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


StreamHandler = Callable[[PeerStream], Awaitable[None]]
ErrorCallback = Callable[[str, str, BaseException], None]


@dataclass(frozen=True)
class _Callbacks:
    connected: Callable[[str], None]
    disconnected: Callable[[str], None]
    handler_error: ErrorCallback


@asynccontextmanager
async def open_host(
    private_key: bytes,
    config: HostConfig,
    *,
    on_peer_connected: Callable[[str], None],
    on_peer_disconnected: Callable[[str], None],
    on_handler_error: ErrorCallback,
) -> AsyncIterator["Host"]:
    """A listening host, while the context is open.  PortInUse, CannotListen.

    `private_key` is the 32-byte Ed25519 seed of the identity.  The callbacks get peer ids; `on_handler_error`
    gets (peer, protocol or topic, exception).  An exception from a connection callback or from `deliver` ends
    the context.  Leaving takes CLOSE_S at most, frozen peers or not.
    """
    host = Host(private_key, config, _Callbacks(on_peer_connected, on_peer_disconnected, on_handler_error))
    with _without_our_nurseries():
        async with trio.open_nursery() as nursery:
            await nursery.start(host._serve, nursery)
            try:
                yield host
            finally:
                with hardening.at_most(CLOSE_S):
                    await host._close()
                nursery.cancel_scope.cancel()


@contextmanager
def _without_our_nurseries() -> Iterator[None]:
    """Errors as they were raised, without the exception groups that the nurseries in between wrap them in."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is group:
            raise
        raise error from error.__cause__


class Host:
    """One peer's presence on the network; made by `open_host`."""

    def __init__(self, private_key: bytes, config: HostConfig, callbacks: _Callbacks) -> None:
        if len(private_key) != KEY_BYTES:
            raise ValueError(f"an identity key has {KEY_BYTES} bytes, not {len(private_key)}")
        self._config = config
        self._callbacks = callbacks
        self._gate = InboundGate(
            InboundLimits(
                total=config.inbound_connections,
                before_handshake=config.connections_before_handshake,
                per_address=config.connections_per_address,
                loopback_unlimited=config.loopback_unlimited,
            )
        )
        self._swarm = _swarm(private_key, config, self._gate)
        self._libp2p = BasicHost(self._swarm, disable_identify_address_discovery=True)
        self._libp2p.remove_stream_handler(ID_PUSH)  # it would let anyone write into the peer store
        self._router = _router()
        self._pubsub = Pubsub(self._libp2p, self._router, strict_signing=True, max_inbound_rpc_size=RPC_BYTES)
        self._pubsub.counter = time.time_ns()  # a restarted peer must not repeat sequence numbers
        self._swarm.register_notifee(_Notifee(self._connections_changed))
        self.peer_id: str = self._swarm.self_id.to_base58()
        self.addresses: tuple[str, ...] = ()
        self._connected: set[str] = set()
        self._dialling: dict[str, trio.Event] = {}
        self._waiters: dict[str, trio.Event] = {}
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._nursery: trio.Nursery | None = None
        self._stop = trio.Event()
        self._stopped = trio.Event()

    # Connections

    async def dial(self, address: str, *, timeout_s: float = 10.0) -> str:
        """Connects, if need be, to a multiaddr that ends in /p2p/ID, and returns the peer id.  DialFailed."""
        peer, where = _parse_dial(address)
        if peer == self.peer_id:
            raise DialFailed(peer, "that is this peer itself")
        with trio.move_on_after(timeout_s):
            while peer in self._dialling:
                await self._dialling[peer].wait()
            if peer not in self._connected:
                await self._dial(peer, where)
            return peer
        raise DialFailed(peer, f"no answer within {timeout_s:g} s")

    async def _dial(self, peer: str, where: Any) -> None:
        self._dialling[peer] = trio.Event()
        self._counts["dials"] += 1
        try:
            await self._swarm.dial_addr(where, ID.from_base58(peer))
        except BaseLibp2pError as exc:
            self._counts["dials_failed"] += 1
            raise _not_dialled(peer, exc) from exc
        finally:
            self._dialling.pop(peer).set()

    async def disconnect(self, peer: str) -> None:
        """Drops every connection to `peer` at once, frozen or not."""
        connections = self._swarm.get_connections(ID.from_base58(peer))
        for connection in connections:
            self._swarm.remove_conn(connection)
        self._connections_changed(peer)
        async with trio.open_nursery() as nursery:
            for connection in connections:
                nursery.start_soon(connection.muxed_conn.close)

    def connected(self) -> frozenset[str]:
        """The ids of the peers that a connection is open to, as far as this side knows."""
        return frozenset(self._connected)

    async def wait_connected(self, peer: str) -> None:
        """Returns when a connection to `peer` is open."""
        while peer not in self._connected:
            await self._waiters.setdefault(peer, trio.Event()).wait()

    def _connections_changed(self, peer: str) -> None:
        """Compares what libp2p holds with what was last told, and tells the difference."""
        held = bool(self._swarm.connections.get(ID.from_base58(peer)))
        if held and peer not in self._connected:
            self._connected.add(peer)
            if peer in self._waiters:
                self._waiters.pop(peer).set()
            self._tell(self._callbacks.connected, peer)
        elif not held and peer in self._connected:
            self._connected.discard(peer)
            self._tell(self._callbacks.disconnected, peer)

    def _tell(self, callback: Callable[[str], None], peer: str) -> None:
        try:
            callback(peer)
        except Exception as exc:  # noqa: BLE001  libp2p, which calls us, would swallow it
            assert self._nursery is not None
            self._nursery.start_soon(_raise, exc)

    # Streams

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Runs `handler` for every stream a peer opens with `protocol`, then closes the stream.

        What it raises goes to `on_handler_error`; that stream is reset and nothing else ends.
        """

        async def handle(net_stream: Any) -> None:
            stream = PeerStream(net_stream)
            self._counts["streams_in"] += 1
            try:
                await handler(stream)
            except Exception as exc:  # noqa: BLE001  the outermost stream handler
                await stream.reset()
                self._counts["handler_errors"] += 1
                self._callbacks.handler_error(stream.peer, protocol, exc)
            else:
                await stream.aclose()

        self._libp2p.set_stream_handler(protocol, handle)

    async def open_stream(self, peer: str, protocol: str, *, timeout_s: float = 5.0) -> PeerStream:
        """A new stream to a connected peer, in one round trip.  NotConnected, ProtocolRefused, StreamLost."""
        connections = [
            conn for conn in self._swarm.get_connections(ID.from_base58(peer)) if not conn.is_closed
        ]
        if not connections:
            raise NotConnected(f"there is no connection to {peer}")
        with trio.move_on_after(timeout_s):
            try:
                # The newest: an older one may have died unnoticed.
                net_stream = await connections[-1].new_stream()
                stream = PeerStream(net_stream)
                await self._negotiate(stream, net_stream, protocol)
            except BaseLibp2pError as exc:
                raise StreamLost(f"no stream to {peer} could be opened") from exc
            net_stream.set_protocol(protocol)
            self._counts["streams_out"] += 1
            return stream
        raise StreamLost(f"{peer} did not answer within {timeout_s:g} s")

    async def _negotiate(self, stream: PeerStream, net_stream: Any, protocol: str) -> None:
        """Multistream-select 1.0, both of our lines sent at once: one round trip, not two."""
        lines = MultiselectCommunicator(net_stream)
        try:
            await net_stream.write(
                encode_delim(MULTISELECT_PROTOCOL_ID.encode()) + encode_delim(protocol.encode())
            )
            agreed = await lines.read() == MULTISELECT_PROTOCOL_ID and await lines.read() == protocol
        except MultiselectCommunicatorError as exc:
            await stream.reset()
            raise StreamLost(f"{stream.peer} gave no sensible answer") from exc
        except BaseException:
            await stream.reset()
            raise
        if not agreed:
            await stream.reset()
            raise ProtocolRefused(f"{stream.peer} does not speak {protocol}")

    # Gossip

    async def publish(self, topic: str, data: bytes) -> None:
        """Sends a signed message to everyone subscribed.  It may be lost: say it again from time to time."""
        if len(data) > MESSAGE_BYTES:
            raise ValueError(f"a gossip message of {len(data)} bytes, limit {MESSAGE_BYTES}")
        self._counts["messages_published"] += 1
        await self._pubsub.publish(topic, data)

    async def subscribe(
        self, topic: str, validate: Callable[[str, str, bytes], bool], deliver: Callable[[str, bytes], None]
    ) -> None:
        """From now on, others' messages on `topic` are checked, relayed if good, and delivered.

        `validate(forwarder, author, data)` is quick and pure; a message that it refuses, or raises for (told
        to `on_handler_error`), goes no further.  `deliver(author, data)` gets the rest.  Own messages reach
        neither.
        """
        assert self._nursery is not None
        self._pubsub.set_topic_validator(topic, partial(self._valid, topic, validate), False)
        self._nursery.start_soon(self._drain, await self._pubsub.subscribe(topic), deliver)

    async def unsubscribe(self, topic: str) -> None:
        """Messages on `topic` are of no interest any more, and are not relayed."""
        await self._pubsub.unsubscribe(topic)
        self._pubsub.remove_topic_validator(topic)

    def _valid(
        self, topic: str, validate: Callable[[str, str, bytes], bool], forwarder: Any, message: Any
    ) -> bool:
        if forwarder == self._swarm.self_id:
            return True
        try:
            valid = validate(forwarder.to_base58(), ID(message.from_id).to_base58(), message.data)
        except Exception as exc:  # noqa: BLE001  the outermost frame for one message, like a stream handler
            self._callbacks.handler_error(forwarder.to_base58(), topic, exc)
            valid = False
        self._counts["messages_accepted" if valid else "messages_refused"] += 1
        return valid

    async def _drain(self, subscription: Any, deliver: Callable[[str, bytes], None]) -> None:
        while True:
            try:
                message = await subscription.get()
            except trio.EndOfChannel:  # unsubscribed
                return
            author = ID(message.from_id).to_base58()
            if author != self.peer_id:
                deliver(author, message.data)

    async def wait_subscribed(self, peer: str, topic: str) -> None:
        """Returns when `peer` has said that it is subscribed to `topic`, and can be written to."""
        await self._pubsub.wait_for_peer(ID.from_base58(peer), timeout=float("inf"))
        await self._pubsub.wait_for_subscription(ID.from_base58(peer), topic, timeout=float("inf"))

    # Life

    def statistics(self) -> dict[str, int]:
        """Counts since the start, and what is open now."""
        return {
            "connected": len(self._connected),
            "isolated_errors": hardening.isolated.total(),
            **self._gate.statistics(),
            **self._counts,
        }

    async def _serve(self, nursery: trio.Nursery, *, task_status: Any) -> None:
        self._nursery = nursery
        try:
            async with background_trio_service(self._swarm):
                self.addresses = await self._listen()
                async with background_trio_service(self._pubsub), background_trio_service(self._router):
                    await self._pubsub.wait_until_ready()
                    task_status.started()
                    await self._stop.wait()
        finally:
            with hardening.at_most(CLOSE_S):
                await self._stop_listening()
            self._pubsub.seen_messages.stop()
            self._stopped.set()

    async def _close(self) -> None:
        """Lets nobody in any more, says goodbye to everyone at once, then stops the services."""
        await self._stop_listening()
        async with trio.open_nursery() as nursery:
            for peer in self._connected.copy():
                nursery.start_soon(self.disconnect, peer)
        self._stop.set()
        await self._stopped.wait()

    async def _stop_listening(self) -> None:
        while self._swarm.listeners:
            _, listener = self._swarm.listeners.popitem()
            await listener.close()

    async def _listen(self) -> tuple[str, ...]:
        wanted = [_parse_listen(address) for address in self._config.listen]
        await self._swarm.listen(*wanted)
        for address in wanted:
            if str(address) not in self._swarm.listeners:
                raise _why_not_listening(address)
        bound = [
            str(address) for listener in self._swarm.listeners.values() for address in listener.get_addrs()
        ]
        ips = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries]
        return tuple(f"{address}/p2p/{self.peer_id}" for text in bound for address in reachable_at(text, ips))


async def _raise(error: Exception) -> None:
    raise error


class _Notifee:
    """What libp2p tells about connections, passed on; the rest is ignored."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed

    async def connected(self, _network: Any, connection: Any) -> None:
        self._changed(connection.muxed_conn.peer_id.to_base58())

    async def disconnected(self, _network: Any, connection: Any) -> None:
        self._changed(connection.muxed_conn.peer_id.to_base58())

    async def opened_stream(self, _network: Any, _stream: Any) -> None: ...

    async def closed_stream(self, _network: Any, _stream: Any) -> None: ...

    async def listen(self, _network: Any, _address: Any) -> None: ...

    async def listen_close(self, _network: Any, _address: Any) -> None: ...


def _swarm(private_key: bytes, config: HostConfig, gate: InboundGate) -> Any:
    """TCP, noise and yamux only: libp2p's defaults include plaintext, where anyone may claim any id."""
    identity = create_new_key_pair(private_key)
    peer = ID.from_pubkey(identity.public_key)
    store = PeerStore()
    store.add_key_pair(peer, identity)
    connections = config.inbound_connections + OUTBOUND_CONNECTIONS
    noise = Noise(identity, noise_privkey=create_new_x25519_key_pair().private_key)
    swarm = Swarm(
        peer,
        store,
        TransportUpgrader({NOISE_ID: noise}, {YAMUX_ID: Yamux}),
        [TCP()],
        RetryConfig(max_retries=0),
        ConnectionConfig(
            min_connections=0,  # with the low watermark: dial nobody unasked
            low_watermark=0,
            high_watermark=connections,
            max_connections=connections,
            max_connections_per_peer=1,  # a new one replaces one that has died unnoticed
            inbound_upgrade_timeout=config.handshake_s,
            outbound_upgrade_timeout=config.handshake_s,
        ),
        psk=None if config.psk is None else config.psk.hex(),
    )
    swarm.inbound_gate = gate
    return swarm


def _router() -> Any:
    router = GossipSub(
        [PROTOCOL_ID_V11],  # 1.2 adds a packet for each message and neighbour, half as large as an advert
        MESH_DEGREE,
        MESH_LOW,
        MESH_HIGH,
        heartbeat_interval=HEARTBEAT_S,
        gossip_window=1,  # each message is told once to peers outside of the mesh; adverts come again anyway
        adaptive_gossip_enabled=False,
        spam_protection_enabled=False,
        eclipse_protection_enabled=False,
    )
    # A time for every message ever sent, only read by the adaptive mode.
    router.recent_message_deliveries = defaultdict(partial(deque, maxlen=0))
    return router


def _parse_dial(address: str) -> tuple[str, Any]:
    """(peer id, address to dial)"""
    try:
        where = Multiaddr(address)
        peer = where.value_for_protocol("p2p") or ""
        where.value_for_protocol("tcp")
        ID.from_base58(peer)
    except (MultiaddrError, ValueError) as exc:
        raise DialFailed(
            "", f"{address!r:.200} is not an address like /ip4/1.2.3.4/tcp/4001/p2p/12D3Koo..."
        ) from exc
    return peer, where


def _parse_listen(address: str) -> Any:
    try:
        where = Multiaddr(address)
        where.value_for_protocol("tcp")
    except (MultiaddrError, ValueError) as exc:
        raise CannotListen(f"{address!r:.200} is not an address like /ip4/0.0.0.0/tcp/4001") from exc
    return where


def _not_dialled(peer: str, error: BaseException) -> DialFailed:
    """With the most telling cause, the first of them first."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.insert(0, cause)
        if isinstance(cause, BaseExceptionGroup):  # trio's, with one error for each address of a name
            cause = cause.exceptions[0]
        else:
            cause = cause.__cause__ or cause.__context__
    for link in chain:
        if isinstance(link, PeerIDMismatchesPubkey):
            return DialFailed(peer, "another peer answers at that address")
        if isinstance(link, SecurityUpgradeFailure | MuxerUpgradeFailure | IOException):
            return DialFailed(peer, "no secure connection could be agreed; is it in another private swarm?")
        if isinstance(link, OSError):
            if link.errno == errno.ECONNREFUSED:
                return NobodyListens(peer, "nothing listens at that address")
            return DialFailed(peer, (link.strerror or str(link)).lower())
    return DialFailed(peer, str(chain[-1]))


def _why_not_listening(address: Any) -> CannotListen:
    """Asks the system again, because libp2p does not pass on what it said."""
    family, host = (
        (socket.AF_INET, address.value_for_protocol("ip4"))
        if "ip4" in {protocol.name for protocol in address.protocols()}
        else (socket.AF_INET6, address.value_for_protocol("ip6"))
    )
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(address.value_for_protocol("tcp"))))
            probe.listen()
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return PortInUse(f"another program already listens on {address}")
        return CannotListen(f"cannot listen on {address}: {(exc.strerror or str(exc)).lower()}")
    return CannotListen(f"cannot listen on {address}")
