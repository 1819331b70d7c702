"""The plan: whom to ask, in which order, and how long to wait for each.

Every capable peer is ranked by what the picture will cost there.  Chance spreads only what is contended or not known:
among idle peers of equal speed the nearest comes first, always.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..wire.advert import Advert
from ..wire.conversation import Patience
from ..wire.statement import Statement
from .adapters import called, told_of
from .calibration import Forecast
from .cost import USUAL, Wishes, asked_price_millionths, extra_us, in_time, nobody_in_time
from .credits import why_cost
from .prediction import (
    MAX_WAIT_SLACK_US,
    Candidate,
    Constraint,
    Exclusion,
    Prediction,
    claimed_us,
    predict,
    promised_load_us,
    prompt_bytes,
    unclaimed_step_us,
)
from .queue import QueueLimits
from .timeline import duration

TEMPERATURE_PERCENT = 15  # of what is contended: in simulation 10 did alike and 24 worse
NEAR_PERCENT = 150  # of the best: who would be there by then if nobody waited anywhere, is near
BUSY_PERCENT = 10  # of a task's own time: who is expected to let it wait for more, is busy
MAX_NAMES_SHOWN = 8
LONGEST_WAIT_US = 3_600_000_000  # nobody is waited for longer on a provider's word alone: an hour
# A run may take so much longer than predicted, and SLACK_US more: a hiccup makes it three times.
RUN_TIMES = 4
_EULER_GAMMA = 0.5772156649015329  # the mean of the standard Gumbel distribution


class NoCandidate(Exception):
    """Nobody can draw this; the sentence names the constraint that binds.  `too_late`: that is the time alone."""

    def __init__(self, sentence: str, *, too_late: bool = False) -> None:
        super().__init__(sentence)
        self.too_late = too_late


class Choice(NamedTuple):
    """One peer of a plan."""

    peer: str
    rtt_us: int | None  # None: not measured; predicted as `prediction.UNKNOWN_RTT_US`
    max_wait_us: int
    prediction: Prediction
    price_millionths: int = 0  # of the whole picture

    @property
    def predicted_us(self) -> int:
        return self.prediction.total_us

    @property
    def p90_us(self) -> int:
        """By then nine of ten are expected to be there."""
        return self.prediction.p90_us

    @property
    def busy_us(self) -> int:
        """How long its renderer is occupied."""
        return self.prediction.busy_us

    @property
    def spans(self) -> tuple[tuple[str, int], ...]:
        """What it is predicted to be made of."""
        return self.prediction.spans

    @property
    def longest_wait_us(self) -> int:
        """Where it may let the task wait for as long as it likes: no more than was predicted or a full queue takes.

        A full queue: of tasks such as this one, as many as policy/queue.py lets wait, and the one that runs.
        """
        return min(LONGEST_WAIT_US, max(self.max_wait_us, (QueueLimits.waiting + 1) * self.busy_us))

    @property
    def longest_start_us(self) -> int:
        """What is believed of an ACCEPT before its peer counts as lost: it may load a model that it said was loaded."""
        load_us, apply_us = self._loading_us
        return self.longest_wait_us + promised_load_us(max(1, load_us), apply_us)

    @property
    def _loading_us(self) -> tuple[int, int | None]:
        """Weights, and adapters where there are any."""
        load_us, apply_us = self.prediction.load_us, self.prediction.apply_us
        return min(LONGEST_WAIT_US, load_us), None if apply_us is None else min(LONGEST_WAIT_US, apply_us)

    def start_within_us(self, wait_us: int, load_us: int, max_wait_us: int | None = None) -> int:
        """Until START, from an ACCEPT that promises such a wait and such a load.  `max_wait_us`: of its offer.

        Who accepts what it should have refused is late all the same.  A load of a model that it said was loaded is no
        excuse for being late: others may have it in memory; nor is one that takes longer than anyone promises who expects
        what is predicted here.
        """
        most_us = self.longest_wait_us if max_wait_us is None else max_wait_us
        return min(wait_us, most_us) + min(load_us, promised_load_us(*self._loading_us))


@dataclass(frozen=True)
class Plan:
    ranked: tuple[Choice, ...]  # the first is asked first; never empty
    exclusions: tuple[tuple[str, str], ...]  # (peer, sentence)
    wishes: Wishes = USUAL
    forecast: Forecast | None = None  # of the first, to be compared with what becomes of it
    patience: Patience | None = None  # with the first

    def why(self) -> str:
        """Why the first rather than the second, in a sentence."""
        first = self.ranked[0]
        if len(self.ranked) == 1:
            return "It was the only peer that can draw this."
        second = self.ranked[1]
        if first.price_millionths != second.price_millionths:
            us, other_us = (
                self.wishes.counted_us(each.predicted_us, each.p90_us) for each in (first, second)
            )
            value = self.wishes.value_of_time_millionths
            return why_cost(first.price_millionths, second.price_millionths, us, other_us, value)
        sure_us = second.p90_us - first.p90_us
        if first.predicted_us >= second.predicted_us and sure_us > 0 and not self.wishes.batch:
            return f"It was predicted to be there {duration(sure_us)} sooner than the next best nine times of ten."
        gains = dict(second.spans)
        for name, us in first.spans:
            gains[name] = gains.get(name, 0) - us
        gain_us = second.predicted_us - first.predicted_us
        name = max(gains, key=lambda name: gains[name])
        if gain_us <= 0 or gains[name] <= 0:
            return "It and the next best were predicted alike; chance, or what is known of them, spread the load."
        return f"It was predicted {duration(gain_us)} sooner than the next best, most of it in {name!r}."


def plan(
    candidates: Iterable[Candidate],
    statement: Statement,
    *,
    now_us: int,
    excluded: frozenset[str] = frozenset(),
    seed: int,
    wishes: Wishes = USUAL,
) -> Plan:
    """`excluded`: peers that this job has tried, or that the person ruled out.  `seed`: the chance of this plan.

    Raises NoCandidate if nobody is left.
    """
    candidates = tuple(candidates)
    names = _adapter_names(candidates, statement) if statement.adapters else None
    capable: list[tuple[Candidate, Prediction]] = []
    ruled_out: list[tuple[Candidate, Exclusion]] = []
    for candidate in candidates:
        result = predict(candidate, statement, now_us, names)
        if isinstance(result, Exclusion):
            ruled_out.append((candidate, result))
        elif candidate.peer in excluded:
            ruled_out.append(
                (candidate, Exclusion(Constraint.EXCLUDED, "It was ruled out, or tried already."))
            )
        else:
            capable.append((candidate, result))
    if not capable:
        raise NoCandidate(_binding(statement, ruled_out))
    able, (capable, late) = capable, in_time(capable, wishes, now_us)
    if not capable:
        raise NoCandidate(nobody_in_time(able, wishes, now_us), too_late=True)
    extra = extra_us(capable, statement, wishes)
    scored = sorted((key + extra[index], draw, index) for key, draw, index in _scored(capable, seed))
    first, predicted = capable[scored[0][2]]
    ranked = tuple(_choice(*capable[index], statement) for _, _, index in scored)
    return Plan(
        ranked=ranked,
        exclusions=tuple((candidate.peer, exclusion.reason) for candidate, exclusion in ruled_out + late),
        wishes=wishes,
        forecast=Forecast(
            first.peer,
            predicted.total_us,
            predicted.p90_us,
            predicted.spread_us,
            claimed_us(first, statement),
            predicted.unclaimed_us,
        ),
        patience=_patience(ranked[0], first, statement),
    )


def _scored(capable: list[tuple[Candidate, Prediction]], seed: int) -> list[tuple[float, float, int]]:
    """(key, draw, index), to be sorted: softmin drawn by Gumbel noise, as wide as what is contended or not known of each.

    What is uncertain of everyone alike decides nothing between them, so only what exceeds the least is counted.  Where many
    of the near are busy, those that seem free seem so to all: the draw is wider by their share.  Measured in simulation
    beside none of it, at load .6 and .85 (p50/p95 over the oracle): 1.30/1.53 and 1.45/1.96 became 1.26/1.49 and 1.34/1.73.
    """
    best_us = min(prediction.total_us for _, prediction in capable)
    near_us = best_us * NEAR_PERCENT // 100
    near = [each for _, each in capable if each.total_us - each.wait_us <= near_us]
    busy = sum(each.wait_us > each.busy_us * BUSY_PERCENT // 100 for each in near)
    least_scale_us = best_us * TEMPERATURE_PERCENT / 100 * busy / len(near)
    certain_us = min(prediction.uncertain_us for _, prediction in capable)
    salt, scored = b"%d " % seed, []
    for index, (candidate, prediction) in enumerate(capable):
        contended_us = prediction.wait_us + prediction.uncertain_us - certain_us
        scale_us = max(least_scale_us, min(contended_us, best_us) * TEMPERATURE_PERCENT / 100)
        draw = _draw(salt + candidate.peer.encode())
        gumbel = -math.log(-math.log(draw)) - _EULER_GAMMA
        scored.append((prediction.total_us + candidate.penalty_us - scale_us * gumbel, draw, index))
    return scored


def _draw(of: bytes) -> float:
    """A number in (0, 1), the same for the same bytes."""
    return ((int.from_bytes(hashlib.sha256(of).digest()[:8], "big") >> 11) + 0.5) / (1 << 53)


def _choice(candidate: Candidate, prediction: Prediction, statement: Statement) -> Choice:
    rtt_us = candidate.rtt_us
    return Choice(
        candidate.peer,
        rtt_us if candidate.own or candidate.rtt else None,
        prediction.wait_us + MAX_WAIT_SLACK_US + rtt_us,
        prediction,
        asked_price_millionths(candidate, statement),
    )


def _patience(choice: Choice, candidate: Candidate, statement: Statement) -> Patience:
    """With a peer that says what it likes: it was chosen for what is predicted of it, and is held to that.

    Nobody who says that it lives needs a longer silence than its steps are known to be long, by what was seen or is usual.
    """
    return Patience(
        start_us=choice.longest_start_us,
        step_us=unclaimed_step_us(candidate, statement),
        run_us=RUN_TIMES * choice.prediction.run_us,
    )


def _binding(statement: Statement, ruled_out: list[tuple[Candidate, Exclusion]]) -> str:
    """The constraint that stopped those who got furthest."""
    if not ruled_out:
        return "No other peer is known: join a swarm, or render on this device."
    constraint = max(exclusion.constraint for _, exclusion in ruled_out)
    adverts = [candidate.advert for candidate, exclusion in ruled_out if exclusion.constraint == constraint]
    limits = [advert.limits for advert in adverts if advert.limits]
    if constraint is Constraint.PROVIDING:
        return f"None of the {len(adverts)} known peers renders for others."
    if constraint is Constraint.KIND:
        kinds = _listed({kind for advert in adverts for kind in advert.kinds})
        return f"Nobody in the swarm offers {statement.kind}; offered: {kinds}."
    if constraint is Constraint.MODEL:
        names = _listed(
            {f"{model.name} ({model.id.hex()[:8]})" for advert in adverts for model in advert.models}
        )
        return f"Nobody in the swarm offers model {statement.model.hex()[:8]}; models offered: {names}."
    if constraint is Constraint.ADAPTERS:
        return _no_adapters(statement, adverts)
    if constraint is Constraint.PRECISION:
        dtypes = _listed(
            {dtype for advert in adverts for device in advert.devices for dtype in device.dtypes}
        )
        return f"Nobody with this model computes in {statement.precision}; offered: {dtypes}."
    if constraint is Constraint.PIXELS:
        largest = max(limit.pixels for limit in limits)
        return (
            f"The largest picture that anyone with this model accepts is {largest} pixels (as {math.isqrt(largest)}"
            f" px square); {statement.width}x{statement.height} is {statement.pixels}."
        )
    if constraint is Constraint.STEPS:
        most = max(limit.steps for limit in limits)
        return f"The most steps that anyone with this model accepts is {most}; {statement.steps} were asked."
    if constraint is Constraint.PROMPT:
        longest = max(limit.prompt_bytes for limit in limits)
        size = prompt_bytes(statement)
        return (
            f"The longest prompt that anyone with this model accepts is {longest} bytes; this one has {size}."
        )
    if len(adverts) == 1:
        return "The only peer that can draw this was ruled out, or tried already."
    return f"All {len(adverts)} peers that can draw this were ruled out, or tried already."


def _adapter_names(candidates: Iterable[Candidate], statement: Statement) -> dict[bytes, str]:
    known = told_of(candidates, statement.model)
    return {adapter: called(adapter, known) for adapter, _ in statement.adapters}


def _no_adapters(statement: Statement, adverts: list[Advert]) -> str:
    """Of those with the model, nobody has all the adapters."""
    offered = [each for advert in adverts if (each := advert.offered(statement.model))]
    known = {adapter.id: adapter for model in offered for adapter in model.adapters}
    missing = [called(adapter, known) for adapter, _ in statement.adapters if adapter not in known]
    names = _listed({called(adapter, known) for adapter in known})
    if missing:
        return f"Nobody with this model offers the adapter {missing[0]}; offered: {names}."
    return f"Nobody with this model offers all of these adapters; offered, one or the other: {names}."


def _listed(names: set[str]) -> str:
    shown = sorted(names)[:MAX_NAMES_SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more if shown else "none"
