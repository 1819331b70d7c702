"""How libp2p is to be run - TCP, noise, yamux, gossipsub - the addresses that it takes, and what its errors mean."""

import errno
import socket
from collections import defaultdict, deque
from functools import partial
from typing import Any

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.io.exceptions import IOException
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.exceptions import MuxerUpgradeFailure, SecurityUpgradeFailure
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from .inbound import InboundGate
from .network import CannotListen, DialFailed, HostConfig, NobodyListens, PortInUse

OUTBOUND_CONNECTIONS = 128  # on top of the inbound ones; a directory holds some hundred peers
# D, D_low, D_high: a topic has 128 peers at most (protocol/policy/shards.py).
MESH_DEGREE, MESH_LOW, MESH_HIGH = 4, 3, 8
HEARTBEAT_S = 1


def swarm(private_key: bytes, config: HostConfig, gate: InboundGate) -> Any:
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


def router() -> Any:
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


def parse_dial(address: str) -> tuple[str, Any]:
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


def parse_listen(address: str) -> Any:
    try:
        where = Multiaddr(address)
        where.value_for_protocol("tcp")
    except (MultiaddrError, ValueError) as exc:
        raise CannotListen(f"{address!r:.200} is not an address like /ip4/0.0.0.0/tcp/4001") from exc
    return where


def not_dialled(peer: str, error: BaseException) -> DialFailed:
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


def not_listening(address: Any) -> CannotListen:
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
