"""When one peer tells its next advert: in its turn, or before it when something changed, but not early again and again.

An early advert begins a new turn, so a provider that loads model after model tells hardly more than one that rests.
What is told is what is so then: changes between two adverts cost nothing.  (README section 7.)
"""

from .shards import OFTEN_US

GAP_US = 1_000_000  # between any two adverts of one peer; more where adverts are seldom


class Telling:
    """Of one peer, that may tell from `now_us` on.  `now_us` is monotonic."""

    def __init__(self, now_us: int) -> None:
        self._turn_us = now_us
        self._gap_until_us = now_us
        self._early_from_us = now_us
        self._waits: str | None = None  # what a change waits for: "early" or "gap"

    @property
    def due_us(self) -> int:
        """When the next advert is to be told."""
        match self._waits:
            case "early":
                return min(self._turn_us, max(self._gap_until_us, self._early_from_us))
            case "gap":
                return min(self._turn_us, self._gap_until_us)
            case _:
                return self._turn_us

    def on_change(self, *, urgent: bool = False) -> bool:
        """What the peer would tell has changed.  Whether that may bring its next advert forward.

        An `urgent` change is one that comes seldom by itself, and waits for the gap alone.
        """
        before, self._waits = self._waits, "gap" if urgent or self._waits == "gap" else "early"
        return self._waits != before

    def on_told(self, now_us: int, pause_us: int, interval_us: int) -> None:
        """An advert was made.  The next turn is after `pause_us`, drawn about the mean interval.

        After one before its turn, no change but an urgent one brings the next forward for a mean interval.
        """
        if now_us < self._turn_us:
            self._early_from_us = now_us + interval_us
        self._turn_us = now_us + pause_us
        self._gap_until_us = now_us + GAP_US * interval_us // OFTEN_US
        self._waits = None
