"""What the product's policy is compared with.  Their providers are honest first-come-first-served queues without a bound.

What each of them knows is what live state on pongs tells it, as old as the product's; but they know every device's true
speed, loading time and uplink, which the product must learn.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from protocol.policy.queue import Accepted

from .clock import Clock
from .costs import Costs
from .outcome import Ledger
from .provider import Attempt, Provider
from .world import RESULT_BYTES, World

Numbers = NDArray[np.int64]
PING_GROUPS = 8  # links whose round trips are alike are asked in one event
SHORTLIST = 16  # whom Prequal probes some of
EWMA_DECAY_US = 10e6
PROBES, HOT_QUANTILE, RIF_MEMORY = 5, 0.75, 64  # Prequal's, the best of some settings


class Fifo:
    """The plainest line: in order of arrival, without a bound.  It says when it will be done as the protocol's does."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[bytes, int] = OrderedDict()
        self._waiting_us = 0
        self._running: tuple[bytes, int, int] | None = None  # attempt, cost, when it ends

    @property
    def running(self) -> bytes | None:
        return self._running[0] if self._running else None

    @property
    def queued(self) -> int:
        return len(self._waiting)

    def offer(
        self, attempt: bytes, requester: str, cost_us: int, max_wait_us: int | None, now_us: int
    ) -> Accepted:
        wait_us = self.wait_us(requester, now_us)
        self._waiting[attempt] = cost_us
        self._waiting_us += cost_us
        return Accepted(wait_us)

    def next(self, now_us: int) -> bytes | None:
        if self._running is not None or not self._waiting:
            return None
        attempt, cost_us = self._waiting.popitem(last=False)
        self._waiting_us -= cost_us
        self._running = attempt, cost_us, now_us + cost_us
        return attempt

    def on_progress(self, attempt: bytes, left_us: int, now_us: int) -> None:
        assert self._running is not None
        self._running = attempt, self._running[1], now_us + left_us

    def on_finished(self, attempt: bytes, now_us: int) -> None:
        self._running = None

    def cancel(self, attempt: bytes, now_us: int) -> str:
        if attempt in self._waiting:
            self._waiting_us -= self._waiting.pop(attempt)
            return "queued"
        return "running" if self.running == attempt else "unknown"

    def wait_us(self, requester: str, now_us: int) -> int:
        return self._waiting_us + (abs(self._running[2] - now_us) if self._running else 0)


class _Watched(Provider):
    """Keeps the truth about itself where the broker and the oracle read it."""

    def __init__(self, index: int, world: World, clock: Clock, costs: Costs, truth: "_Truth") -> None:
        super().__init__(index, world, clock, costs, Fifo(), [])
        self._truth = truth
        self.on_changed()

    def on_changed(self) -> None:
        truth, index = self._truth, self.index
        truth.free_us[index] = self._clock.now_us + self.line.wait_us("", self._clock.now_us)
        truth.answers[index] = not (self.gone or self.silent)
        truth.in_line[index] = self.line.queued + (self.line.running is not None)
        warm = truth.warm[index]
        warm[:] = False
        for model in self.warm_after:
            warm[model] = True


class _Truth:
    """Of every provider, now; and what is on its way to it."""

    def __init__(self, world: World) -> None:
        peers, models = world.config.peers, world.config.models
        self.free_us: Numbers = np.zeros(peers, np.int64)
        self.in_line: Numbers = np.zeros(peers, np.int64)
        self.warm: NDArray[np.bool_] = np.zeros((peers, models), np.bool_)
        self.coming_us: Numbers = np.zeros(peers, np.int64)
        self.coming: Numbers = np.zeros((peers, models), np.int64)
        self.answers: NDArray[np.bool_] = np.ones(peers, np.bool_)


@dataclass
class _Heard:
    """What one requester knows: indexed by provider."""

    free_us: Numbers
    in_line: Numbers
    warm: NDArray[np.bool_]
    given: Numbers  # its own requests there that are not answered
    peak_us: NDArray[np.float64]  # NaN: nothing seen
    peak_at_us: Numbers


