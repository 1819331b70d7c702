"""What each peer did when, and what was done to it: lanes over one time axis, on which long idle gaps are cut out."""

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .document import Bar, Happening, Mark, Part
from .svg import LETTER_PX, Scale, chart, clipped, element, path, text, x_axis

GAP_S = 120.0  # of a peer's history; a run's time axis has none cut out
STRIP_PX = 11  # bars that overlap lie one above the other
MAX_STRIPS = 6
LABEL_ROWS = 3


@dataclass(frozen=True)
class Stretch:
    """A part of time that is shown."""

    scale: Scale

    def holds(self, at_s: float) -> bool:
        return at_s <= self.scale.high


class TimeAxis:
    def __init__(
        self, moments_s: Iterable[tuple[float, float]], gap_s: float, left: float, right: float
    ) -> None:
        spans: list[list[float]] = []
        for start_s, end_s in sorted(moments_s):
            if spans and start_s - spans[-1][1] <= gap_s:
                spans[-1][1] = max(spans[-1][1], end_s)
            else:
                spans.append([start_s, end_s])
        room = right - left
        least = min(40.0, room / (2 * len(spans)))
        total_s = sum(end_s - start_s for start_s, end_s in spans) or 1.0
        at, self.stretches = left, list[Stretch]()
        for start_s, end_s in spans:
            length = least + (room - least * len(spans)) * (end_s - start_s) / total_s
            shown_s = max(end_s - start_s, 0.2)
            margin = 4.0 if len(spans) > 1 else 0.0
            self.stretches.append(
                Stretch(Scale(start_s, start_s + shown_s, at + margin, at + length - margin))
            )
            at += length

    def __call__(self, at_s: float) -> float:
        for stretch in self.stretches:
            if stretch.holds(at_s):
                return stretch.scale(at_s)
        return self.stretches[-1].scale.end_px

    def ticks(self, top: float, bottom: float, zero_us: int | None) -> list[str]:
        """Seconds on a run's clock; of a history, when each stretch began."""
        right = self.stretches[-1].scale.end_px + 12  # the chart ends there
        parts: list[str] = []
        if zero_us is None:
            return x_axis(self.stretches[0].scale, top, bottom, lambda value: f"{value:g} s")
        day = None
        free = 0.0
        for number, stretch in enumerate(self.stretches):
            scale = stretch.scale
            start = datetime.datetime.fromtimestamp(zero_us / 1e6 + scale.low).astimezone()
            words = f"{start:%H:%M}" if start.date() == day else f"{start:%b %d, %H:%M}"
            if number:
                at = scale.start_px - 4
                parts.append(element("line", x1=at, x2=at, y1=top, y2=bottom, class_="break"))
            if scale.start_px >= free and scale.start_px + LETTER_PX * len(words) <= right:
                parts.append(text(scale.start_px, bottom + 15, words, "start", "tick"))
                free, day = scale.start_px + LETTER_PX * (len(words) + 1), start.date()
        return parts


def lanes(part: Part, width: int) -> str:
    """A lane a peer: bars of what it drew or asked, marks of what was lost or found, and what was done to the swarm."""
    left = 118 if width > 400 else 84
    right = width - 12
    moments = [(bar.start_s, bar.end_s) for lane in part.lanes for bar in lane.bars]
    moments += [(mark.at_s, mark.at_s) for lane in part.lanes for mark in lane.marks]
    moments += [(each.at_s, each.until_s or each.at_s) for each in part.happenings]
    axis = TimeAxis(moments, float("inf") if part.zero_us is None else GAP_S, left, right)
    labels, rows = _labels(part.happenings, axis, left, right)
    top = 8.0 + 15 * rows
    y, parts = top, []
    for lane in part.lanes:
        strips = _strips(lane.bars)
        height = max(22, 8 + STRIP_PX * (1 + max((strip for _, strip in strips), default=0)))
        parts.append(element("rect", x=left, y=y, width=right - left, height=height - 3, class_="lane"))
        parts.append(text(left - 8, y + height / 2 + 2, clipped(lane.name, left - 10), "end", "tick"))
        parts += [_bar(bar, axis, y + 3 + STRIP_PX * strip) for bar, strip in strips]
        parts += [_mark(mark, axis(mark.at_s), y + height / 2 - 1) for mark in lane.marks]
        y += height
    behind = [part_ for each in part.happenings for part_ in _happening(each, axis, top, y)]
    lost = sum(mark.kind == "bad" for lane in part.lanes for mark in lane.marks)
    lost += sum(bar.kind == "lost" for lane in part.lanes for bar in lane.bars)
    words = (
        "; ".join(f"{each.what} at {each.at_s:.1f} s" for each in part.happenings)
        or "nothing was done to the peers"
    )
    said = f"What {len(part.lanes)} lanes did over time; {words}; {lost} failures are marked."
    return chart(width, y + 24, said, [*axis.ticks(top, y, part.zero_us), *behind, *parts, *labels])


