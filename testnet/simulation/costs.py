"""What a policy spends beside rendering: messages, bytes and a peer's processor time."""

from collections import Counter
from dataclasses import dataclass, field

# Measured with real hosts on loopback: five peers burned 2.6 % of a core each at an advert every 2 s, 0.09 % silent,
# 0.45 % with pings every 2 s.  Four others' adverts are 2 a second; four links are 2 exchanges a second on each side.
ADVERT_CPU_S = (0.026 - 0.0009) / 2
EXCHANGE_CPU_S = (0.0045 - 0.0009) / 4  # on each of the two sides
SILENT_CPU_SHARE = 0.0009
# Measured again between five processes: 0.96 ms a side of an exchange at one every 2 s and link, 0.79 ms at four a second;
# and a connection, of its handshake, its link, and six pings: 21 to 33 ms and 5.2 kB out and in on each side.
DIAL_CPU_S, DIAL_BYTES = 0.025, 10_500
PLAN_CPU_S = 0.0012  # with its candidates, of 67 at the mean
FOUND_CPU_S = 0.0003  # to check an advert that was asked for
PING_BYTES, PONG_BYTES, STATE_BYTES = 140, 170, 180  # on the wire, with noise, yamux, TCP and IP headers


@dataclass
class Costs:
    """Counted over a whole run."""

    messages: Counter[str] = field(default_factory=Counter)
    pinged: Counter[int] = field(default_factory=Counter)  # pings by the provider that was asked
    told: Counter[int] = field(default_factory=Counter)  # live state unasked, by the provider that tells it
    dials: int = 0
    plans: int = 0
    adverts: int = 0  # published; `messages` counts each that hears one
    busy_us: int = 0  # of all providers
    useful_us: int = 0  # of it, on what somebody got
    loads: int = 0

    def on_told(self, provider: int) -> None:
        self.messages["state"] += 1
        self.told[provider] += 1

    def on_ping(self, provider: int) -> None:
        self.messages["ping"] += 1
        self.pinged[provider] += 1
