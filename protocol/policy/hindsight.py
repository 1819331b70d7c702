"""What became of a prediction: where it was wrong, and who would have been faster.  For people, after the fact."""

from collections.abc import Iterable, Mapping

from .chain import LOST
from .cost import PREDICTED_SPANS
from .names import tail
from .selection import Choice
from .timeline import Span, duration

# What the spans of a timeline were predicted as.  All others are the same whoever draws.
PREDICTED_AS = {
    "dial": "dial",
    "address": "offer",
    "offer": "offer",
    "wait": "wait",
    **dict.fromkeys(("start_renderer", "load_weights"), "load_weights"),
    "load_adapter": "load_adapter",
    **dict.fromkeys(
        ("handoff", "encode_prompt", "noise", "prepare", "decode", "encode_image", "handback", "sign"),
        "fixed",
    ),
    "step": "step",
    **dict.fromkeys(("leave", "transfer", "wake"), "transfer"),
}
NOTABLE_PERCENT = 10  # of what it took: a smaller surprise is none


def outcome(spans: Iterable[Span], attempt: str) -> dict[str, int]:
    """What the predicted terms of `attempt` (hex) took, in us, and what other attempts did (LOST)."""
    took: dict[str, int] = {}
    for span in spans:
        name = PREDICTED_AS.get(span.span, LOST if span.span == LOST else None)
        if span.critical and name is not None and span.attempt is not None:
            name = name if span.attempt == attempt else LOST
            took[name] = took.get(name, 0) + span.us
    return took


def sentences(
    took: Mapping[str, int], chosen: Choice, others: Iterable[Choice], names: Mapping[str, str]
) -> list[str]:
    """The largest surprise, and who else might have been faster than `took` (see `outcome`) says that this was.

    `chosen`: as it was predicted when the picture was asked of it; `others`: those of the first plan that were not
    asked; `names`: what people call them.
    """
    total_us = sum(took.values())
    said = []
    surprises = {LOST: took.get(LOST, 0)}
    for name, us in chosen.spans:
        surprises[name] = took.get(name, 0) - us
    name = max(surprises, key=lambda name: surprises[name])
    if surprises[name] * 100 > total_us * NOTABLE_PERCENT:
        if name == LOST:
            said.append(f"Not foreseen: {duration(took[LOST])} for attempts that gave no picture.")
        else:
            foreseen_us = took[name] - surprises[name]
            said.append(
                f"Not foreseen: {PREDICTED_SPANS[name]} took {duration(took[name])}, "
                f"{duration(foreseen_us)} were predicted."
            )
    best = min(others, key=lambda choice: choice.predicted_us, default=None)
    if best is None:
        return said
    called = names.get(best.peer, tail(best.peer))
    if best.predicted_us >= total_us:
        said.append("In hindsight nobody else was expected to be faster.")
    else:
        surely = "would" if best.p90_us < total_us else "might"
        said.append(
            f"In hindsight {called} {surely} have been faster: {duration(best.predicted_us)} were predicted "
            f"of it, and this took {duration(total_us)}."
        )
    return said
