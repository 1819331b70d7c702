"""One peer's history, from its ledger and its journal: which peers it asked, what came of it, what it drew for others."""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from protocol.policy.names import named, tail
from protocol.policy.timeline import EXECUTION

from ..journal import FILE as JOURNAL
from ..journal import Journal
from ..store.ledger import FILE as LEDGER
from ..store.ledger import JobRecord, Ledger
from .document import Attempt, Bar, Candidate, Job, Lane, Mark, Part

UNNAMED = "this peer"
SEEN_US = 20_000  # a shorter wait is none that anybody could see
MAX_MARKS = 400  # of a lane, the latest: more cannot be told apart
AROUND_S = 60.0  # what happened so long before the first job, or after the last one, belongs to it

PHASE_OF = {
    **dict.fromkeys(("start_peer", "join", "submit", "look", "plan"), "plan"),
    **dict.fromkeys(("dial", "address", "offer"), "connect"),
    "wait": "wait",
    **dict.fromkeys(("start_renderer", "load_weights", "load_adapter"), "load"),
    **dict.fromkeys((*EXECUTION, "handoff", "handback", "sign", "leave"), "draw"),
    "transfer": "transfer",
    **dict.fromkeys(("wake", "check", "save", "embed", "deliver", "write_file"), "check"),
    "lost": "lost",
}
_STATES = frozenset({"done", "failed", "cancelled"})
_BAR_OF = {"done": "draw", "failed": "lost", "lost": "lost"}
_MARKS = {
    "peer_known": ("good", "{name} is known, {rtt} away"),
    "left": ("bad", "{name} left"),
    "join_failed": ("bad", "joining failed: {why}"),
    "peer_error": ("bad", "{name} broke the protocol: {what}"),
    "different_receipt": ("bad", "{name} gave two receipts for one attempt"),
    "clock": ("note", "{name}: {note}"),
    "memory": ("note", "the renderer was ended: it used too much memory"),
    "started": ("note", "this peer started"),
    "stopped": ("note", "this peer stopped"),
}


class NoHistory(Exception):
    """Nothing was asked of this peer yet, and it has drawn nothing."""


