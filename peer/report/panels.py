"""The figures of a part, each with its caption, its legend and what it says in words; or why there is none."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from . import charts, timeaxis
from .document import Cdf, Expectation, NotWitnessed, Part, Policy, Traffic, Witness
from .figures import Figures
from .markup import card, details, figure, legend, strong, swatch, table, verdict
from .svg import element, escape, milliseconds, responsive

MANY_ROWS = 16  # bars of jobs that want the whole width


@dataclass(frozen=True)
class Panel:
    title: str
    caption: str
    inside: str | None  # HTML
    otherwise: str = ""  # words, where there is nothing inside
    full: bool = False  # as wide as the page


def panels(part: Part, found: Figures) -> str:
    """All figures of a part; those that there is nothing to draw for are named in one card at the end."""
    given = [
        _where_it_went(part, found),
        _by_link(found),
        _prediction(found),
        _hindsight(found),
        _over_time(part),
        *([_by_policy(found)] if len(found.by_policy_ms) > 1 else []),
        _traffic(part.traffic),
        _witness(part.witness),
    ]
    drawn = "".join(
        figure(each.title, each.caption, each.inside, full=each.full)
        for each in given
        if each.inside is not None
    )
    missing = "".join(
        f"<li><b>{escape(each.title)}.</b> {escape(each.otherwise)}</li>"
        for each in given
        if each.inside is None
    )
    return drawn + (
        card("Not drawn", "There is nothing to show for these.", f"<ul>{missing}</ul>", full=True)
        if missing
        else ""
    )


def _where_it_went(part: Part, found: Figures) -> Panel:
    timed = [job for job in part.jobs if job.done and job.phases_us]
    caption = (
        "Each bar is a job, from asking to the picture on disk; the first is the median of each phase. The thin upright "
        "mark is what was predicted."
    )
    if len(timed) > charts.MAX_ROWS:
        caption += f" The latest {charts.MAX_ROWS} of {len(timed)} jobs."
    inside, many = None, len(timed) > MANY_ROWS
    if timed:
        inside = phase_legend(charts.phases_of(part, found))
        inside += responsive(lambda width: charts.phases(part.jobs, found, width), full=many)
    return Panel(
        "Where the time went", caption, inside, "No job here gave a picture and a timeline.", full=many
    )


def _by_link(found: Figures) -> Panel:
    return Panel(
        "How long it took, by link",
        "How many of the jobs were done within a time, by who asked whom and the round trip between them.",
        _distribution(found.by_link_ms, "by link") if sum(map(len, found.by_link_ms.values())) > 1 else None,
        "It takes two jobs that were drawn by peers whose distance was known.",
    )


def _by_policy(found: Figures) -> Panel:
    return Panel(
        "How long it took, by policy",
        "The same pictures, asked for in different ways.",
        _distribution(found.by_policy_ms, "by policy"),
    )


def _distribution(series: dict[str, list[float]], what: str) -> str:
    items = (
        (
            element("line", x1=0, x2=22, y1=6, y2=6, class_=f"line s{number % charts.SERIES}"),
            f"{name}: median {milliseconds(median(times))} of {len(times)}",
        )
        for number, (name, times) in enumerate(series.items())
    )
    return legend(items) + responsive(lambda width: charts.distribution(series, width, what))


def _prediction(found: Figures) -> Panel:
    caption = (
        "Each dot is a job that the peer asked first has drawn. On the line, it took what was predicted; the bands hold "
        "50 % and 90 % of the jobs, the dashes are their median."
    )
    if "plan" in found.phases_ms:
        caption += (
            f" A prediction begins with the plan: starting and planning, {milliseconds(found.phases_ms['plan'])} in the "
            "median job, are not in it."
        )
    of, inside = found.prediction, None
    if of.points:
        said = (
            f"Off by {of.error_p50:.0%} of the time it took in the median, by {of.error_p90:.0%} at the 90th percentile; "
            f"the median of {len(of.points)} jobs took {of.ratios['p50']:.2f} of what was predicted."
        )
        if of.within_p90 is not None:
            said += f" {of.within_p90:.0%} of all jobs were done by their p90."
        axes = ("predicted", "it took")
        inside = strong(said) + responsive(
            lambda width: charts.scatter(of.points, of.ratios, width, axes, f"Prediction and outcome. {said}")
        )
    return Panel("Prediction against outcome", caption, inside, "No prediction was put to the test.")


def _hindsight(found: Figures) -> Panel:
    of, inside = found.hindsight, None
    if of.points:
        said = f"{of.best_chosen} of {len(of.points)} jobs went at once to the peer that was best"
        said += f"; the largest loss was {milliseconds(of.lost_most_ms)}." if of.lost_most_ms else "."
        axes = ("best in hindsight", "it took")
        inside = strong(said) + responsive(lambda width: charts.scatter(of.points, {}, width, axes, said))
    return Panel(
        "Chosen against best in hindsight",
        "What each job took, beside the least that any candidate would have taken: the prediction for it, with the speed "
        "that it really showed, and a queue as it was foreseen. On the line, nobody would have been sooner. Hollow: some "
        "candidate drew nothing, and is judged by its prediction alone.",
        inside,
        "No job had more than one candidate: there was nothing to choose.",
    )


def _over_time(part: Part) -> Panel:
    caption = "What was asked and drawn over time, and what failed."
    if part.happenings:
        caption = "What each peer did over time, what was done to it, and how long it took until another one drew on."
    if part.zero_us is not None:
        caption += " Long idle times are cut out."
    inside = None
    if any(lane.bars or lane.marks for lane in part.lanes):
        inside = _lane_legend(part) + responsive(lambda width: timeaxis.lanes(part, width), full=True)
    return Panel("Failures and recoveries", caption, inside, "Nothing happened.", full=True)


def _lane_legend(part: Part) -> str:
    kinds = {bar.kind for lane in part.lanes for bar in lane.bars}
    words = {
        "job": "asked, until on disk", "recovered": "took several attempts", "draw": "drawing",
        "wait": "waiting in a queue", "lost": "lost or failed", "stopped": "cancelled",
    }  # fmt: skip
    items = [(swatch(f"b-{kind}"), told) for kind, told in words.items() if kind in kinds]
    if any(each.recovered_ms is not None for each in part.happenings):
        items.append(
            (element("rect", x=2, y=4, width=18, height=4, class_="recovery"), "until another one drew")
        )
    marks = {mark.kind for lane in part.lanes for mark in lane.marks}
    told_marks = {"good": "found or back", "bad": "lost or failed", "note": "note"}
    items += [(timeaxis.mark_shape(kind, 11, 6), told) for kind, told in told_marks.items() if kind in marks]
    return legend(items)


def _traffic(found: Traffic | None) -> Panel:
    inside = None
    if found is not None:
        rows = [
            (
                escape(each.peer),
                f"{each.control_bytes_per_s / 1e3:.2f} kB/s",
                f"{each.jobs_bytes_per_s / 1e3:.2f} kB/s",
            )
            for each in found.by_peer
        ]
        mean = fmean(each.control_bytes_per_s for each in found.by_peer) / 1e3 if found.by_peer else 0.0
        inside = legend(
            ((swatch("control"), "control"), (swatch("conversations"), "conversations about jobs"))
        )
        inside += responsive(lambda width: charts.traffic(found, width))
        inside += details(
            f"Each peer, sent and received: {mean:.2f} kB/s of control at the mean",
            table(("peer", "control", "conversations"), rows, numbers=(1, 2)),
        )
    return Panel(
        "Control traffic",
        "Bytes on the wire, from a record that no peer controls. Conversations are between two peers while one draws for "
        "the other; all else is control: adverts, pings, dialling.",
        inside,
        "A peer does not count its own packets. A run of the testnet over emulated links does.",
    )


def _witness(found: Witness | None) -> Panel:
    inside, within = None, ""
    if found is not None and found.phases:
        within = f" In the band they agree; so they do within {found.within_share:.0%} of a long phase."
        rows = dict.fromkeys(each.phase for each in found.phases)
        agree = {phase: [each.agrees for each in found.phases if each.phase == phase] for phase in rows}
        said = ", ".join(f"{sum(each)} of {len(each)} {phase}s" for phase, each in agree.items())
        inside = strong(f"{said} agree within {found.within_us / 1e3:g} ms or {found.within_share:.0%}.")
        inside += responsive(lambda width: charts.witness(found, width))
    if found is not None and found.left_out:
        inside = (inside or "") + _left_out(found.left_out)
    return Panel(
        "An independent witness",
        "How much longer each phase of a job was by its requester's timeline than on the wire, where the router saw its "
        "packets. What a message waited for a busy machine at either end belongs to neither." + within,
        inside,
        "It takes the record of packets of a run over emulated links.",
    )


def _left_out(found: Sequence[NotWitnessed]) -> str:
    """Which jobs, by why."""
    jobs: dict[str, list[str]] = {}
    for each in found:
        jobs.setdefault(each.why, []).append(each.job)
    rows = [(escape(why), escape(", ".join(of)), str(len(of))) for why, of in jobs.items()]
    headings = ("not compared, because", "jobs", "count")
    return table(headings, rows, numbers=(2,))


# of scenarios and simulations


def expectations(found: Sequence[Expectation]) -> str:
    if not found:
        return ""
    rows = [
        (
            escape(each.what),
            escape(each.bound),
            escape(each.outcome),
            "not judged" if each.ok is None else verdict(each.ok, "ok" if each.ok else "FAILED"),
        )
        for each in found
    ]
    inside = table(("expected", "bound", "came out", ""), rows, numbers=(1, 2))
    return card("Expectations", "What the scenario states, and what came out.", inside, full=True)


def policies(found: Sequence[Policy]) -> str:
    if not found:
        return ""
    ranked = sorted(found, key=lambda each: each.p50_s)
    shown = _product_first(ranked)[0]
    spans = {charts.SPANS_OF_POLICY.get(name, "other") for each in ranked for name in each.where_s}
    rows = [
        (
            escape(each.name),
            milliseconds(each.p50_s * 1e3),
            milliseconds(each.p95_s * 1e3),
            f"{each.ratio_p50:.2f}",
            f"{each.ratio_p95:.2f}",
            f"{each.refusals_per_request:.2f}",
            f"{each.messages_per_request:.0f}",
            f"{each.control['idle_bytes_per_s'] / 1e3:.1f} kB/s"
            if "idle_bytes_per_s" in each.control
            else "",
            f"{each.wasted_fraction:.1%}",
            str(each.unfinished),
        )
        for each in ranked
    ]
    headings = (
        "policy", "p50", "p95", "p50 / oracle", "p95 / oracle", "refusals", "messages", "idle traffic", "wasted",
        "unfinished",
    )  # fmt: skip
    dots = legend(
        (
            (element("circle", cx=11, cy=6, r=5, class_="point"), "half within"),
            (element("circle", cx=11, cy=6, r=4, class_="point hollow"), "95 % within"),
            (element("line", x1=0, x2=20, y1=6, y2=6, class_="range"), "to 99 %"),
        )
    )
    return (
        figure(
            "Latency by policy",
            "Thousands of requests in virtual time, each policy in the same worlds.",
            dots + responsive(lambda width: charts.policies(found, width)),
        )
        + _curves(
            "How long it took, by policy",
            "How many of the requests were answered within a time; one that was given up counts as 1,000 s.",
            {
                each.name: each.cdf
                for each in _product_first(ranked)
                if each.cdf is not None and each.cdf.seconds
            },
        )
        + _curves(
            f"How long it took under {shown.name}, by link",
            "The same, by the round trip to the peer that drew.",
            shown.cdf_by_link,
        )
        + figure(
            "Where the time went, by policy",
            "Means over all requests.",
            phase_legend(phase for phase in charts.PHASE_WORDS if phase in spans)
            + responsive(lambda width: charts.where(found, width)),
        )
        + card(
            "Against best in hindsight",
            "The oracle knows all, at once: the ratios to it are what each policy loses. Refusals and messages are per "
            "request.",
            table(headings, rows, numbers=range(1, len(headings))),
            full=True,
        )
    )


def _product_first(found: Sequence[Policy]) -> list[Policy]:
    return sorted(found, key=lambda each: each.name != charts.PRODUCT)


def _curves(title: str, caption: str, found: dict[str, Cdf]) -> str:
    if not found:
        return ""
    items = (
        (element("line", x1=0, x2=22, y1=6, y2=6, class_=charts.series_class(number)), name)
        for number, name in enumerate(found)
    )
    return figure(
        title, caption, legend(items) + responsive(lambda width: charts.curves(found, width, title.lower()))
    )


def phase_legend(phases: Iterable[str]) -> str:
    return legend((swatch(f"p-{phase}"), charts.PHASE_WORDS[phase]) for phase in phases)
