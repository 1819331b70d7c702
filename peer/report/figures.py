"""The numbers of each figure, from one part of a document.  Milliseconds where a name ends in ``_ms``."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from .document import PHASES, Job, Part

RTT_BANDS_MS = (5, 20, 60, 150)  # a building, a city or a country, a continent, an ocean
MAX_LINKS = 6  # beyond that, links are put together by their round trip
SAME = 0.02  # two times as near as that are equally good


@dataclass(frozen=True)
class Point:
    """A job as a dot: what was expected of it, what it took."""

    job: str
    x_ms: float
    y_ms: float
    what: str
    sure: bool = True


@dataclass(frozen=True)
class Prediction:
    points: tuple[Point, ...]
    ratios: dict[str, float]  # took / predicted: p5, p25, p50, p75, p95
    error_p50: float | None  # |took - predicted| / took
    error_p90: float | None
    within_p90: float | None = (
        None  # of all that were drawn, by whomever: the share that was there by its p90
    )


@dataclass(frozen=True)
class Hindsight:
    """`x_ms`: the least that any candidate would have taken, as is known now; `sure` where all have drawn something."""

    points: tuple[Point, ...]
    best_chosen: int
    lost_p50_ms: float | None
    lost_p90_ms: float | None
    lost_most_ms: float | None


@dataclass(frozen=True)
class Figures:
    jobs: int
    done: int
    wall_ms: dict[str, float]  # p50, p90, p95
    phases_ms: dict[str, float]  # the median of each
    executed: float | None  # share of the wall time that was drawing, the median
    unaccounted: float | None  # share, the largest
    by_policy_ms: dict[str, list[float]]  # sorted
    by_link_ms: dict[str, list[float]]
    prediction: Prediction
    hindsight: Hindsight
    recovered_ms: list[float]

    def to_value(self) -> dict[str, Any]:
        return asdict(self)


def quantile(ordered: list[float], share: float) -> float:
    """The least value that `share` of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def figures(part: Part) -> Figures:
    done = [job for job in part.jobs if job.done]
    walls = sorted(_wall_ms(job) for job in done)
    timed = [job for job in done if job.phases_us]
    shares = [
        job.unaccounted_us / job.wall_us for job in done if job.wall_us and job.unaccounted_us is not None
    ]
    return Figures(
        jobs=len(part.jobs),
        done=len(done),
        wall_ms={f"p{share}": quantile(walls, share / 100) for share in (50, 90, 95)} if walls else {},
        phases_ms={
            phase: took
            for phase in PHASES
            if timed and (took := median(job.phases_us.get(phase, 0) for job in timed) / 1e3)
        },
        executed=median(job.phases_us.get("draw", 0) / (job.wall_us or 1) for job in timed)
        if timed
        else None,
        unaccounted=max(shares, default=None),
        by_policy_ms=_grouped((job.policy, job) for job in done),
        by_link_ms=_by_link(done),
        prediction=_prediction(done),
        hindsight=_hindsight(done),
        recovered_ms=[each.recovered_ms for each in part.happenings if each.recovered_ms is not None],
    )


def _wall_ms(job: Job) -> float:
    return (job.wall_us or 0) / 1e3


