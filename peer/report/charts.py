"""The charts of a part: each takes its numbers and a width in px, and gives SVG."""

import math
from collections.abc import Sequence
from statistics import median

from .document import PHASES, Cdf, Job, Part, Policy, Traffic, Witness
from .figures import Figures, Point, quantile
from .svg import (
    LETTER_PX,
    Scale,
    around,
    chart,
    clipped,
    element,
    milliseconds,
    path,
    text,
    within,
    x_axis,
    y_axis,
)

MAX_ROWS = 40  # jobs that have a bar of their own: the latest
ROW_PX = 17
PRODUCT = "nearlight"  # as the simulation calls it
SERIES = 6  # colours and dashes of the page
MOST_SHOWN = 0.99  # of a curve: the slowest request of all would make the others invisible
TOLD_SHARES = (0.5, 0.9, 0.95, 0.99)  # of a curve, in words
SPANS_OF_POLICY = {"before": "plan", "wait": "wait", "load": "load", "render": "draw", "network": "transfer"}
PHASE_WORDS = {
    "plan": "start and plan",
    "connect": "dial and offer",
    "wait": "queue",
    "load": "load weights",
    "draw": "draw",
    "transfer": "transfer",
    "check": "check and save",
    "lost": "lost attempts",
    "other": "other",
    "unaccounted": "unaccounted",
}


def short(job: Job) -> str:
    return job.job[:8] or "?"


# where the time went


def phases(jobs: Sequence[Job], found: Figures, width: int) -> str:
    """A bar for each of the latest jobs, and one of the medians over all."""
    shown = _latest(jobs)
    whose = [_whose(job, len({each.by for each in shown}) > 1 and width > 400) for job in shown]
    most, right = (230, 64) if width > 400 else (84, 54)
    left = min(most, max(60.0, LETTER_PX * max(map(len, whose)) + 12))
    longest = sorted((job.wall_us or 0) / 1e3 for job in shown)
    scale = Scale(0, _limit(longest), left, width - right)
    top, parts = 30.0, []
    parts += x_axis(scale, 8, top + 24 + ROW_PX * len(shown), milliseconds)
    parts += _phase_bar(found.phases_ms, scale, 8, 24, "the median job", None)
    parts += [
        text(left - 8, 25, "median", "end", "strong"),
        text(
            scale(sum(found.phases_ms.values())) + 5,
            25,
            milliseconds(found.wall_ms["p50"]),
            "start",
            "strong",
        ),
    ]
    for row, job in enumerate(shown):
        y = top + 14 + row * ROW_PX
        spent = {phase: us / 1e3 for phase, us in job.phases_us.items()}
        predicted = job.predicted_us / 1e3 if job.predicted_us else None
        parts.append(text(left - 8, y + 10, clipped(whose[row], left - 10), "end", "tick"))
        parts += _phase_bar(spent, scale, y, 12, f"job {short(job)} of {job.by}", predicted)
        wall_ms = (job.wall_us or 0) / 1e3
        end = max(scale(wall_ms), scale(predicted) if predicted and predicted <= scale.high else 0)
        parts.append(text(end + 5, y + 10, milliseconds(wall_ms), "start", "tick"))
    words = ", ".join(f"{PHASE_WORDS[name]} {milliseconds(ms)}" for name, ms in found.phases_ms.items())
    return chart(
        width, _phases_height(len(shown)), f"Stacked bars of {len(shown)} jobs. Medians: {words}.", parts
    )


def _latest(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if job.done and job.phases_us][-MAX_ROWS:]


def _phases_height(rows: int) -> int:
    return 76 + ROW_PX * rows


