"""Plans that look at everyone now and then, and in between at the best of the last such plan for that kind of picture.

A full plan of 300 peers takes 4 ms.  A requester that asks ten times a second, and again after each refusal, need not do
that each time: distance and speed change slowly, and whoever came in beyond the first LENGTH would have to become far
quicker within LASTS_US to be missed.  (1,000 providers in simulation, 300 known: 4 ms of a core a request for 10.)
"""

from collections import OrderedDict

from ..wire.statement import Statement
from .cost import USUAL, Wishes
from .directory import Directory
from .selection import NoCandidate, Plan, plan

LENGTH = 64
LASTS_US = 2_000_000
MAX_KINDS = 64

# Model, precision, octave of pixels, adapters, whether one's own device is asked too.
Kind = tuple[bytes, str, int, tuple[bytes, ...], bool]


class Shortlists:
    """One requester's.  Where LENGTH peers or fewer can be asked, every plan looks at all."""

    def __init__(self) -> None:
        self._lists: OrderedDict[Kind, tuple[int, frozenset[str]]] = OrderedDict()

    def plan(
        self,
        directory: Directory,
        statement: Statement,
        *,
        now_us: int,
        own: bool,
        excluded: frozenset[str],
        seed: int,
        wishes: Wishes = USUAL,
    ) -> Plan:
        """As `selection.plan`; `own`: this very peer is a candidate too.  NoCandidate if nobody at all is left."""
        adapters = tuple(adapter for adapter, _ in statement.adapters)
        kind = (statement.model, statement.precision, statement.pixels.bit_length(), adapters, own)
        made_us, among = self._lists.pop(kind, (-LASTS_US, frozenset[str]()))
        if now_us < made_us + LASTS_US:
            candidates = directory.candidates(now_us, own=own, among=among)
            try:
                short = plan(
                    candidates, statement, now_us=now_us, excluded=excluded, seed=seed, wishes=wishes
                )
            except NoCandidate:
                pass  # of these nobody is left: all are looked at, and what is said is said of all
            else:
                self._lists[kind] = made_us, among
                return short
        everyone = directory.candidates(now_us, own=own)
        full = plan(everyone, statement, now_us=now_us, excluded=excluded, seed=seed, wishes=wishes)
        if len(full.ranked) > LENGTH:
            self._lists[kind] = now_us, frozenset(choice.peer for choice in full.ranked[:LENGTH])
            if len(self._lists) > MAX_KINDS:
                self._lists.popitem(last=False)
        return full
