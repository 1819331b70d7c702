"""Round-trip times: what a peer measured with its own clock, and what four timestamps say of the other's."""

from collections import deque
from dataclasses import dataclass, replace
from enum import IntEnum

from ..errors import LocalProtocolError, RemoteProtocolError

WINDOW_US = 300_000_000  # a route lives for minutes; an older minimum may be that of another one
DRIFT_MILLIONTHS = 30  # of two clocks; RFC 5905 allows each 15 (appendix A.1.1, PHI)
MAX_SAMPLES = 64


class Way(IntEnum):
    """How a sample came about; an estimate's is the lowest that there is.

    What came over a connection of one's own took no less than its round trip, whatever else is in it: the least counts.
    """

    DIRECT = 0  # a ping over a connection of one's own
    ANSWER = 1  # from an offer to its ACCEPT or REFUSE on one: some work of the other's is in it
    RELAYED = 2  # a ping over a third peer: says little of what a connection would cost; counts only alone


@dataclass(frozen=True)
class Rtt:
    min_us: int  # the windowed minimum: what distance costs when nothing is in the way
    # Mean difference between successive samples of `way` (RFC 3550 section 6.4.1, over the window).
    jitter_us: int
    samples: int  # of `way`
    way: Way = Way.DIRECT


class RttEstimator:
    """A windowed minimum filter.  Samples are `now - sent` on one's own clock: the remote's word is not in them."""

    def __init__(self) -> None:
        self._windows: dict[Way, _Window] = {}
        self._estimate: Rtt | None = None

    def add(self, rtt_us: int, now_us: int, way: Way = Way.DIRECT) -> None:
        if rtt_us < 0:
            raise LocalProtocolError(f"a round trip of {rtt_us} us")
        window = self._windows.get(way)
        if window is None:
            window = self._windows[way] = _Window(way)
        window.add(rtt_us, now_us)
        if len(self._windows) > 1:
            self._windows = {of: each for of, each in self._windows.items() if each.expire(now_us)}
        self._estimate = None

    def estimate(self) -> Rtt | None:
        """As of the last sample; None before the first."""
        if self._estimate is None and self._windows:
            lowest = self._windows[min(self._windows)].estimate()
            answers = self._windows.get(Way.ANSWER)
            if lowest.way is Way.DIRECT and answers is not None:
                lowest = replace(lowest, min_us=min(lowest.min_us, answers.least_us))
            self._estimate = lowest
        return self._estimate


class _Window:
    """The samples of one way."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._samples: deque[tuple[int, int]] = deque()  # (now_us, rtt_us)
        self._lowest: deque[tuple[int, int]] = deque()  # (number, rtt_us): those no later one is below
        self._number = 0  # of the last sample
        self._changes_us = 0  # the sum of |differences| between successive samples

    def add(self, rtt_us: int, now_us: int) -> None:
        samples, lowest = self._samples, self._lowest
        if samples:
            self._changes_us += abs(rtt_us - samples[-1][1])
        samples.append((now_us, rtt_us))
        self._number += 1
        while lowest and lowest[-1][1] >= rtt_us:
            lowest.pop()
        lowest.append((self._number, rtt_us))
        self.expire(now_us)

    def expire(self, now_us: int) -> bool:
        """Forgets what is too old; whether anything is left."""
        samples, lowest = self._samples, self._lowest
        while samples and (len(samples) > MAX_SAMPLES or samples[0][0] < now_us - WINDOW_US):
            _, gone_us = samples.popleft()
            if samples:
                self._changes_us -= abs(samples[0][1] - gone_us)
        while lowest and lowest[0][0] <= self._number - len(samples):
            lowest.popleft()
        return bool(samples)

    @property
    def least_us(self) -> int:
        return self._lowest[0][1]

    def estimate(self) -> Rtt:
        count = len(self._samples)
        return Rtt(self.least_us, self._changes_us // max(1, count - 1), count, self._way)


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


def narrow(first: tuple[int, int], second: tuple[int, int], *, later_us: int = 0) -> tuple[int, int]:
    """What two intervals for one offset leave, the second `later_us` after the first: meanwhile clocks drift.

    If they exclude each other (a clock drifts more than any should), the second.
    """
    drift_us = -(-later_us * DRIFT_MILLIONTHS // 1_000_000)
    low, high = max(first[0] - drift_us, second[0]), min(first[1] + drift_us, second[1])
    return (low, high) if low <= high else second