def plot(part: Part, found: Figures, style: str, mark: str) -> str:
    """`phases` with its legend as a file of its own, 760 px wide; `style` is CSS, `mark` a comment."""
    width, at, row, items = 760, 12.0, 0, []
    for phase in phases_of(part, found):
        room = 26 + LETTER_PX * len(PHASE_WORDS[phase])
        if at + room > width:
            at, row = 12.0, row + 1
        items.append(element("rect", x=at, y=46 + 20 * row, width=14, height=12, rx=2, class_=f"p-{phase}"))
        items.append(text(at + 20, 56 + 20 * row, PHASE_WORDS[phase], "start", "tick"))
        at += room + 10
    top = 66 + 20 * row
    height = top + _phases_height(len(_latest(part.jobs))) + 6
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">{mark}'
        f"<style>{style}</style>"
        + element("rect", x=0, y=0, width=width, height=height, rx=10, class_="paper")
        + text(12, 28, f"Where the time went: {part.name}", "start", "strong")
        + "".join(items)
        + f'<g transform="translate(0 {top})">{phases(part.jobs, found, width)}</g></svg>'
    )


def _whose(job: Job, told: bool) -> str:
    if job.provider == job.by:
        return "own device"
    return f"{job.provider} for {job.by}" if told else str(job.provider)


def _limit(ordered: Sequence[float], share: float = 0.75) -> float:
    """The end of an axis on which one slow job does not make all others invisible."""
    usual = 2.5 * quantile(list(ordered), share)
    return ordered[-1] * 1.02 if ordered[-1] <= usual else usual


def _phase_bar(
    spent_ms: dict[str, float], scale: Scale, y: float, height: float, whose: str, predicted_ms: float | None
) -> list[str]:
    total, at, parts = sum(spent_ms.values()), 0.0, []
    for phase in PHASES:
        if not (ms := spent_ms.get(phase, 0)):
            continue
        x, end = scale(at), scale(at + ms)
        at += ms
        if end - x > 0:
            title = f"{PHASE_WORDS[phase]}: {milliseconds(ms)}, {ms / total:.0%}\n{whose}, {milliseconds(total)} in all"
            parts.append(
                element("rect", x=x, y=y, width=end - x, height=height, class_=f"hot p-{phase}", title=title)
            )
        if height > 20 and end - x > LETTER_PX * len(phase) + 8:
            parts.append(text((x + end) / 2, y + height / 2 + 4, phase, "middle", f"on p-{phase}-ink"))
    if total > scale.high:  # cut off
        x = scale(scale.high)
        parts.append(path([(x - 9, y - 1), (x - 4, y + height + 1)], "cut"))
        parts.append(path([(x - 5, y - 1), (x, y + height + 1)], "cut"))
    if predicted_ms is not None and predicted_ms <= scale.high:
        x = scale(predicted_ms)
        title = f"predicted: {milliseconds(predicted_ms)}\n{whose}"
        parts.append(
            element("rect", x=x - 1, y=y - 2, width=2, height=height + 4, class_="predicted", title=title)
        )
    return parts


# how long it took


def distribution(series: dict[str, list[float]], width: int, what: str) -> str:
    """Cumulative distributions as steps: how many of the jobs were done within a time."""
    left, right, top, bottom = 44, 14, 10, 250
    scale = around([ms for times in series.values() for ms in times], left, width - right)
    share = Scale(0, 1, bottom, top)
    parts = x_axis(scale, top, bottom, milliseconds)
    parts += y_axis(share, left, width - right, lambda value: f"{value:.0%}")
    for number, (name, times) in enumerate(series.items()):
        at, points = 0.0, [(scale(times[0]), share(0))]
        for count, ms in enumerate(times, start=1):
            points += [(scale(ms), share(at)), (scale(ms), share(count / len(times)))]
            at = count / len(times)
        points.append((scale.end_px, share(1)))
        middle = median(times)
        most = milliseconds(quantile(times, 0.9))
        title = f"{name}\n{len(times)} jobs, median {milliseconds(middle)}, 90 % within {most}"
        parts.append(path(points, f"line hot s{number % SERIES}", title))
        for count, ms in enumerate(times, start=1):
            if len(times) <= MAX_ROWS:
                words = f"{name}\n{count / len(times):.0%} within {milliseconds(ms)}"
                parts.append(
                    element(
                        "circle", cx=scale(ms), cy=share(count / len(times)), r=2.6, class_=f"dot hot s{number % SERIES}",
                        title=words,
                    )
                )  # fmt: skip
    words = "; ".join(
        f"{name}: median {milliseconds(median(times))} of {len(times)}" for name, times in series.items()
    )
    return chart(width, bottom + 24, f"Share of jobs done within a time, {what}. {words}.", parts)


