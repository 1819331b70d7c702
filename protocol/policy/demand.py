"""How much a requester asks of others, and so how many of them it must know well."""

import math
from collections import OrderedDict

from ..wire.statement import Statement

OVER_US = 10_000_000
LEAST_LINKS = 100
MAX_KINDS = 8  # of pictures
ASKING_FOR_US = 60_000_000  # after an offer
# More than of one that asks nothing: of many models, few of the near have one loaded that is seldom asked for.
ASKING_LINKS = 30
LINKS_PER_RENDERER = 40  # a renderer's worth of work finds room at once where some dozens are looked at
MOST_LINKS = 300  # beyond it a plan takes too long, and live state of the others is too old to say much


class Demand:
    """Of one requester that knows `least_links` however little it asks.  `now_us` never runs backwards."""

    def __init__(self, least_links: int = LEAST_LINKS, most_links: int = MOST_LINKS) -> None:
        self._least_links = least_links
        self._most_links = most_links
        self._busy_us = 0.0  # fades with OVER_US
        self._at_us = 0
        # By model, precision, octave of pixels.
        self._asked: OrderedDict[tuple[bytes, str, int], Statement] = OrderedDict()

    @property
    def asked(self) -> tuple[Statement, ...]:
        """The last picture of each kind that was asked for last."""
        return tuple(self._asked.values())

    def on_offer(self, statement: Statement, busy_us: int, now_us: int) -> None:
        """A task was offered that will keep a renderer busy for so long."""
        kind = statement.model, statement.precision, statement.pixels.bit_length()
        self._asked[kind] = statement
        self._asked.move_to_end(kind)
        if len(self._asked) > MAX_KINDS:
            self._asked.popitem(last=False)
        self._busy_us = self._busy_us * self._kept(now_us) + busy_us
        self._at_us = now_us

    def renderers(self, now_us: int) -> float:
        """As many were busy with its tasks, at the mean of the last OVER_US."""
        return self._busy_us * self._kept(now_us) / OVER_US

    def asking(self, now_us: int) -> bool:
        """Whether anything was asked of others lately."""
        return bool(self._asked) and now_us < self._at_us + ASKING_FOR_US

    def links(self, now_us: int) -> int:
        """How many providers to stay connected to.

        In simulation, 1,000 providers and 100 requesters at load .6, each of which keeps 4 busy at the mean: with 100
        each p50/p95 were 2.05/2.23 of the oracle's, with 300 1.33/1.51.
        """
        asking = ASKING_LINKS * self.asking(now_us)
        wanted = self._least_links + asking + int(LINKS_PER_RENDERER * self.renderers(now_us))
        return max(self._least_links, min(self._most_links, wanted))

    def _kept(self, now_us: int) -> float:
        return math.exp((self._at_us - now_us) / OVER_US)