def _grouped(jobs: Iterable[tuple[str, Job]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, job in jobs:
        found.setdefault(name, []).append(_wall_ms(job))
    return {name: sorted(times) for name, times in found.items()}


def _by_link(done: list[Job]) -> dict[str, list[float]]:
    """By who asked whom, nearest first; where these are many, by round trip."""
    linked = [(job, job.rtt_us) for job in done if job.rtt_us is not None]
    links = {(job.by, job.provider) for job, _ in linked}
    if len(links) > MAX_LINKS:
        return _grouped((_band(rtt_us), job) for job, rtt_us in sorted(linked, key=lambda each: each[1]))
    rtts_us = {link: median(rtt for job, rtt in linked if (job.by, job.provider) == link) for link in links}
    return {
        _link(by, str(provider), rtt_us): sorted(
            _wall_ms(job) for job, _ in linked if (job.by, job.provider) == (by, provider)
        )
        for (by, provider), rtt_us in sorted(rtts_us.items(), key=lambda each: each[1])
    }


def _link(by: str, provider: str, rtt_us: float) -> str:
    if by == provider:
        return f"{by}, on its own device"
    return f"{by} to {provider}, {rtt_us / 1e3:.{0 if rtt_us >= 10_000 else 1}f} ms"


def _band(rtt_us: int) -> str:
    low = 0
    for high in RTT_BANDS_MS:
        if rtt_us < high * 1000:
            return f"{low} to {high} ms away"
        low = high
    return f"over {low} ms away"


def _prediction(done: list[Job]) -> Prediction:
    """Over jobs that the peer asked first has drawn: of the others, no prediction was put to the test but the p90."""
    within = [
        job.wall_us - job.phases_us.get("plan", 0) <= job.p90_us
        for job in done
        if job.wall_us is not None and job.p90_us is not None
    ]
    points = tuple(
        Point(job.job, job.predicted_us / 1e3, _wall_ms(job), f"{job.by}, drawn by {job.provider}")
        for job in done
        if job.at_once and job.predicted_us
    )
    ratios = sorted(point.y_ms / point.x_ms for point in points)
    errors = sorted(abs(point.y_ms - point.x_ms) / point.y_ms for point in points)
    return Prediction(
        points,
        {f"p{share}": round(quantile(ratios, share / 100), 4) for share in (5, 25, 50, 75, 95)}
        if points
        else {},
        round(quantile(errors, 0.5), 4) if points else None,
        round(quantile(errors, 0.9), 4) if points else None,
        round(sum(within) / len(within), 4) if within else None,
    )


def _hindsight(done: list[Job]) -> Hindsight:
    """What each candidate would have taken, had it been asked first, with the speed that it showed when it drew.

    For who drew it, that is what it took, less what attempts before it lost.  For another, its prediction with the
    predicted time of the steps put right by the median step that it really took for pictures of that size; where it
    drew none, the prediction stands, and the job is not sure.  A peer that was asked and did not draw it is none that
    could have been best.
    """
    steps_us = _steps_us(done)
    points, lost_ms = [], []
    for job in done:
        if len(job.candidates) < 2:
            continue
        failed = {each.peer for each in job.attempts}
        best_us, best, sure = _own_us(job), str(job.provider), True
        for each in job.candidates:
            if each.peer == job.provider or each.peer in failed or each.predicted_us is None:
                continue
            us, known = float(each.predicted_us), False
            shown_us = steps_us.get((each.peer, job.pixels))
            if shown_us is not None and each.steps_us is not None and job.steps:
                us, known = us - each.steps_us + shown_us * job.steps, True
            sure = sure and known
            if us < best_us:
                best_us, best = us, each.peer
        lost = max(0.0, _wall_ms(job) - best_us / 1e3)
        lost_ms.append(lost if lost > SAME * _wall_ms(job) else 0.0)
        words = f"{job.by}, drawn by {job.provider}; best: {best}"
        points.append(Point(job.job, min(best_us / 1e3, _wall_ms(job)), _wall_ms(job), words, sure))
    lost_ms.sort()
    return Hindsight(
        tuple(points),
        sum(lost == 0 for lost in lost_ms),
        quantile(lost_ms, 0.5) if lost_ms else None,
        quantile(lost_ms, 0.9) if lost_ms else None,
        max(lost_ms, default=None),
    )


def _own_us(job: Job) -> float:
    return max(0.0, float(job.wall_us or 0) - job.phases_us.get("lost", 0))


def _steps_us(done: list[Job]) -> dict[tuple[str | None, int | None], float]:
    """The median step of each provider, by size of picture."""
    found: dict[tuple[str | None, int | None], list[int]] = {}
    for job in done:
        if job.step_us is not None:
            found.setdefault((job.provider, job.pixels), []).append(job.step_us)
    return {key: median(steps) for key, steps in found.items()}
