"""What a policy spends beside rendering: messages, bytes and a peer's processor time."""

from collections import Counter
from dataclasses import dataclass, field

# Measured with real hosts on loopback: five peers burned 2.6 % of a core each at an advert every 2 s, 0.09 % silent,
# 0.45 % with pings every 2 s.  Four others' adverts are 2 a second; four links are 2 exchanges a second on each side.
ADVERT_CPU_S = (0.026 - 0.0009) / 2
EXCHANGE_CPU_S = (0.0045 - 0.0009) / 4  # on each of the two sides
SILENT_CPU_SHARE = 0.0009
# Measured between five processes by `scripts/bench --only contact`, bytes on the wire with noise, yamux, TCP, IP and ACKs:
# a ping with its answer, of which 130 bytes are the live state; live state unasked, whole or the wait alone; a connection,
# with its handshake, its link, and six pings.  To tell four peers at once takes less than to hear it from one.
EXCHANGE_BYTES, IN_STATE_BYTES = 460, 130
STATE_BYTES, WAIT_BYTES = 260, 175
TELL_CPU_S, HEAR_CPU_S = 0.00017, 0.00052
DIAL_CPU_S, DIAL_BYTES = 0.020, 9_200
PLAN_CPU_S = 0.0012  # with its candidates, of 67 at the mean
FOUND_CPU_S = 0.0003  # to check an advert that was asked for


@dataclass
class Costs:
    """Counted over a whole run."""

    messages: Counter[str] = field(default_factory=Counter)
    pinged: Counter[int] = field(default_factory=Counter)  # pings by the provider that was asked
    told: Counter[int] = field(default_factory=Counter)  # STATE and WAIT, by the provider that tells it
    told_bytes: Counter[int] = field(default_factory=Counter)
    dials: int = 0
    plans: int = 0
    adverts: int = 0  # published; `messages` counts each that hears one
    busy_us: int = 0  # of all providers
    useful_us: int = 0  # of it, on what somebody got
    loads: int = 0

    def on_told(self, provider: int, *, whole: bool) -> None:
        """Its live state, unasked; `whole`: not the wait alone."""
        self.messages["state" if whole else "wait"] += 1
        self.told[provider] += 1
        self.told_bytes[provider] += STATE_BYTES if whole else WAIT_BYTES

    def on_ping(self, provider: int) -> None:
        self.messages["ping"] += 1
        self.pinged[provider] += 1
