"""What the peer answers, as tables for people and as JSON for scripts.

Words of other peers are stripped of everything a terminal obeys, and never read as markup.
"""

import json
import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from protocol.policy import names
from protocol.policy.credits import shown_amount, three_digits
from protocol.policy.timeline import Timeline, duration
from protocol.wire.fields import plain
from protocol.wire.statement import USUAL_WEIGHT_MILLIONTHS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MAX_SENTENCE_CHARS = 1000
MAX_TIMELINE_COLUMNS = 100  # wider bars say no more
MODEL_CHARS = 8
JOB_CHARS = 8  # the beginning of a job's id, as it is in the names of files
ROOM = 2  # columns between those of a table
MIN_WRAPPED_CHARS = 10  # of a table's column that has to give way
SPANS_SHOWN = 3  # of so many candidates it is told what their time was predicted to go into
MOST_ADAPTERS = 16  # in a line
NARROW_COLUMNS = 80  # below it a table leaves out what can be spared
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
    return names.short(plain(str(peer)))


def who(name: object, peer: object) -> str:
    """A name, which anybody may give themselves, and the end of the peer id, which nobody can choose."""
    tail = names.tail(plain(str(peer)))
    called = plain(str(name or "")).removesuffix(f" ({tail})")
    return f"{called} ({short(peer)})" if called and called != tail else short(peer)


def time(us: object) -> str:
    return duration(us) if isinstance(us, int) and us >= 0 else UNKNOWN


def adapters_of(picture: Mapping[str, Any]) -> str:
    """With which it is drawn, and their weights where they are not 1: behind its size."""
    said = []
    for each in _maps(picture.get("adapters")):
        name, weight = str(each.get("name") or each.get("id")), each.get("weight_millionths")
        said.append(plain(name))
        if isinstance(weight, int) and weight != USUAL_WEIGHT_MILLIONTHS:
            said[-1] += f"={weight / 1_000_000:g}"
    return f", with {' and '.join(said)}" if said else ""


def swarm_table(peers: Iterable[Mapping[str, Any]], columns: int) -> "Table":
    rows = []
    for peer in sorted(peers, key=lambda peer: (not peer.get("self"), _or_last(peer.get("rtt_us")))):
        here = bool(peer.get("self"))
        rtt = "-" if here else time(peer.get("rtt_us"))
        if not here and isinstance(peer.get("jitter_us"), int) and columns >= NARROW_COLUMNS:
            rtt += f" ±{time(peer['jitter_us'])}"
        rows.append(
            (
                who(peer.get("name"), peer.get("peer")),
                plain(str(peer.get("device") or UNKNOWN)),
                ", ".join(plain(str(model)) for model in peer.get("models") or ()) or "none",
                rtt,
                "none" if peer.get("wait_us") == 0 else time(peer.get("wait_us")),
                f"{time(peer['step_us'])}/step" if isinstance(peer.get("step_us"), int) else UNKNOWN,
                "this one" if here else "" if peer.get("connected") else "not connected",
                sentence(peer.get("note") or ""),
            )
        )
    wrapped = ("peer", "device", "models", "note")
    return table(("peer", "device", "models", "RTT", "wait", "speed", "", "note"), rows, wrapped=wrapped)


