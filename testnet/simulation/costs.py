"""What a policy spends beside rendering: messages, bytes and a peer's processor time."""

from collections import Counter
from dataclasses import dataclass, field

# Measured with real hosts on loopback: five peers burned 2.6 % of a core each at an advert every 2 s, 0.09 % silent,
# 0.45 % with pings every 2 s.  Four others' adverts are 2 a second; four links are 2 exchanges a second on each side.
ADVERT_CPU_S = (0.026 - 0.0009) / 2
EXCHANGE_CPU_S = (0.0045 - 0.0009) / 4  # on each of the two sides
SILENT_CPU_SHARE = 0.0009
ADVERT_BYTES = 3600  # in and out at one peer, with the copies of the mesh: 72 kB/s at 20 adverts a second
PING_BYTES, PONG_BYTES, STATE_BYTES = 140, 170, 180  # on the wire, with noise, yamux, TCP and IP headers


@dataclass
class Costs:
    """Counted over a whole run."""

    messages: Counter[str] = field(default_factory=Counter)
    adverts: int = 0  # published; `messages` counts each that hears one
    met: int = 0  # providers that a requester came to know
    busy_us: int = 0  # of all providers
    useful_us: int = 0  # of it, on what somebody got
    loads: int = 0

    def control(self, seconds: float, peers: int, requesters: int, known: int) -> dict[str, float]:
        """Of one peer, at the mean: `idle` ones hear adverts, `active` requesters exchange pings beside that."""
        adverts_per_s = self.adverts / seconds * min(1.0, (known + self.met / requesters) / peers)
        pings_per_s = self.messages["ping"] / seconds / requesters
        idle_bytes = adverts_per_s * ADVERT_BYTES
        idle_cpu = SILENT_CPU_SHARE + adverts_per_s * ADVERT_CPU_S
        ping_bytes = PING_BYTES + PONG_BYTES + STATE_BYTES
        return {
            "idle_bytes_per_s": round(idle_bytes, 1),
            "idle_cpu_share": round(idle_cpu, 5),
            "active_bytes_per_s": round(idle_bytes + pings_per_s * ping_bytes, 1),
            "active_cpu_share": round(idle_cpu + pings_per_s * EXCHANGE_CPU_S, 5),
        }
