"""Five peers: how soon they know each other, and what they cost when nobody asks for anything."""

import json
import shutil
import sys

import trio

from testnet.swarm import SwarmConfig, swarm

from .child import ROOT
from .figures import Figure

PEERS = 5
MAX_KNOWN_S = 6.0
MAX_CORE_PERCENT = 1.0
MAX_KB_PER_S = 5.0
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
    """Measured in a network namespace of its own where there may be one, so that loopback carries nothing else."""
    alone = await _can_be_alone()
    command = [sys.executable, "-m", "scripts.benchmarks.idle"]
    if alone:
        command = ["unshare", "--net", "--map-root-user", *command, "--alone"]
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    details = {**seen, "loopback": "its own" if alone else "shared: others' bytes are counted too"}
    return [
        Figure(
            "idle_cpu",
            f"the busiest of {PEERS} idle peers, of one core",
            max(seen["core_percent"]),
            "%",
            len(seen["core_percent"]),
            at_most=MAX_CORE_PERCENT,
            each=seen["core_percent"],
            details=details,
        ),
        Figure(
            "idle_network",
            f"sent and received by an idle peer among {PEERS}, headers included",
            seen["kb_per_s_each"],
            "kB/s",
            PEERS,
            at_most=MAX_KB_PER_S,
            details=details,
        ),
    ]


async def _can_be_alone() -> bool:
    if shutil.which("unshare") is None:
        return False
    done = await trio.run_process(
        ["unshare", "--net", "--map-root-user", "true"], check=False, capture_stderr=True
    )
    return done.returncode == 0
