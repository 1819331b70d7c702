"""Latency against quality: what is given up, step by step, so that a picture is there in time.

The ladder is data, the best rung first.  A rung is never taken silently: the statement says exactly what is drawn, and
`Fitted.sentence` what was given up for it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..wire.advert import OfferedAdapter
from ..wire.statement import MAX_ADAPTERS, USUAL_WEIGHT_MILLIONTHS, Statement
from .adapters import called as adapter_called
from .cost import OVERHEAD_US, USUAL, Wishes, called, most_of_that
from .prediction import Candidate
from .selection import Choice, NoCandidate, plan
from .speeds import NO_GUIDANCE_MILLIONTHS
from .timeline import duration

LEAST_STEPS = 4  # below it, the one-step samplers of section 8 leave noise
LEAST_SIDE_PX = 64
MOST_FEW_STEP = 4  # adapters for few steps that are looked at, those with the most steps first
# What divides the sides that were asked, up to this, divides those of a rung: a model may need it.
MOST_GRAIN_PX = 64
# (below, to multiples of): as `duration` shows it.
ROUND_UP_US = ((10_000_000, 10_000), (120_000_000, 100_000))


@dataclass(frozen=True)
class Rung:
    """A way to draw the same prompt from the same seed, with less."""

    name: str
    steps_percent: int = 100
    side_percent: int = 100
    few_step: bool = False  # with an adapter for few steps, as it wants to be used
    adapter: OfferedAdapter | None = None  # which: where the ladder is looked at for one picture

    def of(self, asked: Statement) -> Statement:
        """The statement of this rung: never more than was asked, and never less than LEAST_STEPS and LEAST_SIDE_PX."""
        grain_px = math.gcd(asked.width, asked.height, MOST_GRAIN_PX)
        drawn = replace(
            asked,
            steps=min(asked.steps, max(LEAST_STEPS, asked.steps * self.steps_percent // 100)),
            width=_side(asked.width, self.side_percent, grain_px),
            height=_side(asked.height, self.side_percent, grain_px),
        )
        if self.adapter is None or self.adapter.few_step is None:
            return drawn
        few = self.adapter.few_step
        return replace(
            drawn,
            steps=few.steps,
            guidance_millionths=few.guidance_millionths,
            sampler=few.sampler,
            adapters=(*asked.adapters, (self.adapter.id, USUAL_WEIGHT_MILLIONTHS)),
        )

    def suits(self, asked: Statement) -> bool:
        """False where its adapter would do more steps, draw the same, or drop something that was asked for."""
        few = self.adapter.few_step if self.adapter else None
        if self.adapter is None or few is None:
            return not self.few_step
        flows = {few.sampler, asked.sampler} & {"flow_euler"}
        return (
            few.steps <= asked.steps
            and len(asked.adapters) < MAX_ADAPTERS
            and self.adapter.id not in [adapter for adapter, _ in asked.adapters]
            and not (asked.negative and few.guidance_millionths <= NO_GUIDANCE_MILLIONTHS)
            and (few.sampler == asked.sampler or not flows)
        )


LADDER = (
    Rung("as asked"),
    Rung("few-step adapter", few_step=True),
    Rung("fewer steps", 75),
    Rung("half of the steps", 50),
    Rung("few-step adapter, smaller", side_percent=75, few_step=True),
    Rung("half of the steps, smaller", 50, 75),
    Rung("few-step adapter, much smaller", side_percent=50, few_step=True),
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
    def given_up(self) -> str:
        """In words; empty where nothing was."""
        return given_up(self.asked, self.drawn, self.rung.adapter)

    @property
    def sentence(self) -> str:
        """What was given up, for the person."""
        lost = self.given_up
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
    adapters: Iterable[OfferedAdapter] = (),
) -> Fitted:
    """The best rung of which someone is expected, nine times of ten, to have the picture `within_us` of being asked.

    `spent_us` of that are over.  `adapters`: known of for this model.  NoCandidate says that nobody can draw it at all,
    or which constraint binds and what could be had.
    """
    candidates = tuple(candidates)
    left_us = within_us - spent_us - OVERHEAD_US
    untimed = replace(wishes, due_us=None)
    best: tuple[int, Choice, Statement] | None = None
    for rung, drawn in _rungs(ladder, asked, adapters):
        try:
            ranked = plan(candidates, drawn, now_us=now_us, seed=0, wishes=untimed).ranked
        except NoCandidate:
            if rung.adapter is None:
                raise
            continue  # whoever offers the adapter cannot draw this, or is not among those who may be asked
        soonest = min(ranked, key=lambda choice: choice.p90_us)
        if soonest.p90_us <= left_us:
            return Fitted(rung, asked, drawn, within_us)
        if best is None or soonest.p90_us < best[0]:
            best = soonest.p90_us, soonest, drawn
    assert best is not None  # a ladder has a rung, and a plan somebody
    raise NoCandidate(_none_fits(*best, candidates, within_us, spent_us))


def given_up(asked: Statement, drawn: Statement, adapter: OfferedAdapter | None = None) -> str:
    """In words; empty where nothing was.  `adapter`: what was taken to help."""
    lost = []
    if drawn.steps != asked.steps:
        lost.append(f"{drawn.steps} steps instead of {asked.steps}")
    if (drawn.width, drawn.height) != (asked.width, asked.height):
        lost.append(f"{drawn.width}x{drawn.height} px instead of {asked.width}x{asked.height}")
    if drawn.guidance_millionths != asked.guidance_millionths:
        lost.append(f"guidance {_plain(drawn)} instead of {_plain(asked)}")
    if drawn.sampler != asked.sampler:
        lost.append(f"the sampler {drawn.sampler} instead of {asked.sampler}")
    if adapter is not None:
        lost.append(f"the adapter {adapter_called(adapter.id, {adapter.id: adapter})}")
    return " and ".join([", ".join(lost[:-1]), lost[-1]] if len(lost) > 1 else lost)


def _plain(statement: Statement) -> str:
    return f"{statement.guidance_millionths / 1_000_000:.6f}".rstrip("0").rstrip(".")


def _rungs(
    ladder: Sequence[Rung], asked: Statement, adapters: Iterable[OfferedAdapter]
) -> Iterable[tuple[Rung, Statement]]:
    """Those that differ: of a small picture, or one of few steps, some are alike."""
    few = sorted(
        (-adapter.few_step.steps, adapter.id, adapter) for adapter in adapters if adapter.few_step is not None
    )[:MOST_FEW_STEP]
    seen: set[Statement] = set()
    for rung in ladder:
        made = [replace(rung, adapter=adapter) for _, _, adapter in few] if rung.few_step else [rung]
        for each in filter(lambda each: each.suits(asked), made):
            drawn = each.of(asked)
            if drawn not in seen:
                seen.add(drawn)
                yield each, drawn


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
