"""Whom a provider tells at once, unasked, when a task offered now would not start when they expect.

Who was told of a wait lets it run down by itself, so there is news only when a task is taken, is given up, or shows that
it takes longer or shorter than was thought.  (README section 6.)  Asking 24 peers every 0.7 s instead was twice the
messages, and old news: in simulation of 60 s at load .6, p50/p95 over the oracle 1.19/1.27; this, for 10 peers, 1.10/1.23.
"""

from typing import NamedTuple

from ..wire.hello import LiveState

WATCHED_FOR_US = 10_000_000  # from each ping that asks for it
MAX_WATCHERS = 64
# A wait that differs by less, or by a smaller part of the longer one, is what was expected.
NEWS_US = 100_000
NEWS_PERCENT = 20
# To all watchers together, beyond AT_ONCE; those for whom there is no room then are told each in its turn.
TOLD_PER_S = 120
AT_ONCE = 64


class _Told(NamedTuple):
    wait_us: int
    resident: frozenset[bytes]
    at_us: int
    until_us: int


class Watchers:
    """Of one provider.  `now_us` never runs backwards."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}
        self._room = float(AT_ONCE)  # for so many messages, at _at_us
        self._at_us = 0

    @property
    def peers(self) -> tuple[str, ...]:
        """Who is to be told, or was until a while ago."""
        return tuple(self._told)

    def on_asked(self, peer: str, state: LiveState, now_us: int) -> int:
        """It asks to be told for a while, and is told `state` now.  For how long it will be; 0: there are too many."""
        if peer not in self._told and len(self._told) >= MAX_WATCHERS:
            self._told = {other: told for other, told in self._told.items() if now_us < told.until_us}
            if len(self._told) >= MAX_WATCHERS:
                return 0
        self._told[peer] = _told(state, now_us, now_us + WATCHED_FOR_US)
        return WATCHED_FOR_US

    def on_news(self, peer: str, state: LiveState, now_us: int) -> bool:
        """It is told `state` unasked.  Whether it knows of other models that are resident, so that its wait is not all."""
        told = self._told[peer]
        self._room, self._at_us = self._room_at(now_us) - 1, now_us
        self.on_told(peer, state, now_us)
        return told.resident != self._told[peer].resident

    def on_told(self, peer: str, state: LiveState, now_us: int) -> None:
        """It is told `state` by another message."""
        told = self._told.get(peer)
        if told is not None:
            self._told[peer] = _told(state, now_us, told.until_us)

    def on_disconnected(self, peer: str) -> None:
        self._told.pop(peer, None)

    def watches(self, peer: str, now_us: int) -> bool:
        told = self._told.get(peer)
        return told is not None and now_us < told.until_us

    def due_us(self, peer: str, state: LiveState, now_us: int) -> int | None:
        """When it is to be told `state`, unless that changes again before; None: it watches no longer, or expects it."""
        if not self.watches(peer, now_us) or not _is_news(told := self._told[peer], state, now_us):
            return None
        turn_us = 0 if self._room_at(now_us) >= 1 else told.at_us + len(self._told) * 1_000_000 // TOLD_PER_S
        return max(now_us, turn_us)

    def _room_at(self, now_us: int) -> float:
        return min(AT_ONCE, self._room + (now_us - self._at_us) * TOLD_PER_S / 1e6)


def _told(state: LiveState, now_us: int, until_us: int) -> _Told:
    return _Told(state.wait_us, frozenset(state.resident), now_us, until_us)


def _is_news(told: _Told, state: LiveState, now_us: int) -> bool:
    expected_us = max(0, told.wait_us - (now_us - told.at_us))
    allowed_us = max(NEWS_US, max(expected_us, state.wait_us) * NEWS_PERCENT // 100)
    return abs(state.wait_us - expected_us) > allowed_us or told.resident != frozenset(state.resident)
