"""Where adverts come from: keys cost nothing, so what one network or one forwarder can take is bounded.

Sources are claims, and one may claim another's; so they only ever decide who makes way when there is no room.
"""

import ipaddress
import re
from collections import Counter, OrderedDict
from functools import lru_cache

from ..wire.advert import Advert

IPV4_BITS, IPV6_BITS = 24, 48  # what one customer of a network usually has
MAX_ALLOWED = 512  # more than a host has connections
_IP = re.compile(r"/ip[46]/([0-9a-fA-F.:]{2,45})/")


def source_of(advert: Advert) -> str | None:
    """The network that its first address is in; None: it tells no address."""
    return _network_of(advert.addresses[0]) if advert.addresses else None


@lru_cache(maxsize=4096)
def _network_of(address: str) -> str | None:
    match = _IP.match(address)
    if match is None:
        return None
    try:
        ip = ipaddress.ip_address(match[1])
    except ValueError:
        return None
    bits = IPV4_BITS if ip.version == 4 else IPV6_BITS
    return str(ipaddress.ip_network((ip, bits), strict=False))


class Crowd:
    """The peers of a full house by their sources: who makes way for a peer from elsewhere."""

    def __init__(self) -> None:
        self._peers: dict[str | None, OrderedDict[str, None]] = {}
        self._source: dict[str, str | None] = {}

    def add(self, peer: str, source: str | None) -> None:
        """`peer` was heard of again: it is the last of its source to make way."""
        self.remove(peer)
        self._source[peer] = source
        self._peers.setdefault(source, OrderedDict())[peer] = None

    def remove(self, peer: str) -> None:
        if peer in self._source:
            source = self._source.pop(peer)
            del self._peers[source][peer]
            if not self._peers[source]:
                del self._peers[source]

    def makes_way_for(self, source: str | None) -> str | None:
        """Who was heard of least lately, of the largest source; None where the newcomer's is as large."""
        if not self._peers:
            return None
        largest = max(self._peers.values(), key=len)
        if len(largest) <= len(self._peers.get(source, ())) + 1:
            return None
        return next(iter(largest))


class Allowance:
    """What each peer may still make us do: `burst` at once, and one more every `every_us`."""

    def __init__(self, burst: int, every_us: int) -> None:
        self._burst_us, self._every_us = burst * every_us, every_us
        # By peer: what is left x every_us, as of (us).
        self._left: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._counts: Counter[str] = Counter()

    def take(self, peer: str, now_us: int) -> bool:
        """Whether `peer` may once more."""
        left_us, as_of_us = self._left.pop(peer, (self._burst_us, now_us))
        left_us = min(self._burst_us, left_us + now_us - as_of_us)
        taken = left_us >= self._every_us
        self._left[peer] = (left_us - self._every_us if taken else left_us, now_us)
        if len(self._left) > MAX_ALLOWED:
            self._left.popitem(last=False)
        self._counts["taken" if taken else "refused"] += 1
        return taken

    def statistics(self) -> dict[str, int]:
        return {name: self._counts[name] for name in ("taken", "refused")}
