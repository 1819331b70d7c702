"""`python -m testnet report`: gathers what runs and simulations left, and has `peer report --data` draw it.

Two things are told by `peer` processes, so that nothing of `peer` is imported here: each requester's own history (`peer
report --json`), and the page.  The document between them is described in `peer/report/document.py`.
"""

import argparse
import json
import math
import subprocess
import sys
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import journals, packets, processes, witness
from .failed import NOT_DONE, WRONG_USAGE, failed
from .outcome import Drawn, Happened, Judged, Outcome, Task, recovery_ms
from .packets import BadRecord
from .run import RESULT
from .run_folder import PEERS
from .swarm import ROOT

FORMAT = "nearlight report 1"
DEFAULT_NAME = "nearlight-report.html"
ALL_JOBS = 10_000  # what `peer report --last` takes at most
BINS = 80  # of time, in the chart of the traffic
POLICY = {"peer": "peers", "direct": "broker, direct", "relayed": "broker, relayed"}
ENDED_BY = {"kill": "restart", "freeze": "thaw", "partition": "heal", "degrade": "heal"}
SEEN_S = 0.02  # a shorter wait is none that anybody could see
HURTS = frozenset({"kill", "freeze", "partition"})
_POLICY_FIELDS = (
    "p50_s", "p95_s", "p99_s", "ratio_p50", "ratio_p95", "refusals_per_request", "messages_per_request",
    "wasted_fraction", "unfinished",
)  # fmt: skip

_CURVE_FIELDS = ("where_s", "control", "cdf")  # beyond the numbers; earlier versions had fewer

Value = dict[str, Any]


