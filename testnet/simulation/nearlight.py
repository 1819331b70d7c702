"""The product's policy: the protocol's directory, selection, job and queue, carried as `peer/` carries them.

What `peer/requester.py`, `peer/link.py` and `peer/gossip.py` do with sockets and clocks is done here with events.
"""

from collections.abc import Iterable
from random import Random

from protocol.policy.attention import AHEAD_OF_A_PLAN, Attention
from protocol.policy.calibration import Forecast
from protocol.policy.demand import Demand
from protocol.policy.directory import Directory
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
from protocol.policy.queue import Queue, Refused
from protocol.policy.selection import NoCandidate, Plan
from protocol.policy.shortlist import Shortlists
from protocol.policy.telling import Telling
from protocol.wire.advert import Advert, Device, Limits, OfferedModel, SignedAdvert, Speed
from protocol.wire.conversation import ACCEPT_WITHIN_US, START_SLACK_US
from protocol.wire.hello import MODEL_ID_BYTES, LiveState
from protocol.wire.identity import KEY_BYTES
from protocol.wire.statement import Statement

from .clock import Clock
from .control import usual_pace
from .costs import Costs
from .outcome import Ledger
from .provider import LIE_FACTOR, Attempt, LearningProvider, name_of, statement_of
from .world import World

# As peer/ has them; testnet does not import peer.
BURST = 6  # pings when a link opens
ORPHAN_AFTER_US = 15_000_000
UNUSED_AFTER_US = 50_000_000
PUBLISH_SPREAD = 2 / 3, 4 / 3  # of the mean interval

GOSSIP_US = 300_000  # over a few hops
LOOK_EVERY_US = 200_000  # whose live state is old enough to ask for
PING_GROUPS = 8  # links whose round trips are alike are asked in one event
STREAM_ROUND_TRIPS = 1  # to open one on a connection: a first dial span of 212 ms at a round trip of 200 ms
REJOIN_US = 1_000_000  # until its old acquaintances have dialled one who came back
NETWORK = "simulation"


