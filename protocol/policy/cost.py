"""What a picture costs whom it is for: its price, and the time until it is there at what that time is worth.

Prices and values of time are in credits x 10^-6 (credits.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..wire.statement import Statement
from .credits import PRESETS_MILLIONTHS, price_millionths
from .names import named
from .prediction import Candidate, Constraint, Exclusion, Prediction
from .timeline import duration

# From "asked" to "on disk" beside what is predicted: what `scripts/bench` holds a job to.
OVERHEAD_US = 25_000
PREDICTED_SPANS = {
    "dial": "connecting to it",
    "offer": "the way of the offer",
    "wait": "waiting in its queue",
    "load_weights": "loading the model's weights",
    "load_adapter": "applying adapters",
    "fixed": "encoding and decoding",
    "step": "the steps",
    "transfer": "the way of the picture",
}

Capable = tuple[Candidate, Prediction]


@dataclass(frozen=True)
class Wishes:
    """What someone would pay for time, and until when it must be there."""

    value_of_time_millionths: int = PRESETS_MILLIONTHS["balanced"]  # of a second; 0 counts as 1
    due_us: int | None = None  # on the clock that `now_us` is read from
    must: bool = True  # who is predicted to be late is not asked; False: is asked only if everyone is late
    batch: bool = False  # one of many pictures: the mean time counts, not the 90th percentile

    def left_us(self, now_us: int) -> int | None:
        """For whoever draws; None: as long as it takes."""
        return None if self.due_us is None else self.due_us - now_us - OVERHEAD_US

    def ready_within_us(self, transfer_us: int, now_us: int) -> int | None:
        """For whoever draws it, where it then takes `transfer_us` to come here; None: it is wanted late too."""
        left_us = self.left_us(now_us) if self.must else None
        return None if left_us is None else max(0, left_us - transfer_us)

    def counted_us(self, mean_us: int, p90_us: int) -> int:
        """The time that counts: late enough for nine pictures of ten, or the mean where there are many."""
        return mean_us if self.batch else p90_us


USUAL = Wishes()


def asked_price_millionths(candidate: Candidate, statement: Statement) -> int:
    """What the candidate asks for the whole picture; one's own device asks nothing."""
    rate = None if candidate.own else candidate.advert.price_millionths
    return price_millionths(rate, statement.pixels, statement.steps) if rate else 0


def time_us(prediction: Prediction, wishes: Wishes) -> int:
    return wishes.counted_us(prediction.total_us, prediction.p90_us)


def extra_us(capable: Sequence[Capable], statement: Statement, wishes: Wishes) -> list[int]:
    """What to add to the predicted time of each before they are compared: up to the time that counts, and for the price.

    In simulation at load .6, beside the mean alone, p50/p95 over the oracle were 1.14/1.25 for 1.16/1.30.
    """
    prices = [asked_price_millionths(candidate, statement) for candidate, _ in capable]
    least = min(prices)
    value = max(1, wishes.value_of_time_millionths)
    return [
        (price - least) * 1_000_000 // value + time_us(prediction, wishes) - prediction.total_us
        for price, (_, prediction) in zip(prices, capable, strict=True)
    ]


def in_time(
    capable: list[Capable], wishes: Wishes, now_us: int
) -> tuple[list[Capable], list[tuple[Candidate, Exclusion]]]:
    """Those who will be in time, and the others with the reason.  Where nobody is and it is no must, everyone stays."""
    left_us = wishes.left_us(now_us)
    if left_us is None:
        return capable, []
    kept = [each for each in capable if time_us(each[1], wishes) <= left_us]
    if not kept and not wishes.must:
        return capable, []
    late = [each for each in capable if time_us(each[1], wishes) > left_us]
    return kept, [
        (candidate, Exclusion(Constraint.DEADLINE, _too_late(prediction, wishes, left_us)))
        for candidate, prediction in late
    ]


def nobody_in_time(capable: Sequence[Capable], wishes: Wishes, now_us: int) -> str:
    """Why none of them, though capable, can be asked: the soonest, and what takes most of its time."""
    left_us = wishes.left_us(now_us) or 0
    if left_us <= 0:
        return "The time for it is over: what came before this took all of it."
    candidate, soonest = min(capable, key=lambda each: time_us(each[1], wishes))
    return (
        f"Nobody is expected to have it in the {duration(left_us)} that are left for it: the soonest, "
        f"{called(candidate)}, in {duration(time_us(soonest, wishes))}, {most_of_that(soonest.spans)}."
    )


def most_of_that(spans: Iterable[tuple[str, int]]) -> str:
    """What the most of a predicted time goes into."""
    name, us = max(spans, key=lambda span: span[1])
    return f"{duration(us)} of that for {PREDICTED_SPANS.get(name, name)}"


def called(candidate: Candidate) -> str:
    return "this device" if candidate.own else named(candidate.advert.name or "a peer", candidate.peer)


def _too_late(prediction: Prediction, wishes: Wishes, left_us: int) -> str:
    return f"It is expected to take {duration(time_us(prediction, wishes))}; {duration(max(0, left_us))} are left."
