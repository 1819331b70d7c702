"""Virtual time: what happens next, in order of time and then of being scheduled."""

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Microseconds since the world began.  A run is a function of what was scheduled, and of nothing else."""

    def __init__(self) -> None:
        self.now_us = 0
        self._scheduled = 0
        self._coming: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []

    def at(self, at_us: int, happen: Callable[..., None], *what: Any) -> None:
        """`happen(*what)` at `at_us`, or now if that is past."""
        self._scheduled += 1
        heapq.heappush(self._coming, (max(at_us, self.now_us), self._scheduled, happen, what))

    def run(self, until: Callable[[], bool], end_us: int) -> None:
        """Until `until()`, or nothing comes before `end_us`."""
        coming = self._coming
        while coming and not until():
            at_us, _, happen, what = heapq.heappop(coming)
            if at_us > end_us:
                return
            self.now_us = at_us
            happen(*what)
