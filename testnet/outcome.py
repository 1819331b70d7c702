"""What came out of a scenario, how it is measured, and whether it is what was expected."""

import heapq
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

GAVE_NOTHING = frozenset({"lost", "failed", "bad"})  # as attempts ended


@dataclass(frozen=True)
class Drawn:
    """One job, as it went.  Times are seconds on the scenario's clock, as seen from outside the peers."""

    number: int
    by: str
    asked_s: float
    ended_s: float
    exit_code: int | None  # None: it did not end in its time
    provider: str | None  # name of the peer that drew it; None where none did
    wall_us: int | None  # by the requester's account: asked until the checked bytes were on disk
    predicted_us: int | None
    unaccounted_us: int | None
    attempts: tuple[tuple[str, str], ...]  # (peer, outcome)
    error: str = ""
    job: str = ""
    timeline: tuple[dict[str, Any], ...] = ()
    via: str = "peer"
    pictures: tuple[
        "Part", ...
    ] = ()  # of a job of several, as they came; `provider` and `timeline` are the first's

    @property
    def done(self) -> bool:
        return self.exit_code == 0 and self.provider is not None


@dataclass(frozen=True)
class Part:
    """One picture of a job of several."""

    provider: str
    timeline: tuple[dict[str, Any], ...]

    @property
    def steps_us(self) -> int:
        """All steps, as its provider told of them."""
        steps = [span for span in self.timeline if span["span"] == "step"]
        return sum(span["us"] for span in steps if span["attempt"] == steps[-1]["attempt"])


@dataclass(frozen=True)
class Task:
    """An attempt as the provider's journal has it."""

    attempt: str
    provider: str
    requester: str
    accepted_s: float
    started_s: float | None = None
    finished_s: float | None = None
    outcome: str | None = None


@dataclass(frozen=True)
class Happened:
    at_s: float
    what: str
    peers: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    jobs: tuple[Drawn, ...]
    tasks: tuple[Task, ...]
    events: tuple[Happened, ...]
    alive: tuple[str, ...]  # at the end
    knows: dict[str, tuple[str, ...]]  # at the end: whom each living peer is connected to
    emulated: bool

    def select(
        self,
        *,
        by: str | None = None,
        via: str | None = None,
        since_s: float = 0.0,
        until_s: float = math.inf,
    ) -> list[Drawn]:
        """The jobs of one peer, or of all, that were asked for in [since_s, until_s); `via` peers or the broker."""
        return [
            job
            for job in self.jobs
            if by in (None, job.by) and via in (None, job.via) and since_s <= job.asked_s < until_s
        ]

    def to_value(self) -> dict[str, Any]:
        return asdict(self)


Measure = Callable[[Outcome], float | None]  # None: there is nothing to measure


def done(**which: Any) -> Measure:
    """Share of the jobs that gave a checked picture."""

    def measure(outcome: Outcome) -> float | None:
        jobs = outcome.select(**which)
        return sum(job.done for job in jobs) / len(jobs) if jobs else None

    return measure


def quantile_ms(share: float, **which: Any) -> Measure:
    """Of the wall times of the jobs that were done."""

    def measure(outcome: Outcome) -> float | None:
        times = [
            job.wall_us / 1000 for job in outcome.select(**which) if job.done and job.wall_us is not None
        ]
        return quantile(times, share)

    return measure


def quantile(values: Iterable[float], share: float) -> float | None:
    """The least value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def ratio(over: Measure, under: Measure) -> Measure:
    def measure(outcome: Outcome) -> float | None:
        above, below = over(outcome), under(outcome)
        return above / below if above is not None and below else None

    return measure


def drawn_by(*names: str, **which: Any) -> Measure:
    """Share of the pictures that these peers drew."""

    def measure(outcome: Outcome) -> float | None:
        drawn = [job for job in outcome.select(**which) if job.done]
        return sum(job.provider in names for job in drawn) / len(drawn) if drawn else None

    return measure


def near_best(took_ms: Callable[[Outcome, Drawn, str], float], names: Iterable[str], percent: int) -> Measure:
    """Share of the pictures that were drawn by a peer that takes at most `percent` more than the best of `names`.

    `took_ms(outcome, job, name)`: what the job would have taken there, known what came of all the others.
    """
    names = tuple(names)

    def measure(outcome: Outcome) -> float | None:
        near = []
        for job in outcome.select():
            if job.done and job.provider is not None:
                best_ms = min(took_ms(outcome, job, name) for name in names)
                near.append(took_ms(outcome, job, job.provider) <= best_ms * (100 + percent) / 100)
        return sum(near) / len(near) if near else None

    return measure


def busy_s(outcome: Outcome, provider: str, job: Drawn) -> float:
    """For how long after `job` was asked for `provider` still drew what it had accepted before."""
    ends = [
        task.finished_s
        for task in outcome.tasks
        if task.provider == provider and task.accepted_s < job.asked_s and task.finished_s is not None
    ]
    return max(0.0, max(ends, default=0.0) - job.asked_s)


def least_makespan_us(pace_us: Iterable[int], count: int) -> int:
    """In which peers that take so long for a picture each can have drawn `count`, with nothing but drawing."""
    next_us = [(each, each) for each in pace_us]
    heapq.heapify(next_us)
    end_us = 0
    for _ in range(count):
        end_us, each = next_us[0]
        heapq.heapreplace(next_us, (end_us + each, each))
    return end_us


def of_ideal(*names: str, **which: Any) -> Measure:
    """Of jobs of several pictures, the worst: the least makespan that these peers' own steps allow, over what it took."""

    def measure(outcome: Outcome) -> float | None:
        shares = []
        for job in outcome.select(**which):
            paces: dict[str, list[int]] = {name: [] for name in names}
            for each in job.pictures:
                paces.setdefault(each.provider, []).append(each.steps_us)
            if job.done and job.wall_us and all(paces.values()):
                medians = [round(statistics.median(of_one)) for of_one in paces.values()]
                shares.append(least_makespan_us(medians, len(job.pictures)) / job.wall_us)
        return min(shares, default=None)

    return measure


