"""What the laboratory claims of itself: its links, its witness, its simulation, and the broker it compares with."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from testnet import net, topology
from testnet.agreement import ALLOWED
from testnet.flow import LEAST_SHARE, MOST_CORES, connected, flow
from testnet.outcome import Outcome, done, quantile_ms, ratio
from testnet.report import outcome_of
from testnet.swarm import PeerSettings, SwarmConfig, swarm
from testnet.witness import WITHIN_SHARE, WITHIN_US
from tests import emulated

from .child import ROOT
from .figures import Figure, NotMeasured, quantile

PEERS = 12
RTT_US = 30_000
RATE_BITS_S = 100_000_000
DELAYS_US = (300, 5_000, 30_000, 120_000)  # of round trip
ROUND_TRIPS = 15  # of which the best counts, as peers judge distances
WITHIN_DELAY_MS, WITHIN_DELAY_SHARE = 1.0, 0.02
MIN_CAPACITY_MBIT_S = 250.0
MAX_UP_S = 15.0
MIN_WITNESSED = 0.95  # of the phases
MAX_OVER_DIRECT, MAX_OVER_RELAYED = 1.1, 1.0  # as testnet/scenarios/broker.py has them
FEW, FEWER = 3, 2  # runs of what takes half a minute each, and of what takes longer

SIMULATED_PROVIDERS, SIMULATED_REQUESTERS, SIMULATED_REQUESTS = 1_000, 100, 100_000
# What the second has more than the first is free of how a world begins.
SAMPLE_REQUESTS = (5_000, 15_000)
MAX_SIMULATION_MINUTES = 10.0


@asynccontextmanager
async def _network(rtt_us: int, rate_bits_s: int | None, hosts: int) -> AsyncIterator[net.Network]:
    """NotMeasured where links cannot be emulated."""
    _need_links()
    world = topology.uniform(rtt_us, rate_bits_s)
    with tempfile.TemporaryDirectory() as folder:
        async with net.open_network(world, ["there"] * hosts, folder=Path(folder)) as network:
            yield network


def _need_links() -> None:
    if (lacks := emulated.lacks()) is not None:
        raise NotMeasured(f"links cannot be emulated here: {lacks}")


async def links(runs: int) -> list[Figure]:
    """Delay asked and seen; then one flow, limited and not."""
    worst: list[float] = []
    seen_ms: dict[int, list[float]] = {rtt_us: [] for rtt_us in DELAYS_US}
    most_mbit_s = []
    for rtt_us in DELAYS_US:
        async with _network(rtt_us, None, 3) as network, connected(network, 0, 2) as pair:
            for _ in range(runs):
                seen_ms[rtt_us].append(min(await emulated.round_trips_ms(*pair, ROUND_TRIPS)))
    for run in range(runs):
        worst.append(max(_off(rtt_us / 1000, seen_ms[rtt_us][run]) for rtt_us in DELAYS_US))
    link = ("--peers", f"{PEERS}", "--rtt-ms", f"{RTT_US / 1000}", "--rate", f"{RATE_BITS_S / 1e6}")
    flows = [await _testnet("goodput", *link) for _ in range(min(runs, FEW))]
    async with _network(DELAYS_US[0], None, 2) as network:
        for _ in range(runs):
            seconds = await flow(network, 0, 1)
            most_mbit_s.append(statistics.median(each.goodput_bits_s for each in seconds) / 1e6)
    of = f"{RTT_US // 1000} ms and {RATE_BITS_S // 1_000_000} Mbit/s among {PEERS} peers"
    return [
        Figure.median_of(
            "link_delay",
            f"how far the delay seen is from that asked, over {WITHIN_DELAY_MS:g} ms + {WITHIN_DELAY_SHARE:.0%}",
            worst,
            "x",
            at_most=1.0,
            details={
                "seen_ms": {f"{rtt_us / 1000:g}": statistics.median(seen_ms[rtt_us]) for rtt_us in DELAYS_US},
                "longer_each_way_ms": statistics.median(
                    (ms - rtt_us / 1000) / 2 for rtt_us in DELAYS_US for ms in seen_ms[rtt_us]
                ),
            },
        ),
        Figure.median_of(
            "link_goodput",
            f"TCP over {of}, of the rate",
            [each["share"] for each in flows],
            "share",
            at_least=LEAST_SHARE,
        ),
        Figure.median_of(
            "link_router",
            "what the router takes of a core meanwhile",
            [each["router_cores"] for each in flows],
            "cores",
            at_most=MOST_CORES,
        ),
        Figure.median_of(
            "link_capacity",
            "TCP over links without a rate: all that the emulator can move",
            most_mbit_s,
            "Mbit/s",
            at_least=MIN_CAPACITY_MBIT_S,
        ),
    ]


def _off(asked_ms: float, seen_ms: float) -> float:
    """1 where it is just allowed; a delay that is shorter than asked is none."""
    if seen_ms < asked_ms:
        return float("inf")
    return (seen_ms - asked_ms) / (WITHIN_DELAY_MS + WITHIN_DELAY_SHARE * asked_ms)


async def up(runs: int) -> list[Figure]:
    took_s = []
    for _ in range(min(runs, FEW)):
        async with _network(RTT_US, RATE_BITS_S, PEERS) as network:
            each = tuple(PeerSettings(f"p{index}") for index in range(PEERS))
            async with swarm(SwarmConfig(peers=PEERS, each=each), network) as running:
                took_s.append(running.up_us / 1e6)
    return [
        Figure.median_of(
            "up",
            f"from the first start until {PEERS} peers, {RTT_US // 1000} ms apart, know each other",
            took_s,
            "s",
            at_most=MAX_UP_S,
        )
    ]


async def witness(runs: int) -> list[Figure]:
    _need_links()
    shares, over = [], []
    for _ in range(min(runs, FEW)):
        with tempfile.TemporaryDirectory() as folder:
            await _testnet("run", "regions", "--out", folder)
            phases = (await _testnet("witness", folder))["phases"]
        shares.append(statistics.mean(each["agrees"] for each in phases))
        allowed_us = [max(WITHIN_US, WITHIN_SHARE * each["seen_us"]) for each in phases]
        over += [
            abs(each["told_us"] - each["seen_us"]) / us for each, us in zip(phases, allowed_us, strict=True)
        ]
    return [
        Figure.median_of(
            "witness",
            f"phases of pictures in which timeline and packets agree within {WITHIN_US / 1000:g} ms or {WITHIN_SHARE:.0%}",
            shares,
            "share",
            at_least=MIN_WITNESSED,
            details={"p95_over_allowed": quantile(over, 0.95), "phases": len(over)},
        )
    ]


async def agreement(runs: int) -> list[Figure]:
    _need_links()
    told = [
        await _testnet("agree", "agreement", "--seed", str(seed)) for seed in range(1, min(runs, FEWER) + 1)
    ]
    figures = []
    for share, allowed in ALLOWED.items():
        of = [each for run in told for each in run["quantiles"] if each["share"] == share]
        figures.append(
            Figure.median_of(
                f"agreement_p{share * 100:.0f}",
                f"p{share * 100:.0f} of {told[0]['pictures']} pictures of {PEERS} peers, simulated over real",
                [each["ratio"] for each in of],
                "x",
                at_least=1 - allowed,
                at_most=1 + allowed,
                details={
                    "real_ms": [each["real_ms"] for each in of],
                    "simulated_ms": [each["simulated_ms"] for each in of],
                    "paced_on_time": [run["paced_on_time"] for run in told],
                },
            )
        )
    return figures


async def simulation(runs: int) -> list[Figure]:
    minutes, per_s = [], []
    few, many = SAMPLE_REQUESTS
    for seed in range(1, min(runs, FEWER) + 1):
        few_s, many_s = [await _simulated_cpu_s(requests, seed) for requests in SAMPLE_REQUESTS]
        each_s = (many_s - few_s) / (many - few)
        per_s.append(1 / each_s)
        minutes.append((few_s + (SIMULATED_REQUESTS - few) * each_s) / 60)
    return [
        Figure.median_of(
            "simulation",
            f"{SIMULATED_REQUESTS:,} requests to {SIMULATED_PROVIDERS:,} providers, extrapolated from {many:,}",
            minutes,
            "min CPU",
            at_most=MAX_SIMULATION_MINUTES,
            details={"requests_per_cpu_s": statistics.median(per_s)},
        )
    ]


async def _simulated_cpu_s(requests: int, seed: int) -> float:
    """Of one core, in a process of its own: the product's policy, from an empty world on."""
    words = [str(requests), str(seed), str(SIMULATED_PROVIDERS), str(SIMULATED_REQUESTERS)]
    command = [sys.executable, "-m", "scripts.benchmarks.simulated", *words]
    done_ = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
    return float(json.loads(done_.stdout)["cpu_s"])


