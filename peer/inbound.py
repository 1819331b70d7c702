"""Which inbound connections are let in: counts, and the limits they are held to.  No I/O."""

import ipaddress
from collections import Counter
from dataclasses import dataclass, field

_IP6_CUSTOMER_BITS = 64  # one customer commonly holds a whole /64 (RFC 6177), so that is one address here


@dataclass(frozen=True)
class InboundLimits:
    total: int
    before_handshake: int
    per_address: int
    loopback_unlimited: bool  # many peers of a testnet share 127.0.0.1


@dataclass
class InboundGate:
    """Ask `admit` before reading a byte; then `finished_handshake` at most once and `left` exactly once."""

    limits: InboundLimits
    refused: int = 0
    _handshaking: int = 0
    _open: Counter[str] = field(default_factory=Counter)

    def admit(self, ip: str) -> "Admission | None":
        """A place for a connection from `ip` (text), or None where a limit says no."""
        key, loopback = _who(ip)
        unlimited = loopback and self.limits.loopback_unlimited
        if (
            self._handshaking >= self.limits.before_handshake
            or self._open.total() >= self.limits.total
            or (self._open[key] >= self.limits.per_address and not unlimited)
        ):
            self.refused += 1
            return None
        self._handshaking += 1
        self._open[key] += 1
        return Admission(self, key)

    def statistics(self) -> dict[str, int]:
        return {
            "inbound": self._open.total(),
            "inbound_handshaking": self._handshaking,
            "inbound_addresses": len(self._open),
            "inbound_refused": self.refused,
        }


@dataclass
class Admission:
    _gate: InboundGate
    _key: str
    _handshaking: bool = True

    def finished_handshake(self) -> None:
        if self._handshaking:
            self._handshaking = False
            self._gate._handshaking -= 1

    def left(self) -> None:
        self.finished_handshake()
        self._gate._open[self._key] -= 1
        if not self._gate._open[self._key]:
            del self._gate._open[self._key]


def _who(ip: str) -> tuple[str, bool]:
    """The address a limit counts, and whether it is loopback."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            network = ipaddress.IPv6Network((address, _IP6_CUSTOMER_BITS), strict=False)
            return str(address if address.is_loopback else network), address.is_loopback
        address = address.ipv4_mapped
    return str(address), address.is_loopback