# expected and happened


def scatter(
    points: Sequence[Point], ratios: dict[str, float], width: int, axes: tuple[str, str], said: str
) -> str:
    """Dots about a diagonal; `ratios` (y / x) are bands about it."""
    left, right, top, bottom = 58, 14, 10, 280
    values = [value for point in points for value in (point.x_ms, point.y_ms)]
    x, y = around(values, left, width - right), around(values, bottom, top)
    parts = x_axis(x, top, bottom, milliseconds) + y_axis(y, left, width - right, milliseconds)
    inside = []
    for low, high, class_, words in (
        ("p5", "p95", "band90", "90 % of the jobs"),
        ("p25", "p75", "band50", "50 % of the jobs"),
    ):
        if ratios:
            title = f"{words} took {ratios[low]:.2f} to {ratios[high]:.2f} of what was predicted"
            inside.append(_wedge(x, y, ratios[low], ratios[high], class_, title))
    if ratios:
        inside.append(path(_ray(x, y, ratios["p50"]), "median"))
    inside.append(path(_ray(x, y, 1.0), "diagonal"))
    for point in points:
        times = f"{axes[0]} {milliseconds(point.x_ms)}, took {milliseconds(point.y_ms)}"
        title = f"job {point.job[:8]} of {point.what}\n{times}"
        known = "" if point.sure else " hollow"
        inside.append(
            element(
                "circle", cx=x(point.x_ms), cy=y(point.y_ms), r=4.2, class_=f"point hot{known}", title=title
            )
        )
    parts.append(within(left, top, width - right - left, bottom - top, inside))
    parts.append(text((left + width - right) / 2, bottom + 32, f"{axes[0]} →", "middle", "axis"))
    parts.append(text(left + 6, top + 12, f"↑ {axes[1]}", "start", "axis"))
    return chart(width, bottom + 40, said, parts)


def _ray(x: Scale, y: Scale, ratio: float) -> list[tuple[float, float]]:
    """y = ratio * x, drawn beyond the axes: a straight line on two scales of one kind."""
    low, high = x.low, x.high
    free = [_unbounded(y, value * ratio) for value in (low, high)]
    return [(x(low), free[0]), (x(high), free[1])]


def _unbounded(scale: Scale, value: float) -> float:
    """As `scale`, also beyond its ends."""
    if scale.low <= value <= scale.high:
        return scale(value)
    if scale.log:
        per = (scale.end_px - scale.start_px) / math.log(scale.high / scale.low)
        return scale.start_px + per * math.log(max(value, 1e-9) / scale.low)
    per = (scale.end_px - scale.start_px) / (scale.high - scale.low)
    return scale.start_px + per * (value - scale.low)


def _wedge(x: Scale, y: Scale, low: float, high: float, class_: str, title: str) -> str:
    lower, upper = _ray(x, y, low), _ray(x, y, high)
    return path([*lower, *reversed(upper)], class_, title)


# control traffic