class CannotReport(Exception):
    """What was given is no run or simulation that was kept, or `peer report` could not read it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, nargs="*", metavar="RUN", help="a folder of `run --out`")
    parser.add_argument(
        "--simulation",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="what `simulate --json` printed",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(DEFAULT_NAME),
        metavar="FILE",
        help=f"the page ({DEFAULT_NAME}); .svg: only where the time of the first run went",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the numbers of all figures, as the last line"
    )


def report(options: argparse.Namespace) -> int:
    """Exit code: 0, 1 where `peer report` could not draw, or 2 where there is nothing to draw."""
    try:
        runs = [run for folder in options.run for run in runs_in(folder)]
        parts = [gather(run) for run in runs] + [simulated(path) for path in options.simulation]
    except (CannotReport, BadRecord) as exc:
        return failed(str(exc), WRONG_USAGE, as_json=options.json)
    if not parts:
        sentence = "There is nothing to report: give folders of `run --out`, or files with --simulation."
        return failed(sentence, WRONG_USAGE, as_json=options.json)
    title = f"Latency report: {parts[0]['name']}" if len(parts) == 1 else "Latency report of the laboratory"
    document = {"format": FORMAT, "title": title, "parts": parts}
    words = ["--data", "-", "--output", str(options.output.expanduser().absolute())]
    drawn = _peer_report([*words, "--json"] if options.json else words, given=json.dumps(document))
    if drawn.returncode != 0:
        return failed(drawn.stderr.strip(), NOT_DONE, as_json=options.json)
    print(drawn.stdout, end="")
    return 0


def runs_in(folder: Path) -> list[Path]:
    """The run, or, of a folder of several, each of them; CannotReport."""
    runs = (
        [folder]
        if (folder / RESULT).is_file()
        else sorted(each.parent for each in folder.glob(f"*/{RESULT}"))
    )
    if not runs:
        raise CannotReport(f"{folder} holds no run that was kept with --out, or none that came to its end.")
    return runs


def _peer_report(words: Sequence[str], given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "peer", "report", *words],
        cwd=ROOT,
        env=processes.environment(),
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


# a run


def gather(run: Path) -> Value:
    """One part of the document: a run, from its result, its requesters' histories and its packets; CannotReport."""
    result = _json(run / RESULT)
    try:
        outcome = outcome_of(result["outcome"])
        asked = {job.by for job in outcome.jobs if job.via == "peer" and job.job}
        told = {by: _history(run / PEERS / by) for by in sorted(asked)}
        started_us = result.get("started_us")
        jobs = [_job(job, told.get(job.by, {}), _asked_s(run, job, started_us)) for job in outcome.jobs]
        return {
            "name": result["scenario"],
            "about": result["about"],
            "facts": _facts(result),
            "jobs": jobs,
            "lanes": _lanes(result["hosts"], outcome, jobs),
            "happenings": _happenings(outcome),
            "expectations": [_expectation(Judged(**each)) for each in result["judged"]],
            "witness": _witness(run),
            "traffic": None if started_us is None else _traffic(run, result["hosts"], jobs, started_us),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CannotReport(f"{run / RESULT} is not the result of a run: {type(exc).__name__} {exc}.") from exc


def _json(path: Path) -> Value:
    try:
        value = json.loads(path.read_bytes().splitlines()[-1])
    except (OSError, ValueError, IndexError) as exc:
        raise CannotReport(f"{path} cannot be read as JSON: {exc}.") from exc
    if not isinstance(value, dict):
        raise CannotReport(f"{path} holds no JSON object.")
    return value


def outcome_of(value: Value) -> Outcome:
    """From a result's JSON."""
    return Outcome(
        jobs=tuple(Drawn(**{**job, "timeline": tuple(job["timeline"])}) for job in value["jobs"]),
        tasks=tuple(Task(**task) for task in value["tasks"]),
        events=tuple(Happened(**event) for event in value["events"]),
        alive=tuple(value["alive"]),
        knows=value["knows"],
        emulated=value["emulated"],
    )


def _history(home: Path) -> dict[str, Value]:
    """By id, the jobs as the peer that lives in `home` remembers them; CannotReport."""
    done = _peer_report(["--json", "--last", str(ALL_JOBS), "--home", str(home.absolute())])
    if done.returncode != 0:
        raise CannotReport(f"{home}: {done.stderr.strip()[-300:]}")
    jobs: list[Value] = json.loads(done.stdout.splitlines()[-1])["parts"][0]["jobs"]
    return {job["job"]: job for job in jobs}


def _asked_s(run: Path, job: Drawn, started_us: int | None) -> float:
    """When the timeline began, on the run's clock; where that is not known, when the command was started."""
    plan = next((span for span in job.timeline if span["span"] == "plan"), None)
    if plan is None or started_us is None:
        return job.asked_s
    for entry in journals.entries(run / PEERS / job.by / journals.FILE):
        if entry.get("event") == "planned" and entry.get("job") == job.job:
            return float(entry["t_us"] - plan["start_us"] - plan["us"] - started_us) / 1e6
    return job.asked_s


def _job(drawn: Drawn, told: Mapping[str, Value], at_s: float) -> Value:
    """A job of the run: as its requester remembers it, or, of the broker's and of those that failed, as it was seen."""
    policy = POLICY[drawn.via]
    if drawn.job in told:
        job = told[drawn.job]
        ended_s = at_s + job["wall_us"] / 1e6 if job["wall_us"] else drawn.ended_s
        return {**job, "policy": policy, "by": drawn.by, "at_s": at_s, "ended_s": ended_s}
    return {
        "job": drawn.job or f"job {drawn.number}",
        "by": drawn.by,
        "policy": policy,
        "state": "done" if drawn.done else "failed",
        "at_s": at_s,
        "ended_s": at_s + drawn.wall_us / 1e6 if drawn.wall_us else drawn.ended_s,
        "provider": drawn.provider,
        "wall_us": drawn.wall_us,
        "sentence": drawn.error or None,
    }


def _facts(result: Value) -> list[str]:
    links = f"emulated links: {result['topology']}" if result["emulated"] else "plain loopback"
    facts = [links, f"{len(result['hosts'])} peers", f"seed {result['seed']}"]
    facts.append(f"load average {' to '.join(f'{each:.1f}' for each in result['load_average'])}")
    if result["paced_ms"]:
        kept = result["paced_on_time"]
        facts.append(
            "renderers paced to a stated speed"
            + ("" if kept is None else f", kept by {kept:.0%} of their steps")
        )
    return facts


def _expectation(judged: Judged) -> Value:
    value = judged.value
    shown = "nothing" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return {"what": judged.what, "bound": judged.bound, "outcome": shown, "ok": judged.ok}


# what happened when


def _happenings(outcome: Outcome) -> list[Value]:
    """What was done to the swarm; a Restart, a Thaw or a Heal ends what it follows."""
    found: list[Value] = []
    for number, event in enumerate(outcome.events):
        ended = next(
            (
                later.at_s
                for later in outcome.events[number + 1 :]
                if later.what == ENDED_BY.get(event.what) and (not later.peers or later.peers == event.peers)
            ),
            None,
        )
        found.append(
            {
                "at_s": event.at_s,
                "until_s": ended,
                "kind": "good" if event.what in ENDED_BY.values() else "bad",
                "what": f"{event.what} {', '.join(event.peers) if len(event.peers) <= 2 else ''}".strip(),
                "recovered_ms": recovery_ms(number)(outcome) if event.what in HURTS else None,
            }
        )
    return found


def _lanes(hosts: Sequence[str], outcome: Outcome, jobs: Iterable[Value]) -> list[Value]:
    bars: dict[str, list[Value]] = {host: [] for host in hosts}
    marks: dict[str, list[Value]] = {host: [] for host in hosts}
    end_s = max([0.0, *(job.ended_s for job in outcome.jobs)])
    for task in outcome.tasks:
        began_s = end_s if task.started_s is None else task.started_s
        if task.accepted_s < 0:
            continue  # of the warm-up
        bars[task.provider] += _task_bars(task, began_s, _lost_s(task, outcome, end_s))
    for job in jobs:
        tried = [f"{each['peer']}: {each['outcome']}" for each in job.get("attempts", ())]
        words = "\n".join(
            [f"{job['job'][:8]} of {job['by']}, drawn by {job['provider']}, {job['policy']}", *tried]
        )
        if job["state"] == "done":
            kind = "recovered" if len(tried) > 1 else "job"
            bars[job["by"]].append(_bar(job["at_s"], job["ended_s"], kind, words))
        else:
            bars[job["by"]].append(_bar(job["at_s"], job["ended_s"], "lost", f"{words}\n{job['sentence']}"))
            marks[job["by"]].append(
                {"at_s": job["ended_s"], "kind": "bad", "what": f"no picture. {job['sentence']}"}
            )
    for event in outcome.events:
        for peer in event.peers if len(event.peers) == 1 else ():
            if event.what in (*HURTS, *ENDED_BY.values()):
                kind = "bad" if event.what in HURTS else "good"
                marks[peer].append({"at_s": event.at_s, "kind": kind, "what": f"{event.what} {peer}"})
    return [
        {"name": host, "bars": bars[host], "marks": marks[host]}
        for host in hosts
        if bars[host] or marks[host]
    ]


def _lost_s(task: Task, outcome: Outcome, end_s: float) -> float:
    """When a task ended; for one that never did, when its provider was hit, or the end of the run."""
    if task.finished_s is not None:
        return task.finished_s
    hit = [event.at_s for event in outcome.events if task.provider in event.peers and event.what in HURTS]
    return min([at_s for at_s in hit if at_s >= task.accepted_s], default=end_s)


def _task_bars(task: Task, began_s: float, ended_s: float) -> list[Value]:
    kind = {"done": "draw", "cancelled": "stopped"}.get(task.outcome or "", "lost")
    words = f"{task.provider} draws for {task.requester}: {task.outcome or 'lost'}"
    waits = (
        [_bar(task.accepted_s, began_s, "wait", f"for {task.requester}, waiting")]
        if began_s - task.accepted_s > SEEN_S
        else []
    )
    return [*waits, _bar(began_s, ended_s, kind, words)] if ended_s >= began_s else waits


def _bar(start_s: float, end_s: float, kind: str, what: str) -> Value:
    return {"start_s": start_s, "end_s": end_s, "kind": kind, "what": what}


# control traffic


def _traffic(run: Path, hosts: Sequence[str], jobs: Iterable[Value], started_us: int) -> Value | None:
    """Bytes on the wire from 0 s to the end of the last job; None where the links were not emulated."""
    if not (run / "packets").is_file():
        return None
    busy: dict[frozenset[str], list[tuple[float, float]]] = defaultdict(list)
    end_s = 0.0
    for job in jobs:
        end_s = max(end_s, job["ended_s"])
        for peer in {job.get("provider"), *(each["peer"] for each in job.get("attempts", ()))} - {None}:
            busy[frozenset((job["by"], peer))].append((job["at_s"], job["ended_s"]))
    for spans in busy.values():
        spans.sort()
    bin_s = _nice(max(end_s, 1.0) / BINS)
    bins = math.ceil(max(end_s, bin_s) / bin_s)
    control, talk = [0] * bins, [0] * bins
    by_peer: dict[str, Counter[str]] = defaultdict(Counter)
    for packet in packets.read(run / "packets"):
        at_s = packet.in_ns / 1e9 - started_us / 1e6
        number = math.floor(at_s / bin_s)
        if not 0 <= number < bins:
            continue
        pair = [
            hosts[host] if host < len(hosts) else "broker" for host in (packet.source, packet.destination)
        ]
        about_jobs = "broker" in pair or _within(busy.get(frozenset(pair), ()), at_s)
        (talk if about_jobs else control)[number] += packet.wire_bytes
        for peer in pair:
            by_peer[peer]["jobs" if about_jobs else "control"] += packet.wire_bytes
    total_s = bins * bin_s
    return {
        "from_s": 0.0,
        "bin_s": bin_s,
        "control_bytes": control,
        "jobs_bytes": talk,
        "by_peer": [
            {
                "peer": peer,
                "control_bytes_per_s": by_peer[peer]["control"] / total_s,
                "jobs_bytes_per_s": by_peer[peer]["jobs"] / total_s,
            }
            for peer in hosts
        ],
    }


def _within(spans: Sequence[tuple[float, float]], at_s: float) -> bool:
    """Whether `at_s` is in one of the spans, which are sorted and may overlap."""
    return any(end_s >= at_s for _, end_s in spans[: bisect_right(spans, (at_s, math.inf))])


def _nice(seconds: float) -> float:
    power = 10.0 ** math.floor(math.log10(seconds))
    return next(round(each * power, 9) for each in (1, 2, 5, 10) if each * power >= seconds)


def _witness(run: Path) -> Value | None:
    try:
        found = witness.compare(run)
    except witness.NoWitness:
        return None
    return {
        "within_us": witness.WITHIN_US,
        "within_share": witness.WITHIN_SHARE,
        "phases": [
            {
                "job": f"{each.job}",
                "phase": each.phase,
                "told_us": each.told_us,
                "seen_us": each.seen_us,
                "agrees": each.agrees,
            }
            for each in found.phases
        ],
        "left_out": [{"job": f"{each.job}", "why": each.why} for each in found.left_out],
    }


# a simulation


def simulated(path: Path) -> Value:
    """One part of the document: policies in virtual time; CannotReport."""
    value = _json(path)
    try:
        world = value["world"]
        seeds = ", ".join(str(seed) for seed in world["seeds"])
        matrix = "places on a sphere" if world["rtt"] == "sphere" else Path(world["rtt"]).name
        return {
            "name": f"simulation, {path.stem}",
            "about": "Policies compared in virtual time: the same worlds, requests and chances for each.",
            "facts": [
                f"{world['peers']} providers, {world['requesters']} requesters",
                f"load {world['load']:g}",
                f"round trips: {matrix}",
                f"seeds {seeds}",
            ],
            "policies": [
                {
                    "name": name,
                    **{field: found[field] for field in _POLICY_FIELDS},
                    **{field: found[field] for field in _CURVE_FIELDS if field in found},
                    "cdf_by_link": _nearest_first(found.get("cdf_by_link", {})),
                }
                for name, found in value["policies"].items()
            ],
        }
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CannotReport(
            f"{path} is not what `simulate --json` prints: {type(exc).__name__} {exc}."
        ) from exc


def _nearest_first(links: Value) -> Value:
    """Their names begin with, or are "over", so many ms."""
    return dict(
        sorted(links.items(), key=lambda each: int("".join(filter(str.isdigit, each[0].split(" to ")[0]))))
    )
