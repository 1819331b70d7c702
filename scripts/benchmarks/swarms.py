"""Five peers: how soon they know each other, and what they cost when nobody asks for anything."""

import json
import shutil
import sys
from typing import Any

import trio

from testnet.simulation.control import usual_pace
from testnet.simulation.costs import (
    DIAL_BYTES,
    DIAL_CPU_S,
    EXCHANGE_BYTES,
    EXCHANGE_CPU_S,
    HEAR_CPU_S,
    TELL_CPU_S,
    WAIT_BYTES,
)
from testnet.swarm import SwarmConfig, swarm

from .child import ROOT
from .figures import Figure

PEERS, MANY_PEERS = 5, 50
SETTLE_S, SETTLE_MANY_S = 10.0, 120.0  # the exchanges of a first meeting are over
WATCH_S = 30.0
MAX_KNOWN_S = 6.0
MAX_CORE_PERCENT = 1.0
MAX_KB_PER_S = 5.0
CPU_ALLOWANCE = 1.5  # times what is counted: machines differ
STARTS = 5  # of a swarm: each takes some ten seconds


async def known(runs: int) -> list[Figure]:
    took_s = []
    for _ in range(min(runs, STARTS)):
        async with swarm(SwarmConfig(peers=PEERS)) as running:
            took_s.append(running.ready_us / 1e6)
    return [
        Figure.median_of(
            "swarm", f"from the last of {PEERS} starts until all know all", took_s, "s", at_most=MAX_KNOWN_S
        )
    ]


async def idle(runs: int) -> list[Figure]:
    return await _idle("idle", PEERS, SETTLE_S, WATCH_S)


async def idle_many(runs: int) -> list[Figure]:
    """Watched for as long as all take to tell their adverts once."""
    return await _idle("idle_many", MANY_PEERS, SETTLE_MANY_S, usual_pace(MANY_PEERS).interval_us / 1e6)


async def _idle(name: str, peers: int, settle_s: float, watch_s: float) -> list[Figure]:
    seen = await _alone("scripts.benchmarks.idle", str(peers), str(settle_s), str(watch_s))
    return [
        Figure.median_of(
            f"{name}_cpu",
            f"an idle peer among {peers}, of one core",
            seen["core_percent"],
            "%",
            at_most=MAX_CORE_PERCENT,
            details=seen,
        ),
        Figure(
            f"{name}_network",
            f"sent and received by an idle peer among {peers}, headers included",
            seen["kb_per_s_each"],
            "kB/s",
            peers,
            at_most=MAX_KB_PER_S,
            details=seen,
        ),
    ]


async def contact(runs: int) -> list[Figure]:
    """What `testnet control` and `testnet simulate` count for it, and what it is here."""
    seen = await _alone("scripts.benchmarks.contact", str(runs))
    figures = []
    for kind, says, bytes_, provider_s, asker_s in (
        ("asked", "a ping with live state in its answer", EXCHANGE_BYTES, EXCHANGE_CPU_S, EXCHANGE_CPU_S),
        ("told", "a wait told unasked", WAIT_BYTES, TELL_CPU_S, HEAR_CPU_S),
        ("dialled", "a connection, with its first pings", DIAL_BYTES, DIAL_CPU_S, DIAL_CPU_S),
    ):
        each = {name: [turn[name] for turn in seen[kind]] for name in seen[kind][0]}
        figures += [
            Figure.median_of(f"{kind}_bytes", f"{says}, on the wire", each["bytes"], "B", at_most=bytes_),
            Figure.median_of(
                f"{kind}_provider",
                f"{says}: of a core of who is asked",
                each["provider_cpu_ms"],
                "ms",
                at_most=CPU_ALLOWANCE * 1e3 * provider_s,
            ),
            Figure.median_of(
                f"{kind}_asker",
                f"{says}: of a core of who asks",
                each["asker_cpu_ms"],
                "ms",
                at_most=CPU_ALLOWANCE * 1e3 * asker_s,
            ),
        ]
    return figures


async def _alone(module: str, *arguments: str) -> dict[str, Any]:
    """What it prints: in a network namespace of its own, where there may be one, so that loopback carries nothing else."""
    alone = await _can_be_alone()
    command = [sys.executable, "-m", module, *arguments]
    if alone:
        command = ["unshare", "--net", "--map-root-user", *command, "--alone"]
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**seen, "loopback": "its own" if alone else "shared: others' bytes are counted too"}


async def _can_be_alone() -> bool:
    if shutil.which("unshare") is None:
        return False
    done = await trio.run_process(
        ["unshare", "--net", "--map-root-user", "true"], check=False, capture_stderr=True
    )
    return done.returncode == 0
