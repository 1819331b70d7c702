"""Multiaddrs, without libp2p: where others reach this machine, and what an advert may make us dial."""

import ipaddress
import re
from collections.abc import Iterable

_ADVERTISED = re.compile(
    r"/(ip4|ip6)/([0-9a-fA-F.:]{2,45})/tcp/([0-9]{1,5})(?:/p2p/[1-9A-HJ-NP-Za-km-z]{40,64})?"
)
_ADDRESS_CHARS = 200
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1


def reachable_at(bound: str, interface_ips: list[str]) -> list[str]:
    """How others reach a bound multiaddr: as it is, or by the machine's own addresses if it names none."""
    for name, unspecified, other in (("ip4", "0.0.0.0", ":"), ("ip6", "::", ".")):
        prefix = f"/{name}/{unspecified}/"
        if bound.startswith(prefix):
            # Neither hardware addresses nor those that mean something on one link only.
            ips = [ip for ip in interface_ips if _is_ip(ip) and other not in ip and "%" not in ip]
            outside = [ip for ip in ips if not ipaddress.ip_address(ip).is_loopback]
            return [f"/{name}/{ip}/{bound.removeprefix(prefix)}" for ip in outside or ips]
    return [bound]


def dialable_from_advert(address: str, *, own_addresses: tuple[str, ...]) -> bool:
    """Whether a peer at `own_addresses` may dial an advert's `address` (/ip4|ip6/../tcp/..[/p2p/..] each).

    Public addresses always; loopback and private ones only by a peer that has no public address itself, so
    that no advert makes a public peer knock on its own machine or its owner's network.  Names never (they can
    resolve to anything), nor link-local (cloud metadata services live there), multicast, unspecified and
    reserved addresses.
    """
    ip = _ip_untrusted(address)
    if ip is None or ip.is_multicast or ip.is_unspecified or ip.is_link_local:
        return False
    if ip.is_reserved and not ip.is_loopback:  # ::1 is both
        return False
    if ip.is_global:
        return True
    own = [_ip_untrusted(mine) for mine in own_addresses]
    return bool(own) and all(mine is not None and not mine.is_global for mine in own)


def dialable_of(peer: str, addresses: Iterable[str], *, own_addresses: tuple[str, ...]) -> list[str]:
    """Those of an advert's addresses that name `peer`, and that `dialable_from_advert` allows."""
    named = (address for address in addresses if address.endswith(f"/p2p/{peer}"))
    return [address for address in named if dialable_from_advert(address, own_addresses=own_addresses)]


def _ip_untrusted(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address of a TCP multiaddr with a usable port; None for anything else."""
    match = _ADVERTISED.fullmatch(address) if len(address) <= _ADDRESS_CHARS else None
    if match is None or not 0 < int(match[3]) < 1 << 16:
        return None
    try:
        ip = ipaddress.IPv4Address(match[2]) if match[1] == "ip4" else ipaddress.IPv6Address(match[2])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        # The same host by another spelling: mapped, 6to4 and NAT64 addresses reach the IPv4 one inside.
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        return inner or ip
    return ip


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
