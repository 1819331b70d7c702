"""One request on its way through its job: what `peer/requester.py` does with streams is done here with events."""

from typing import TYPE_CHECKING

from protocol.policy.attention import AHEAD_OF_A_PLAN
from protocol.policy.calibration import Forecast
from protocol.policy.job import (
    Action,
    CancelAttempt,
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
)
from protocol.policy.looks import look
from protocol.policy.prediction import CONNECT_ROUND_TRIPS
from protocol.policy.queue import Refused
from protocol.policy.selection import NoCandidate, Plan
from protocol.wire.conversation import ACCEPT_WITHIN_US, SLACK_US
from protocol.wire.hello import LiveState

from .provider import Attempt
from .requester import Requester

if TYPE_CHECKING:
    from .nearlight import Nearlight

ORPHAN_AFTER_US = 15_000_000  # as peer/ has it; testnet does not import peer


class Errand:
    """What `peer/requester.py` calls a run."""

    __slots__ = (
        "done",
        "forecast",
        "job",
        "offered",
        "plan",
        "planned_us",
        "ready",
        "request",
        "requester",
        "statement",
        "swarm",
    )

    def __init__(self, request: int, requester: Requester, swarm: "Nearlight") -> None:
        self.request = request
        self.requester = requester
        self.swarm = swarm
        self.statement = swarm.statement(request)
        self.job = Job()
        self.done: Attempt | None = None
        self.offered: list[Attempt] = []
        self.plan: Plan | None = None
        self.ready: Plan | None = None  # made when nobody had to be looked at: it is the first
        self.forecast: Forecast | None = None  # of the first plan, which was made at planned_us
        self.planned_us = 0

    def begin(self) -> None:
        """Asks those who are near how busy they are, if that is old news, and starts when they have told it."""
        requester, now_us = self.requester, self.swarm.clock.now_us
        try:
            plan = self._plan_without(frozenset(), now_us)
        except NoCandidate:
            return self._start()
        found = look(plan, requester.heard_us, now_us)
        if found is None:
            self.ready = plan
            return self._start()
        self.swarm.clock.at(now_us + min(found.within_us, requester.look(found.peers)), self._start)

    def _start(self) -> None:
        self._carry_out(self.job.start())

    def _carry_out(self, actions: list[Action]) -> None:
        while actions:
            following: list[Action] = []
            for action in actions:
                following += self._do(action)
            actions = following

    def _do(self, action: Action) -> list[Action]:
        swarm, now_us = self.swarm, self.swarm.clock.now_us
        match action:
            case Replan(excluded):
                return self._replan(excluded)
            case MakeOffer(peer, number, forced, hedge):
                swarm.ledger.hedges += hedge
                self._make_offer(peer, number, forced)
            case ResumeTransfer():
                # The process that had the result is gone: a new one does not know it, and none answers at all.
                attempt = self.offered[action.number - 1]
                swarm.clock.at(now_us + action.within_us, self._on_lost, attempt, "not resumed", False)
            case HedgeAt(number, at_us):
                swarm.clock.at(max(now_us, at_us), self._hedge_due, number)
            case PlanHedge(_, excluded):
                prospect = self._prospect(excluded)
                return self.job.on_hedge_plan(None if isinstance(prospect, str) else prospect, now_us)
            case Penalise(peer):
                self.requester.directory.on_penalty(peer, now_us)
            case GiveUp():
                swarm.ledger.on_given_up(self.request)
                self._close()
            case Finish():
                assert self.done is not None
                swarm.costs.useful_us += self.done.spent_us
                if self.forecast is not None:
                    took_us = now_us - self.planned_us
                    self.requester.directory.calibration.on_picture(self.forecast, took_us)
                    swarm.ledger.on_forecast(self.request, self.forecast, took_us)
                swarm.ledger.on_done(self.done, self.done.offered_us, now_us)
                self._close()
            case CancelAttempt(_, number):
                self._cancel(self.offered[number - 1])
        return []

    def _close(self) -> None:
        """Its streams are closed: what is still on its way is heard by nobody."""
        for attempt in self.offered:
            peer = self.swarm.names[attempt.provider]
            self.requester.talks[peer] -= 1
            self.requester.directory.on_ended(peer, attempt.id, self.swarm.clock.now_us)

    def _alive(self, attempt: Attempt) -> bool:
        return attempt.number in self.job.under_way

    def _hedge_due(self, number: int) -> None:
        self._carry_out(self.job.on_hedge_due(number, self.swarm.clock.now_us))

    def _cancel(self, attempt: Attempt) -> None:
        """It was late; CANCEL is on its way, behind the offer."""
        swarm, directory, now_us = self.swarm, self.requester.directory, self.swarm.clock.now_us
        peer = swarm.names[attempt.provider]
        self._learn_no_start(attempt)
        directory.on_ended(peer, attempt.id, now_us)
        swarm.costs.messages["cancel"] += 1
        at_us = max(now_us + self._round_trip_us(attempt) // 2, attempt.arrives_us)
        swarm.clock.at(at_us, swarm.providers[attempt.provider].cancel, attempt)

    def _learn_no_start(self, attempt: Attempt) -> None:
        """It is no longer waited for: so late at least."""
        now_us = self.swarm.clock.now_us
        took_us = now_us - attempt.accepted_us
        if attempt.accepted and not attempt.start_heard and took_us > attempt.promised_us:
            self.requester.directory.on_no_start(
                self.swarm.names[attempt.provider],
                promised_us=attempt.promised_us,
                took_us=took_us,
                now_us=now_us,
            )

    def _replan(self, excluded: frozenset[str]) -> list[Action]:
        prospect = self._prospect(excluded)
        if isinstance(prospect, str):
            return self.job.on_no_candidate(prospect)
        return self.job.on_plan(prospect, self.swarm.clock.now_us)

    def _prospect(self, excluded: frozenset[str]) -> Prospect | str:
        """The best of a new plan; or why there is none."""
        requester, now_us = self.requester, self.swarm.clock.now_us
        ready, self.ready = self.ready, None
        try:
            self.plan = ready or self._plan_without(excluded, now_us)
        except NoCandidate as exc:
            return str(exc)
        if self.forecast is None:
            self.forecast, self.planned_us = self.plan.forecast, now_us
        self.requester.attention.on_plan(choice.peer for choice in self.plan.ranked)
        best = self.plan.ranked[0]
        return Prospect.of(best, heard_us=requester.directory.heard_us(best.peer, now_us), now_us=now_us)

    def _plan_without(self, excluded: frozenset[str], now_us: int) -> Plan:
        self.swarm.costs.plans += 1
        return self.requester.shortlists.plan(
            self.requester.directory,
            self.statement,
            now_us=now_us,
            own=False,
            excluded=excluded,
            seed=self.swarm.dice.getrandbits(63),
        )

    def _make_offer(self, peer: str, number: int, forced: bool) -> None:
        swarm, directory = self.swarm, self.requester.directory
        assert self.plan is not None
        choice = self.plan.ranked[0]
        now_us = swarm.clock.now_us
        provider = swarm.number_of[peer]
        swarm.attempts += 1
        attempt = Attempt(swarm.attempts, self.request, provider, swarm.world, self, again=False)
        attempt.statement = self.statement
        attempt.number, attempt.offered_us = number, now_us
        attempt.choice, attempt.max_wait_us = choice, None if forced else choice.max_wait_us
        self.offered.append(attempt)
        self.requester.talks[peer] += 1
        directory.on_offered(peer, attempt.id, choice.busy_us, now_us)
        self.requester.demand.on_offer(self.statement, choice.busy_us, now_us)
        rtt_us = self._round_trip_us(attempt)
        sent_us = now_us
        if peer not in self.requester.connected:
            if swarm.providers[provider].gone:
                swarm.clock.at(now_us + rtt_us, self._on_lost, attempt, "it cannot be reached", True)
                return
            sent_us += CONNECT_ROUND_TRIPS * rtt_us
            swarm.costs.dials += 1
            swarm.costs.messages["dial"] += 2 * CONNECT_ROUND_TRIPS
            swarm.clock.at(sent_us, self.requester.on_dialled, peer)
        else:
            sent_us = self.requester.stream_us(peer, rtt_us)
        swarm.costs.messages["offer"] += 1
        attempt.heard_us = sent_us
        attempt.arrives_us = sent_us + rtt_us // 2 + swarm.world.offer_us
        swarm.clock.at(
            attempt.arrives_us,
            self._at_provider,
            attempt,
        )
        known = directory.rtt(peer)
        patience_us = ACCEPT_WITHIN_US + (known.min_us + known.jitter_us if known else 0)
        swarm.clock.at(sent_us + patience_us, self._no_accept, attempt)

    # at the provider

    def _at_provider(self, attempt: Attempt) -> None:
        swarm = self.swarm
        provider = swarm.providers[attempt.provider]
        if provider.gone:
            self._tell(attempt, self._on_lost, "the connection was lost", True)
            return
        verdict = provider.offer(attempt, None if provider.lying else attempt.max_wait_us)
        if verdict is None:
            return
        state = provider.live_state(attempt.requester)
        provider.watchers.on_told(attempt.peer, state, swarm.clock.now_us)
        if isinstance(verdict, Refused):
            swarm.costs.messages["refuse"] += 1
            self._tell(attempt, self._on_refused, verdict, state)
            return
        swarm.costs.messages["accept"] += 1
        load_us = (
            0 if attempt.model in provider.warm else swarm.world.cold_us[attempt.provider][attempt.model]
        )
        self._tell(attempt, self._on_accepted, 0 if provider.lying else verdict.wait_us, load_us, state)
        provider.go_on()
        provider.on_changed()

    def on_started(self, attempt: Attempt) -> None:
        self.swarm.costs.messages["start"] += 1
        self._tell(attempt, self._on_start)

    def on_finished(self, attempt: Attempt) -> None:
        swarm = self.swarm
        swarm.costs.messages["result"] += 1
        sent_us = swarm.clock.now_us
        self._tell(attempt, self._on_result)
        # Round trips while TCP's window grows, and the bytes on the provider's uplink.
        world = swarm.world
        growing_us = sum(self._round_trip_us(attempt) for _ in range(world.growing_round_trips))
        upload_us = int(world.result_bytes * 1e6 / world.upload_bytes_per_s[attempt.provider])
        at_us = attempt.heard_us + growing_us + upload_us
        attempt.heard_us = at_us
        swarm.clock.at(at_us, self._on_receipt, attempt, sent_us)

    def on_gone(self, attempt: Attempt) -> None:
        self._tell(attempt, self._on_lost, "the connection was lost", True)

    def _tell(self, attempt: Attempt, hear, *what) -> None:  # type: ignore[no-untyped-def]
        """On its way to the requester, behind what was told before."""
        at_us = self.swarm.clock.now_us + self._round_trip_us(attempt) // 2
        attempt.heard_us = max(attempt.heard_us, at_us)
        self.swarm.clock.at(attempt.heard_us, hear, attempt, *what)

    def _round_trip_us(self, attempt: Attempt) -> int:
        return self.swarm.world.round_trip_us(attempt.requester, attempt.provider, self.swarm.dice)

    # at the requester

    def _on_refused(self, attempt: Attempt, verdict: Refused, state: LiveState) -> None:
        attempt.answered = True
        if not self._alive(attempt):
            return
        directory, peer = self.requester.directory, self.swarm.names[attempt.provider]
        now_us = self.swarm.clock.now_us
        directory.on_ended(peer, attempt.id, now_us)  # it is not in the state that follows
        directory.on_state(peer, state, now_us)
        if verdict.code == "busy":
            directory.on_refused(
                peer, max_wait_us=attempt.max_wait_us, busy_us=attempt.choice.busy_us, now_us=now_us
            )
        self.swarm.ledger.refusals += 1
        self._carry_out(
            self.job.on_refused(attempt.number, busy=verdict.code == "busy", sentence=verdict.sentence)
        )

    def _on_accepted(self, attempt: Attempt, wait_us: int, load_us: int, state: LiveState) -> None:
        attempt.answered = True
        if not self._alive(attempt):
            return
        directory, peer = self.requester.directory, self.swarm.names[attempt.provider]
        now_us = self.swarm.clock.now_us
        directory.on_state(peer, state, now_us)
        known = directory.rtt(peer)
        choice = attempt.choice
        within_us = min(wait_us + load_us, choice.longest_start_us)
        by_us = now_us + within_us + SLACK_US + (known.min_us + known.jitter_us if known else 0)
        self.swarm.clock.at(by_us, self._no_start, attempt)
        attempt.accepted, attempt.accepted_us = True, now_us
        attempt.promised_us = choice.start_within_us(wait_us, load_us, attempt.max_wait_us)
        directory.on_accepted(peer, attempt.id, now_us + attempt.promised_us)
        self._carry_out(self.job.on_accepted(attempt.number, now_us + attempt.promised_us))
        self.requester.open_ahead(peer, self._round_trip_us(attempt))
        assert self.plan is not None
        for choice in self.plan.ranked[:AHEAD_OF_A_PLAN]:
            if choice.peer in self.requester.connected:
                self.requester.open_ahead(choice.peer, choice.rtt_us or 0)

    def _on_start(self, attempt: Attempt) -> None:
        attempt.start_heard = True
        if attempt.accepted:
            now_us = self.swarm.clock.now_us
            self.requester.directory.on_start(
                self.swarm.names[attempt.provider],
                attempt.id,
                promised_us=attempt.promised_us,
                took_us=now_us - attempt.accepted_us,
                now_us=now_us,
            )
        if self._alive(attempt):
            self._carry_out(self.job.on_start(attempt.number))

    def _on_result(self, attempt: Attempt) -> None:
        if self._alive(attempt):
            peer = self.swarm.names[attempt.provider]
            self.requester.directory.on_ended(peer, attempt.id, self.swarm.clock.now_us)
            self._carry_out(self.job.on_result(attempt.number))

    def _on_receipt(self, attempt: Attempt, sent_us: int) -> None:
        if not self._alive(attempt):
            return
        self.done = attempt
        swarm, speeds = self.swarm, self.requester.directory.speeds
        swarm.costs.messages["receipt"] += 1
        swarm.costs.messages["settled"] += 1
        peer = swarm.names[attempt.provider]
        world, slip = swarm.world, attempt.slip
        self.requester.directory.on_render(
            peer,
            self.statement,
            step_us=max(1, int(world.step_us(attempt.provider) * slip)),
            fixed_us=int(world.fixed_us(attempt.provider) * slip),
        )
        if attempt.loaded_us:
            speeds.on_load(peer, self.statement.model, attempt.loaded_us)
        self.requester.directory.on_drawn(peer, swarm.clock.now_us)
        rtt = self.requester.directory.rtt(peer)
        if rtt is not None:
            moved_us = swarm.clock.now_us - sent_us
            speeds.on_transfer(peer, world.result_bytes, moved_us, rtt_us=rtt.min_us)
        self._carry_out(self.job.on_checked(attempt.number))

    def _no_accept(self, attempt: Attempt) -> None:
        if not attempt.answered:
            self._on_lost(attempt, "nothing was heard in time while waiting for accept", True)

    def _no_start(self, attempt: Attempt) -> None:
        if self._alive(attempt) and not attempt.start_heard:
            self._on_lost(attempt, "nothing was heard in time while waiting for start", True)

    def _on_lost(self, attempt: Attempt, what: str, resumable: bool) -> None:
        swarm = self.swarm
        if not self._alive(attempt):
            actions = self.job.on_lost(attempt.number, what, swarm.clock.now_us)
            swarm.ledger.losses[what] += bool(actions)
            self._carry_out(actions)
            return
        swarm.ledger.losses[what] += 1
        self._learn_no_start(attempt)
        self.requester.directory.on_ended(swarm.names[attempt.provider], attempt.id, swarm.clock.now_us)
        # Its stream closes; what nobody follows is dropped after a while.
        orphan_us = swarm.clock.now_us + self._round_trip_us(attempt) // 2 + ORPHAN_AFTER_US
        swarm.clock.at(orphan_us, swarm.providers[attempt.provider].cancel, attempt)
        self._carry_out(self.job.on_lost(attempt.number, what, swarm.clock.now_us, resumable=resumable))
