"""The world of a scenario, in virtual time: its places, its peers' stated step times, its very jobs.

What no scenario states was measured where neither distance nor contention plays a part: medians of 20 pictures of
64 x 64 that one peer drew for another on the emulated LAN (8 steps of 100 ms, one picture every 1.7 s) on two cores at
a load average of 5 to 6, by the spans of their timelines.  Another machine has others.
"""

from random import Random

import numpy as np
from numpy.typing import NDArray

from ..rtt_matrix import LEAST_RTT_US, RttMatrix
from ..scenario import SIZE_PX, BadScenario, Scenario
from .run import PRODUCT, run_to_ledger
from .world import Requests, World, WorldConfig

ASK_US = 19_500  # submit, plan, dial: mostly the start of the command's own process
OFFER_US = 5_000  # offer and wait, beside the way: signed, written, read, checked, taken up
FIXED_US = 23_500  # handoff, encode_prompt, noise, prepare, decode, encode_image, handback, sign
RECEIVE_US = 16_500  # transfer beside the way, check, save, embed, deliver, write_file

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
        return max(int(us), LEAST_RTT_US)

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
        topology = self.scenario.topology
        for index, peer in enumerate(self.providers):
            rate = topology.place(peer.at).up.rate_bits_s
            self.upload_bytes_per_s[index] = NO_LIMIT_BYTES_PER_S if rate is None else rate / 8
            self.warm_at_first[index] = [0] if peer.warm else []
        self.capable[:] = True

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


def _check(scenario: Scenario) -> None:
    askers = {job.by for job in scenario.jobs}
    named = {path for peer in scenario.peers for path in peer.models}
    wrong = {
        "has no job": not scenario.jobs,
        "has events": bool(scenario.events),
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
