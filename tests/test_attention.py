"""Attention: whose live state is asked for how often."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.policy.attention import (
    ACTIVE_FOR_US,
    CROWDED_EVERY_US,
    IDLE_EVERY_US,
    IDLE_PER_S,
    LIKELY,
    LIKELY_EVERY_US,
    LIKELY_OF_A_PLAN,
    OTHERS_PER_S,
    WATCHED_EVERY_US,
    Attention,
)
from protocol.policy.job import STALE_US


def test_an_idle_requester_asks_seldom_and_is_active_for_a_minute_after_each_picture():
    attention = Attention()
    assert attention.every_us("a", 10, 0, watched=False) == IDLE_EVERY_US
    assert attention.on_ask(0)
    assert not attention.on_ask(ACTIVE_FOR_US - 1)
    assert attention.active(2 * ACTIVE_FOR_US - 2)
    assert not attention.active(2 * ACTIVE_FOR_US - 1)
    assert attention.every_us("a", 10, 2 * ACTIVE_FOR_US, watched=False) == IDLE_EVERY_US


def test_however_many_links_an_idle_requester_kept_they_cost_no_more():
    for links in (1, 30, 112, 500):
        assert links * 1_000_000 / Attention().every_us("a", links, 0, watched=False) <= IDLE_PER_S
    assert Attention().every_us("a", 15, 0, watched=False) == IDLE_EVERY_US
    assert Attention().every_us("a", 30, 0, watched=False) == 2 * IDLE_EVERY_US


def test_the_first_of_the_last_plans_are_asked_most_often():
    attention = Attention()
    attention.on_ask(0)
    ranked = [f"peer{number}" for number in range(20)]
    assert attention.on_plan(ranked)
    assert not attention.on_plan(ranked)
    periods = [attention.every_us(peer, 1000, 1, watched=False) for peer in ranked]
    others_us = (1000 - LIKELY_OF_A_PLAN) * 1_000_000 // OTHERS_PER_S
    assert periods == [LIKELY_EVERY_US] * LIKELY_OF_A_PLAN + [others_us] * (20 - LIKELY_OF_A_PLAN)


def test_who_has_too_many_watchers_is_asked_less_often_until_there_was_a_pause():
    attention = Attention()
    attention.on_ask(0)
    attention.on_plan(["a", "b"])
    attention.on_watched("a", 0)
    attention.on_watched("stranger", 0)
    assert attention.every_us("a", 2, 1, watched=False) == CROWDED_EVERY_US < STALE_US
    assert attention.every_us("b", 2, 1, watched=False) == LIKELY_EVERY_US
    attention.on_plan(["a"])
    assert not attention.on_ask(1)
    assert attention.every_us("a", 2, 1, watched=False) == CROWDED_EVERY_US
    assert attention.on_ask(1 + ACTIVE_FOR_US)
    assert attention.every_us("a", 2, 1, watched=False) == LIKELY_EVERY_US
    attention.on_watched("a", 0)
    attention.on_watched("a", 5)
    assert attention.every_us("a", 2, 1, watched=False) == LIKELY_EVERY_US
    assert attention.every_us("stranger", 2, 1, watched=False) == attention.every_us("c", 2, 1, watched=False)


@given(st.lists(st.lists(st.integers(0, 999), unique=True, max_size=12), max_size=30), st.integers(1, 10_000))
def test_what_is_asked_is_bounded_whatever_is_planned_and_however_many_there_are(plans, links):
    attention = Attention()
    attention.on_ask(0)
    for ranked in plans:
        attention.on_plan(map(str, ranked))
    periods = [attention.every_us(str(peer), links, 1, watched=False) for peer in range(links)]
    assert sum(1e6 / us for us in periods) <= (LIKELY + 1) * 1e6 / LIKELY_EVERY_US + OTHERS_PER_S + 1


def test_a_peer_is_due_a_period_after_it_was_asked_or_told_of_itself_whichever_came_last():
    attention = Attention()
    assert attention.due_us("a", 7, None, 10, 8, watched=False) == 7 + IDLE_EVERY_US
    assert attention.due_us("a", 7, 9, 10, 9, watched=False) == 9 + IDLE_EVERY_US
    assert attention.due_us("a", 9, 7, 10, 9, watched=False) == 9 + IDLE_EVERY_US


def test_who_is_likely_is_watched_while_pictures_are_asked_for_and_then_asked_seldom():
    attention = Attention()
    attention.on_plan(["a"])
    assert not attention.watches("a", 0)
    attention.on_ask(0)
    assert attention.watches("a", ACTIVE_FOR_US - 1)
    assert not attention.watches("b", 1)
    assert not attention.watches("a", ACTIVE_FOR_US)
    # What it told unasked does not put off the next ping, which renews the watch.
    assert attention.due_us("a", 7, 9, 10, 9, watched=True) == 7 + WATCHED_EVERY_US
    assert attention.due_us("a", 7, 9, 10, 9, watched=False) == 9 + LIKELY_EVERY_US
