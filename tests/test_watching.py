"""Watching: who is told of a provider's work unasked, when, and how much that can be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.policy.watching import (
    AT_ONCE,
    MAX_WATCHERS,
    NEWS_US,
    TOLD_PER_S,
    WATCHED_FOR_US,
    Watchers,
)
from protocol.wire.hello import LiveState

MODEL = bytes(32)
S = 1_000_000


def state(wait_us, *resident):
    return LiveState(wait_us, int(wait_us > 0), 0, None, resident)


def watched(wait_us=0, *resident):
    watchers = Watchers()
    assert watchers.on_asked("a", state(wait_us, *resident), 0) == WATCHED_FOR_US
    return watchers


def test_a_wait_that_runs_down_as_it_was_told_is_no_news():
    watchers = watched(2 * S)
    for now_us in range(0, 3 * S, S // 10):
        assert watchers.due_us("a", state(max(0, 2 * S - now_us)), now_us) is None


@pytest.mark.parametrize(
    ("told_us", "is_us", "news"),
    [
        (0, NEWS_US, False),
        (0, NEWS_US + 1, True),
        (NEWS_US + 1, 0, True),
        (5 * S, 4 * S, False),  # a fifth of the longer one
        (5 * S, 4 * S - 1, True),
        (4 * S, 5 * S + 1, True),
    ],
)
def test_news_is_a_wait_that_is_not_what_runs_down(told_us, is_us, news):
    assert watched(told_us).due_us("a", state(is_us), 0) == (0 if news else None)


def test_what_is_loaded_is_news_in_whatever_order_it_is_told():
    other = bytes([1] * 32)
    watchers = watched(0, MODEL, other)
    assert watchers.due_us("a", state(0, other, MODEL), 0) is None
    assert watchers.due_us("a", state(0, MODEL), 5) == 5


def test_what_was_told_by_another_message_is_told():
    watchers = watched()
    watchers.on_told("a", state(S), 10)
    assert watchers.due_us("a", state(S), 10) is None
    assert watchers.due_us("a", state(0), 10) == 10


def test_the_wait_alone_is_told_where_it_knows_what_is_loaded():
    other = bytes([1] * 32)
    watchers = watched(0, MODEL, other)
    assert not watchers.on_news("a", state(S, other, MODEL), 0)
    assert watchers.on_news("a", state(S, MODEL), 0)
    assert not watchers.on_news("a", state(0, MODEL), 0)
    watchers.on_told("a", state(0, other), 0)  # in an answer
    assert not watchers.on_news("a", state(S, other), 0)


def test_a_watch_ends_unless_it_is_renewed_and_with_the_connection():
    watchers = watched()
    assert watchers.watches("a", WATCHED_FOR_US - 1)
    assert not watchers.watches("a", WATCHED_FOR_US)
    assert watchers.due_us("a", state(S), WATCHED_FOR_US) is None
    watchers.on_asked("a", state(0), WATCHED_FOR_US)
    assert watchers.due_us("a", state(S), WATCHED_FOR_US) == WATCHED_FOR_US
    watchers.on_disconnected("a")
    assert watchers.due_us("a", state(S), WATCHED_FOR_US) is None


def test_who_never_watched_is_not_told():
    watchers = Watchers()
    watchers.on_told("a", state(S), 0)
    assert watchers.due_us("a", state(S), 0) is None
    assert watchers.peers == ()


def test_so_many_watch_and_no_more_until_one_no_longer_does():
    watchers = Watchers()
    for number in range(MAX_WATCHERS):
        assert watchers.on_asked(str(number), state(0), number)
    assert watchers.on_asked("late", state(0), MAX_WATCHERS) == 0
    assert watchers.on_asked("1", state(0), MAX_WATCHERS)  # renewed
    assert watchers.on_asked("late", state(0), WATCHED_FOR_US) == WATCHED_FOR_US
    assert watchers.peers[-1] == "late"
    assert len(watchers.peers) == MAX_WATCHERS


def test_beyond_so_many_at_once_each_is_told_in_its_turn():
    watchers = watched()
    for _ in range(AT_ONCE):
        assert watchers.due_us("a", state(S), 0) == 0
        watchers.on_news("a", state(0), 0)
    assert watchers.due_us("a", state(S), 0) == S // TOLD_PER_S
    for number in range(9):
        watchers.on_asked(f"{number}", state(0), 0)
    assert watchers.due_us("a", state(S), 0) == 10 * S // TOLD_PER_S
    # Later there is room again.
    later_us = -(-S // TOLD_PER_S)
    assert watchers.due_us("a", state(S), later_us) == later_us


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50_000), st.integers(0, 3 * S)), max_size=400),
    st.integers(1, 100),
)
def test_however_its_work_changes_what_is_told_is_bounded(events, watchers_count):
    watchers, now_us, told = Watchers(), 0, 0
    for number in range(watchers_count):
        watchers.on_asked(str(number), state(0), 0)
    for peer, later_us, wait_us in events:
        now_us += later_us
        due_us = watchers.due_us(str(peer), state(wait_us), now_us)
        if due_us is not None and due_us <= now_us:
            watchers.on_news(str(peer), state(wait_us), now_us)
            told += 1
    # At once, then as room grows, and each in its turn.
    assert told <= AT_ONCE + 2 * now_us * TOLD_PER_S / 1e6 + MAX_WATCHERS
