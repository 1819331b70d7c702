"""Whom to dial again though others are connected.

Two parts of a swarm that were cut off from each other for longer than adverts live know nothing of each other any more, and
no advert makes one dial the other.  One peer that finds one of the others is enough, for it tells its own; so the larger
the swarm, the more seldom each tries, and who is named by everybody is not dialled by everybody at once.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

MAX_GONE = 16  # so many of those that went last are tried
# Between two tries the pause doubles from the first to the second, and whoever goes brings it back to the first.  A dial
# that nobody answers takes a packet or some; one that is answered 9 kB and 25 ms of a core, with all that follows it.
FIRST_US, LAST_US = 60_000_000, 300_000_000


class Reunion:
    """Of one peer.  `now_us` is monotonic and never runs backwards."""

    def __init__(self, now_us: int) -> None:
        self._seen: dict[str, tuple[str, ...]] = {}  # those in the directory, as of the last look and since
        self._gone: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._turns: dict[str, int] = {}  # who was tried, and when: the last has the highest
        self._tries = 0
        self._pause_us, self._spread, self._since_us = FIRST_US, 1.0, now_us

    @property
    def gone(self) -> dict[str, tuple[str, ...]]:
        """The addresses of those whose adverts expired last, the last first."""
        return dict(reversed(self._gone.items()))

    def on_advert(self, peer: str, addresses: tuple[str, ...]) -> None:
        self._seen[peer] = addresses
        self._gone.pop(peer, None)

    def on_look(self, is_known: Callable[[str], bool], now_us: int) -> None:
        """Every few seconds.  `is_known`: whether there is an advert of a peer that is not too old."""
        for peer in [peer for peer in self._seen if not is_known(peer)]:
            self._gone[peer] = self._seen.pop(peer)
            if len(self._gone) > MAX_GONE:
                self._gone.popitem(last=False)
            if self._pause_us > FIRST_US:
                self._pause_us, self._since_us = FIRST_US, now_us

    def is_due(self, bits: int, now_us: int) -> bool:
        """Whether to try now, in a swarm of shards of so many bits."""
        return now_us >= self._since_us + (int(self._pause_us * self._spread) << bits)

    def pick(self, told: Sequence[str], others: Sequence[str]) -> list[str]:
        """Whom to try, one after the other until one answers: of either list who was not tried for longest, or never."""
        self._turns = {each: self._turns.get(each, 0) for each in (*told, *others)}
        picked = [min(each, key=self._turns.__getitem__) for each in (told, others) if each]
        self._tries += bool(picked)
        self._turns |= dict.fromkeys(picked, self._tries)
        return picked

    def on_tried(self, spread: float, now_us: int) -> None:
        """The next pause is `spread` x as long: drawn, about 1, so that not everybody tries at once."""
        self._pause_us = min(LAST_US, 2 * self._pause_us)
        self._spread, self._since_us = spread, now_us

    def statistics(self) -> dict[str, int]:
        return {"gone": len(self._gone), "tries": self._tries}