async def broker(runs: int) -> list[Figure]:
    _need_links()
    found: dict[str, list[float]] = {"direct": [], "relayed": []}
    medians_ms: dict[str, list[float | None]] = {"peer": [], "direct": [], "relayed": []}
    for seed in range(1, min(runs, FEW) + 1):
        outcome = await _played("broker", seed)
        for via, each in medians_ms.items():
            each.append(quantile_ms(0.5, via=via)(outcome))
        for via, ratios in found.items():
            value = ratio(quantile_ms(0.5, via="peer"), quantile_ms(0.5, via=via))(outcome)
            if value is None or done()(outcome) != 1.0:
                raise RuntimeError("not every picture was drawn")
            ratios.append(value)
    words = "a picture asked of peers in Frankfurt over the same of a broker in Virginia"
    return [
        Figure.median_of(
            f"broker_{via}",
            f"{words}, {says}, medians",
            found[via],
            "x",
            at_most=at_most,
            details={"median_ms": medians_ms},
        )
        for via, says, at_most in (
            ("direct", "returned directly", MAX_OVER_DIRECT),
            ("relayed", "relayed", MAX_OVER_RELAYED),
        )
    ]


async def _played(scenario: str, seed: int) -> Outcome:
    return outcome_of((await _testnet("run", scenario, "--seed", str(seed)))["outcome"])


async def _testnet(*words: str) -> dict[str, Any]:
    """The object that the command ends with; exit code 1 says only that a number was missed, which is ours to judge."""
    command = [sys.executable, "-m", "testnet", *words, "--json"]
    told = await trio.run_process(
        command, cwd=ROOT, capture_stdout=True, stderr=subprocess.DEVNULL, check=False
    )
    value: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    if "error" in value:
        raise NotMeasured(value["error"])
    return value
