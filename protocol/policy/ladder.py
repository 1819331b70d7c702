"""Latency against quality: what is given up, step by step, so that a picture is there in time.

The ladder is data, the best rung first.  A rung is never taken silently: the statement says exactly what is drawn, and
`Fitted.sentence` what was given up for it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..wire.statement import Statement
from .cost import OVERHEAD_US, USUAL, Wishes, called, most_of_that
from .prediction import Candidate
from .selection import Choice, NoCandidate, plan
from .timeline import duration

LEAST_STEPS = 4  # below it, the one-step samplers of section 8 leave noise
LEAST_SIDE_PX = 64
# What divides the sides that were asked, up to this, divides those of a rung: a model may need it.
MOST_GRAIN_PX = 64
# (below, to multiples of): as `duration` shows it.
ROUND_UP_US = ((10_000_000, 10_000), (120_000_000, 100_000))


@dataclass(frozen=True)
class Rung:
    """A way to draw the same prompt from the same seed, with less.

    Statements name adapters, but no provider applies one yet; when they do, a few-step adapter is one more rung, with
    the field that says which model it is for, and `of` puts it into the statement.
    """

    name: str
    steps_percent: int = 100
    side_percent: int = 100

    def of(self, asked: Statement) -> Statement:
        """The statement of this rung: never more than was asked, and never less than LEAST_STEPS and LEAST_SIDE_PX."""
        grain_px = math.gcd(asked.width, asked.height, MOST_GRAIN_PX)
        return replace(
            asked,
            steps=min(asked.steps, max(LEAST_STEPS, asked.steps * self.steps_percent // 100)),
            width=_side(asked.width, self.side_percent, grain_px),
            height=_side(asked.height, self.side_percent, grain_px),
        )


LADDER = (
    Rung("as asked"),
    Rung("fewer steps", 75),
    Rung("half of the steps", 50),
    Rung("half of the steps, smaller", 50, 75),
    Rung("half of the steps, much smaller", 50, 50),
    Rung("few steps, much smaller", 25, 50),
)


@dataclass(frozen=True)
class Fitted:
    """The rung that was taken."""

    rung: Rung
    asked: Statement
    drawn: Statement
    within_us: int

    @property
    def sentence(self) -> str:
        """What was given up, for the person."""
        lost = given_up(self.asked, self.drawn)
        if not lost:
            return f"Within {duration(self.within_us)}: as asked, nothing is given up."
        return f"Within {duration(self.within_us)}: {self.rung.name}, that is {lost}."


def fit(
    candidates: Iterable[Candidate],
    asked: Statement,
    within_us: int,
    *,
    spent_us: int,
    now_us: int,
    wishes: Wishes = USUAL,
    ladder: Sequence[Rung] = LADDER,
) -> Fitted:
    """The best rung of which someone is expected, nine times of ten, to have the picture `within_us` of being asked.

    `spent_us` of that are over.  NoCandidate says that nobody can draw it at all, or which constraint binds and what
    could be had.
    """
    candidates = tuple(candidates)
    left_us = within_us - spent_us - OVERHEAD_US
    untimed = replace(wishes, due_us=None)
    best: tuple[int, Choice, Statement] | None = None
    for rung, drawn in _rungs(ladder, asked):
        ranked = plan(candidates, drawn, now_us=now_us, seed=0, wishes=untimed).ranked
        soonest = min(ranked, key=lambda choice: choice.p90_us)
        if soonest.p90_us <= left_us:
            return Fitted(rung, asked, drawn, within_us)
        if best is None or soonest.p90_us < best[0]:
            best = soonest.p90_us, soonest, drawn
    assert best is not None  # a ladder has a rung, and a plan somebody
    raise NoCandidate(_none_fits(*best, candidates, within_us, spent_us))


def given_up(asked: Statement, drawn: Statement) -> str:
    """In words; empty where nothing was."""
    lost = []
    if drawn.steps != asked.steps:
        lost.append(f"{drawn.steps} steps instead of {asked.steps}")
    if (drawn.width, drawn.height) != (asked.width, asked.height):
        lost.append(f"{drawn.width}x{drawn.height} px instead of {asked.width}x{asked.height}")
    return " and ".join(lost)


def _rungs(ladder: Sequence[Rung], asked: Statement) -> Iterable[tuple[Rung, Statement]]:
    """Those that differ: of a small picture, or one of few steps, some are alike."""
    last: Statement | None = None
    for rung in ladder:
        drawn = rung.of(asked)
        if drawn != last:
            yield rung, drawn
        last = drawn


def _none_fits(
    p90_us: int,
    soonest: Choice,
    drawn: Statement,
    candidates: Sequence[Candidate],
    within_us: int,
    spent_us: int,
) -> str:
    needed_us = p90_us + spent_us + OVERHEAD_US
    (candidate,) = (each for each in candidates if each.peer == soonest.peer)
    what = most_of_that(soonest.spans)
    if spent_us > max(us for _, us in soonest.spans):
        what = f"{duration(spent_us)} of that before anyone could be asked (`peer up` keeps a peer ready)"
    multiple_us = next((multiple for below, multiple in ROUND_UP_US if needed_us < below), 60_000_000)
    would_do_us = -(-needed_us // multiple_us) * multiple_us
    return (
        f"Nothing can be had within {duration(within_us)}: the soonest is {drawn.width}x{drawn.height} px in {drawn.steps} "
        f"steps from {called(candidate)} within {duration(would_do_us)}, {what}."
    )


def _side(asked_px: int, percent: int, grain_px: int) -> int:
    return min(asked_px, max(LEAST_SIDE_PX, asked_px * percent // 100 // grain_px * grain_px))
