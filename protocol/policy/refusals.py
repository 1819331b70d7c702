"""Why nobody drew it, when everyone was asked: one sentence of what stands in the way."""

from collections.abc import Iterable

MAX_TOLD = 3  # different sentences
MAX_NAMED = 3  # peers with one of them


def nobody_drew(said: Iterable[tuple[str, str]], *, refused: bool = True) -> str:
    """`said`: (what people call the peer, what came of it), of each peer that was asked; `refused`: all of them did.

    Of a single one, or where the same came of all, its sentence; of several, what is true of most of them comes first.
    """
    by: dict[str, list[str]] = {}
    for name, sentence in said:
        by.setdefault(sentence, []).append(name)
    told = sorted(by.items(), key=lambda item: -len(item[1]))
    if sum(map(len, by.values())) == 1 or (len(told) == 1 and not refused):
        return told[0][0]
    parts = [f"{_listed(names)}: {_ended(sentence)}" for sentence, names in told[:MAX_TOLD]]
    return " ".join(
        ["Everyone who was asked refused." if refused else "Nobody who was asked drew it.", *parts]
    )


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
