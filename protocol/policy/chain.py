"""What of the time of several attempts led to the picture, where two of them were under way at once.

Who waits for a picture waits for one thing at a time: for the attempt that then ended or was late, until another was
chosen; from there on for that other one, if the picture came of it.  What else was tried happened beside that.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .timeline import Timeline

LOST = "lost"  # from the last thing that went well, until the attempt ended without a picture or another was chosen


@dataclass
class Leg:
    """Where the time of one attempt went.  All readings are of one monotonic clock, in microseconds."""

    attempt: bytes
    began_us: int  # its peer was being chosen
    after: "Leg | None"  # which had ended, or was late: else nobody would have been chosen
    spanned_us: int  # until then, spans say where its time went
    ended_us: int | None = None  # without a picture
    spans: list[tuple[str, int, int, str]] = field(default_factory=list)  # name, start_us, us, observer

    def add(self, name: str, start_us: int, end_us: int, *, observer: str) -> None:
        self.spans.append((name, start_us, max(0, end_us - start_us), observer))

    def add_heard(self, name: str, start_us: int, heard_us: int, read_us: int, *, observer: str) -> None:
        """What ended with a message that came at `heard_us`; and how long that then waited here until it was read."""
        self.add(name, start_us, heard_us, observer=observer)
        if read_us > heard_us:
            self.add("wake", heard_us, read_us, observer=observer)


def lay(timeline: Timeline, legs: Iterable[Leg], last: Leg | None, end_us: int, *, observer: str) -> None:
    """Puts all of it onto `timeline`, LOST by `observer`.

    Critical is what `last` and those it came `after` did, each until the next was being chosen and `last` until `end_us`.
    """
    until_us: dict[bytes, int] = {}
    link = last
    while link is not None:
        until_us[link.attempt] = end_us
        end_us, link = link.began_us, link.after
    for leg in legs:
        until = until_us.get(leg.attempt)
        spans = list(leg.spans)
        if until is not None:
            lost_us = (until if leg.ended_us is None else min(until, leg.ended_us)) - leg.spanned_us
            spans += [(LOST, leg.spanned_us, lost_us, observer)] if lost_us > 0 else []
        for name, start_us, us, whose in spans:
            critical = until is not None and start_us < until
            if until is not None and critical:
                us = min(us, until - start_us)
            timeline.add(name, start_us, us, observer=whose, attempt=leg.attempt, critical=critical)
