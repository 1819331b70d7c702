"""Has one picture drawn: carries out what the job decides, over as many attempts as that takes."""

import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio

from protocol.policy.attention import AHEAD_OF_A_PLAN
from protocol.policy.chain import Leg, lay
from protocol.policy.demand import Demand
from protocol.policy.directory import Directory
from protocol.policy.job import (
    Action,
    CancelAttempt,
    Excuse,
    Finish,
    GiveUp,
    HedgeAt,
    Job,
    MakeOffer,
    Penalise,
    PlanHedge,
    Prospect,
    Replan,
    ResumeTransfer,
    Tell,
)
from protocol.policy.looks import look
from protocol.policy.refusals import nobody_drew
from protocol.policy.selection import NoCandidate, Plan
from protocol.policy.selection import plan as plan_of
from protocol.policy.shortlist import Shortlists
from protocol.policy.timeline import Timeline, duration
from protocol.wire.identity import public_key_of
from protocol.wire.offer import ATTEMPT_BYTES
from protocol.wire.statement import Statement
from protocol.wire.task import Progress

from .asking import Asked, Attempt, Events, JobFailed, Means, Picture, Tried
from .check import CHECKED
from .clock import now_us
from .conversing import Conversing
from .link import Links
from .reach import Reach


class Requester:
    """Asks for pictures on behalf of this peer."""

    def __init__(
        self,
        host: Any,
        links: Links,
        directory: Directory,
        *,
        demand: Demand,
        private_key: bytes,
        network: str,
        own_stream: Callable[[], Awaitable[Any]],
        keep: Callable[[Attempt, bytes, str], Awaitable[None]],
        name_of: Callable[[str], str],
        journal: Callable[..., None],
    ) -> None:
        self.links = links
        self.demand = demand
        self.name_of = name_of
        self.shortlists = Shortlists()
        self.means = Means(
            peer=host.peer_id,
            private_key=private_key,
            key=public_key_of(private_key),
            network=network,
            directory=directory,
            reach=Reach(host, links, directory, own_stream),
            lines=[],
            keep=keep,
            journal=journal,
        )
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """While this runs, pictures can be asked for."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.means.reach.run)
            self._nursery = nursery
            task_status.started()

    def statistics(self) -> dict[str, int]:
        return self.means.reach.statistics()

    def talks_with(self, peer: str) -> bool:
        """Whether a conversation with it about a picture is under way."""
        return any(line.session.peer == peer for line in self.means.lines)

    async def render(
        self, statement: Statement, job_id: str, *, remote: bool, events: Events, asked: Asked
    ) -> Picture:
        """JobFailed, or the picture.  Cancelling it cancels all attempts at their providers."""
        assert self._nursery is not None  # `run` was started
        self.links.stay_active()
        # What is still to be heard of a cancelled attempt once the picture is there, is heard in that nursery.
        came = await self._nursery.start(_Run(self, statement, job_id, remote, events, asked).run)
        if isinstance(came, JobFailed):
            raise came
        assert isinstance(came, Picture)
        return came


class _Run:
    """One picture's way through its job: the `Errand` of its attempts.

    Whoever hears something tells the job, and what that wants is done at once, without an await in between.
    """

    def __init__(
        self,
        requester: Requester,
        statement: Statement,
        job_id: str,
        remote: bool,
        events: Events,
        asked: Asked,
    ) -> None:
        self.statement = statement
        self.job_id = job_id
        self.wishes = asked.wishes
        self.job = Job()
        self._r = requester
        self._means = requester.means
        self._directory = requester.means.directory
        self._remote = remote
        self._only = asked.only
        self._events = events
        self._timeline = Timeline(asked.at_us)
        self._conversings: list[Conversing] = []  # attempt n at n - 1
        self._ready_plan: Plan | None = None  # made when nobody had to be looked at: it is the first
        self._nobody: NoCandidate | None = None  # why the last plan was none
        self._first_plan: Plan | None = None
        self._first_planned_us = 0
        self._plan: tuple[Plan, int, int] | None = None  # the latest, from when until when it was made
        self._hedges_us: dict[int, int] = {}  # when to look whether an attempt needs one
        self._need = asked.need
        self._changed = asked.need.changed
        self._drawn: Picture | None = None
        self._came: Picture | JobFailed | None = None
        handed_us = asked.at_us
        for name, start_us, us in asked.spans:
            self._span(name, start_us, start_us + us)
            handed_us = max(handed_us, start_us + us)
        self._span("submit", handed_us, now_us())

    @property
    def _attempts(self) -> tuple[Attempt, ...]:
        return tuple(each.attempt for each in self._conversings)

    async def run(self, *, task_status: Any) -> None:
        """Starts with what came: a Picture or JobFailed.  Ends when nothing more is to be heard."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self._look()
                self.carry_out(self.job.start())
                while self._came is None:
                    if self._need.withdrawn:
                        self.on_leaving()
                        self._came = self._failed("It is no longer wanted.")
                    else:
                        await self._wait_hedge_due()
            finally:
                self.on_leaving()
            task_status.started(self._came)

    async def _look(self) -> None:
        """So that the first plan knows how busy those are who are near."""
        if self._only:
            return
        began_us, links = now_us(), self._r.links
        try:
            plan = self._plan_without(frozenset(), began_us)
        except NoCandidate:
            return
        planned_us = now_us()
        self._span("plan", began_us, planned_us)
        found = look(plan, links.heard_us, planned_us)
        if found is None:
            self._ready_plan = plan
            return
        await links.look(*found)
        self._span("look", planned_us, now_us())

    async def _wait_hedge_due(self) -> None:
        """Until something has changed, or a START is late."""
        number = min(self._hedges_us, key=lambda each: self._hedges_us[each], default=None)
        within_us = float("inf") if number is None else self._hedges_us[number] - now_us()
        with trio.move_on_after(max(0, within_us) / 1e6) as waiting:
            await self._changed.wait()
        if waiting.cancelled_caught and number is not None and self._hedges_us[number] <= now_us():
            del self._hedges_us[number]
            self.carry_out(self.job.on_hedge_due(number, now_us()))

    # what the job wants

    def carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self._do(action)
        self._changed.notify()

    def _do(self, action: Action) -> None:
        match action:
            case Replan(excluded):
                self._replan(excluded)
            case MakeOffer(_, number, forced, hedge):
                self._make_offer(number, forced=forced, hedge=hedge)
            case HedgeAt(number, at_us):
                self._hedges_us[number] = at_us
            case PlanHedge(_, excluded):
                for number in self.job.under_way:
                    self._conversings[number - 1].on_late()
                prospect = self._make_plan(excluded)
                self.carry_out(
                    self.job.on_hedge_plan(None if isinstance(prospect, str) else prospect, now_us())
                )
            case ResumeTransfer(_, number, within_us):
                self._conversings[number - 1].resume(within_us)
            case CancelAttempt(_, number):
                conversing = self._conversings[number - 1]
                conversing.dismiss()
                self._nursery.start_soon(conversing.say_cancel)
            case Penalise(peer):
                self._directory.on_penalty(peer, now_us())
            case Excuse(peer):
                self._directory.on_excuse(peer, now_us())
            case Tell(sentence, number):
                self._events.told(f"{self._name_of(number)}: {sentence}")
            case Finish():
                self._came = self._drawn
            case GiveUp(sentence):
                self._came = self._failed(sentence)

    def _replan(self, excluded: frozenset[str]) -> None:
        began_us = now_us()
        prospect = self._make_plan(excluded)
        if isinstance(prospect, str):
            self._span("plan", began_us, now_us())
            self.carry_out(self.job.on_no_candidate(prospect))
            return
        assert self._plan is not None
        plan, _, planned_us = self._plan
        if self._first_plan is None:
            self._first_plan, self._first_planned_us = plan, planned_us
        self._events.planned(plan)
        self.carry_out(self.job.on_plan(prospect, now_us()))

    def _make_plan(self, excluded: frozenset[str]) -> Prospect | str:
        """The best of a new plan; or why there is none."""
        began_us = now_us()
        ready, self._ready_plan = self._ready_plan, None
        try:
            plan = ready or (
                self._plan_only(began_us) if self._only else self._plan_without(excluded, began_us)
            )
        except NoCandidate as exc:
            self._nobody = exc
            return str(exc)
        self._nobody = None
        self._r.links.on_plan(choice.peer for choice in plan.ranked)
        self._means.journal(
            "planned",
            job=self.job_id,
            asked_us=self._timeline.asked_us,
            ranked=[{"peer": choice.peer, "predicted_us": choice.predicted_us} for choice in plan.ranked[:8]],
        )
        self._plan = plan, began_us, now_us()
        best = plan.ranked[0]
        return Prospect.of(best, heard_us=self._directory.heard_us(best.peer, now_us()), now_us=now_us())

    def _plan_without(self, excluded: frozenset[str], now: int) -> Plan:
        return self._r.shortlists.plan(
            self._directory,
            self.statement,
            now_us=now,
            own=not self._remote,
            excluded=excluded,
            seed=secrets.randbits(63),
            wishes=self.wishes,
        )

    def _plan_only(self, now: int) -> Plan:
        assert self._only is not None
        if self._conversings:
            raise NoCandidate("The one peer that was to be asked was asked.")
        only = self._directory.candidates(now, own=not self._remote, among=frozenset({self._only}))
        return plan_of(only, self.statement, now_us=now, seed=0, wishes=self.wishes)

    def _make_offer(self, number: int, *, forced: bool, hedge: bool) -> None:
        assert self._plan is not None
        plan, began_us, planned_us = self._plan
        choice, after, why, now = plan.ranked[0], self._last_ended(), None, now_us()
        if hedge:
            late = next(each for each in self.job.under_way if each != number)
            after = self._attempts[late - 1]
            name, late_by = self._name_of(late), duration(self.job.late_us(late, now))
            if self.job.is_away(late):
                why = f"{name} had not come back {late_by} after its connection broke"
            else:
                why = f"{name} had not started {late_by} after it was to"
        identity = secrets.token_bytes(ATTEMPT_BYTES)
        leg = Leg(identity, began_us, after.leg if after else None, spanned_us=planned_us)
        leg.add("plan", began_us, planned_us, observer=self._means.peer)
        attempt = Attempt(identity, number, plan, leg, why)
        conversing = Conversing(self._means, self, attempt)
        self._conversings.append(conversing)
        self._events.attempted(attempt)
        self._directory.on_offered(choice.peer, identity, choice.busy_us, now)
        if choice.peer != self._means.peer:
            self._r.demand.on_offer(self.statement, choice.busy_us, now)
        self._nursery.start_soon(conversing.run, forced or self._only is not None)

    def _failed(self, sentence: str) -> JobFailed:
        attempts, now = self._attempts, now_us()
        self._finish(self._last_ended(), now)
        failed = JobFailed(sentence, Tried(self._timeline, self._first_plan, attempts))
        if not attempts or (self._nobody is None and not failed.nobody):
            return failed
        said = {attempt.choice.peer: attempt.sentence or "" for attempt in attempts}
        words = nobody_drew(
            [(self._r.name_of(peer), each) for peer, each in said.items()], refused=failed.nobody
        )
        if self._nobody is not None and self._nobody.too_late:
            words = f"{self._nobody} {words}"
        return JobFailed(words, failed.tried)

    # what attempts tell

    def on_accepted(self, attempt: Attempt) -> None:
        """Streams to the peer in use, and to those that its plan would turn to next."""
        for choice in (attempt.choice, *attempt.plan.ranked[:AHEAD_OF_A_PLAN]):
            self._means.reach.keep(choice.peer)

    def on_progress(self, attempt: Attempt, progress: Progress) -> None:
        self._events.progressed(attempt.number, progress)

    def on_drawn(self, attempt: Attempt, file: bytes, done_us: int) -> None:
        if self._came is not None or self._drawn is not None:
            return  # it was withdrawn while it was checked, or came from another just before
        plan = self._first_plan
        assert plan is not None
        self._finish(attempt, done_us)
        if plan.forecast is not None:
            self._directory.calibration.on_picture(plan.forecast, done_us - self._first_planned_us)
        self._drawn = Picture(
            statement=self.statement,
            file=file,
            provider=attempt.choice.peer,
            checked=CHECKED,
            timeline=self._timeline,
            plan=plan,
            attempts=self._attempts,
        )
        self._events.drawn(self._drawn)

    def on_leaving(self) -> None:
        self.carry_out(self.job.cancel())

    def _finish(self, last: Attempt | None, end_us: int) -> None:
        legs = [attempt.leg for attempt in self._attempts]
        lay(self._timeline, legs, last.leg if last else None, end_us, observer=self._means.peer)
        self._timeline.finish(end_us)

    def _last_ended(self) -> Attempt | None:
        """Without a picture."""
        ended = [(each.leg.ended_us, each) for each in self._attempts if each.leg.ended_us is not None]
        return max(ended, key=lambda pair: pair[0])[1] if ended else None

    def _name_of(self, number: int) -> str:
        return self._r.name_of(self._attempts[number - 1].choice.peer)

    def _span(self, name: str, start_us: int, end_us: int) -> None:
        """What waited for no attempt."""
        self._timeline.add(
            name, start_us, max(0, end_us - start_us), observer=self._means.peer, critical=True
        )
