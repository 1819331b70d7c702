"""Which adapters the peers that one knows apply to a model, and what they say of them."""

from collections import Counter
from collections.abc import Iterable

from ..wire.advert import OfferedAdapter
from .prediction import Candidate

MAX_KNOWN = 256  # of one model: more than that nobody reads, and others may make them up


def told_of(candidates: Iterable[Candidate], model: bytes) -> dict[bytes, OfferedAdapter]:
    """By id, as most of those who offer it describe it, and those that most offer first.

    Who has an adapter's files knows better: its id is of its description too.
    """
    told = Counter(
        adapter
        for candidate in candidates
        for offered in candidate.advert.models
        if offered.id == model
        for adapter in set(offered.adapters)
    )
    known: dict[bytes, OfferedAdapter] = {}
    for adapter, _ in sorted(told.items(), key=lambda item: (-item[1], item[0].id, repr(item[0]))):
        if len(known) < MAX_KNOWN:
            known.setdefault(adapter.id, adapter)
    return known


def called(adapter: bytes, known: dict[bytes, OfferedAdapter]) -> str:
    """What a person reads: its name, which may be anyone's, and the beginning of its id."""
    described = known.get(adapter)
    short = adapter.hex()[:8]
    return f"{described.name} ({short})" if described and described.name else short
