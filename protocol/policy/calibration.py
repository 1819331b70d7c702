"""How far predictions hold: the margin within which nine pictures of ten come, learned from one's own, and what came of it.

The margin is a multiple of a spread that each prediction states (prediction.py).  The multiple moves up by nine parts
after a picture that came later, and down by one after one that did not, so that in the long run one of ten is later
whatever the times are like (Gibbs and Candes, Adaptive conformal inference under distribution shift, 2021).  Each peer
has a part of its own beside that of all: small while few pictures were asked of it.
"""

from collections import OrderedDict
from dataclasses import dataclass

QUANTILE = 0.9
# Of the spread.  In simulation at loads from .3 to .85 the multiple came to lie between .5 and 1; within one building
# above that, for all want the same peers.
FIRST_MULTIPLE = 0.8
# Times the multiple and one, after the first picture; divided by the root of how many there were.
ALL_STEP, PEER_STEP = 0.12, 0.06
LEAST_STEP = 0.012
MOST_MULTIPLE = 100.0  # of one peer: who is later than that is late by waits.py
MAX_PEERS = 4096


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was said of one picture before it was asked of `peer`, in us from then until it is there."""

    peer: str
    p50_us: int
    p90_us: int
    spread_us: int
    claimed_us: int  # by its provider's own word
    unclaimed_us: int  # of what is predicted: of what no provider tells, such as the ways to it


@dataclass
class _Multiple:
    value: float
    count: int = 0

    def learn(self, step: float, direction: float) -> None:
        self.count += 1
        self.value += max(LEAST_STEP, step / self.count**0.5) * direction
        self.value = max(-MOST_MULTIPLE, min(MOST_MULTIPLE, self.value))


@dataclass(frozen=True)
class Held:
    """Over `pictures`: shares that came in time, and mean pinball losses at QUANTILE (us)."""

    pictures: int
    within_p50: float
    within_p90: float
    loss_us: float
    claims_loss_us: float  # had the providers' claims been taken for the p90
    claims_and_ways_loss_us: float  # and what they do not tell been added as it was measured

    def sentence(self) -> str:
        said = (
            f"{self.within_p50:.0%} of {self.pictures} pictures came within their p50 and {self.within_p90:.0%}"
            " within their p90"
        )
        if self.claims_loss_us:
            said += f"; the p90's loss is {self.loss_us / self.claims_loss_us:.0%} of that of the providers' own claims"
        if self.claims_and_ways_loss_us:
            share = self.loss_us / self.claims_and_ways_loss_us
            said += f", {share:.0%} where the ways to them are added as they were measured"
        return f"{said}."


class Calibration:
    """Of one requester's predictions.  Bounded: who was not asked for longest is forgotten."""

    def __init__(self) -> None:
        self._all = _Multiple(FIRST_MULTIPLE)
        self._peers: OrderedDict[str, _Multiple] = OrderedDict()
        self._pictures = self._within_p50 = self._within_p90 = 0
        self._loss_us = self._claims_loss_us = self._claims_and_ways_loss_us = 0.0

    def multiple(self, peer: str) -> float:
        """Of the spread: within so much beyond the p50 nine pictures of ten are there.  Never negative."""
        own = self._peers.get(peer)
        return max(0.0, self._all.value + own.value if own else self._all.value)

    def on_picture(self, forecast: Forecast, took_us: int) -> None:
        """The picture was there after `took_us`, whoever drew it in the end."""
        late = took_us > forecast.p90_us
        direction = (QUANTILE - 1 + late) * (1 + self.multiple(forecast.peer))
        self._all.learn(ALL_STEP, direction)
        own = self._peers.setdefault(forecast.peer, _Multiple(0.0))
        own.learn(PEER_STEP, direction)
        self._peers.move_to_end(forecast.peer)
        if len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        self._pictures += 1
        self._within_p50 += took_us <= forecast.p50_us
        self._within_p90 += not late
        self._loss_us += pinball_us(forecast.p90_us, took_us)
        self._claims_loss_us += pinball_us(forecast.claimed_us, took_us)
        self._claims_and_ways_loss_us += pinball_us(forecast.claimed_us + forecast.unclaimed_us, took_us)

    def held(self) -> Held | None:
        """None before the first picture."""
        count = self._pictures
        if not count:
            return None
        return Held(
            count,
            self._within_p50 / count,
            self._within_p90 / count,
            self._loss_us / count,
            self._claims_loss_us / count,
            self._claims_and_ways_loss_us / count,
        )


def pinball_us(said_us: int, took_us: int) -> float:
    """The loss of having said that QUANTILE of all take no longer than `said_us`: least, at the mean, if that is so."""
    late_us = took_us - said_us
    return late_us * QUANTILE if late_us > 0 else late_us * (QUANTILE - 1)