def traffic(found: Traffic, width: int) -> str:
    """Bytes a second over time, stacked: control below, conversations about jobs above."""
    left, right, top, bottom = 58, 10, 10, 200
    control = [count / found.bin_s / 1e3 for count in found.control_bytes]
    jobs = [count / found.bin_s / 1e3 for count in found.jobs_bytes]
    most = max([*(a + b for a, b in zip(control, jobs, strict=True)), 0.001])
    x = Scale(found.from_s, found.from_s + found.bin_s * max(1, len(control)), left, width - right)
    y = Scale(0, most * 1.05, bottom, top)
    parts = x_axis(x, bottom, bottom, lambda value: f"{value:g} s") + y_axis(
        y, left, width - right, lambda value: f"{value:g} kB/s"
    )
    for number, (quiet, busy) in enumerate(zip(control, jobs, strict=True)):
        start, end = (x(found.from_s + found.bin_s * each) for each in (number, number + 1))
        room = max(0.8, end - start - (1 if end - start > 4 else 0))
        at = f"{found.from_s + found.bin_s * number:g} s"
        title = f"{at}: control {quiet:.2f} kB/s, conversations about jobs {busy:.2f} kB/s"
        for low, high, class_ in ((0.0, quiet, "control"), (quiet, quiet + busy, "conversations")):
            if high > low:
                parts.append(
                    element(
                        "rect", x=start, y=y(high), width=room, height=y(low) - y(high), class_=f"hot {class_}",
                        title=title,
                    )
                )  # fmt: skip
    mean = sum(control) / max(1, len(control))
    return chart(
        width, bottom + 24, f"Bytes a second over time; control traffic {mean:.2f} kB/s at the mean.", parts
    )


# timelines and packets


def witness(found: Witness, width: int) -> str:
    """A dot for each phase of each job: how much longer it was by its timeline than on the wire."""
    left, right, row = (76, 16, 46)
    rows = list(dict.fromkeys(each.phase for each in found.phases))
    within = found.within_us / 1e3
    differ = [(each.told_us - each.seen_us) / 1e3 for each in found.phases]
    scale = Scale(min(-1.5 * within, *differ) * 1.05, max(1.5 * within, *differ) * 1.05, left, width - right)
    bottom = 8 + row * len(rows)
    band = (scale(-within), scale(within))
    parts = [element("rect", x=band[0], y=4, width=band[1] - band[0], height=bottom - 4, class_="band50")]
    parts += x_axis(scale, 4, bottom, lambda value: f"{value:+g} ms" if value else "0 ms")
    parts.append(element("line", x1=scale(0), x2=scale(0), y1=4, y2=bottom, class_="diagonal"))
    for number, phase in enumerate(rows):
        middle = 8 + row * (number + 0.5)
        parts.append(text(left - 8, middle + 4, clipped(phase, left - 10), "end", "tick"))
        for place, each in enumerate(each for each in found.phases if each.phase == phase):
            told, seen = milliseconds(each.told_us / 1e3), milliseconds(each.seen_us / 1e3)
            title = f"{phase} of job {each.job[:8]}\nby its timeline {told}, on the wire {seen}"
            parts.append(
                element(
                    "circle", cx=scale((each.told_us - each.seen_us) / 1e3), cy=middle + 7.0 * (place % 5 - 2), r=3.8,
                    class_=f"point hot{'' if each.agrees else ' hollow differs'}", title=title,
                )
            )  # fmt: skip
    agree = sum(each.agrees for each in found.phases)
    said = (
        f"How far timelines differ from the record of packets: {agree} of {len(found.phases)} phases agree."
    )
    return chart(width, bottom + 24, said, parts)


# policies in virtual time


def policies(found: Sequence[Policy], width: int) -> str:
    """p50, p95 and p99 of each policy, the best first."""
    ranked = sorted(found, key=lambda each: each.p50_s)
    left, right, row = (112, 20, 26) if width > 400 else (100, 16, 26)
    scale = around(
        [value * 1e3 for each in ranked for value in (each.p50_s, each.p99_s)], left, width - right
    )
    bottom = 10 + row * len(ranked)
    parts = x_axis(scale, 6, bottom, milliseconds)
    for number, each in enumerate(ranked):
        y = 10 + row * number + row / 2
        parts.append(text(left - 8, y + 4, clipped(each.name, left - 10), "end", _of_policy(each.name)))
        title = (
            f"{each.name}: half within {milliseconds(each.p50_s * 1e3)}, 95 % within {milliseconds(each.p95_s * 1e3)}, "
            f"99 % within {milliseconds(each.p99_s * 1e3)}\np50 is {each.ratio_p50:.2f} and p95 {each.ratio_p95:.2f} "
            f"times the oracle's; {each.refusals_per_request:.2f} refusals and {each.messages_per_request:.0f} messages "
            "a request"
        )
        p50, p95, p99 = (scale(value * 1e3) for value in (each.p50_s, each.p95_s, each.p99_s))
        inside = (
            element("rect", x=left, y=y - row / 2, width=width - right - left, height=row, class_="hit"),
            element("line", x1=p50, x2=p99, y1=y, y2=y, class_="range"),
            element("line", x1=p99, x2=p99, y1=y - 5, y2=y + 5, class_="range"),
            element("circle", cx=p95, cy=y, r=4, class_="point hollow"),
            element("circle", cx=p50, cy=y, r=5, class_="point"),
        )
        parts.append(element("g", *inside, class_="hot", title=title))
    words = "; ".join(
        f"{each.name} {milliseconds(each.p50_s * 1e3)} and {milliseconds(each.p95_s * 1e3)}"
        for each in ranked
    )
    return chart(width, bottom + 24, f"Latency by policy, p50 and p95: {words}.", parts)