class Nearlight:
    """A swarm of real decision code."""

    def __init__(self, world: World, clock: Clock, costs: Costs, ledger: Ledger, dice: Random) -> None:
        self.world, self.clock, self.costs, self.ledger, self.dice = world, clock, costs, ledger, dice
        self.model_ids = [
            (b"model %d" % model).ljust(MODEL_ID_BYTES, b"\0") for model in range(world.config.models)
        ]
        self.attempts = 0
        self.providers = [
            LearningProvider(index, world, clock, costs, self.model_ids, self._on_capabilities)
            for index in range(world.config.peers)
        ]
        self._pace = usual_pace(world.config.peers + world.config.requesters)
        self.adverts = [self._first_advert(index) for index in range(world.config.peers)]
        self._tellings = [Telling(0) for _ in range(world.config.peers)]
        self.names = [advert.peer for advert in self.adverts]
        self.number_of = {name: index for index, name in enumerate(self.names)}
        self.known_by = [list(world.peers_at(index)) for index in range(world.config.peers)]
        self.requesters = [_Requester(index, self) for index in range(world.config.requesters)]
        self._statements: dict[tuple[int, int], Statement] = {}
        for index, telling in enumerate(self._tellings):
            # Each told its last advert at a moment of its own.
            interval_us = self._pace.interval_us
            telling.on_told(0, int(interval_us * dice.random()), interval_us)
            self._look_at_telling(index)
        for index, away_us, back_us in world.leaves:
            clock.at(away_us, self._leave, index)
            clock.at(back_us, self._return, index)

    def ask(self, request: int) -> None:
        requester = self.requesters[self.world.requests.requester[request]]
        requester.stay_active()
        requester.look_further()
        _Errand(request, requester, self).begin()

    def statement(self, request: int) -> Statement:
        asked = self.world.requests
        key = asked.model[request], asked.steps[request]
        found = self._statements.get(key)
        if found is None:
            found = self._statements[key] = statement_of(self.model_ids[key[0]], key[1], self.world.result_px)
        return found

    # adverts

    def _first_advert(self, index: int) -> SignedAdvert:
        key = (b"provider %d" % index).ljust(KEY_BYTES, b"\0")
        return SignedAdvert.sign(self._able(index, 0), network=NETWORK, private_key=key)

    def _able(self, index: int, sequence: int) -> Advert:
        world, provider = self.world, self.providers[index]
        side_px, lie = world.result_px, LIE_FACTOR if provider.lying else 1
        step_us, fixed_us = max(1, int(world.step_us(index) / lie)), int(world.fixed_us(index) / lie)
        speeds = (Speed(side_px, side_px, "fp16", step_us, fixed_us),)
        models = tuple(
            OfferedModel(
                id=self.model_ids[model],
                name=f"model {model}",
                family="sd",
                state="resident" if model in provider.warm or provider.lying else "disk",
                native=(side_px, side_px),
                load_us=world.cold_us[index][model],
                speeds=speeds,
            )
            for model in range(world.config.models)
            if world.capable[index, model]
        )
        return Advert(
            name=f"p{index}",
            boot_epoch=0,
            sequence=sequence,
            issued_us=self.clock.now_us,
            lifetime_s=self._pace.lifetime_s,
            addresses=(),
            kinds=("txt2img",),
            devices=(Device("cuda", "simulated", 1, None, None, None, ("fp16",)),),
            models=models,
            limits=Limits(pixels=1 << 20, steps=1000, prompt_bytes=2000, queue=16),
        )

    def _on_told(self, index: int) -> None:
        interval_us = self._pace.interval_us
        pause_us = int(interval_us * self.dice.uniform(*PUBLISH_SPREAD))
        self._tellings[index].on_told(self.clock.now_us, pause_us, interval_us)
        self._look_at_telling(index)

    def _look_at_telling(self, index: int) -> None:
        self.clock.at(self._tellings[index].due_us, self._tell_if_due, index)

    def _tell_if_due(self, index: int) -> None:
        """Unless it was told sooner meanwhile: that looks again by itself."""
        if self.clock.now_us >= self._tellings[index].due_us:
            self._publish(index)

    def _on_capabilities(self, index: int) -> None:
        """What is resident changed."""
        if self._tellings[index].on_change():
            self._look_at_telling(index)

    def _publish(self, index: int) -> None:
        self._on_told(index)
        if self.providers[index].gone:
            return
        old = self.adverts[index]
        able = self._able(index, old.advert.sequence + 1)
        # The envelope is the first one's: it names the peer, and nobody here doubts it.
        self.adverts[index] = SignedAdvert(able, old.envelope)
        self.costs.adverts += 1
        self.costs.messages["advert"] += len(self.known_by[index])
        self.clock.at(self.clock.now_us + GOSSIP_US, self._deliver, index, self.adverts[index])

    def _deliver(self, index: int, signed: SignedAdvert) -> None:
        now_us = self.clock.now_us
        for requester in self.known_by[index]:
            self.requesters[requester].directory.on_advert(signed, now_us, now_us)

    # churn

    def _leave(self, index: int) -> None:
        self.providers[index].leave(Queue())
        for requester in self.known_by[index]:
            self.requesters[requester].on_disconnected(self.names[index])

    def _return(self, index: int) -> None:
        self.providers[index].gone = False
        self._publish(index)
        self.clock.at(self.clock.now_us + REJOIN_US, self._connect, index)

    def _connect(self, index: int) -> None:
        if not self.providers[index].gone:
            for requester in self.known_by[index]:
                self.requesters[requester].on_connected(self.names[index])


