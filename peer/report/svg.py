"""Charts as SVG text: axes, bars, steps, dots, lanes.  Every word goes through `escape`; colours are classes of the page.

A chart is made once for each width in WIDTHS, so that its letters keep their size on a telephone and on a wide screen;
the page shows the one that fits.
"""

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from protocol.wire.fields import plain

WIDTHS = {"wide": 620, "narrow": 340}  # px
FULL_PX = 1280  # for a chart across the whole page, where that is wide
LETTER_PX = 6.4  # a character of the page's 12 px font, rounded up
MAX_WORDS_CHARS = 600


def escape(words: object) -> str:
    """A peer's words, fit for text and attributes of HTML; line ends stay."""
    lines = str(words)[: 4 * MAX_WORDS_CHARS].split("\n")
    return html.escape("\n".join(plain(line, MAX_WORDS_CHARS) for line in lines), quote=True)


def clipped(words: str, room_px: float) -> str:
    most = max(1, int(room_px / LETTER_PX))
    return words if len(words) <= most else words[: max(1, most - 1)] + "…"


def element(name: str, /, *inside: str, title: str | None = None, **attributes: object) -> str:
    """`class_` and `stroke_width` are class and stroke-width; `title` is told where the pointer is."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_number(value)}"' for key, value in attributes.items()
    )
    within = "".join(inside) + (f"<title>{escape(title)}</title>" if title else "")
    return f"<{name}{given}>{within}</{name}>" if within else f"<{name}{given}/>"


def text(x: float, y: float, words: str, /, anchor: str = "start", class_: str = "") -> str:
    more = {"class_": class_} if class_ else {}
    return element("text", escape(words), x=x, y=y, text_anchor=anchor, **more)


def _number(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else html.escape(str(value))


def responsive(draw: Callable[[int], str], *, full: bool = False) -> str:
    widths = WIDTHS | ({"whole": FULL_PX} if full else {})
    return "".join(f'<div class="{name}">{draw(width)}</div>' for name, width in widths.items())


def chart(width: int, height: float, alternative: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {math.ceil(height)}" width="{width}" height="{math.ceil(height)}" role="img" '
        f'aria-label="{escape(alternative)}">{"".join(parts)}</svg>'
    )


# scales


@dataclass(frozen=True)
class Scale:
    """From values to px; `log` where the values are."""

    low: float
    high: float
    start_px: float
    end_px: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start_px + share * (self.end_px - self.start_px)

    def ticks(self, at_most: int) -> list[float]:
        if self.log:
            found = [
                step * 10.0**power
                for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
                for step in (1, 2, 5)
            ]
            shown = [tick for tick in found if self.low <= tick <= self.high]
            return shown[:: max(1, math.ceil(len(shown) / at_most))]
        step = nice((self.high - self.low) / max(1, at_most))
        first = math.ceil(self.low / step - 1e-9)
        return [step * number for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def nice(step: float) -> float:
    """The least of 1, 2, 5, 10, ... that is no less than `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(each * power for each in (1, 2, 5, 10) if each * power >= step * (1 - 1e-9))


def around(values: Sequence[float], start_px: float, end_px: float) -> Scale:
    """A scale with all positive `values` in it, and some room; logarithmic where they differ much."""
    low, high = min(values), max(values)
    if high > 6 * low:
        return Scale(low / 1.25, high * 1.25, start_px, end_px, log=True)
    room = max((high - low) * 0.08, high * 0.03)
    return Scale(max(0.0, low - room), high + room, start_px, end_px)


def milliseconds(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


# axes


def x_axis(scale: Scale, top: float, bottom: float, shown: Callable[[float], str]) -> list[str]:
    room = abs(scale.end_px - scale.start_px)
    parts = []
    for tick in scale.ticks(max(2, int(room / 62))):
        at = scale(tick)
        parts.append(element("line", x1=at, x2=at, y1=top, y2=bottom, class_="rule"))
        words = shown(tick)
        if at + LETTER_PX * len(words) / 2 > scale.end_px + 8:  # else its end would be cut off
            parts.append(text(scale.end_px + 8, bottom + 15, words, "end", "tick"))
        else:
            parts.append(text(at, bottom + 15, words, "middle", "tick"))
    return parts


def y_axis(scale: Scale, left: float, right: float, shown: Callable[[float], str]) -> list[str]:
    room = abs(scale.end_px - scale.start_px)
    parts = []
    for tick in scale.ticks(max(2, int(room / 45))):
        at = scale(tick)
        parts.append(element("line", x1=left, x2=right, y1=at, y2=at, class_="rule"))
        parts.append(text(left - 6, at + 4, shown(tick), "end", "tick"))
    return parts


def path(points: Iterable[tuple[float, float]], class_: str, title: str | None = None) -> str:
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return element("path", d=d, class_=class_, title=title)


def within(x: float, y: float, width: float, height: float, parts: Iterable[str]) -> str:
    """Parts in the chart's own px, of which nothing outside this box is seen."""
    return element(
        "svg", *parts, x=x, y=y, width=width, height=height, viewBox=f"{x:g} {y:g} {width:g} {height:g}"
    )
