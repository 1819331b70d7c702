"""The only door to libp2p: listen, dial, streams, gossip over TCP, noise, yamux.  Its exceptions end here."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_client import MULTISELECT_PROTOCOL_ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.varint import encode_delim

from protocol.policy.names import short

from . import hardening, transport
from .addresses import reachable_at
from .hardening import PIECE_BYTES, RPC_BYTES
from .inbound import InboundGate, InboundLimits
from .network import (
    CannotListen,
    DialFailed,
    HostConfig,
    HostError,
    NotConnected,
    PortInUse,
    ProtocolRefused,
    StreamLost,
)
from .peer_stream import PeerStream

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
CLOSE_S = 2.0  # for all connections and services to end
MESSAGE_BYTES = RPC_BYTES - 1024  # the rest is for signature, author, topic and the sender's record

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
        self._swarm = transport.swarm(private_key, config, self._gate)
        self._libp2p = BasicHost(self._swarm, disable_identify_address_discovery=True)
        self._libp2p.remove_stream_handler(ID_PUSH)  # it would let anyone write into the peer store
        self._router = transport.router()
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
        peer, where = transport.parse_dial(address)
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
            raise transport.not_dialled(peer, exc) from exc
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
            raise NotConnected(f"there is no connection to {short(peer)}")
        with trio.move_on_after(timeout_s):
            try:
                # The newest: an older one may have died unnoticed.
                net_stream = await connections[-1].new_stream()
                stream = PeerStream(net_stream)
                await self._negotiate(stream, net_stream, protocol)
            except BaseLibp2pError as exc:
                raise StreamLost(f"no stream to {short(peer)} could be opened") from exc
            net_stream.set_protocol(protocol)
            self._counts["streams_out"] += 1
            return stream
        raise StreamLost(f"{short(peer)} did not answer within {timeout_s:g} s")

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
        wanted = [transport.parse_listen(address) for address in self._config.listen]
        await self._swarm.listen(*wanted)
        for address in wanted:
            if str(address) not in self._swarm.listeners:
                raise transport.not_listening(address)
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
