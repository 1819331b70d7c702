"""The small pieces of HTML that a page is put together from.  Cells and insides are HTML, all else is words."""

from collections.abc import Iterable, Sequence

from .svg import element, escape


def figure(title: str, caption: str, inside: str, *, full: bool = False) -> str:
    heading = f"<figcaption><h3>{escape(title)}</h3><p>{escape(caption)}</p></figcaption>"
    return f"<figure{' class=full' if full else ''}>{heading}{inside}</figure>"


def card(title: str, caption: str, inside: str, *, full: bool = False) -> str:
    heading = f"<h3>{escape(title)}</h3><p>{escape(caption)}</p>"
    return f'<div class="card{" full" if full else ""}">{heading}{inside}</div>'


def legend(items: Iterable[tuple[str, str]]) -> str:
    """(SVG of 22 x 12 px, words)."""
    inside = "".join(
        f'<li><svg viewBox="0 0 22 12" aria-hidden="true">{drawn}</svg><span>{escape(words)}</span></li>'
        for drawn, words in items
    )
    return f'<ul class="legend">{inside}</ul>'


def swatch(class_: str) -> str:
    return element("rect", x=2, y=0, width=18, height=12, rx=2, class_=class_)


def strong(words: str) -> str:
    return f"<p><b>{escape(words)}</b></p>"


def details(summary: str, inside: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def verdict(ok: bool, words: str) -> str:
    return f'<span class="{"ok" if ok else "failed"}">{"✓" if ok else "✗"} {escape(words)}</span>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int]) -> str:
    """`numbers`: the columns that hold numbers."""

    def cell(name: str, column: int, inside: str) -> str:
        return f"<{name}{' class=n' if column in numbers else ''}>{inside}</{name}>"

    head = "".join(cell("th", column, escape(words)) for column, words in enumerate(headings))
    body = "".join(
        f"<tr>{''.join(cell('td', column, each) for column, each in enumerate(row))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