def curves(found: dict[str, Cdf], width: int, what: str) -> str:
    """Cumulative distributions from fixed quantiles."""
    left, right, top, bottom = 44, 14, 10, 250
    lines = {name: list(zip(cdf.share, cdf.seconds, strict=False)) for name, cdf in found.items()}
    shown = [seconds * 1e3 for line in lines.values() for share, seconds in line if share <= MOST_SHOWN]
    scale = around(shown, left, width - right)
    height = Scale(0, 1, bottom, top)
    parts = x_axis(scale, top, bottom, milliseconds)
    parts += y_axis(height, left, width - right, lambda value: f"{value:.0%}")
    for number, (name, line) in enumerate(lines.items()):
        within_ms = [
            f"{share:.0%} within {milliseconds(seconds * 1e3)}"
            for share, seconds in line
            if share in TOLD_SHARES
        ]
        points = [(scale(seconds * 1e3), height(share)) for share, seconds in line]
        parts.append(path(points, f"{series_class(number)} hot", "\n".join([name, *within_ms])))
    return chart(
        width, bottom + 24, f"Share of requests answered within a time, {what}: {', '.join(found)}.", parts
    )


def series_class(number: int) -> str:
    """Of a line; from the seventh on, thinner ones of the same colours."""
    return f"line s{number % SERIES}{' thin' if number >= SERIES else ''}"


def where(found: Sequence[Policy], width: int) -> str:
    """Where a request's time went under each policy: means."""
    ranked = [each for each in sorted(found, key=lambda each: each.p50_s) if each.where_s]
    left, right, row = (112, 58, 24) if width > 400 else (100, 50, 24)
    totals = [1e3 * sum(each.where_s.values()) for each in ranked]
    scale = Scale(0, _limit(sorted(totals), 0.5), left, width - right)
    bottom = 6 + row * len(ranked)
    parts = x_axis(scale, 2, bottom, milliseconds)
    for number, (each, total) in enumerate(zip(ranked, totals, strict=True)):
        y = 6 + row * number + 4
        spent: dict[str, float] = {}
        for name, seconds in each.where_s.items():
            phase = SPANS_OF_POLICY.get(name, "other")
            spent[phase] = spent.get(phase, 0) + 1e3 * seconds
        parts.append(text(left - 8, y + 12, clipped(each.name, left - 10), "end", _of_policy(each.name)))
        parts += _phase_bar(spent, scale, y, 16, each.name, None)
        parts.append(text(min(scale(total), width - right) + 5, y + 12, milliseconds(total), "start", "tick"))
    words = "; ".join(
        f"{each.name} {milliseconds(total)}" for each, total in zip(ranked, totals, strict=True)
    )
    return chart(width, bottom + 24, f"Mean time by phase and policy: {words}.", parts)


def _of_policy(name: str) -> str:
    return "strong" if name == PRODUCT else "tick"


def phases_of(part: Part, found: Figures) -> list[str]:
    """Those that the part's bars show: for their legend."""
    shown = {phase for job in part.jobs if job.done for phase in job.phases_us}
    return [phase for phase in PHASES if phase in shown or phase in found.phases_ms]
