"""How much a requester asks of others, and so how many of them it must know well."""

import math

OVER_US = 10_000_000
LEAST_LINKS = 100
LINKS_PER_RENDERER = 40  # a renderer's worth of work finds room at once where some dozens are looked at
MOST_LINKS = 300  # beyond it a plan takes too long, and live state of the others is too old to say much


class Demand:
    """Of one requester that knows `least_links` however little it asks.  `now_us` never runs backwards."""

    def __init__(self, least_links: int = LEAST_LINKS, most_links: int = MOST_LINKS) -> None:
        self._least_links = least_links
        self._most_links = most_links
        self._busy_us = 0.0  # fades with OVER_US
        self._at_us = 0

    def on_offer(self, busy_us: int, now_us: int) -> None:
        """A task was offered that will keep a renderer busy for so long."""
        self._busy_us = self._busy_us * self._kept(now_us) + busy_us
        self._at_us = now_us

    def renderers(self, now_us: int) -> float:
        """As many were busy with its tasks, at the mean of the last OVER_US."""
        return self._busy_us * self._kept(now_us) / OVER_US

    def links(self, now_us: int) -> int:
        """How many providers to stay connected to.

        In simulation, 1,000 providers and 100 requesters at load .6, each of which keeps 4 busy at the mean: with 100
        each p50/p95 were 2.05/2.23 of the oracle's, with 300 1.33/1.51.
        """
        wanted = self._least_links + int(LINKS_PER_RENDERER * self.renderers(now_us))
        return max(self._least_links, min(self._most_links, wanted))

    def _kept(self, now_us: int) -> float:
        return math.exp((self._at_us - now_us) / OVER_US)
