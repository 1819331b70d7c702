"""What to ask others for when one topic no longer carries everyone, and what to answer.  (README section 7.)"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from ..wire.advert import SignedAdvert
from ..wire.coordinate import Coordinate
from ..wire.lookup import MAX_FOUND, Find, bits_in_common, place_of
from .neighbours import MATES, MOST_CONNECTIONS
from .prediction import Candidate
from .shards import Shards

MATES_EVERY_US = 10_000_000  # while fewer than MATES of one's shard are connected
MATES_AGAIN_US = 600_000_000
LOOK_EVERY_US = 120_000_000
# Of one that asks for pictures and knows few; the pause doubles with each look that found nobody new.
ASKING_LOOK_US = 5_000_000
ENOUGH_KNOWN = 2 * MOST_CONNECTIONS
RENEW_PERCENT = 60  # of its lifetime, and a connected peer of another shard is asked for its advert again
NEARBY = 8  # asked in turn whom they know nearby: a neighbour's neighbour is likely one's own
FOUND_AT_ONCE = 6
ASKED_FOR_MODEL = 8
ENOUGH_FOR_MODEL = 8
SOUGHT_EVERY_US = 60_000_000  # one model: those who were found are known for longer


class Errand(NamedTuple):
    peer: str  # to ask: connected
    find: Find
    look: bool = False  # for whoever there is; say what came of it with `on_looked`


def answer(find: Find, held: Iterable[SignedAdvert]) -> list[SignedAdvert]:
    """Of what this peer holds."""
    wanted = [
        signed
        for signed in held
        if find.model is None or any(model.id == find.model for model in signed.advert.models)
    ]
    near, place = find.near, find.place
    if near is not None:
        wanted.sort(key=lambda signed: _away_us(signed, near))
    elif place is not None:
        wanted.sort(key=lambda signed: -bits_in_common(place, place_of(signed.peer)))
    return wanted[: find.at_most]


class Lookups:
    """`now_us` is monotonic.  One errand at a time; what comes of it goes into the directory like any advert."""

    def __init__(self, own_peer: str) -> None:
        self._own = own_peer
        self._asked_us: dict[str, int] = {}  # connected peers, for their own adverts
        self._mates_us: int | None = None
        self._looked_us: int | None = None
        self._looks = 0
        self._asking_pause_us = ASKING_LOOK_US
        self._sought_us: dict[bytes, int] = {}  # models that a person asked for within SOUGHT_EVERY_US

    def errand(
        self,
        candidates: Sequence[Candidate],
        shards: Shards,
        coordinate: Coordinate,
        now_us: int,
        *,
        asking: bool = False,
    ) -> Errand | None:
        """What to ask now; None while one topic carries all adverts.  `asking`: this peer asks others for pictures."""
        connected = [each for each in candidates if each.connected]
        if not shards.bits or not connected:
            self._asked_us.clear()
            return None
        return (
            self._to_renew(connected, shards, now_us)
            or self._for_mates(connected, shards, now_us)
            or self._to_look(connected, shards, coordinate, now_us, asking and len(candidates) < ENOUGH_KNOWN)
        )

    def on_looked(self, news: int) -> None:
        """A look found so many that were not known."""
        longer_us = min(LOOK_EVERY_US, 2 * self._asking_pause_us)
        self._asking_pause_us = ASKING_LOOK_US if news else longer_us

    def to_seek(
        self, candidates: Sequence[Candidate], model: bytes, coordinate: Coordinate, now_us: int
    ) -> list[Errand]:
        """A person asks for it: as `for_model`, unless it was sought just now."""
        self._sought_us = {each: us for each, us in self._sought_us.items() if now_us < us + SOUGHT_EVERY_US}
        errands = [] if model in self._sought_us else self.for_model(candidates, model, coordinate)
        if errands:
            self._sought_us[model] = now_us
        return errands

    def for_model(
        self, candidates: Sequence[Candidate], model: bytes, coordinate: Coordinate
    ) -> list[Errand]:
        """Whom to ask, at once, who offers a model, unless enough are known: half of them near, half anywhere."""
        known = sum(any(offered.id == model for offered in each.advert.models) for each in candidates)
        if known >= ENOUGH_FOR_MODEL:
            return []
        connected = sorted((each for each in candidates if each.connected), key=_measured_us)
        near = connected[: ASKED_FOR_MODEL // 2]
        rest = sorted(connected[len(near) :], key=self._by_lot(model))[: ASKED_FOR_MODEL - len(near)]
        return [Errand(each.peer, Find(near=coordinate, model=model)) for each in (*near, *rest)]

    def _for_mates(self, connected: list[Candidate], shards: Shards, now_us: int) -> Errand | None:
        mates = sum(shards.holds(each.peer) for each in connected)
        pause_us = MATES_EVERY_US if mates < MATES else MATES_AGAIN_US
        if self._mates_us is not None and now_us < self._mates_us + pause_us:
            return None
        self._mates_us = now_us
        self._looks += 1
        ranked = sorted(connected, key=lambda each: -bits_in_common(shards.place, place_of(each.peer)))
        # the closest knows most of them, but may be alone or lie: each other time, one by lot
        asked = ranked[0] if self._looks % 2 else min(connected, key=self._by_lot(b"mates"))
        return Errand(asked.peer, Find(place=shards.place))

    def _to_renew(self, connected: list[Candidate], shards: Shards, now_us: int) -> Errand | None:
        elsewhere = {each.peer: each for each in connected if not shards.holds(each.peer)}
        half_us = {
            peer: each.advert.lifetime_s * 500_000 for peer, each in elsewhere.items()
        }  # may have passed already
        self._asked_us = {peer: self._asked_us.get(peer, now_us - half_us[peer]) for peer in elsewhere}
        if not elsewhere:
            return None
        peer = min(self._asked_us, key=self._asked_us.__getitem__)
        if now_us < self._asked_us[peer] + elsewhere[peer].advert.lifetime_s * RENEW_PERCENT * 10_000:
            return None
        self._asked_us[peer] = now_us
        return Errand(peer, Find(place=place_of(peer), at_most=1))

    def _to_look(
        self,
        connected: list[Candidate],
        shards: Shards,
        coordinate: Coordinate,
        now_us: int,
        asking: bool,
    ) -> Errand | None:
        pause_us, at_most = (self._asking_pause_us, MAX_FOUND) if asking else (LOOK_EVERY_US, FOUND_AT_ONCE)
        if self._looked_us is not None and now_us < self._looked_us + pause_us:
            return None
        self._looked_us = now_us
        self._looks += 1
        lot = self._by_lot(b"look")
        if self._looks % 2:
            nearby = sorted(connected, key=_measured_us)[:NEARBY]
            return Errand(min(nearby, key=lot).peer, Find(near=coordinate, at_most=at_most), look=True)
        anywhere = sha256(shards.place + self._looks.to_bytes(8, "big")).digest()
        return Errand(min(connected, key=lot).peer, Find(place=anywhere, at_most=at_most), look=True)

    def _by_lot(self, salt: bytes) -> Callable[[Candidate], bytes]:
        drawn = salt + self._own.encode() + self._looks.to_bytes(8, "big")
        return lambda candidate: sha256(drawn + candidate.peer.encode()).digest()


def _measured_us(candidate: Candidate) -> int:
    return candidate.rtt.min_us if candidate.rtt else 1 << 62


def _away_us(signed: SignedAdvert, near: Coordinate) -> int:
    there = signed.advert.coordinate
    return near.rtt_us(there) if there is not None else 1 << 62