class _Requester:
    """One peer that asks: its directory, kept fresh by pings."""

    def __init__(self, index: int, swarm: Nearlight) -> None:
        self.index = index
        self.swarm = swarm
        self.directory = Directory(name_of(index))
        self.attention = Attention()
        self.shortlists = Shortlists()
        self._asked_us: dict[str, int] = {}  # for live state, last
        self.connected: set[str] = set()
        self._ahead: dict[str, tuple[int, int]] = {}  # streams opened ahead: usable from, until
        world = swarm.world
        self.demand = Demand(world.config.known)
        known = world.known[index]
        self._others = iter(world.others(index))
        self._links = len(known)
        for provider in known:
            self._meet(provider)
        nearest_first = sorted(known, key=lambda provider: (world.rtt_us[index][provider], provider))
        size = -(-len(known) // PING_GROUPS)
        self._groups = [nearest_first[at : at + size] for at in range(0, len(known), size)]
        self._begin()

    def _meet(self, provider: int) -> None:
        swarm, now_us = self.swarm, self.swarm.clock.now_us
        peer = swarm.names[provider]
        self.directory.on_advert(swarm.adverts[provider], now_us, now_us)
        self.on_connected(peer)
        for _ in range(BURST):
            self.directory.on_rtt(peer, swarm.world.round_trip_us(self.index, provider, swarm.dice), now_us)

    def look_further(self) -> None:
        """As many as its demand needs are connected to: next those that a guess says are best."""
        swarm = self.swarm
        while self._links < self.demand.links(swarm.clock.now_us):
            provider = next(self._others, None)
            if provider is None:
                return
            self._links += 1
            swarm.costs.messages["dial"] += 2 * CONNECT_ROUND_TRIPS
            rtt_us = swarm.world.rtt_us[self.index][provider]
            swarm.clock.at(swarm.clock.now_us + CONNECT_ROUND_TRIPS * rtt_us, self._on_dialled, provider)

    def _on_dialled(self, provider: int) -> None:
        row = self.swarm.world.rtt_us[self.index]
        group = next((group for group in self._groups if row[group[-1]] >= row[provider]), self._groups[-1])
        group.append(provider)
        group.sort(key=lambda index: (row[index], index))
        self.swarm.known_by[provider].append(self.index)
        if not self.swarm.providers[provider].gone:
            self._meet(provider)

    def on_connected(self, peer: str) -> None:
        self.connected.add(peer)
        self.directory.on_connected(peer)

    def on_disconnected(self, peer: str) -> None:
        self.connected.discard(peer)
        self._ahead.pop(peer, None)
        self.directory.on_disconnected(peer)

    def stream_us(self, peer: str, rtt_us: int) -> int:
        """When a stream to a connected peer can carry an offer: one opened ahead, or one that is opened now."""
        now_us = self.swarm.clock.now_us
        from_us, until_us = self._ahead.pop(peer, (0, 0))
        return max(now_us, from_us) if now_us < until_us else now_us + STREAM_ROUND_TRIPS * rtt_us

    def open_ahead(self, peer: str, rtt_us: int) -> None:
        """It is in use: a stream to it should be ready when the next one is needed."""
        now_us = self.swarm.clock.now_us
        if now_us >= self._ahead.get(peer, (0, 0))[1]:
            from_us = now_us + STREAM_ROUND_TRIPS * rtt_us
            self._ahead[peer] = from_us, from_us + UNUSED_AFTER_US

    def stay_active(self) -> None:
        """It is about to ask: live state should be fresh for a while."""
        if self.attention.on_ask(self.swarm.clock.now_us):
            for group in self._groups:
                self._ping(group)

    def _begin(self) -> None:
        """Each group has its own moment."""
        for number, group in enumerate(self._groups):
            self.swarm.clock.at(LOOK_EVERY_US * number // len(self._groups), self._look, group)

    def _look(self, group: list[int]) -> None:
        self._ping(group)
        self.swarm.clock.at(self.swarm.clock.now_us + LOOK_EVERY_US, self._look, group)

    def _ping(self, group: list[int]) -> None:
        """Those of a group whose live state is old are asked; the farthest decides when the answers are here."""
        swarm, directory = self.swarm, self.directory
        now_us, links = swarm.clock.now_us, len(self.connected)
        heard: list[tuple[str, int, LiveState]] = []
        for index in group:
            peer = swarm.names[index]
            asked_us = self._asked_us.get(peer)
            if asked_us is not None and now_us < self.attention.due_us(
                peer, asked_us, directory.heard_us(peer), links, now_us
            ):
                continue
            self._asked_us[peer] = now_us
            provider = swarm.providers[index]
            swarm.costs.messages["ping"] += 1
            if not provider.gone:
                rtt_us = swarm.world.round_trip_us(self.index, index, swarm.dice)
                heard.append((peer, rtt_us, provider.live_state(self.index)))
        swarm.costs.messages["pong"] += len(heard)
        if heard:
            way_us = max(rtt_us for _, rtt_us, _ in heard) // 2
            swarm.clock.at(now_us + way_us, self._pongs, heard)

    def heard_us(self, peer: str) -> int | None:
        return self.directory.heard_us(peer) if peer in self.connected else None

    def look(self, peers: Iterable[str]) -> int:
        """Asks them for their live state; so long from now the last of those that answer has told it."""
        swarm, now_us = self.swarm, self.swarm.clock.now_us
        told_us = 0
        for peer in peers:
            index = swarm.number_of[peer]
            self._asked_us[peer] = now_us
            swarm.costs.messages["ping"] += 1
            rtt_us = swarm.world.round_trip_us(self.index, index, swarm.dice)
            told_us = max(told_us, rtt_us)
            swarm.clock.at(now_us + rtt_us // 2, self._on_look, index, rtt_us)
        return told_us

    def _on_look(self, index: int, rtt_us: int) -> None:
        swarm, provider = self.swarm, self.swarm.providers[index]
        if not provider.gone:
            swarm.costs.messages["pong"] += 1
            heard = [(swarm.names[index], rtt_us, provider.live_state(self.index))]
            swarm.clock.at(swarm.clock.now_us + rtt_us - rtt_us // 2, self._pongs, heard)

    def _pongs(self, heard: list[tuple[str, int, LiveState]]) -> None:
        directory, now_us = self.directory, self.swarm.clock.now_us
        for peer, rtt_us, state in heard:
            directory.on_rtt(peer, rtt_us, now_us)
            directory.on_state(peer, state, now_us)


class _Errand:
    """One request on its way through its job: what `peer/requester.py` calls a run."""

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

    def __init__(self, request: int, requester: _Requester, swarm: Nearlight) -> None:
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
            self.requester.directory.on_ended(
                self.swarm.names[attempt.provider], attempt.id, self.swarm.clock.now_us
            )

    def _alive(self, attempt: Attempt) -> bool:
        return attempt.number in self.job.under_way

    def _hedge_due(self, number: int) -> None:
        self._carry_out(self.job.on_hedge_due(number, self.swarm.clock.now_us))

    def _cancel(self, attempt: Attempt) -> None:
        """It was late; CANCEL is on its way, behind the offer."""
        swarm, directory, now_us = self.swarm, self.requester.directory, self.swarm.clock.now_us
        peer = swarm.names[attempt.provider]
        if attempt.accepted and not attempt.start_heard:
            directory.on_start(  # so late at least
                peer,
                attempt.id,
                promised_us=attempt.promised_us,
                took_us=now_us - attempt.accepted_us,
                now_us=now_us,
            )
        directory.on_ended(peer, attempt.id, now_us)
        swarm.costs.messages["cancel"] += 1
        at_us = max(now_us + self._round_trip_us(attempt) // 2, attempt.arrives_us)
        swarm.clock.at(at_us, swarm.providers[attempt.provider].cancel, attempt)

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
        return Prospect.of(best, heard_us=requester.directory.heard_us(best.peer), now_us=now_us)

    def _plan_without(self, excluded: frozenset[str], now_us: int) -> Plan:
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
        directory.on_offered(peer, attempt.id, choice.busy_us, now_us)
        self.requester.demand.on_offer(choice.busy_us, now_us)
        rtt_us = self._round_trip_us(attempt)
        sent_us = now_us
        if peer not in self.requester.connected:
            if swarm.providers[provider].gone:
                swarm.clock.at(now_us + rtt_us, self._on_lost, attempt, "it cannot be reached", True)
                return
            sent_us += CONNECT_ROUND_TRIPS * rtt_us
            swarm.costs.messages["dial"] += 2 * CONNECT_ROUND_TRIPS
            swarm.clock.at(sent_us, self.requester.on_connected, peer)
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
            directory.on_refused(peer, max_wait_us=attempt.max_wait_us, now_us=now_us)
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
        by_us = now_us + wait_us + load_us + START_SLACK_US + (known.min_us + known.jitter_us if known else 0)
        self.swarm.clock.at(by_us, self._no_start, attempt)
        attempt.accepted = True
        attempt.promised_us, attempt.accepted_us = attempt.choice.start_within_us(wait_us, load_us), now_us
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
        speeds.on_render(
            peer,
            self.statement,
            step_us=max(1, int(world.step_us(attempt.provider) * slip)),
            fixed_us=int(world.fixed_us(attempt.provider) * slip),
        )
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
        self.requester.directory.on_ended(swarm.names[attempt.provider], attempt.id, swarm.clock.now_us)
        # Its stream closes; what nobody follows is dropped after a while.
        orphan_us = swarm.clock.now_us + self._round_trip_us(attempt) // 2 + ORPHAN_AFTER_US
        swarm.clock.at(orphan_us, swarm.providers[attempt.provider].cancel, attempt)
        self._carry_out(self.job.on_lost(attempt.number, what, swarm.clock.now_us, resumable=resumable))
