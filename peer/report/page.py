"""One HTML file with everything in it: style, script, charts, tables and the numbers as JSON.

Words that come from peers go through `escape`; beside that, the page's own policy lets no other script run than ours,
and lets nothing be fetched.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import charts
from .charts import PHASE_WORDS, PRODUCT
from .document import Document, Job, Part
from .figures import Figures, figures
from .markup import details, table, verdict
from .panels import expectations, panels, policies
from .svg import escape, milliseconds

_COMMENT = "<!-- nearlight report -->"
MARK = _COMMENT.encode()  # within the first MARK_WITHIN bytes
MARK_WITHIN = 256
_HERE = Path(__file__).parent

Shown = Sequence[tuple[Part, Figures]]


def value(document: Document) -> dict[str, Any]:
    """The document with the numbers of its figures, as JSON."""
    found = document.to_value()
    for part, of in zip(found["parts"], document.parts, strict=True):
        part["figures"] = figures(of).to_value()
    return found


def plot(document: Document) -> bytes:
    """Where the time of the first part went, as an SVG file that can stand in any page; UTF-8."""
    part = document.parts[0]
    words = charts.plot(
        part, figures(part), (_HERE / "page.css").read_text().partition("/* page */")[0], _COMMENT
    )
    return words.encode()


def page(document: Document) -> bytes:
    """The whole file, UTF-8."""
    style, script = (_HERE / "page.css").read_text(), (_HERE / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    shown = [(part, figures(part)) for part in document.parts]
    many = len(shown) > 1
    parts = "".join(_part(number, part, found, many) for number, (part, found) in enumerate(shown))
    numbers = json.dumps(value(document), separators=(",", ":"))
    for letter in "<>&\u2028\u2029":  # so that no words in it end the element that they are in
        numbers = numbers.replace(letter, f"\\u{ord(letter):04x}")
    text = f"""
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(document.title)}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{escape(document.title)}</h1></header>
<main>{_summary(shown) if many else ""}{parts}</main>
<footer>Times are the requesters' own, from "asked" to "the checked bytes are on disk", on monotonic clocks. Point at
anything in a chart, or touch it, to read its numbers; all of them are in this file as JSON (element
<code>numbers</code>). Nothing here is fetched from anywhere.</footer>
<div id="tip" role="status"></div>
<script type="application/json" id="numbers">{numbers}</script>
<script>{script}</script>
</body>
</html>
"""
    return f"<!doctype html>\n{_COMMENT}{text}".encode()


def _summary(shown: Shown) -> str:
    """All parts, a row each."""
    rows = []
    for number, (part, found) in enumerate(shown):
        kept = sum(each.ok is not False for each in part.expectations)
        product = next((each for each in part.policies if each.name == PRODUCT), None)
        times_ms = found.wall_ms or (
            {"p50": product.p50_s * 1e3, "p95": product.p95_s * 1e3} if product else {}
        )
        rows.append(
            (
                f'<a href="#part-{number}">{escape(part.name)}</a>',
                f"{found.done} of {found.jobs}" if found.jobs else "",
                milliseconds(times_ms["p50"]) if times_ms else "",
                milliseconds(times_ms["p95"]) if times_ms else "",
                ", ".join(milliseconds(ms) for ms in found.recovered_ms),
                verdict(kept == len(part.expectations), f"{kept} of {len(part.expectations)}")
                if part.expectations
                else "",
            )
        )
    headings = ("", "pictures drawn", "median", "p95", "another peer drew after", "expectations met")
    return f'<nav class="card" aria-label="Parts">{table(headings, rows, numbers=(1, 2, 3, 4))}</nav>'


def _part(number: int, part: Part, found: Figures, many: bool) -> str:
    heading = f"<h2>{escape(part.name)}</h2>" if many else ""
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in part.facts)
    drawn = panels(part, found) if part.jobs or part.lanes or not part.policies else ""
    return (
        f'<section id="part-{number}">{heading}<p class="soft">{escape(part.about)}</p>'
        f'<ul class="facts">{facts}</ul>{_tiles(found)}'
        f'<div class="grid">{expectations(part.expectations)}{drawn}{policies(part.policies)}</div>'
        f"{_jobs(part.jobs)}</section>"
    )


def _tiles(found: Figures) -> str:
    tiles: list[tuple[str, str]] = []
    if found.jobs:
        tiles.append((f"{found.done} of {found.jobs}", "pictures drawn"))
    if found.wall_ms:
        tiles.append((milliseconds(found.wall_ms["p50"]), "median, asked to on disk"))
        tiles.append((milliseconds(found.wall_ms["p95"]), "95 % within"))
    if found.executed is not None:
        tiles.append((f"{found.executed:.0%}", "of the time was drawing, in the median"))
    if found.prediction.error_p50 is not None:
        tiles.append((f"{found.prediction.error_p50:.0%}", "off was the median prediction"))
    if found.hindsight.points:
        of = f"{found.hindsight.best_chosen} of {len(found.hindsight.points)}"
        tiles.append((of, "went to the best peer at once, in hindsight"))
    if found.recovered_ms:
        tiles.append((milliseconds(max(found.recovered_ms)), "longest until another peer drew on"))
    if found.unaccounted is not None:
        tiles.append((f"{found.unaccounted:.1%}", "unaccounted, at most"))
    inside = "".join(
        f'<div class="tile"><b>{escape(number)}</b><span>{escape(what)}</span></div>'
        for number, what in tiles
    )
    return f'<div class="tiles">{inside}</div>' if tiles else ""


def _jobs(jobs: Sequence[Job]) -> str:
    """What the charts show, for those who cannot see them, and for a search."""
    if not jobs:
        return ""
    phases = [phase for phase in PHASE_WORDS if any(job.phases_us.get(phase) for job in jobs)]
    rows = [
        (
            escape(job.job[:8]),
            f"{job.at_s:.1f} s",
            escape(job.by),
            escape(job.policy),
            escape(job.provider or "-"),
            escape(job.state),
            milliseconds(job.predicted_us / 1e3) if job.predicted_us else "-",
            milliseconds(job.wall_us / 1e3) if job.wall_us else "-",
            *(
                milliseconds(job.phases_us[phase] / 1e3) if job.phases_us.get(phase) else ""
                for phase in phases
            ),
            escape(_words(job)),
        )
        for job in jobs
    ]
    headings = ("job", "asked at", "by", "policy", "drawn by", "state", "predicted", "took")
    return details(
        f"All {len(jobs)} jobs, as a table" if len(jobs) > 1 else "The job, as a table",
        table(
            (*headings, *(PHASE_WORDS[phase] for phase in phases), ""),
            rows,
            numbers=(1, *range(6, 8 + len(phases))),
        ),
    )


def _words(job: Job) -> str:
    return job.sentence or "; ".join(
        f"{each.peer}: {each.sentence}" for each in job.attempts if each.sentence
    )
