"""Round-trip times: what a peer measured with its own clock, and what four timestamps say of the other's."""

import itertools
from collections import deque
from dataclasses import dataclass

from ..errors import LocalProtocolError, RemoteProtocolError

WINDOW_US = 300_000_000  # a route lives for minutes; an older minimum may be that of another one
MAX_SAMPLES = 64


@dataclass(frozen=True)
class Rtt:
    min_us: int  # the windowed minimum: what distance costs when nothing is in the way
    jitter_us: int  # mean difference between successive samples (RFC 3550 section 6.4.1, over the window)
    samples: int


class RttEstimator:
    """A windowed minimum filter.  Samples are `now - sent` on one's own clock: the remote's word is not in them."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=MAX_SAMPLES)  # (now_us, rtt_us)
        self._estimate: Rtt | None = None

    def add(self, rtt_us: int, now_us: int) -> None:
        if rtt_us < 0:
            raise LocalProtocolError(f"a round trip of {rtt_us} us")
        samples = self._samples
        samples.append((now_us, rtt_us))
        while samples[0][0] < now_us - WINDOW_US:
            samples.popleft()
        times = [rtt for _, rtt in samples]
        changes = [abs(after - before) for before, after in itertools.pairwise(times)]
        jitter = sum(changes) // len(changes) if changes else 0
        self._estimate = Rtt(min(times), jitter, len(times))

    def estimate(self) -> Rtt | None:
        """As of the last sample; None before the first."""
        return self._estimate


def offset_interval(t1: int, t2: int, t3: int, t4: int) -> tuple[int, int]:
    """(lowest, highest) of remote clock minus local clock, in us.

    t1: sent, t4: answer heard (local clock); t2: heard, t3: answer sent (remote clock).  A message cannot arrive before
    it was sent, which is all that is used; so the width is the time both ways and never less.
    RemoteProtocolError if no clock of the local clock's rate can have shown t2 and t3.
    """
    if t4 < t1:
        raise LocalProtocolError("the answer was heard before the question was sent")
    lowest, highest = t3 - t4, t2 - t1
    if t3 < t2 or lowest > highest:
        raise RemoteProtocolError("the times of an answer contradict each other")
    return lowest, highest


def narrow(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    """What two intervals for one offset leave.  If they exclude each other (clocks drift), the second."""
    low, high = max(first[0], second[0]), min(first[1], second[1])
    return (low, high) if low <= high else second
