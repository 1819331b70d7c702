"""Newcomers are on trial: keys and claims cost nothing, so what strangers made us lose is counted by where they come from.

A peer of whom a picture came is judged by itself from then on.  Of the others, who fails has those avoided that come from
the same source, twice as much with each that fails beyond those that did not, and all others once there are more of such
failures than of first pictures at all.  So a crowd from one source, or from many, is asked by a handful at most, however
quick it says that it is, and who has shown what it does is not touched by it.
"""

import math
from collections import OrderedDict

TRIAL_US = 1_500_000  # what one failure costs: a stranger's dial and a hedge
MAX_PENALTY_US = 120_000_000
MOST = 8.0  # failures beyond successes that are counted: by then it is MAX_PENALTY_US
MOST_CREDIT = 4.0  # successes beyond failures: a good name is not to be saved up and then spent
HALVES_US = 600_000_000
MAX_SOURCES = 1024

_Key = tuple[bool, str | None]  # whether it was connected, and its source
_ALL = "*"  # no network is called so


class Trials:
    """Of strangers that one peer tried.  `now_us` is monotonic; sources are those of sources.py."""

    def __init__(self) -> None:
        # Failures less successes, as of (us).
        self._beyond: OrderedDict[_Key, tuple[float, int]] = OrderedDict()

    def any_failed(self) -> bool:
        """Whether anybody is to be avoided."""
        return any(beyond > 0 for beyond, _ in self._beyond.values())

    def on_failed(
        self, source: str | None, now_us: int, *, connected: bool, for_picture: bool = True
    ) -> None:
        """A stranger was asked in vain; not `connected`: it could not be reached.

        Not `for_picture`: it was dialled to know it, which costs nobody a picture and says nothing of those elsewhere.
        """
        self._count(connected, source, 1.0, now_us, for_picture)

    def on_succeeded(
        self, source: str | None, now_us: int, *, connected: bool, for_picture: bool = True
    ) -> None:
        """Its first picture came; not `connected`: it could be reached."""
        self._count(connected, source, -1.0, now_us, for_picture)

    def penalty_us(self, source: str | None, now_us: int, *, connected: bool) -> int:
        """By how much to avoid a stranger."""
        keys: list[_Key] = [(True, source), (True, _ALL)]
        if not connected:
            keys += [(False, source), (False, _ALL)]
        beyond = max(self._of(key, now_us) for key in keys)
        return min(MAX_PENALTY_US, int(TRIAL_US * (math.exp2(beyond) - 1))) if beyond > 0 else 0

    def _count(self, connected: bool, source: str | None, by: float, now_us: int, for_picture: bool) -> None:
        for name in (source, _ALL) if for_picture else (source,):
            key = connected, name
            self._beyond[key] = max(-MOST_CREDIT, min(MOST, self._of(key, now_us) + by)), now_us
            self._beyond.move_to_end(key)
        while len(self._beyond) > MAX_SOURCES:
            self._beyond.popitem(last=False)

    def _of(self, key: _Key, now_us: int) -> float:
        counted = self._beyond.get(key)
        if counted is None:
            return 0.0
        beyond, at_us = counted
        return beyond * math.exp2((at_us - now_us) / HALVES_US)
