"""What a policy spends beside rendering: messages, bytes and a peer's processor time."""

from collections import Counter
from dataclasses import dataclass, field

# Measured with real hosts on loopback: five peers burned 2.6 % of a core each at an advert every 2 s, 0.09 % silent,
# 0.45 % with pings every 2 s.  Four others' adverts are 2 a second; four links are 2 exchanges a second on each side.
ADVERT_CPU_S = (0.026 - 0.0009) / 2
EXCHANGE_CPU_S = (0.0045 - 0.0009) / 4  # on each of the two sides
SILENT_CPU_SHARE = 0.0009
PING_BYTES, PONG_BYTES, STATE_BYTES = 140, 170, 180  # on the wire, with noise, yamux, TCP and IP headers


@dataclass
class Costs:
    """Counted over a whole run."""

    messages: Counter[str] = field(default_factory=Counter)
    adverts: int = 0  # published; `messages` counts each that hears one
    busy_us: int = 0  # of all providers
    useful_us: int = 0  # of it, on what somebody got
    loads: int = 0