class Names:
    """What peers are called in one document: by name, and where two share one, by name and the end of the id."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = known
        shared: dict[str, int] = {}
        for name in known.values():
            shared[name] = shared.get(name, 0) + 1
        self._shared = {name for name, count in shared.items() if count > 1}

    def of(self, peer: str) -> str:
        name = self._known.get(peer, "")
        if not name or name == tail(peer):
            return f"..{tail(peer)}"
        return named(name, peer) if name in self._shared else name


def history(home: Path, last: int) -> Part:
    """The `last` jobs in `home`, and what happened around them; NoHistory, LedgerError."""
    records: tuple[JobRecord, ...] = ()
    if (home / LEDGER).exists():
        ledger = Ledger(home / LEDGER)
        records = ledger.list_jobs(last)[::-1]
        ledger.close()
    return part(records, list(Journal.read(home / JOURNAL)))


def part(records: Iterable[JobRecord], entries: list[dict[str, Any]]) -> Part:
    """`records`: oldest first; `entries` of a journal."""
    records = list(records)
    own: dict[str, Any] = next((entry for entry in reversed(entries) if entry["event"] == "started"), {})
    own_peer, name = str(own.get("peer", "")), str(own.get("name", "") or UNNAMED)
    names = Names(_names(records, entries) | {own_peer: name})
    timed = [(at_us, entry) for entry in entries if (at_us := _wall_us(entry)) is not None]
    served = _served(timed, own_peer, names)
    moments_us = [record.created_us for record in records] or [start_us for start_us, *_ in served]
    if not moments_us:
        raise NoHistory(
            "Nothing was asked of this peer yet, and it has drawn nothing for others: there is nothing to report."
        )
    zero_us = min(moments_us)
    jobs = tuple(_job(record, zero_us, name, names) for record in records)
    until_s = max([0.0, *(job.ended_s or job.at_s for job in jobs)])
    if not jobs:
        until_s = max(end_us - zero_us for _, end_us, *_ in served) / 1e6

    def around(at_s: float) -> bool:
        return -AROUND_S <= at_s <= until_s + AROUND_S

    bars = tuple(
        Bar((start_us - zero_us) / 1e6, (end_us - zero_us) / 1e6, kind, what)
        for start_us, end_us, kind, what in served
        if around((start_us - zero_us) / 1e6)
    )
    marks = [
        Mark(round((at_us - zero_us) / 1e6, 6), *mark)
        for at_us, entry in timed
        if around((at_us - zero_us) / 1e6) and (mark := _mark(entry, names)) is not None
    ]
    lanes: tuple[Lane, ...] = (Lane("asked here", tuple(_bars(jobs)), tuple(_failures(jobs))),)
    lanes += (Lane("drawn for others", bars),) if bars else ()
    lanes += (Lane("peers", marks=tuple(marks[-MAX_MARKS:])),) if marks else ()
    first, latest = (
        datetime.datetime.fromtimestamp(us / 1e6).astimezone() for us in (zero_us, max(moments_us))
    )
    return Part(
        name=name,
        about=f"What {name} asked for from {first:%Y-%m-%d %H:%M} to {latest:%Y-%m-%d %H:%M}, and where the time went.",
        facts=(f"peer {own_peer}",) if own_peer else (),
        zero_us=zero_us,
        jobs=jobs,
        lanes=lanes,
    )


# jobs


def _job(record: JobRecord, zero_us: int, by: str, names: Names) -> Job:
    why = record.why if isinstance(record.why, dict) else {}
    wall_us, request = why.get("wall_us"), record.request
    at_s = (record.created_us - zero_us) / 1e6
    candidates = tuple(_candidate(each, names) for each in why.get("candidates") or record.candidates)
    chosen = str(why.get("chosen") or "")
    steps_us = [entry["us"] for entry in record.timeline if entry["span"] == "step"]
    provider = why.get("provider") or request.get("provider")
    first = next((each for each in candidates if each.peer == names.of(chosen)), None)
    job = Job(
        job=record.job,
        by=by,
        state=record.state if record.state in _STATES else "unfinished",
        at_s=round(at_s, 6),
        provider=names.of(str(provider)) if provider else None,
        predicted_us=first.predicted_us if first else None,
        unaccounted_us=why.get("unaccounted_us"),
        steps=request.get("steps"),
        pixels=request["width"] * request["height"] if {"width", "height"} <= request.keys() else None,
        step_us=round(median(steps_us)) if steps_us else None,
        attempts=tuple(
            Attempt(names.of(str(each["peer"])), str(each["outcome"]), each.get("sentence"))
            for each in why.get("attempts") or ()
        ),
        candidates=candidates,
        sentence=record.outcome,
        p90_us=first.p90_us if first else None,
    )
    if not isinstance(wall_us, int):
        return job
    return replace(
        job,
        wall_us=wall_us,
        ended_s=round(at_s + wall_us / 1e6, 6),
        phases_us=phases(record.timeline, wall_us),
    )


def phases(timeline: Iterable[Mapping[str, Any]], wall_us: int) -> dict[str, int]:
    """Critical microseconds of each phase of document.PHASES that took any; together they are `wall_us`."""
    spent: dict[str, int] = {}
    for entry in timeline:
        if entry["critical"]:
            phase = PHASE_OF.get(entry["span"], "other")
            spent[phase] = spent.get(phase, 0) + entry["us"]
    if (left_us := wall_us - sum(spent.values())) > 0:
        spent["unaccounted"] = left_us
    return spent


def _candidate(each: Mapping[str, Any], names: Names) -> Candidate:
    return Candidate(
        peer=names.of(str(each["peer"])),
        predicted_us=each.get("predicted_us"),
        rtt_us=each.get("rtt_us"),
        steps_us=(each.get("spans") or {}).get("step"),
        p90_us=each.get("p90_us"),
    )


# what happened when


def _bars(jobs: Iterable[Job]) -> Iterable[Bar]:
    for job in jobs:
        if job.ended_s is not None:
            kind = "job" if job.at_once else "recovered" if job.done else "lost"
            yield Bar(job.at_s, job.ended_s, kind, job_in_words(job))


def _failures(jobs: Iterable[Job]) -> Iterable[Mark]:
    for job in jobs:
        if not job.done:
            yield Mark(job.at_s, "bad", f"job {job.job[:8]} {job.state}. {job.sentence or ''}".rstrip())


def job_in_words(job: Job) -> str:
    tried = "".join(f"\n{each.peer}: {each.outcome}{f', {each.sentence}' if each.sentence else ''}"
                    for each in job.attempts if len(job.attempts) > 1)  # fmt: skip
    drawn = f", drawn by {job.provider}" if job.provider else ""
    return f"job {job.job[:8]} of {job.by}{drawn}{tried}"


def _served(
    timed: Iterable[tuple[int, dict[str, Any]]], own_peer: str, names: Names
) -> list[tuple[int, int, str, str]]:
    """(start, end, kind, words) of the tasks that were drawn for others, from their acceptance on."""
    open_: dict[str, tuple[int, int | None, str]] = {}
    found = []
    for at_us, entry in timed:
        attempt = str(entry.get("attempt", ""))
        match entry["event"]:
            case "task_accepted" if entry.get("peer") != own_peer:
                open_[attempt] = at_us, None, names.of(str(entry.get("peer")))
            case "task_started" if attempt in open_:
                accepted_us, _, peer = open_[attempt]
                open_[attempt] = accepted_us, at_us, peer
            case "task_finished" if attempt in open_:
                accepted_us, started_us, peer = open_.pop(attempt)
                outcome = str(entry.get("outcome"))
                began_us = at_us if started_us is None else started_us
                if began_us - accepted_us > SEEN_US:
                    found.append((accepted_us, began_us, "wait", f"waiting, for {peer}"))
                words = f"drawn for {peer}: {outcome}"
                found.append((began_us, at_us, _BAR_OF.get(outcome, "stopped"), words))
    return found


def _mark(entry: Mapping[str, Any], names: Names) -> tuple[str, str] | None:
    if entry["event"] not in _MARKS:
        return None
    kind, words = _MARKS[entry["event"]]
    rtt_us = entry.get("rtt_us")
    rtt = f"{rtt_us / 1e3:.0f} ms" if isinstance(rtt_us, int) else "an unknown time"
    told = {key: str(entry.get(key, "")) for key in ("why", "what", "note")}
    return kind, words.format(name=names.of(str(entry.get("peer", ""))), rtt=rtt, **told)


def _names(records: Iterable[JobRecord], entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """By peer id, the latest name each gave itself, without the end of its id that may stand behind it."""
    found = {}
    for record in records:
        for each in record.candidates:
            found[str(each["peer"])] = str(each.get("name") or "")
    for entry in entries:
        if entry["event"] == "peer_known" and entry.get("name"):
            found[str(entry.get("peer"))] = str(entry["name"])
    return {peer: name.removesuffix(f" ({tail(peer)})") for peer, name in found.items()}


def _wall_us(entry: Mapping[str, Any]) -> int | None:
    try:
        return round(datetime.datetime.fromisoformat(str(entry.get("at"))).timestamp() * 1e6)
    except ValueError:
        return None
