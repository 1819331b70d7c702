"""Which links a requester asks for live state, and how often: most of what it may ask goes to those it is about to use."""

from collections import OrderedDict
from collections.abc import Iterable

ACTIVE_FOR_US = 60_000_000  # after the last picture was asked for
IDLE_EVERY_US = 15_000_000
IDLE_PER_S = 1  # of all links together: those opened while much was asked stay for a while, and cost no more
LIKELY = 10  # links, at most, that get the shorter period
LIKELY_OF_A_PLAN = 4  # the first so many of a plan are likely in the next
# To so many a stream is kept ready: with 8, p50 over the oracle was 1.27 for 1.24 at load .85.
AHEAD_OF_A_PLAN = 24
LIKELY_EVERY_US = 700_000
WATCHED_EVERY_US = 7_000_000
# Who has too many watchers tells nothing unasked: its state is no older than hedges need it (job.py).
CROWDED_EVERY_US = 3_500_000
OTHERS_PER_S = 3  # of all other links together

# An exchange costs 460 bytes and 0.9 ms of a core (testnet/simulation/costs.py), what is told unasked a third of that.  In
# simulation at load .6, 24 likely and 5 of the others gave p50/p95 over the oracle of 1.09/1.21 for a third more traffic.


class Attention:
    """`now_us` never runs backwards."""

    def __init__(self) -> None:
        # Used last stands last; whether it has too many watchers, as it said.
        self._likely: OrderedDict[str, bool] = OrderedDict()
        self._active_until_us = -1

    def on_ask(self, now_us: int) -> bool:
        """A picture is asked for.  Whether that ends a time of idleness."""
        was_idle = not self.active(now_us)
        if was_idle:
            self._likely = OrderedDict.fromkeys(self._likely, False)
        self._active_until_us = now_us + ACTIVE_FOR_US
        return was_idle

    def active(self, now_us: int) -> bool:
        return now_us < self._active_until_us

    def on_plan(self, ranked: Iterable[str]) -> bool:
        """The first peers of a plan, the best first.  Whether one of them was not likely before."""
        news = False
        for peer, _ in zip(ranked, range(LIKELY_OF_A_PLAN), strict=False):
            news = news or peer not in self._likely
            self._likely.setdefault(peer, False)
            self._likely.move_to_end(peer)
        for _ in range(len(self._likely) - LIKELY):
            self._likely.popitem(last=False)
        return news

    def watches(self, peer: str, now_us: int) -> bool:
        """Whether it should tell at once when its live state changes."""
        return self.active(now_us) and peer in self._likely

    def on_watched(self, peer: str, watch_us: int) -> None:
        """It will tell for so long; 0: too many watch it already."""
        if peer in self._likely:
            self._likely[peer] = not watch_us

    def every_us(self, peer: str, links: int, now_us: int, *, watched: bool) -> int:
        """How old its live state may become, with so many links in all."""
        if not self.active(now_us):
            return idle_every_us(links)
        crowded = self._likely.get(peer)
        if crowded is not None:
            if watched:
                return WATCHED_EVERY_US
            # To ask it as often as others instead would take more of it than telling.
            return CROWDED_EVERY_US if crowded else LIKELY_EVERY_US
        return max(LIKELY_EVERY_US, (links - len(self._likely)) * 1_000_000 // OTHERS_PER_S)

    def due_us(
        self,
        peer: str,
        asked_us: int,
        heard_us: int | None,
        links: int,
        now_us: int,
        *,
        watched: bool,
    ) -> int:
        """When a peer is asked for its live state: it was asked last at `asked_us`, and told it last at `heard_us`."""
        since_us = asked_us if watched else max(asked_us, heard_us or 0)
        return since_us + self.every_us(peer, links, now_us, watched=watched)


def idle_every_us(links: int) -> int:
    """How often each of so many is asked by who asks for no pictures."""
    return max(IDLE_EVERY_US, links * 1_000_000 // IDLE_PER_S)
