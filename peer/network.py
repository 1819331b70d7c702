"""What can be said about the network without loading libp2p: its configuration and its errors."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from protocol.policy.names import short

PSK_BYTES = 32


@dataclass(frozen=True)
class HostConfig:
    """Where to listen (multiaddrs such as "/ip4/127.0.0.1/tcp/0") and what a stranger may take up."""

    listen: tuple[str, ...]
    connections_before_handshake: int = 64
    connections_per_address: int = 8  # open inbound connections of one remote IPv4 address or IPv6 /64
    loopback_unlimited: bool = True  # no limit per address there: a testnet is many peers behind 127.0.0.1
    handshake_s: float = 5.0
    psk: bytes | None = None  # 32 bytes: only peers with the same key can talk to this one
    inbound_connections: int = 256

    def __post_init__(self) -> None:
        if not self.listen:
            raise ValueError("a host needs an address to listen on")
        if self.psk is not None and len(self.psk) != PSK_BYTES:
            raise ValueError(f"a pre-shared key has {PSK_BYTES} bytes, not {len(self.psk)}")
        limits = (self.connections_before_handshake, self.connections_per_address, self.inbound_connections)
        if min(limits) < 1 or self.handshake_s <= 0:
            raise ValueError("limits of connections are at least 1, and the handshake takes time")


@runtime_checkable
class Stamped(Protocol):
    """A stream that knows when what it last received came to this machine, and when what it last sent left (us)."""

    heard_us: int
    left_us: int


class HostError(Exception):
    """Something went wrong on the network."""


class CannotListen(HostError):
    """This peer cannot listen on the address it was given."""


class PortInUse(CannotListen):
    """Another program, perhaps another peer, already listens on that port."""


class DialFailed(HostError):
    """That peer could not be reached."""

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"could not reach {short(peer) if peer else 'that peer'}: {reason}")
        self.peer = peer
        self.reason = reason


class NobodyListens(DialFailed):
    """The machine answered that nothing listens there: whoever did has ended."""


class StreamLost(HostError):
    """The connection to that peer was lost; it is not known what it did with the last thing we sent."""


class NotConnected(StreamLost):
    """There is no connection to that peer."""


class ProtocolRefused(StreamLost):
    """That peer does not speak this protocol."""
