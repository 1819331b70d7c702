"""A warm job of another peer on loopback: what it adds to the direct call, and when its first preview comes."""

import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import trio

from peer.door import ask, knock
from testnet.swarm import Peer, SwarmConfig, swarm

from .child import Child, child
from .figures import Figure, quantile

PROMPT = "a gold spiral on navy"
WARM_JOBS = 3
BEFORE_A_PREVIEW = ("plan", "dial", "offer", "handoff", "encode_prompt", "noise", "prepare", "step")
MAX_RATIO = 1.10
MAX_EXTRA_MS = 25.0


@dataclass(frozen=True)
class Kind:
    """What is asked for, of the peer and of the direct call alike."""

    steps: int
    side_px: int
    guidance: float


LONG = Kind(20, 128, 3.0)
SHORT = Kind(4, 64, 1.0)  # without guidance a step takes some 10 ms


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


async def draw(requester: Peer, kind: Kind, seed: int) -> Job:
    body = {
        "prompt": PROMPT,
        "negative": "",
        "model": None,
        "width": kind.side_px,
        "height": kind.side_px,
        "steps": kind.steps,
        "guidance_millionths": round(kind.guidance * 1_000_000),
        "sampler": "ddim",
        "seed": seed,
        "count": 1,
        "remote": True,
    }
    preview_us: list[int] = []
    done: list[tuple[int, dict[str, Any]]] = []
    image = requester.home / "picture.png"

    def on_event(event_kind: str, event: dict[str, Any]) -> None:
        if event_kind == "progress" and event["preview"]:
            preview_us.append((time.perf_counter_ns() - start_ns) // 1000)
        elif event_kind == "picture":
            image.write_bytes(event["file"])
            done.append(((time.perf_counter_ns() - start_ns) // 1000, json.loads(event["summary"])))

    def ask_daemon() -> None:
        connection = knock(requester.home)
        assert connection is not None  # it was started for this
        with connection:
            ask(connection, "render", body, on_event)

    start_ns = time.perf_counter_ns()
    await trio.to_thread.run_sync(ask_daemon)
    ((us, summary),) = done
    return Job(us, preview_us[0] if preview_us else None, summary)


async def call(direct: Child, kind: Kind, seed: int) -> int:
    answer = await direct.ask({**asdict(kind), "prompt": PROMPT, "seed": seed})
    return int(answer["us"])


@asynccontextmanager
async def warm_requester() -> AsyncIterator[Peer]:
    """The second of two peers; the first renders, and has its weights resident."""
    async with swarm(SwarmConfig(peers=2, providers=1)) as running:
        requester = running.peers[1]
        for seed in range(WARM_JOBS):
            await draw(requester, LONG, seed)
            await draw(requester, SHORT, seed)
        yield requester


async def overhead(runs: int) -> list[Figure]:
    kinds = {"long": LONG, "short": SHORT}
    called: dict[str, list[int]] = {name: [] for name in kinds}
    drawn: dict[str, list[Job]] = {name: [] for name in kinds}
    async with child("scripts.benchmarks.direct") as direct, warm_requester() as requester:
        await direct.read()
        for kind in kinds.values():
            for seed in range(WARM_JOBS):
                await call(direct, kind, seed)
        for run in range(runs):
            for name, kind in kinds.items():
                called[name].append(await call(direct, kind, run))
                drawn[name].append(await draw(requester, kind, run))
        for run in range(runs, 3 * runs):  # short ones are cheap, and a few milliseconds need more of them
            called["short"].append(await call(direct, SHORT, run))
            drawn["short"].append(await draw(requester, SHORT, run))
    ratios = [job.us / us for job, us in zip(drawn["long"], called["long"], strict=True)]
    extra_ms = [(job.us - us) / 1000 for job, us in zip(drawn["short"], called["short"], strict=True)]
    return [
        Figure.median_of(
            "overhead",
            f"{LONG.steps} steps of a warm job over the direct call",
            ratios,
            "x",
            at_most=MAX_RATIO,
            details=_details(called["long"], drawn["long"]),
        ),
        Figure.median_of(
            "overhead_short",
            f"{SHORT.steps} short steps: a warm job above the direct call, p50",
            extra_ms,
            "ms",
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
    over_ms, arrived_ms, jobs = [], [], []
    async with warm_requester() as requester:
        for run in range(runs):
            job = await draw(requester, LONG, run)
            if job.first_preview_us is None:
                raise RuntimeError("no preview came with any progress")
            provider = job.summary["provider"]
            rtt_us = next(
                each["rtt_us"] for each in job.summary["candidates"] if each["peer"] == provider
            )  # fmt: skip
            cost_us = rtt_us + job.span_us("encode_prompt") + job.span_us("step")
            over_ms.append((job.first_preview_us - cost_us) / 1000)
            arrived_ms.append(job.first_preview_us / 1000)
            jobs.append(job)
    return [
        Figure.median_of(
            "preview",
            "the first preview, beyond round trip + encode_prompt + first step, p50",
            over_ms,
            "ms",
            at_most=MAX_EXTRA_MS,
            details={
                "arrived_ms": statistics.median(arrived_ms),
                "first_span_us": {
                    name: statistics.median(job.span_us(name) for job in jobs) for name in BEFORE_A_PREVIEW
                },
            },
        )
    ]
