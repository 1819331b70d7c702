"""Whom to ask, before an offer is made, how busy it is now: those who answer so soon that it costs next to nothing.

What a peer told half a second ago is old news where pictures take as long.  In simulation at load .6, beside not asking:
p95 over the oracle 1.22 for 1.25, p99 a twentieth shorter, p50 and refusals alike, and 2 % more messages.
"""

from collections.abc import Callable
from typing import NamedTuple

from .selection import Plan

LOOKS = 8
LOOK_PERCENT = 2  # of what the best is predicted to take: who is as near as that is asked,
WAITED_PERCENT = 4  # and so much of it may be waited for answers
FRESH_US = 50_000  # what was heard since then, or two round trips ago, is news


class Look(NamedTuple):
    peers: tuple[str, ...]
    within_us: int  # so long their answers may be waited for


def look(plan: Plan, heard_us: Callable[[str], int | None], now_us: int) -> Look | None:
    """Of a plan that was made from what is known: those that were best if they were idle, and that may be.

    `heard_us`: when a peer last told how busy it is; None: it did not, or cannot be asked.  None: nobody is asked.
    """
    if len(plan.ranked) == 1:
        return None
    best_us = min(choice.predicted_us for choice in plan.ranked)
    near_us = best_us * LOOK_PERCENT // 100
    found = []
    for choice in plan.ranked:
        idle_us = choice.predicted_us - choice.prediction.wait_us
        rtt_us, told_us = choice.rtt_us, heard_us(choice.peer)
        if rtt_us is None or told_us is None or rtt_us > near_us or idle_us > best_us:
            continue
        if now_us - told_us >= max(FRESH_US, 2 * rtt_us):
            found.append((idle_us, choice.peer))
    if not found:
        return None
    return Look(tuple(peer for _, peer in sorted(found)[:LOOKS]), best_us * WAITED_PERCENT // 100)
