"""What the peer answers, as tables for people and as JSON for scripts.

Words of other peers are stripped of everything a terminal obeys, and never read as markup.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from protocol.policy.timeline import Timeline, duration
from protocol.wire.fields import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MAX_SENTENCE_CHARS = 1000
MAX_TIMELINE_COLUMNS = 100  # wider bars say no more
SHORT_PEER_CHARS = 8  # the end of a peer id: all begin alike
MODEL_CHARS = 8
SENTENCE_CHARS = 40  # a row of the jobs table
JOB_CHARS = 16  # the whole of a job's id, the beginning of a model's
UNKNOWN = "?"


def console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_json(value: Mapping[str, Any]) -> None:
    """One line on stdout; bytes as hex."""
    print(json.dumps(value, default=_hex, separators=(", ", ": ")), flush=True)


def sentence(words: object) -> str:
    return plain(str(words), MAX_SENTENCE_CHARS)


def short(peer: object) -> str:
    """A peer id as people tell them apart."""
    text = plain(str(peer))
    return text if len(text) <= 2 * SHORT_PEER_CHARS else f"..{text[-SHORT_PEER_CHARS:]}"


def who(name: object, peer: object) -> str:
    called = plain(str(name or ""))
    return f"{called} ({short(peer)})" if called else short(peer)


def time(us: object) -> str:
    return duration(us) if isinstance(us, int) and us >= 0 else UNKNOWN


def swarm_table(peers: Iterable[Mapping[str, Any]]) -> "Table":
    rows = []
    for peer in sorted(peers, key=lambda peer: (not peer.get("self"), _or_last(peer.get("rtt_us")))):
        jitter = f" ±{time(peer['jitter_us'])}" if isinstance(peer.get("jitter_us"), int) else ""
        here = bool(peer.get("self"))
        rows.append(
            (
                who(peer.get("name"), peer.get("peer")) + (" (this one)" if here else ""),
                plain(str(peer.get("device") or UNKNOWN)),
                ", ".join(plain(str(model)) for model in peer.get("models") or ()) or "none",
                "-" if here else time(peer.get("rtt_us")) + jitter,
                time(peer.get("wait_us")),
                f"{time(peer['step_us'])}/step" if isinstance(peer.get("step_us"), int) else UNKNOWN,
                "" if here or peer.get("connected") else "not connected",
                sentence(peer.get("note") or ""),
            )
        )
    return table(("peer", "device", "models", "RTT", "wait", "speed", "", ""), rows)


def jobs_table(jobs: Iterable[Mapping[str, Any]]) -> "Table":
    import datetime

    rows = []
    for job in jobs:
        created = datetime.datetime.fromtimestamp(int(job.get("created_us") or 0) / 1e6).astimezone()
        rows.append(
            (
                plain(str(job.get("job")))[:JOB_CHARS],
                created.strftime("%m-%d %H:%M"),
                plain(str(job.get("state"))),
                plain(str(job.get("model") or UNKNOWN))[:MODEL_CHARS],
                short(job["provider"]) if job.get("provider") else "-",
                plain(str(job.get("pictures", UNKNOWN))),
                time(job.get("wall_us")),
                _clipped(sentence(job.get("sentence") or "")),
            )
        )
    return table(("job", "asked", "state", "model", "provider", "n", "took", ""), rows)


def _clipped(text: str) -> str:
    """A sentence's beginning: `peer why JOB` has all of it."""
    return text if len(text) <= SENTENCE_CHARS else text[: SENTENCE_CHARS - 3] + "..."


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    """Columns that nobody fills are left out."""
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    used = [index for index, heading in enumerate(headings) if heading or any(row[index] for row in rows)]
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index in used:
        # The first names the row: the others give way.
        result.add_column(Text(headings[index]), overflow="fold", no_wrap=index == 0)
    for row in rows:
        result.add_row(*(Text(row[index]) for index in used))
    return result


def timeline_rows(
    entries: Iterable[Mapping[str, Any]], wall_us: int, columns: int, encoding: str
) -> list[str]:
    """Bars of at most `columns`; ValueError if an entry is none."""
    rows = Timeline.from_entries(entries, wall_us).bars(min(columns, MAX_TIMELINE_COLUMNS))
    drawn = [plain(row, columns).rstrip() for row in rows]
    if "utf" in encoding.lower():
        return drawn
    return [row.replace("█", "#").replace("░", "-") for row in drawn]


def print_timeline(summary: Mapping[str, Any]) -> None:
    """The timeline of a summary or a report, indented, on stdout."""
    entries, wall_us = summary.get("timeline"), summary.get("wall_us")
    if not isinstance(entries, list) or not isinstance(wall_us, int):
        return
    indent = "  "
    columns = console().width - len(indent)
    for row in timeline_rows(entries, wall_us, columns, sys.stdout.encoding or ""):
        print(indent + row)


def print_why(report: Mapping[str, Any]) -> None:
    """Why that peer, and where the time went."""
    screen = console()
    chosen = report.get("chosen") or report.get("provider")
    chosen = chosen.get("peer") if isinstance(chosen, dict) else chosen
    job = plain(str(report.get("job")))[:JOB_CHARS]
    took = f"took {time(report['wall_us'])}" if isinstance(report.get("wall_us"), int) else "drew nothing"
    state = plain(str(report.get("state") or ""))
    print(f"Job {job}{f' ({state})' if state else ''} {took}.")
    for words in report.get("sentences") or ():
        print(sentence(words))
    candidates = [each for each in report.get("candidates") or () if isinstance(each, dict)]
    if candidates:
        rows = [
            (
                who(each.get("name"), each.get("peer")),
                time(each.get("rtt_us")),
                time(each.get("predicted_us")),
                "chosen" if each.get("peer") == chosen else "",
            )
            for each in candidates
        ]
        print()
        screen.print(table(("candidate", "RTT", "predicted", ""), rows))
    for each in report.get("exclusions") or ():
        if isinstance(each, dict):
            print(f"Not {who(each.get('name'), each.get('peer'))}: {sentence(each.get('sentence'))}")
    print()
    print_timeline(report)
    avoidable = report.get("avoidable")
    if isinstance(avoidable, dict):
        print()
        print(f"Avoidable: {sentence(avoidable.get('sentence'))}")


def _or_last(number: object) -> int:
    return number if isinstance(number, int) else 1 << 63


def _hex(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} is no JSON")