@dataclass
class _Probe:
    provider: int
    heard_us: int
    in_line: int
    free_us: int
    warm: NDArray[np.bool_]


class Baseline:
    """The common part: pings, probes, and requests given to providers."""

    listens = True  # whether its requesters ping

    def __init__(self, world: World, clock: Clock, costs: Costs, ledger: Ledger, dice: Random) -> None:
        self.world, self.clock, self.costs, self.ledger, self.dice = world, clock, costs, ledger, dice
        peers, models, requesters = world.config.peers, world.config.models, world.config.requesters
        self.truth = _Truth(world)
        self.providers = [_Watched(index, world, clock, costs, self.truth) for index in range(peers)]
        self.slow = np.array(world.slow)
        self.upload_us = RESULT_BYTES * 1e6 / np.array(world.upload_bytes_per_s)
        self.cold_us = np.array(world.cold_us)
        self.holders = [
            [known[world.capable[known, model]] for model in range(models)] for known in self.knows()
        ]
        self.heard = [
            _Heard(
                np.zeros(peers, np.int64),
                np.zeros(peers, np.int64),
                self.truth.warm.copy(),
                np.zeros(peers, np.int64),
                np.full(peers, np.nan),
                np.zeros(peers, np.int64),
            )
            for _ in range(requesters)
        ]
        self._sent = 0
        self._offered_us: dict[bytes, int] = {}
        for index, away_us, back_us in world.leaves:
            clock.at(away_us, self._leave, index)
            clock.at(back_us, self._return, index)
        if self.listens:
            self._begin_pings()

    def knows(self) -> list[Numbers]:
        """The providers that each requester knows."""
        return [np.array(known, np.int64) for known in self.world.known]

    def ask(self, request: int) -> None:
        asked = self.world.requests
        requester, model = asked.requester[request], asked.model[request]
        candidates = self.holders[requester][model]
        if not len(candidates):
            self.ledger.on_given_up(request)
            return
        self.decide(request, requester, model, candidates)

    def decide(self, request: int, requester: int, model: int, candidates: Numbers) -> None:
        """Among `candidates`, never empty."""
        raise NotImplementedError

    def run_us(self, request: int, candidates: Numbers) -> NDArray[np.float64]:
        """At the mean, warm, of each."""
        reference_us = self.world.run_us(0, self.world.requests.steps[request]) / self.slow[0]
        return np.asarray(self.slow[candidates] * reference_us)

    def believed_warm(self, requester: int, model: int, candidates: Numbers) -> Numbers:
        """Those it believes to hold the model in memory; all, if none."""
        warm = candidates[self.heard[requester].warm[candidates, model]]
        return warm if len(warm) else candidates

    def some(self, candidates: Numbers, most: int) -> list[int]:
        return self.dice.sample(candidates.tolist(), min(most, len(candidates)))

    # requests

    def give(self, request: int, provider: int, way_us: int | None = None) -> None:
        """`way_us`: how long the offer takes there; None: half a round trip from its requester."""
        now_us = self.clock.now_us
        self._sent += 1
        attempt = Attempt(self._sent, request, provider, self.world, self, again=False)
        self._offered_us[attempt.id] = now_us
        cost_us = int(self.world.run_us(provider, attempt.steps))
        self.truth.coming_us[provider] += cost_us
        self.truth.coming[provider, attempt.model] += 1
        self.heard[attempt.requester].given[provider] += 1
        self.costs.messages["offer"] += 1
        if way_us is None:
            way_us = self.world.round_trip_us(attempt.requester, provider, self.dice) // 2
        self.clock.at(now_us + way_us, self._arrive, attempt, cost_us)

    def _arrive(self, attempt: Attempt, cost_us: int) -> None:
        self.truth.coming_us[attempt.provider] -= cost_us
        self.truth.coming[attempt.provider, attempt.model] -= 1
        provider = self.providers[attempt.provider]
        if provider.offer(attempt, None) is not None:
            provider.go_on()
            provider.on_changed()

    def on_started(self, attempt: Attempt) -> None:
        pass

    def on_gone(self, attempt: Attempt) -> None:
        self.heard[attempt.requester].given[attempt.provider] -= 1  # nothing is tried again

    def on_finished(self, attempt: Attempt) -> None:
        self.costs.messages["result"] += 1
        at_us = self.clock.now_us + self.back_us(attempt) + int(self.upload_us[attempt.provider])
        self.clock.at(at_us, self._done, attempt, self._probe_of(attempt.provider))

    def back_us(self, attempt: Attempt) -> int:
        """The result's way: half a round trip, and one more for a window that begins small."""
        world, dice = self.world, self.dice
        way_us = world.round_trip_us(attempt.requester, attempt.provider, dice) // 2
        return way_us + world.round_trip_us(attempt.requester, attempt.provider, dice)

    def _done(self, attempt: Attempt, probe: _Probe) -> None:
        self.costs.useful_us += attempt.spent_us
        now_us = self.clock.now_us
        self.ledger.on_done(attempt, self._offered_us.pop(attempt.id), now_us)
        heard, provider = self.heard[attempt.requester], attempt.provider
        heard.given[provider] -= 1
        self._hear(attempt.requester, probe)
        latency_us = now_us - self.world.requests.at_us[attempt.request]
        old_us = heard.peak_us[provider]
        if not latency_us <= old_us:  # a peak, or the first
            heard.peak_us[provider] = latency_us
        else:
            keep = np.exp(-(now_us - heard.peak_at_us[provider]) / EWMA_DECAY_US)
            heard.peak_us[provider] = old_us * keep + latency_us * (1 - keep)
        heard.peak_at_us[provider] = now_us

    # what is heard

    def _begin_pings(self) -> None:
        period_us = int(self.world.config.state_every_s * 1e6)
        for requester, known in enumerate(self.world.known):
            by_distance = sorted(known, key=lambda index: (self.world.rtt_us[requester][index], index))
            size = -(-len(known) // PING_GROUPS)
            for at in range(0, len(known), size):
                group = np.array(by_distance[at : at + size], np.int64)
                self.clock.at(period_us * at // len(known), self._ping, requester, group, period_us)

    def _ping(self, requester: int, group: Numbers, period_us: int) -> None:
        now_us, truth = self.clock.now_us, self.truth
        self.costs.messages["ping"] += len(group)
        self.costs.messages["pong"] += len(group)
        state = truth.free_us[group], truth.in_line[group], truth.warm[group]
        way_us = int(self.world.rtt_matrix_us[requester, group].max()) // 2
        self.clock.at(now_us + way_us, self._pongs, requester, group, state)
        self.clock.at(now_us + period_us, self._ping, requester, group, period_us)

    def _pongs(
        self, requester: int, group: Numbers, state: tuple[Numbers, Numbers, NDArray[np.bool_]]
    ) -> None:
        heard = self.heard[requester]
        heard.free_us[group], heard.in_line[group], heard.warm[group] = state

    def _hear(self, requester: int, probe: _Probe) -> None:
        heard, provider = self.heard[requester], probe.provider
        heard.free_us[provider], heard.in_line[provider] = probe.free_us, probe.in_line
        heard.warm[provider] = probe.warm

    def _probe_of(self, provider: int) -> _Probe:
        truth = self.truth
        return _Probe(
            provider,
            self.clock.now_us,
            int(truth.in_line[provider]),
            int(truth.free_us[provider]),
            truth.warm[provider].copy(),
        )

    def probe(self, requester: int, provider: int, heard: Callable[..., None], *what: object) -> None:
        """`heard(requester, probe, *what)` after a round trip, if it answers."""
        self.costs.messages["probe"] += 1
        rtt_us = self.world.round_trip_us(requester, provider, self.dice)
        self.clock.at(self.clock.now_us + rtt_us // 2, self._probed, requester, provider, rtt_us, heard, what)

    def _probed(
        self, requester: int, provider: int, rtt_us: int, heard: Callable[..., None], what: tuple[object, ...]
    ) -> None:
        if self.providers[provider].gone or self.providers[provider].silent:
            return
        self.costs.messages["probe reply"] += 1
        probe = self._probe_of(provider)
        self.clock.at(self.clock.now_us + rtt_us // 2, heard, requester, probe, *what)

    def _leave(self, index: int) -> None:
        self.providers[index].leave(Fifo())
        self.providers[index].on_changed()

    def _return(self, index: int) -> None:
        self.providers[index].gone = False
        self.providers[index].on_changed()


class RandomWarm(Baseline):
    """Any that is believed warm."""

    def decide(self, request: int, requester: int, model: int, candidates: Numbers) -> None:
        self.give(request, self.dice.choice(self.believed_warm(requester, model, candidates).tolist()))


class NearestWarm(Baseline):
    """The nearest that is believed warm."""

    def decide(self, request: int, requester: int, model: int, candidates: Numbers) -> None:
        warm = self.believed_warm(requester, model, candidates)
        self.give(request, int(warm[int(np.argmin(self.world.rtt_matrix_us[requester, warm]))]))


class LeastLoaded(Baseline):
    """The one with the least work, as far as was heard, of those that are believed warm."""

    def decide(self, request: int, requester: int, model: int, candidates: Numbers) -> None:
        warm = self.believed_warm(requester, model, candidates)
        work_us = np.maximum(0, self.heard[requester].free_us[warm] - self.clock.now_us)
        self.give(request, self.dice.choice(warm[work_us == work_us.min()].tolist()))


class TwoChoices(Baseline):
    """Two at random of those believed warm are asked, and the one with fewer tasks taken."""

    def decide(self, request: int, requester: int, model: int, candidates: Numbers) -> None:
        two = self.some(self.believed_warm(requester, model, candidates), 2)
        answers: list[_Probe] = []
        for provider in two:
            self.probe(requester, provider, self._answered, request, answers, len(two))

    def _answered(
        self, requester: int, probe: _Probe, request: int, answers: list[_Probe], wanted: int
    ) -> None:
        answers.append(probe)
        if len(answers) == wanted:
            least = min(each.in_line for each in answers)
            best = [each.provider for each in answers if each.in_line == least]
            self.give(request, self.dice.choice(best))


class PeakEwma(Baseline):
    """Twitter Finagle's: decayed peak latency times own requests under way, over all that are believed warm."""

    def decide(self, request: int, requester: int, model: int, candidates: Numbers) -> None:
        warm = self.believed_warm(requester, model, candidates)
        heard, rtt_us = self.heard[requester], self.world.rtt_matrix_us[requester, warm]
        peak_us = heard.peak_us[warm]
        decayed = np.where(np.isnan(peak_us), rtt_us, peak_us) * np.exp(
            -(self.clock.now_us - heard.peak_at_us[warm]) / EWMA_DECAY_US
        )
        cost = np.maximum(decayed, rtt_us) * (heard.given[warm] + 1)
        self.give(request, int(warm[int(np.argmin(cost))]))


class Prequal(Baseline):
    """Google's, in its synchronous mode: some are probed, and of those that are not hot the soonest is taken.

    Only the SHORTLIST that would be soonest idle is probed.  Its pool of probes sent ahead did worse here: a second
    after a probe most of what it says is over.
    """

    def __init__(self, world: World, clock: Clock, costs: Costs, ledger: Ledger, dice: Random) -> None:
        super().__init__(world, clock, costs, ledger, dice)
        self._in_line = [deque[int](maxlen=RIF_MEMORY) for _ in range(world.config.requesters)]

    def decide(self, request: int, requester: int, model: int, candidates: Numbers) -> None:
        warm = self.believed_warm(requester, model, candidates)
        idle_us = 2 * self.world.rtt_matrix_us[requester, warm] + self.run_us(request, warm)
        probed = self.some(warm[np.argsort(idle_us, kind="stable")[:SHORTLIST]], PROBES)
        wanted = max(1, len(probed) - 1)  # the slowest answer is not waited for
        answers: list[_Probe] = []
        for provider in probed:
            self.probe(requester, provider, self._answered, request, answers, wanted)

    def _answered(
        self, requester: int, probe: _Probe, request: int, answers: list[_Probe], wanted: int
    ) -> None:
        self._in_line[requester].append(probe.in_line)
        self._hear(requester, probe)
        answers.append(probe)
        if len(answers) == wanted:
            self.give(request, self._best(request, requester, answers).provider)

    def _best(self, request: int, requester: int, probes: list[_Probe]) -> _Probe:
        hot = float(np.quantile(self._in_line[requester], HOT_QUANTILE))
        cool = [probe for probe in probes if probe.in_line <= hot]
        if not cool:
            return min(probes, key=lambda probe: probe.in_line)
        model, steps = self.world.requests.model[request], self.world.requests.steps[request]

        def latency_us(probe: _Probe) -> float:
            rtt_us = self.world.rtt_us[requester][probe.provider]
            wait_us = max(0, probe.free_us - self.clock.now_us)
            load_us = 0 if probe.warm[model] else self.world.cold_us[probe.provider][model]
            return 2 * rtt_us + wait_us + load_us + self.world.run_us(probe.provider, steps)

        return min(cool, key=latency_us)


class Oracle(Baseline):
    """Greedy with perfect and free knowledge of everything but chance: not a lower bound, for it does not look ahead."""

    listens = False

    def knows(self) -> list[Numbers]:
        everyone = np.arange(self.world.config.peers)
        return [everyone] * self.world.config.requesters

    def decide(self, request: int, requester: int, model: int, candidates: Numbers) -> None:
        rtt_us = self.world.rtt_matrix_us[requester, candidates]
        total_us = 2 * rtt_us + self.cost_us(request, model, candidates, rtt_us // 2)
        self.give(request, int(candidates[int(np.argmin(total_us))]))

    def cost_us(self, request: int, model: int, candidates: Numbers, way_us: Numbers) -> NDArray[np.float64]:
        """All but the ways, of each; `way_us`: until the request is there."""
        truth, now_us = self.truth, self.clock.now_us
        free_us = np.maximum(truth.free_us[candidates], now_us) + truth.coming_us[candidates]
        wait_us = np.maximum(0, free_us - (now_us + way_us))
        warm = truth.warm[candidates, model] | (truth.coming[candidates, model] > 0)
        load_us = np.where(warm, 0, self.cold_us[candidates, model])
        us = self.upload_us[candidates] + wait_us + load_us + self.run_us(request, candidates)
        return np.where(truth.answers[candidates], us, np.inf)


class BrokerDirect(Oracle):
    """A perfect broker where it is nearest to everyone; the result goes straight to the requester."""

    def ask(self, request: int) -> None:
        requester = self.world.requests.requester[request]
        way_us = int(self.world.broker_to_requester_us[requester] / 2 * self.world.broker_slip(self.dice))
        self.costs.messages["offer"] += 1
        self.clock.at(self.clock.now_us + way_us, super().ask, request)

    def decide(self, request: int, requester: int, model: int, candidates: Numbers) -> None:
        there_us = self.world.broker_to_provider_us[candidates] // 2
        ways_us = there_us + self.return_us(requester, candidates)
        total_us = ways_us + self.cost_us(request, model, candidates, there_us)
        best = int(np.argmin(total_us))
        self.give(request, int(candidates[best]), int(there_us[best] * self.world.broker_slip(self.dice)))

    def return_us(self, requester: int, candidates: Numbers) -> NDArray[np.float64]:
        return np.asarray(self.world.rtt_matrix_us[requester, candidates] * 1.5)


class BrokerRelayed(BrokerDirect):
    """The same, and the result goes through the broker."""

    def return_us(self, requester: int, candidates: Numbers) -> NDArray[np.float64]:
        to_broker_us = self.world.broker_to_provider_us[candidates] * 0.5
        return np.asarray(to_broker_us + self.world.broker_to_requester_us[requester] * 1.5)

    def back_us(self, attempt: Attempt) -> int:
        world, dice = self.world, self.dice
        to_broker_us = world.broker_to_provider_us[attempt.provider] * 0.5 * world.broker_slip(dice)
        on_us = world.broker_to_requester_us[attempt.requester] * 1.5 * world.broker_slip(dice)
        return int(to_broker_us + on_us)