def adapters_lines(peers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which are offered with a model of that name, and by how many: a sentence for each model."""
    offered: dict[str, Counter[str]] = {}
    for peer in peers:
        names_of = dict(zip(peer.get("model_ids") or (), peer.get("models") or (), strict=False))
        for each in _maps(peer.get("adapters")):
            short_id = plain(str(each.get("id")))[:MODEL_CHARS]
            of = plain(str(names_of.get(each.get("model"))))
            offered.setdefault(of, Counter())[f"{plain(str(each.get('name')))} ({short_id})"] += 1
    return [
        f"Adapters of {of}: {', '.join(f'{name} at {count}' for name, count in sorted(counts.items())[:MOST_ADAPTERS])}."
        for of, counts in sorted(offered.items())
    ]


def jobs_table(jobs: Iterable[Mapping[str, Any]], columns: int) -> "Table":
    """One line a job: of what went wrong, as much as has room; `peer why JOB` has all of it."""
    import datetime

    from rich.cells import cell_len

    rows = []
    for job in jobs:
        created = datetime.datetime.fromtimestamp(int(job.get("created_us") or 0) / 1e6).astimezone()
        rows.append(
            [
                plain(str(job.get("job")))[:JOB_CHARS],
                created.strftime("%m-%d %H:%M"),
                plain(str(job.get("state"))),
                plain(str(job.get("model") or UNKNOWN))[:MODEL_CHARS],
                short(job["provider"]) if job.get("provider") else "-",
                plain(str(job.get("pictures", UNKNOWN))),
                time(job["wall_us"]) if job.get("wall_us") is not None else "-",
                sentence(job.get("sentence") or ""),
            ]
        )
    headings = ("job", "asked", "state", "model", "provider", "n", "took", "")
    width = [max(cell_len(row[index]) for row in [headings, *rows]) for index in range(len(headings) - 1)]
    room = columns - sum(width) - ROOM * len(width)
    for row in rows:
        row[-1] = _clipped(row[-1], room)
    return table(headings, rows, wrapped=())


def _clipped(text: str, columns: int) -> str:
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= columns:
        return text
    return set_cell_size(text, columns - 3) + "..." if columns >= MIN_WRAPPED_CHARS else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, wrapped: Sequence[str]) -> "Table":
    """Columns that nobody fills are left out; those `wrapped` give way where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    used = [index for index in range(len(headings)) if any(row[index] for row in rows)]
    result = Table(box=None, pad_edge=False, padding=(0, ROOM, 0, 0), header_style="bold")
    for index in used:
        heading = headings[index]
        gives_way = heading in wrapped
        longest = max(len(row[index]) for row in rows)
        result.add_column(
            Text(heading),
            overflow="fold",
            no_wrap=not gives_way,
            min_width=min(longest, MIN_WRAPPED_CHARS) if gives_way else None,
        )
    for row in rows:
        result.add_row(*(Text(row[index]) for index in used))
    return result


def say(words: str, indent: str = "") -> None:
    """A line on stdout, broken between words where it would not fit; never within a peer id or an address."""
    if not (sys.stdout.isatty() or "COLUMNS" in os.environ):
        print(indent + words)
        return
    print(
        textwrap.fill(
            words,
            max(MIN_WRAPPED_CHARS, shutil.get_terminal_size().columns),
            initial_indent=indent,
            subsequent_indent=indent + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


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
    """Why that peer, what became of others that were asked, and where the time went."""
    job = plain(str(report.get("job")))[:JOB_CHARS]
    state = plain(str(report.get("state") or ""))
    timed = isinstance(report.get("wall_us"), int)
    took = [f"took {time((report.get('before_us') or 0) + report['wall_us'])}"] if timed else []
    took += ["drew nothing"] if state == "failed" or not timed else []
    print(f"Job {job}{f' ({state})' if state else ''} {' and '.join(took)}{adapters_of(report)}.")
    for words in report.get("sentences") or ():
        say(sentence(words))
    _print_attempts(_maps(report.get("attempts")))
    _print_candidates(report)
    for each in _maps(report.get("exclusions")):
        say(f"Not {who(each.get('name'), each.get('peer'))}: {sentence(each.get('sentence'))}")
    print()
    print_timeline(report)
    avoidable = report.get("avoidable")
    if isinstance(avoidable, dict):
        print()
        say(f"Avoidable: {sentence(avoidable.get('sentence'))}")


def _print_attempts(attempts: Sequence[Mapping[str, Any]]) -> None:
    """Nothing of a first attempt that went well."""
    for each in attempts if [each.get("outcome") for each in attempts] != ["done"] else ():
        said = f": {sentence(each['sentence'])}" if each.get("sentence") else ""
        asked = who(each.get("name"), each.get("peer"))
        why = f", asked as well because {plain(str(each['why']))}" if each.get("why") else ""
        say(f"Attempt {each.get('number')}, {asked}{why}, {plain(str(each.get('outcome')))}{said}")


def shown_price(millionths: object) -> str:
    """Credits to three digits, without the word."""
    if not isinstance(millionths, int) or millionths < 0:
        return UNKNOWN
    return shown_amount(three_digits(millionths)) if millionths else "-"


def quote_table(quote: Mapping[str, Any], columns: int) -> "Table":
    """Who would be asked, in this order; fits 60 columns."""
    rows = [
        (
            who(each.get("name"), each.get("peer")),
            f"{time(each.get('predicted_us'))} - {time(each.get('p90_us'))}",
            _wait(each),
            shown_price(each.get("price_millionths")),
            shown_price(each.get("cost_millionths")),
            time(each.get("rtt_us")) if columns >= NARROW_COLUMNS else "",
        )
        for each in _maps(quote.get("candidates"))
    ]
    return table(("peer", "there in (p50 - p90)", "wait", "price", "cost", "RTT"), rows, wrapped=("peer",))


def _wait(candidate: Mapping[str, Any]) -> str:
    """Until it is done with what it has, if it has anything."""
    spans = candidate.get("spans")
    wait_us = spans.get("wait") if isinstance(spans, dict) else None
    return time(wait_us) if wait_us else ""


def _print_spans(report: Mapping[str, Any], told: Container[object]) -> None:
    """What the best few and those `told` of were predicted to take, term by term."""
    candidates = _maps(report.get("candidates"))
    shown = [each for place, each in enumerate(candidates) if place < SPANS_SHOWN or each.get("peer") in told]
    known = {each.get("peer") for each in candidates}
    # Nobody knew of it yet when the job was planned.
    done = [each for each in _maps(report.get("attempts")) if each.get("outcome") == "done"]
    shown += [each for each in done if each.get("peer") not in known]
    for each in shown:
        spans = each.get("spans")
        if isinstance(spans, dict):
            terms = [f"{plain(name)} {time(us)}" for name, us in spans.items() if us]
            say(f"{who(each.get('name'), each.get('peer'))}: {', '.join(terms) or 'nothing'}", "  ")


def _print_candidates(report: Mapping[str, Any]) -> None:
    chosen = report.get("chosen") or report.get("provider")
    chosen = chosen.get("peer") if isinstance(chosen, dict) else chosen
    drew = report.get("provider") or chosen
    rows = []
    priced = any(each.get("price_millionths") for each in _maps(report.get("candidates")))
    for each in _maps(report.get("candidates")):
        part = ["chosen"] if each.get("peer") == chosen else []
        part += ["drew it"] if each.get("peer") == drew != chosen else []
        rows.append(
            (
                who(each.get("name"), each.get("peer")),
                time(each.get("rtt_us")),
                time(each.get("predicted_us")),
                shown_price(each.get("price_millionths")) if priced else "",
                ", ".join(part),
            )
        )
    if rows:
        print()
        headings = ("candidate", "RTT", "predicted", "price", "")
        console().print(table(headings, rows, wrapped=("candidate",)))
        _print_spans(report, (chosen, drew))


def _maps(items: object) -> list[Mapping[str, Any]]:
    return [each for each in items if isinstance(each, dict)] if isinstance(items, list) else []


def _or_last(number: object) -> int:
    return number if isinstance(number, int) else 1 << 63


def _hex(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} is no JSON")
