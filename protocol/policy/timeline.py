"""Where the time of a job went: spans, of which the critical ones partition the wall time from "asked" to the end.

No span is made by subtraction: what no critical span covers is `unaccounted_us`, and is shown as that.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self, TypedDict

from ..errors import LocalProtocolError

MAX_SPANS = 16_384  # 1000 steps on each of a dozen attempts, and as much again; what is beyond it is counted

# What was asked for.
EXECUTION = frozenset({"encode_prompt", "noise", "prepare", "step", "decode", "encode_image"})

ADVICE = {
    "start_peer": "starting a peer for this one picture; one that runs already (`peer up`) costs nothing",
    "join": "joining the swarm; a peer that runs already (`peer up`) has joined",
    "submit": "handing the request over and reading it",
    "look": "asking those who are near how busy they are, before one is chosen",
    "plan": "choosing a peer",
    "dial": "opening a connection; a connection that is already open costs nothing",
    "address": "writing, signing and encrypting the offer, until it left this machine",
    "offer": "agreeing with the provider; a nearer provider answers sooner",
    "wait": "waiting in the provider's queue; a provider that is idle would have started at once",
    "start_renderer": "starting the renderer's process; while it runs, the next picture does without",
    "load_weights": "loading the model's weights; while they stay resident there, the next picture does without",
    "load_adapter": "applying adapters; the next picture with the same ones does without",
    "handoff": "handing the task to the renderer's process",
    "handback": "taking the picture back from the renderer's process",
    "sign": "hashing the picture and signing its receipt",
    "leave": "encrypting the news that the picture is there, until it left a provider's machine that may be busy",
    "wake": "reading what had arrived; a machine that is busy with other things takes longer",
    "lost": "attempts that gave no picture; `attempts` says what became of each",
    "transfer": "moving the picture; a nearer provider or a faster link shortens it",
    "check": "checking signature, file and pixels",
    "save": "writing the receipt into the ledger",
    "embed": "putting the receipt into the picture's file",
    "deliver": "handing the picture to the command that asked for it",
    "write_file": "writing the picture to disk",
}


class Entry(TypedDict):
    """A span as it is shown, stored and printed as JSON."""

    span: str
    parent: str | None
    attempt: str | None
    observer: str
    start_us: int
    us: int
    critical: bool


@dataclass(frozen=True)
class Span:
    """A measured stretch of time.  `start_us` counts from "asked"."""

    span: str
    parent: str | None
    attempt: str | None  # hex
    observer: str  # peer id of who measured it
    start_us: int
    us: int
    critical: bool

    @property
    def end_us(self) -> int:
        return self.start_us + self.us

    def to_entry(self) -> Entry:
        return {
            "span": self.span,
            "parent": self.parent,
            "attempt": self.attempt,
            "observer": self.observer,
            "start_us": self.start_us,
            "us": self.us,
            "critical": self.critical,
        }


@dataclass(frozen=True)
class Avoidable:
    span: str
    us: int  # all critical spans of that name together
    sentence: str


class Timeline:
    """The spans of one job.  All readings are of one monotonic clock, in microseconds."""

    def __init__(self, asked_us: int) -> None:
        self.asked_us = asked_us
        self._spans: list[Span] = []
        self._wall_us: int | None = None
        self._dropped = 0

    def add(
        self,
        name: str,
        start_us: int,
        us: int,
        *,
        observer: str,
        attempt: bytes | str | None = None,
        parent: str | None = None,
        critical: bool = False,
    ) -> None:
        """A span that began at the clock reading `start_us`.  What lies before "asked" is cut off.

        Critical spans may be added in any order; where two overlap, the one that began first keeps the time.
        """
        if us < 0:
            raise LocalProtocolError(f"span {name!r} lasts {us} us")
        if len(self._spans) >= MAX_SPANS:
            self._dropped += 1
            return
        start = start_us - self.asked_us
        if start < 0:
            start, us = 0, max(0, us + start)
        hexed = attempt.hex() if isinstance(attempt, bytes) else attempt
        self._spans.append(Span(name, parent, hexed, observer, start, us, critical))

    def finish(self, now_us: int) -> None:
        """The job's end.  Raises LocalProtocolError if it had ended, or ends before it was asked."""
        if self._wall_us is not None or now_us < self.asked_us:
            raise LocalProtocolError("a timeline ends once, after it began")
        self._wall_us = now_us - self.asked_us

    def extend(self, name: str, start_us: int, us: int, *, observer: str) -> None:
        """What came of it after `finish`, in the hands of whoever asked: a critical span with which the job now ends.

        LocalProtocolError unless the job ended before `start_us`, a clock reading.
        """
        if start_us < self.asked_us + self.wall_us:
            raise LocalProtocolError(f"span {name!r} began before the end that it comes after")
        self.add(name, start_us, us, observer=observer, critical=True)
        self._wall_us = start_us + us - self.asked_us

    @property
    def finished(self) -> bool:
        return self._wall_us is not None

    @property
    def wall_us(self) -> int:
        """From "asked" to the end.  LocalProtocolError before `finish`."""
        if self._wall_us is None:
            raise LocalProtocolError("the timeline has not ended")
        return self._wall_us

    def spans(self) -> tuple[Span, ...]:
        """By start.  Critical spans are clipped so that no two overlap and none passes the end."""
        return self._clipped()[0]

    def entries(self) -> list[Entry]:
        return [span.to_entry() for span in self.spans()]

    @classmethod
    def from_entries(cls, entries: Iterable[Mapping[str, object]], wall_us: int) -> Self:
        """The timeline that `entries()` described.  ValueError if an entry is none."""
        timeline = cls(0)
        for entry in entries:
            timeline._spans.append(_span(entry))
        timeline._wall_us = wall_us
        return timeline

    @property
    def unaccounted_us(self) -> int:
        """Wall time that no critical span covers."""
        return self.wall_us - sum(span.us for span in self.spans() if span.critical)

    def largest_avoidable(self) -> Avoidable | None:
        """What, other than execution, took most of the critical time: None if nothing did."""
        totals: dict[str, int] = {}
        for span in self.spans():
            if span.critical and span.span not in EXECUTION:
                totals[span.span] = totals.get(span.span, 0) + span.us
        totals["unaccounted"] = self.unaccounted_us
        name = max(totals, key=lambda name: totals[name])
        us = totals[name]
        if us <= 0:
            return None
        share = f"{duration(us)} of {duration(self.wall_us)}"
        if name == "unaccounted":
            return Avoidable(name, us, f"{share} is covered by no span: unaccounted.")
        return Avoidable(name, us, f"{share} went into {ADVICE.get(name, name)}.")

    def bars(self, width: int) -> list[str]:
        """Rows of at most `width` columns, one a span (a run of one name is one row): name, bar, duration.

        A critical span is drawn solid, another light.
        """
        rows = _runs(self.spans())
        rows_labels = [span.span + (f" x{count}" if count > 1 else "") for span, count, _ in rows]
        times = [duration(us) for _, _, us in rows]
        left = max([len("unaccounted"), *map(len, rows_labels)])
        right = max([len(duration(self.wall_us)), *map(len, times)])
        columns = max(8, width - left - right - 2)
        scale = max(1, self.wall_us)
        lines = []
        for (span, _, _), label, time in zip(rows, rows_labels, times, strict=True):
            start = min(columns - 1, span.start_us * columns // scale)
            end = min(columns, max(start + 1, -(-span.end_us * columns // scale)))
            bar = " " * start + ("█" if span.critical else "░") * (end - start)
            lines.append(f"{label:<{left}} {bar:<{columns}} {time:>{right}}")
        lines.append(f"{'unaccounted':<{left}} {'':<{columns}} {duration(self.unaccounted_us):>{right}}")
        return lines

    def statistics(self) -> dict[str, int]:
        """`overlap_us` and `overlaps`: critical time that two spans claimed.  `dropped`: spans beyond MAX_SPANS."""
        _, overlaps, overlap_us = self._clipped()
        return {
            "spans": len(self._spans),
            "dropped": self._dropped,
            "overlaps": overlaps,
            "overlap_us": overlap_us,
        }

    def _clipped(self) -> tuple[tuple[Span, ...], int, int]:
        covered_us, overlaps, overlap_us = 0, 0, 0
        result = []
        for span in sorted(self._spans, key=lambda span: (span.start_us, span.us)):
            if span.critical:
                start = max(span.start_us, covered_us)
                end = span.end_us if self._wall_us is None else min(span.end_us, self._wall_us)
                us = max(0, end - start)
                overlaps += us < span.us
                overlap_us += span.us - us
                if us:
                    span = replace(span, start_us=start, us=us)
                else:  # nothing of it is left on the critical path: it happened beside it
                    span = replace(span, critical=False)
                covered_us = max(covered_us, start + us)
            result.append(span)
        return tuple(result), overlaps, overlap_us


def duration(us: int) -> str:
    """A duration for a person: about three digits and a unit."""
    if us < 1_000:
        return f"{us} us"
    if us < 1_000_000:
        return f"{us / 1e3:.{2 if us < 10_000 else 1 if us < 100_000 else 0}f} ms"
    if us < 120_000_000:
        return f"{us / 1e6:.{2 if us < 10_000_000 else 1}f} s"
    return f"{us / 60e6:.0f} min" if us < 7_200_000_000 else f"{us / 3600e6:.1f} h"


def _runs(spans: tuple[Span, ...]) -> list[tuple[Span, int, int]]:
    """(one span from the first's start to the last's end, how many, their time) for each run of one name."""
    rows: list[tuple[Span, int, int]] = []
    for span in spans:
        if rows:
            last, count, us = rows[-1]
            if (last.span, last.attempt, last.observer, last.critical) == (
                span.span,
                span.attempt,
                span.observer,
                span.critical,
            ):
                joined = replace(last, us=max(last.end_us, span.end_us) - last.start_us)
                rows[-1] = (joined, count + 1, us + span.us)
                continue
        rows.append((span, 1, span.us))
    return rows


def _span(entry: Mapping[str, object]) -> Span:
    match entry:
        case {
            "span": str(name),
            "parent": str() | None as parent,
            "attempt": str() | None as attempt,
            "observer": str(observer),
            "start_us": int(start_us),
            "us": int(us),
            "critical": bool(critical),
        } if start_us >= 0 <= us:
            return Span(name, parent, attempt, observer, start_us, us, critical)
    raise ValueError("not an entry of a timeline")