def drawers(**which: Any) -> Measure:
    """How many different peers drew pictures."""
    return lambda outcome: float(len({job.provider for job in outcome.select(**which) if job.done}))


def attempts_lost(**which: Any) -> Measure:
    """Attempts that gave nothing.  Not those refused by who was busy, nor those outrun: these are asking well."""
    return lambda outcome: float(
        sum(how in GAVE_NOTHING for job in outcome.select(**which) for _, how in job.attempts)
    )


def most_attempts(**which: Any) -> Measure:
    def measure(outcome: Outcome) -> float | None:
        counts = [len(job.attempts) for job in outcome.select(**which) if job.done]
        return float(max(counts)) if counts else None

    return measure


def recovery_ms(event: int = 0) -> Measure:
    """From that event until another provider started the task that the event's peer was drawing."""

    def measure(outcome: Outcome) -> float | None:
        if event >= len(outcome.events):
            return None
        happened = outcome.events[event]
        hit = [
            task
            for task in outcome.tasks
            if task.provider in happened.peers
            and task.accepted_s < happened.at_s
            and (task.finished_s is None or task.finished_s > happened.at_s)
        ]
        requesters = {task.requester for task in hit}
        started = [
            task.started_s
            for task in outcome.tasks
            if task.requester in requesters
            and task.provider not in happened.peers
            and task.started_s is not None
            and task.started_s > happened.at_s
        ]
        return (min(started) - happened.at_s) * 1000 if started else None

    return measure


def unaccounted_share(**which: Any) -> Measure:
    """The largest part of a picture's time that no span explains, of jobs that took one attempt."""

    def measure(outcome: Outcome) -> float | None:
        shares = [
            job.unaccounted_us / job.wall_us
            for job in outcome.select(**which)
            if job.done and len(job.attempts) == 1 and job.wall_us and job.unaccounted_us is not None
        ]
        return max(shares, default=None)

    return measure


def prediction_error(share: float = 0.5, **which: Any) -> Measure:
    """Quantile of |predicted - took| / took over jobs that took one attempt."""

    def measure(outcome: Outcome) -> float | None:
        errors = [
            abs(job.predicted_us - job.wall_us) / job.wall_us
            for job in outcome.select(**which)
            if job.done and len(job.attempts) == 1 and job.wall_us and job.predicted_us is not None
        ]
        return quantile(errors, share)

    return measure


def know_each_other() -> Measure:
    """Share of the pairs of living peers that are connected at the end."""

    def measure(outcome: Outcome) -> float | None:
        pairs = [(a, b) for a in outcome.alive for b in outcome.alive if a != b]
        return sum(b in outcome.knows.get(a, ()) for a, b in pairs) / len(pairs) if pairs else None

    return measure


def living() -> Measure:
    return lambda outcome: float(len(outcome.alive))


@dataclass(frozen=True)
class Expect:
    """A number within bounds.  `needs_links`: it says nothing on plain loopback, and is not judged there."""

    what: str
    measure: Measure
    at_least: float | None = None
    at_most: float | None = None
    needs_links: bool = False

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"{self.what!r} is no expectation: it has no bound")


@dataclass(frozen=True)
class Judged:
    what: str
    value: float | None
    at_least: float | None
    at_most: float | None
    ok: bool | None  # None: not judged

    @property
    def bound(self) -> str:
        low = None if self.at_least is None else f">= {_shown(self.at_least)}"
        high = None if self.at_most is None else f"<= {_shown(self.at_most)}"
        return " and ".join(part for part in (low, high) if part)


def judge(expects: Iterable[Expect], outcome: Outcome) -> tuple[Judged, ...]:
    """A measure with nothing to measure is a failure."""
    judged = []
    for expect in expects:
        value = expect.measure(outcome)
        ok: bool | None = value is not None
        if value is not None:
            ok = (expect.at_least is None or value >= expect.at_least) and (
                expect.at_most is None or value <= expect.at_most
            )
        if expect.needs_links and not outcome.emulated:
            ok = None
        judged.append(Judged(expect.what, value, expect.at_least, expect.at_most, ok))
    return tuple(judged)


def table(judged: Iterable[Judged]) -> str:
    """Expectation, bound, outcome, verdict: one line each."""
    verdicts = {True: "ok", False: "FAILED", None: "not judged: needs emulated links"}
    rows = [("expected", "bound", "came out", "")]
    rows += [
        (each.what, each.bound, "nothing" if each.value is None else _shown(each.value), verdicts[each.ok])
        for each in judged
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    )


def _shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
