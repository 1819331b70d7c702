"""Links, pure and seeded: a packet and `now` in; when it leaves, when it arrives, or why it never does.

A packet crosses its sender's *line* (rate and a bounded queue), the *path* to the receiver (delay, jitter, loss), and
the receiver's line.  Times are integer nanoseconds of whatever clock the caller reads; nothing here reads one.
"""

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

NS = 1_000_000_000  # in a second
QUEUE_US = 50_000  # of sending at the line's rate: an access router's usual buffer, some three LAN-to-metro round trips
LEAST_QUEUE_BYTES = 65_536  # below it a slow line would drop the first window of one connection
MAX_DELAY_US = 30_000_000  # one way: half of the longest round trip that rtt_matrix.py takes for one
MAX_RATE_BITS_S = 100_000_000_000
MILLION = 1_000_000

Fate = Literal["delivered", "lost", "queue full", "cut", "no host"]
T = TypeVar("T")


@dataclass(frozen=True)
class Path:
    """The way from one host to another, one direction.

    Jitter is added to the delay, never taken from it: the absolute value of a normal number of this scale.  Packets of
    one pair keep their order, unless `reorders`.
    """

    delay_us: int = 0
    jitter_us: int = 0
    loss_millionths: int = 0
    cut: bool = False  # nothing gets into it; what is under way arrives
    reorders: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.delay_us <= MAX_DELAY_US:
            raise ValueError(f"a path delays 0 to {MAX_DELAY_US} us, not {self.delay_us}")
        if not 0 <= self.jitter_us <= MAX_DELAY_US:
            raise ValueError(f"a path jitters 0 to {MAX_DELAY_US} us, not {self.jitter_us}")
        if not 0 <= self.loss_millionths <= MILLION:
            raise ValueError(f"a path loses 0 to {MILLION} millionths, not {self.loss_millionths}")


