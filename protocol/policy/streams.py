"""A provider's task streams: which may stay open without a word, and which may begin a conversation.  (README 9.6.)

No requester can take all places, and streams opened ahead take none.
"""

from collections import Counter
from dataclasses import dataclass, field

from ..errors import LocalProtocolError


@dataclass(frozen=True)
class StreamLimits:
    talking: int = 64  # conversations, of all requesters: a task, a receipt and some chunks of memory each
    talking_per_peer: int = (
        16  # the 9 tasks that the queue takes of one, and as many again being fetched or settled
    )
    idle_kept: int = 2  # of each peer
    idle_us: int = 60_000_000
    first_word_us: int = 2_000_000  # for a stream beyond those kept: it was opened to be used at once


@dataclass
class _Open:
    """One peer's open streams: the idle ones in the order in which they opened."""

    idle: dict[int, int] = field(default_factory=dict)  # number: when it opened, in us
    talking: set[int] = field(default_factory=set)


class Streams:
    """`now_us` never runs backwards.  `own` is this very peer, which the limit of all others does not keep out."""

    def __init__(self, own: str, limits: StreamLimits | None = None) -> None:
        self.limits = limits or StreamLimits()
        self._own = own
        self._peers: dict[str, _Open] = {}
        self._number = 0
        self._talking = 0  # own ones not counted
        self._counts: Counter[str] = Counter()

    def opened(self, peer: str, now_us: int) -> int | None:
        """The number of a stream that `peer` opened; None: it has too many, close this one."""
        streams = self._peers.setdefault(peer, _Open())
        beyond = max(0, len(streams.idle) + 1 - self.limits.idle_kept)
        if len(streams.talking) + beyond > self.limits.talking_per_peer:
            self._counts["turned_away"] += 1
            return None
        self._number += 1
        streams.idle[self._number] = now_us
        return self._number

    def closes_us(self, peer: str, number: int) -> int:
        """When this idle stream's time is up.  Only ever later than the last answer: older ones make place for it."""
        idle = self._peers[peer].idle
        rank = list(idle).index(number)
        return idle[number] + (
            self.limits.idle_us if rank < self.limits.idle_kept else self.limits.first_word_us
        )

    def speaks(self, peer: str, number: int) -> bool:
        """The first word came on it.  False: there are too many conversations now, it stays idle."""
        streams = self._peers[peer]
        if number not in streams.idle:
            raise LocalProtocolError("this stream has spoken before")
        full = peer != self._own and self._talking >= self.limits.talking
        if full or len(streams.talking) >= self.limits.talking_per_peer:
            self._counts["turned_away"] += 1
            return False
        del streams.idle[number]
        streams.talking.add(number)
        self._talking += peer != self._own
        return True

    def closed(self, peer: str, number: int) -> None:
        streams = self._peers[peer]
        if streams.idle.pop(number, None) is None:
            streams.talking.remove(number)
            self._talking -= peer != self._own
        if not streams.idle and not streams.talking:
            del self._peers[peer]

    def talks_with(self, peer: str) -> bool:
        """A task is under way on a stream of this peer."""
        streams = self._peers.get(peer)
        return streams is not None and bool(streams.talking)

    def statistics(self) -> dict[str, int]:
        return {
            "idle": sum(len(streams.idle) for streams in self._peers.values()),
            "talking": sum(len(streams.talking) for streams in self._peers.values()),
            "turned_away": self._counts["turned_away"],
        }
