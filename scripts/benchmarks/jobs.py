"""A warm job of another peer on loopback: what it adds to the direct call, and when its first preview comes."""

import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from peer.config import load_config
from peer.control import request
from testnet.swarm import Peer, SwarmConfig, swarm

from .child import Child, child
from .direct import GUIDANCE
from .figures import Figure, quantile

PROMPT = "a gold spiral on navy"
LONG_STEPS, LONG_SIDE_PX = 20, 128
SHORT_STEPS, SHORT_SIDE_PX = 4, 64  # a step of some 10 ms
WARM_JOBS = 3
MAX_RATIO = 1.10
MAX_EXTRA_MS = 25.0


@dataclass(frozen=True)
class Job:
    """One picture, timed from outside: from the request to the picture's bytes on disk."""

    us: int
    first_preview_us: int | None
    summary: dict[str, Any]

    def span_us(self, name: str) -> int:
        """The first span of that name."""
        return next(entry["us"] for entry in self.summary["timeline"] if entry["span"] == name)

    def spans_us(self) -> dict[str, int]:
        """Critical time by name."""
        totals: dict[str, int] = {}
        for entry in self.summary["timeline"]:
            if entry["critical"]:
                totals[entry["span"]] = totals.get(entry["span"], 0) + entry["us"]
        return totals | {"unaccounted": self.summary["unaccounted_us"]}


async def draw(requester: Peer, steps: int, side_px: int, seed: int) -> Job:
    body = {
        "prompt": PROMPT,
        "negative": "",
        "model": None,
        "width": side_px,
        "height": side_px,
        "steps": steps,
        "guidance_millionths": round(GUIDANCE * 1_000_000),
        "sampler": "ddim",
        "seed": seed,
        "count": 1,
        "remote": True,
    }
    preview_us: list[int] = []
    done: list[tuple[int, dict[str, Any]]] = []
    image = requester.home / "picture.png"

    def on_event(kind: str, event: dict[str, Any]) -> None:
        if kind == "progress" and event["preview"]:
            preview_us.append((time.perf_counter_ns() - start_ns) // 1000)
        elif kind == "picture":
            image.write_bytes(event["file"])
            done.append(((time.perf_counter_ns() - start_ns) // 1000, json.loads(event["summary"])))

    config = load_config(requester.home)
    start_ns = time.perf_counter_ns()
    await request(config, "render", body, on_event)
    ((us, summary),) = done
    return Job(us, preview_us[0] if preview_us else None, summary)


async def call(direct: Child, steps: int, side_px: int, seed: int) -> int:
    asked = {"steps": steps, "side_px": side_px, "prompt": PROMPT, "seed": seed}
    answer = await direct.ask(asked)
    return int(answer["us"])


@asynccontextmanager
async def warm_requester() -> AsyncIterator[Peer]:
    """The second of two peers; the first renders, and has its weights resident."""
    async with swarm(SwarmConfig(peers=2, providers=1)) as running:
        requester = running.peers[1]
        for seed in range(WARM_JOBS):
            await draw(requester, SHORT_STEPS, LONG_SIDE_PX, seed)
            await draw(requester, SHORT_STEPS, SHORT_SIDE_PX, seed)
        yield requester


async def overhead(runs: int) -> list[Figure]:
    sizes = {"long": (LONG_STEPS, LONG_SIDE_PX), "short": (SHORT_STEPS, SHORT_SIDE_PX)}
    called: dict[str, list[int]] = {name: [] for name in sizes}
    drawn: dict[str, list[Job]] = {name: [] for name in sizes}
    async with child("scripts.benchmarks.direct") as direct, warm_requester() as requester:
        await direct.read()
        for size in sizes.values():
            for seed in range(WARM_JOBS):
                await call(direct, *size, seed)
        for run in range(runs):
            for name, size in sizes.items():
                called[name].append(await call(direct, *size, run))
                drawn[name].append(await draw(requester, *size, run))
        for run in range(runs, 3 * runs):  # short ones are cheap, and a few milliseconds need more of them
            called["short"].append(await call(direct, *sizes["short"], run))
            drawn["short"].append(await draw(requester, *sizes["short"], run))
    ratios = [job.us / us for job, us in zip(drawn["long"], called["long"], strict=True)]
    extra_ms = [(job.us - us) / 1000 for job, us in zip(drawn["short"], called["short"], strict=True)]
    return [
        Figure(
            "overhead",
            f"{LONG_STEPS} steps of a warm job over the direct call",
            statistics.median(ratios),
            "x",
            len(ratios),
            at_most=MAX_RATIO,
            details=_details(called["long"], drawn["long"]),
        ),
        Figure(
            "overhead_short",
            f"{SHORT_STEPS} short steps: a warm job above the direct call, p50",
            statistics.median(extra_ms),
            "ms",
            len(extra_ms),
            at_most=MAX_EXTRA_MS,
            details={"p90_ms": quantile(extra_ms, 0.9), **_details(called["short"], drawn["short"])},
        ),
    ]


def _details(called_us: list[int], jobs: list[Job]) -> dict[str, Any]:
    names = {name for job in jobs for name in job.spans_us()}
    spans = {name: round(statistics.median(job.spans_us().get(name, 0) for job in jobs)) for name in names}
    steps = [entry["us"] for job in jobs for entry in job.summary["timeline"] if entry["span"] == "step"]
    return {
        "direct_us": round(statistics.median(called_us)),
        "job_us": round(statistics.median(job.us for job in jobs)),
        "wall_us": round(statistics.median(job.summary["wall_us"] for job in jobs)),
        "step_us": round(statistics.median(steps)),
        "spans_us": dict(sorted(spans.items(), key=lambda item: -item[1])),
    }


async def preview(runs: int) -> list[Figure]:
    over_ms, arrived_ms = [], []
    async with warm_requester() as requester:
        for run in range(runs):
            job = await draw(requester, LONG_STEPS, LONG_SIDE_PX, run)
            if job.first_preview_us is None:
                raise RuntimeError("no preview came with any progress")
            provider = job.summary["provider"]
            rtt_us = next(
                each["rtt_us"] for each in job.summary["candidates"] if each["peer"] == provider
            )  # fmt: skip
            cost_us = rtt_us + job.span_us("encode_prompt") + job.span_us("step")
            over_ms.append((job.first_preview_us - cost_us) / 1000)
            arrived_ms.append(job.first_preview_us / 1000)
    return [
        Figure(
            "preview",
            "the first preview, beyond round trip + encode_prompt + first step, p50",
            statistics.median(over_ms),
            "ms",
            runs,
            at_most=MAX_EXTRA_MS,
            details={"arrived_ms": statistics.median(arrived_ms), "worst_ms": max(over_ms)},
        )
    ]