@dataclass(frozen=True)
class Line:
    """A host's own line, one direction: `rate_bits_s` None is without limit."""

    rate_bits_s: int | None = None
    queue_us: int = QUEUE_US

    def __post_init__(self) -> None:
        if self.rate_bits_s is not None and not 0 < self.rate_bits_s <= MAX_RATE_BITS_S:
            raise ValueError(f"a line carries 1 to {MAX_RATE_BITS_S} bit/s, not {self.rate_bits_s}")
        if not 0 <= self.queue_us <= MAX_DELAY_US:
            raise ValueError(f"a line's queue holds 0 to {MAX_DELAY_US} us, not {self.queue_us}")

    @property
    def queue_bytes(self) -> int | None:
        """What may wait or be on its way out; a packet that would not fit is dropped (tail drop)."""
        if self.rate_bits_s is None:
            return None
        return max(LEAST_QUEUE_BYTES, self.rate_bits_s * self.queue_us // (8 * MILLION))


class LineState:
    """What is on a line.  `now_ns` never goes back between calls."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._free_ns = 0  # when the last byte of what it has will be out

    def change(self, line: Line, now_ns: int) -> None:
        """What waits is sent at the new rate from now on."""
        waiting = self._waiting_bytes(now_ns)
        self.line = line
        self._free_ns = now_ns + _sending_ns(waiting, line.rate_bits_s)

    def enter(self, size_bytes: int, now_ns: int) -> int | None:
        """When its last byte is out; None where the queue is full."""
        rate = self.line.rate_bits_s
        if rate is None:
            return max(now_ns, self._free_ns)
        limit_bytes = self.line.queue_bytes
        assert limit_bytes is not None
        if self._waiting_bytes(now_ns) + size_bytes > limit_bytes:
            return None
        self._free_ns = max(now_ns, self._free_ns) + _sending_ns(size_bytes, rate)
        return self._free_ns

    def _waiting_bytes(self, now_ns: int) -> int:
        rate = self.line.rate_bits_s
        return 0 if rate is None else max(0, self._free_ns - now_ns) * rate // (8 * NS)


def _sending_ns(size_bytes: int, rate_bits_s: int | None) -> int:
    return 0 if rate_bits_s is None else -(-size_bytes * 8 * NS // rate_bits_s)


class PathState:
    """One path with its dice: the same seed and the same packets give the same arrivals."""

    def __init__(self, path: Path, seed: str) -> None:
        self.path = path
        self._dice = random.Random(seed)
        self._last_ns = 0

    def enter(self, now_ns: int) -> int | Fate:
        """When it comes out, or why it does not."""
        path = self.path
        if path.cut:
            return "cut"
        if path.loss_millionths and self._dice.random() * MILLION < path.loss_millionths:
            return "lost"
        out_ns = now_ns + path.delay_us * 1000
        if path.jitter_us:
            out_ns += math.floor(abs(self._dice.gauss(0.0, path.jitter_us)) * 1000)
        if not path.reorders:
            out_ns = self._last_ns = max(out_ns, self._last_ns)
        return out_ns


@dataclass
class InFlight(Generic[T]):
    """A packet of `size_bytes` on the wire, headers and all."""

    source: int
    destination: int
    size_bytes: int
    in_ns: int
    packet: T
    fate: Fate | None = None  # None while it is under way
    out_ns: int = 0  # when it arrives by the model


@dataclass
class Statistics:
    sent: int = 0
    bytes: int = 0
    fates: dict[Fate, int] = field(default_factory=dict)


class Fabric(Generic[T]):
    """All links among `hosts` hosts, and what is on them."""

    def __init__(self, hosts: int, seed: int) -> None:
        self.hosts = hosts
        self.statistics = Statistics()
        self._seed = seed
        self._up = [LineState(Line()) for _ in range(hosts)]
        self._down = [LineState(Line()) for _ in range(hosts)]
        self._paths: dict[tuple[int, int], PathState] = {}
        self._heap: list[tuple[int, int, bool, InFlight[T]]] = []  # due, number, off the path, what
        self._number = 0

    def set_path(self, source: int, destination: int, path: Path) -> None:
        self._state(source, destination).path = path

    def path(self, source: int, destination: int) -> Path:
        return self._state(source, destination).path

    def set_lines(self, host: int, up: Line, down: Line, now_ns: int) -> None:
        self._up[host].change(up, now_ns)
        self._down[host].change(down, now_ns)

    def send(
        self, source: int, destination: int, size_bytes: int, now_ns: int, packet: T
    ) -> InFlight[T] | None:
        """None while it is under way; what it was and its fate where it goes no further."""
        flight = InFlight(source, destination, size_bytes, now_ns, packet)
        self.statistics.sent += 1
        self.statistics.bytes += size_bytes
        if not (0 <= destination < self.hosts and 0 <= source < self.hosts):
            return self._ended(flight, "no host")
        out_ns = self._up[source].enter(size_bytes, now_ns)
        if out_ns is None:
            return self._ended(flight, "queue full")
        arrival = self._state(source, destination).enter(out_ns)
        if isinstance(arrival, str):
            return self._ended(flight, arrival)
        self._push(arrival, False, flight)
        return None

    def due(self, now_ns: int) -> list[InFlight[T]]:
        """What has arrived, or been dropped at the receiver's line, until `now_ns`, in that order."""
        heap, ended = self._heap, []
        while heap and heap[0][0] <= now_ns:
            at_ns, _, arrived, flight = heapq.heappop(heap)
            line = self._down[flight.destination]
            if not arrived and line.line.rate_bits_s is not None:
                out_ns = line.enter(flight.size_bytes, at_ns)
                if out_ns is None:
                    ended.append(self._ended(flight, "queue full"))
                else:
                    self._push(out_ns, True, flight)
                continue
            flight.out_ns = at_ns
            ended.append(self._ended(flight, "delivered"))
        return ended

    def next_due_ns(self) -> int | None:
        """When `due` next has something to do; None while nothing is under way."""
        return self._heap[0][0] if self._heap else None

    def _push(self, at_ns: int, arrived: bool, flight: InFlight[T]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (at_ns, self._number, arrived, flight))

    def _ended(self, flight: InFlight[T], fate: Fate) -> InFlight[T]:
        flight.fate = fate
        fates = self.statistics.fates
        fates[fate] = fates.get(fate, 0) + 1
        return flight

    def _state(self, source: int, destination: int) -> PathState:
        pair = source, destination
        if (state := self._paths.get(pair)) is None:
            state = self._paths[pair] = PathState(Path(), f"{self._seed}:{source}:{destination}")
        return state
