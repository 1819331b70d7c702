"""Why nobody drew it, when everyone who was asked refused: one sentence of what stands in the way."""

from collections.abc import Iterable

MAX_TOLD = 3  # different refusals
MAX_NAMED = 3  # peers with one refusal


def all_refused(refusals: Iterable[tuple[str, str]]) -> str:
    """`refusals`: (what people call the peer, its sentence), of each peer that was asked.

    Of a single one, its sentence; of several, what most of them said comes first.
    """
    by: dict[str, list[str]] = {}
    for name, sentence in refusals:
        by.setdefault(sentence, []).append(name)
    told = sorted(by.items(), key=lambda item: -len(item[1]))
    if sum(map(len, by.values())) == 1:
        return told[0][0]
    parts = [f"{_listed(names)}: {sentence}" for sentence, names in told[:MAX_TOLD]]
    return " ".join(["Everyone who was asked refused.", *parts])


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
