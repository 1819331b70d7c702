"""The world of a scenario, in virtual time: its places, its peers' stated step times, its very jobs.

What no scenario states was measured where neither distance nor contention plays a part: medians of 20 pictures of
64 x 64 that one peer drew for another on the emulated LAN (8 steps of 100 ms, one picture every 1.7 s) on two cores at
a load average of 5 to 6, by the spans of their timelines.  Another machine has others.
"""

from collections.abc import Callable
from functools import partial
from random import Random

import numpy as np
from numpy.typing import NDArray

from ..link import Line
from ..rtt_matrix import LEAST_RTT_US, RttMatrix
from ..scenario import SIZE_PX, BadScenario, Degrade, Event, Heal, Scenario
from .run import PRODUCT, run_to_ledger
from .world import Requests, World, WorldConfig

ASK_US = 19_500  # submit, plan, dial: mostly the start of the command's own process
OFFER_US = 5_000  # address, offer and wait, beside the way: signed, written, read, checked, taken up
FIXED_US = 23_500  # handoff, encode_prompt, noise, prepare, decode, encode_image, handback, sign
RECEIVE_US = 16_500  # leave, transfer beside the way, wake, check, save, embed, deliver, write_file

NO_LIMIT_BYTES_PER_S = 1e12  # of a line without one


class StatedWorld(World):
    """BadScenario for what only real peers can do.  Providers and requesters are numbered as the scenario lists them.

    Times begin when everyone knows everyone; a request is made once its command has started (ASK_US).
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        _check(scenario)
        self.scenario = scenario
        self.providers = [peer for peer in scenario.peers if peer.provides]
        by = {job.by for job in scenario.jobs}
        self.askers = [peer for peer in scenario.peers if peer.name in by]
        config = WorldConfig(
            peers=len(self.providers),
            requesters=len(self.askers),
            models=1,
            warm_slots=1,
            known=len(self.providers),
            hiccup_share=0.0,
        )
        super().__init__(config, self._matrix(), seed)
        self.result_px = SIZE_PX
        self.offer_us = OFFER_US
        self._heal()
        self.changes = [(int(event.at_s * 1e6), self._change(event)) for event in scenario.events]

    def step_us(self, provider: int) -> float:
        step_ms = self.providers[provider].step_ms
        assert step_ms is not None  # _check
        return step_ms * 1000

    def fixed_us(self, provider: int) -> float:
        return FIXED_US

    def round_trip_us(self, requester: int, provider: int, dice: Random) -> int:
        """Each way as the emulator has it: never shorter than asked, longer by half a normal distribution."""
        here, there = self.askers[requester].at, self.providers[provider].at
        topology, us = self.scenario.topology, 0.0
        for path in (topology.path(here, there), topology.path(there, here)):
            us += path.delay_us + (abs(dice.gauss(0.0, path.jitter_us)) if path.jitter_us else 0.0)
        return max(int(us), LEAST_RTT_US) + self._more_us[requester][provider]

    def _change(self, event: Event) -> Callable[[], None]:
        return partial(self._degrade, event.action) if isinstance(event.action, Degrade) else self._heal

    def _heal(self) -> None:
        self._more_us = [[0] * len(self.providers) for _ in self.askers]  # of a round trip
        self._connect()

    def _degrade(self, action: Degrade) -> None:
        for provider, peer in enumerate(self.providers):
            for requester, asker in enumerate(self.askers):
                if _is_between(action, peer.name, asker.name) or _is_between(action, asker.name, peer.name):
                    self._more_us[requester][provider] += 2 * action.more_delay_ms * 1000
            if action.up is not None and peer.name in action.peers:
                self.upload_bytes_per_s[provider] = _bytes_per_s(action.up)

    def _matrix(self) -> RttMatrix:
        """Of the hosts, providers first."""
        topology, places = self.scenario.topology, [peer.at for peer in (*self.providers, *self.askers)]
        rtt_us = [
            [topology.path(a, b).delay_us + topology.path(b, a).delay_us for b in places] for a in places
        ]
        return RttMatrix(np.maximum(np.array(rtt_us, dtype=np.int64), LEAST_RTT_US), None, 0)

    def _places(self, matrix: RttMatrix, dice: np.random.Generator) -> NDArray[np.int64]:
        return np.arange(matrix.places)

    def _equip(self, dice: np.random.Generator) -> None:
        super()._equip(dice)
        for index, peer in enumerate(self.providers):
            self.warm_at_first[index] = [0] if peer.warm else []
        self.capable[:] = True

    def _connect(self) -> None:
        places = [self.scenario.topology.place(peer.at) for peer in self.providers]
        self.upload_bytes_per_s = [_bytes_per_s(place.up) for place in places]

    def _ask(self, dice: np.random.Generator) -> Requests:
        number_of = {peer.name: index for index, peer in enumerate(self.askers)}
        jobs = sorted(self.scenario.jobs, key=lambda job: job.at_s)
        return Requests(
            at_us=[int(job.at_s * 1e6) + ASK_US for job in jobs],
            requester=[number_of[job.by] for job in jobs],
            model=[0] * len(jobs),
            steps=[job.steps for job in jobs],
            slip=[(1.0, 1.0)] * len(jobs),
        )


def wall_ms(scenario: Scenario, seed: int) -> list[float | None]:
    """From "asked" to "on disk" as the product would be, of each job in order of time; None: it gave no picture."""
    ledger, _ = run_to_ledger(StatedWorld(scenario, seed), PRODUCT)
    return [None if us < 0 else (ASK_US + int(us) + RECEIVE_US) / 1000 for us in ledger.latency_us.tolist()]


def _is_between(action: Degrade, here: str, there: str) -> bool:
    return here in action.peers and (not action.to or there in action.to)


def _bytes_per_s(line: Line) -> float:
    return NO_LIMIT_BYTES_PER_S if line.rate_bits_s is None else line.rate_bits_s / 8


def _can_be_simulated(event: Event, providers: set[str]) -> bool:
    """Ways that get longer and providers' lines up, at stated times; and their healing."""
    action = event.action
    if event.drawing is not None:
        return False
    if isinstance(action, Degrade):
        return (
            not action.loss_millionths
            and action.down is None
            and (action.up is None or providers >= {*action.peers})
        )
    return isinstance(action, Heal)


def _check(scenario: Scenario) -> None:
    providers = {peer.name for peer in scenario.peers if peer.provides}
    askers = {job.by for job in scenario.jobs}
    named = {path for peer in scenario.peers for path in peer.models}
    wrong = {
        "has no job": not scenario.jobs,
        "has events (other than ways that get longer, providers' lines that get narrower, and Heal, at stated times)": any(
            not _can_be_simulated(event, providers) for event in scenario.events
        ),
        "has a broker": scenario.broker is not None,
        "names models": bool(named),
        f"asks for pictures that are not {SIZE_PX} px": any(job.size_px != SIZE_PX for job in scenario.jobs),
        "has a provider without a stated step time": any(
            peer.provides and peer.step_ms is None for peer in scenario.peers
        ),
        "has a provider that is cold at first": any(
            peer.provides and not peer.warm for peer in scenario.peers
        ),
        "has a peer that lies": any(peer.claims_step_ms is not None for peer in scenario.peers),
        "has a provider that asks": any(peer.provides and peer.name in askers for peer in scenario.peers),
        "loses packets": any(
            scenario.topology.path(a.at, b.at).loss_millionths for a in scenario.peers for b in scenario.peers
        ),
    }
    for what, is_so in wrong.items():
        if is_so:
            raise BadScenario(f"It {what}, which is not simulated from a scenario.")