def _labels(
    happenings: Sequence[Happening], axis: TimeAxis, left: float, right: float
) -> tuple[list[str], int]:
    """The names of what happened above the lanes, in up to LABEL_ROWS rows; what has no room is told on its line."""
    free = [left - 30] * LABEL_ROWS
    parts: list[tuple[float, int, Happening]] = []
    used = 0
    for each in sorted(happenings, key=lambda each: each.at_s):
        at, wide = axis(each.at_s), LETTER_PX * len(each.what)
        start = min(at, right - wide)
        row = next((row for row in range(LABEL_ROWS) if free[row] <= start), None)
        if row is not None:
            free[row], used = start + wide + 10, max(used, row + 1)
            parts.append((start, row, each))
    return [
        text(start, 12 + 15 * (used - 1 - row), each.what, "start", f"event event-{_kind(each)}")
        for start, row, each in parts
    ], used


def _kind(each: Happening) -> str:
    return "good" if each.kind == "good" else "bad"


def _happening(each: Happening, axis: TimeAxis, top: float, bottom: float) -> list[str]:
    at = axis(each.at_s)
    title = f"{each.what}, at {each.at_s:.2f} s"
    if each.until_s is not None:
        title += f", until {each.until_s:.2f} s"
    if each.recovered_ms is not None:
        title += f"\nanother provider drew after {each.recovered_ms:.0f} ms"
    parts = []
    if each.until_s is not None:
        parts.append(
            element(
                "rect", x=at, y=top, width=max(1.0, axis(each.until_s) - at), height=bottom - top, class_="during",
                title=title,
            )
        )  # fmt: skip
    parts.append(
        element(
            "line",
            x1=at,
            x2=at,
            y1=top - 2,
            y2=bottom,
            class_=f"happened happened-{_kind(each)} hot",
            title=title,
        )
    )
    if each.recovered_ms is not None:
        again = axis(each.at_s + each.recovered_ms / 1e3)
        parts.append(
            element(
                "rect",
                x=at,
                y=bottom - 4,
                width=max(2.0, again - at),
                height=4,
                class_="recovery",
                title=title,
            )
        )
    return parts


def _strips(bars: Iterable[Bar]) -> list[tuple[Bar, int]]:
    ends: list[float] = []
    placed = []
    for bar in sorted(bars, key=lambda bar: (bar.start_s, bar.end_s)):
        strip = next((n for n, end_s in enumerate(ends) if end_s <= bar.start_s), len(ends))
        strip = min(strip, MAX_STRIPS - 1)
        if strip == len(ends):
            ends.append(bar.end_s)
        else:
            ends[strip] = max(ends[strip], bar.end_s)
        placed.append((bar, strip))
    return placed


def _bar(bar: Bar, axis: TimeAxis, y: float) -> str:
    start, end = axis(bar.start_s), axis(bar.end_s)
    title = f"{bar.what}\n{bar.start_s:.2f} to {bar.end_s:.2f} s: {1e3 * (bar.end_s - bar.start_s):.0f} ms"
    return element(
        "rect", x=start, y=y, width=max(2.5, end - start), height=STRIP_PX - 2, rx=2, class_=f"hot b-{bar.kind}",
        title=title,
    )  # fmt: skip


def _mark(mark: Mark, x: float, y: float) -> str:
    return mark_shape(mark.kind, x, y, f"{mark.what}\nat {mark.at_s:.2f} s")


def mark_shape(kind: str, x: float, y: float, title: str | None = None) -> str:
    """Told apart by shape as well as by colour: a cross, a triangle, a diamond."""
    cross = [(-4, -4), (0, -1), (4, -4), (1, 0), (4, 4), (0, 1), (-4, 4), (-1, 0)]
    shapes = {"bad": cross, "good": [(0, -5), (5, 4), (-5, 4)], "note": [(0, -4), (4, 0), (0, 4), (-4, 0)]}
    shape = shapes.get(kind, shapes["note"])
    return path([(x + dx, y + dy) for dx, dy in shape], f"hot m-{kind}", title)
