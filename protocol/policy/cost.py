"""What a picture costs whom it is for: its price, and the time until it is there at what that time is worth.

Credits are a unit of account: nobody moves any.  They steer the choice, and receipts state them.  Integers throughout:
`_millionths` are credits x 10^-6, of a second where they are a value of time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..wire.fields import U64
from ..wire.statement import Statement
from .prediction import Candidate, Constraint, Exclusion, Prediction
from .timeline import duration

PRESETS_MILLIONTHS = {  # values of time, in credits x 10^-6 a second
    "near": 1_000_000_000,  # a second is worth 1,000 credits: time decides, unless the price is out of all proportion
    "balanced": 1_000_000,  # a second is worth one credit: as much as one step of one megapixel at price 1
    "cheap": 1_000,  # a second is worth 0.001 credits: the price decides, and time between equal prices
}
OVERHEAD_US = (
    25_000  # between "asked" and "on disk" beside what is predicted: what `scripts/bench` holds a job to
)
PREDICTED_SPANS = {
    "dial": "connecting to it",
    "offer": "the way of the offer",
    "wait": "waiting in its queue",
    "load_weights": "loading the model's weights",
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


USUAL = Wishes()


def price_millionths(rate_millionths: int | None, pixels: int, steps: int) -> int:
    """What `steps` steps of so many pixels cost at a rate per step of one megapixel.  (wire README section 7.)"""
    return min(U64, -(-(rate_millionths or 0) * pixels * steps // 1_000_000))


def asked_price_millionths(candidate: Candidate, statement: Statement) -> int:
    """What the candidate asks for the whole picture; one's own device asks nothing."""
    rate = None if candidate.own else candidate.advert.price_millionths
    return price_millionths(rate, statement.pixels, statement.steps) if rate else 0


def time_cost_millionths(us: int, value_of_time_millionths: int) -> int:
    return min(U64, us * value_of_time_millionths // 1_000_000)


def time_us(prediction: Prediction, wishes: Wishes) -> int:
    """The time that counts: late enough for nine pictures of ten, or the mean where there are many."""
    return prediction.total_us if wishes.batch else p90_us(prediction)


def p90_us(prediction: Prediction) -> int:
    """By then nine of ten are expected to be there."""
    return prediction.total_us + prediction.uncertain_us


def extra_us(capable: Sequence[Capable], statement: Statement, wishes: Wishes) -> list[int]:
    """What to add to the predicted time of each before they are compared, so that time and price are weighed together.

    Where all ask the same price that is nothing: then only time tells them apart.
    """
    prices = [asked_price_millionths(candidate, statement) for candidate, _ in capable]
    least = min(prices)
    if max(prices) == least:
        return [0] * len(prices)
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
    name, us = max(soonest.spans, key=lambda span: span[1])
    return (
        f"Nobody is expected to have it in the {duration(left_us)} that are left for it: the soonest, "
        f"{called(candidate)}, in {duration(time_us(soonest, wishes))}, "
        f"{duration(us)} of that for {PREDICTED_SPANS.get(name, name)}."
    )


def why_cost(price: int, other_price: int, us: int, other_us: int, value_of_time_millionths: int) -> str:
    """Why one price (millionths) and time rather than those of the next best, in a sentence."""
    saved_us, dearer = other_us - us, price - other_price
    worth = time_cost_millionths(abs(saved_us), value_of_time_millionths)
    time_is_worth = f"{about_credits(worth)} at {shown_credits(value_of_time_millionths)} a second"
    if dearer > (worth if saved_us > 0 else -worth):
        return "It and the next best were predicted to cost alike; chance, or what is known of them, spread the load."
    if dearer > 0:
        return (
            f"It asks {about_credits(dearer)} more than the next best and was predicted {duration(saved_us)} sooner, "
            f"which is worth {time_is_worth}."
        )
    if saved_us >= 0:
        return f"It asks {about_credits(-dearer)} less than the next best and was predicted no later."
    return (
        f"It asks {about_credits(-dearer)} less than the next best; being {duration(-saved_us)} later costs "
        f"{time_is_worth}."
    )


def called(candidate: Candidate) -> str:
    return "this device" if candidate.own else f"{candidate.advert.name or 'a peer'} ({candidate.peer[-6:]})"


def shown_credits(millionths: int) -> str:
    """An amount for a person, to the last digit: 0.0052 credits."""
    whole, part = divmod(millionths, 1_000_000)
    amount = f"{whole}.{part:06}".rstrip("0").rstrip(".")
    return f"{amount} credit{'' if millionths == 1_000_000 else 's'}"


def about_credits(millionths: int) -> str:
    """An amount of which three digits matter: 17.8 credits."""
    return shown_credits(round(millionths, -max(0, min(6, len(str(millionths)) - 3))))


def _too_late(prediction: Prediction, wishes: Wishes, left_us: int) -> str:
    return f"It is expected to take {duration(time_us(prediction, wishes))}; {duration(max(0, left_us))} are left."


def account(price: int, us: int, value_of_time_millionths: int) -> str:
    """What a picture cost, for the person."""
    worth = about_credits(time_cost_millionths(us, value_of_time_millionths))
    rate = shown_credits(value_of_time_millionths)
    return f"It cost {shown_credits(price)}, and {duration(us)}, worth {worth} at {rate} a second. No credits are moved."


def lateness(us: int, wanted_us: int) -> str | None:
    """A sentence where `us` is more than was wanted."""
    if us <= wanted_us:
        return None
    return f"It came {duration(us - wanted_us)} later than within {duration(wanted_us)}, as was wanted."
