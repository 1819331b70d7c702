"""Choosing a peer: how long it takes among a hundred, and how often the nearest of equals is it."""

import gc
import random
import statistics
import time

from protocol.policy.directory import Directory
from protocol.policy.prediction import Candidate
from protocol.policy.rtt import Rtt, RttEstimator
from protocol.policy.selection import plan
from protocol.wire.advert import SignedAdvert
from protocol.wire.identity import peer_id_of, public_key_of
from tests.truth import MODEL, WORLDS, advert, candidate, live, offered, statement

from .figures import Figure, quantile

MODELS_EACH = 16
PLANS_PER_RUN = 15
MAX_PLAN_MS = {100: 5.0, 1_000: 20.0}  # of so many peers
SEEDS = 40
SAMPLES = 16
JITTER = 0.1  # mean of what is added to the true round trip, as a share of it
EQUALLY_NEAR = 1.02  # distances that differ by less than the samples can tell
MIN_SHARE = 0.95
NETWORK = "bench"


def _directory(peers: int, dice: random.Random) -> Directory:
    """Connected peers, each measured, with live state and a speed seen before."""
    directory = Directory(_key(dice)[1])
    models = (*(offered(model=bytes([index]) * 32) for index in range(MODELS_EACH - 1)), offered(model=MODEL))
    for _ in range(peers):
        private_key, peer = _key(dice)
        told = SignedAdvert.sign(advert(models=models), network=NETWORK, private_key=private_key)
        directory.on_advert(told, 0, 0)
        directory.on_connected(peer)
        for sample in range(SAMPLES):
            directory.on_rtt(peer, dice.randrange(1_000, 200_000), sample)
        directory.on_state(peer, live(dice.randrange(1_000_000)), SAMPLES)
        directory.speeds.on_render(peer, statement(), step_us=40_000, fixed_us=50_000)
    return directory


def _key(dice: random.Random) -> tuple[bytes, str]:
    private_key = dice.randbytes(32)
    return private_key, peer_id_of(public_key_of(private_key))


async def plan_time(runs: int) -> list[Figure]:
    return [_plan_time(peers, runs) for peers in MAX_PLAN_MS]


def _plan_time(peers: int, runs: int) -> Figure:
    directory = _directory(peers, random.Random(1))
    gc.freeze()  # as a peer does that has started
    took_ms, planned_ms = [], []
    for seed in range(runs * PLANS_PER_RUN):
        start_ns = time.perf_counter_ns()
        candidates = directory.candidates(SAMPLES)
        joined_ns = time.perf_counter_ns()
        ranked = plan(candidates, statement(), now_us=SAMPLES, seed=seed).ranked
        end_ns = time.perf_counter_ns()
        if len(ranked) != peers:
            raise RuntimeError(f"{len(ranked)} of {peers} peers were ranked")
        took_ms.append((end_ns - start_ns) / 1e6)
        planned_ms.append((end_ns - joined_ns) / 1e6)
    return Figure.median_of(
        f"plan_{peers}",
        f"candidates and plan for {peers:,} peers",
        took_ms,
        "ms",
        at_most=MAX_PLAN_MS[peers],
        details={"plan_alone_ms": statistics.median(planned_ms), "p95_ms": quantile(took_ms, 0.95)},
    )


async def selection(runs: int) -> list[Figure]:
    """On every truth matrix, from every peer: the nearest by jittered measurements among equal idle peers."""
    shares = {}
    for name, world in WORLDS.items():
        matrix, dice = world(), random.Random(name)
        chosen = asked = 0
        for here, row in enumerate(matrix):
            others = _others(here, row, dice)
            nearest_us = min(rtt_us for there, rtt_us in enumerate(row) if there != here)
            for seed in range(SEEDS):
                first = plan(others, statement(), now_us=0, seed=seed).ranked[0].peer
                chosen += row[int(first)] <= EQUALLY_NEAR * nearest_us
                asked += 1
        shares[name] = chosen / asked
    return [
        Figure(
            "selection",
            "the nearest of equal idle peers is chosen, in the worst of the truth matrices",
            min(shares.values()),
            "share",
            len(shares),
            at_least=MIN_SHARE,
            each=list(shares.values()),
            details=shares,
        )
    ]


def _others(here: int, row: list[int], dice: random.Random) -> list[Candidate]:
    return [
        candidate(str(there), rtt_us, rtt=_measured(rtt_us, dice))
        for there, rtt_us in enumerate(row)
        if there != here
    ]


def _measured(rtt_us: int, dice: random.Random) -> Rtt | None:
    estimator = RttEstimator()
    for sample in range(SAMPLES):
        estimator.add(rtt_us + round(dice.expovariate(1 / (JITTER * rtt_us))), sample)
    return estimator.estimate()
