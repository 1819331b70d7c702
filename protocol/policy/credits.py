"""Amounts of credits and what time is worth, computed and told to people.

Credits are a unit of account: nobody moves any.  Integers throughout: `_millionths` are credits x 10^-6, of a second
where they are a value of time.  A command imports this before anything is asked, so it needs next to nothing.
"""

from ..wire.fields import U64
from .timeline import duration

PRESETS_MILLIONTHS = {  # values of time, in credits x 10^-6 a second
    "near": 1_000_000_000,  # a second is worth 1,000 credits: time decides, unless the price is out of all proportion
    "balanced": 1_000_000,  # a second is worth one credit: as much as one step of one megapixel at price 1
    "cheap": 1_000,  # a second is worth 0.001 credits: the price decides, and time between equal prices
}
MAX_TIME_US = 86_400_000_000  # to wait for a picture: who may wait longer than a day need not say how long


def price_millionths(rate_millionths: int | None, pixels: int, steps: int) -> int:
    """What `steps` steps of so many pixels cost at a rate per step of one megapixel.  (wire README section 7.)"""
    return min(U64, -(-(rate_millionths or 0) * pixels * steps // 1_000_000))


def time_cost_millionths(us: int, value_of_time_millionths: int) -> int:
    return min(U64, us * value_of_time_millionths // 1_000_000)


def shown_amount(millionths: int) -> str:
    """To the last digit: 0.0052."""
    whole, part = divmod(millionths, 1_000_000)
    return f"{whole}.{part:06}".rstrip("0").rstrip(".")


def shown_credits(millionths: int) -> str:
    """An amount for a person, to the last digit: 0.0052 credits."""
    return f"{shown_amount(millionths)} credit{'' if millionths == 1_000_000 else 's'}"


def three_digits(millionths: int) -> int:
    """Rounded to the digits that matter."""
    return round(millionths, -max(0, min(6, len(str(millionths)) - 3)))


def about_credits(millionths: int) -> str:
    """An amount of which three digits matter: 17.8 credits."""
    return shown_credits(three_digits(millionths))


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


def reckoning(
    price: int,
    us: int,
    value_of_time_millionths: int,
    *,
    valued: bool,
    wanted_us: int | None,
    before_us: int = 0,
) -> list[str]:
    """Of a picture that took `us`: what it cost, where it has a price or somebody `valued` time; and how late it is.

    `before_us`: since it was asked for, until its turn came.
    """
    said = [account(price, us, value_of_time_millionths)] if price or valued else []
    late = None if wanted_us is None else lateness(before_us + us, wanted_us)
    return [*said, late] if late else said


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
