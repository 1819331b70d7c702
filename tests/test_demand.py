"""Demand: what one asks of others, and how many of them that needs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.policy.demand import (
    ASKING_FOR_US,
    ASKING_LINKS,
    LEAST_LINKS,
    LINKS_PER_RENDERER,
    MAX_KINDS,
    MOST_LINKS,
    OVER_US,
    Demand,
)

from .truth import statement

ASKED = statement()


def test_who_keeps_three_renderers_busy_is_seen_to():
    demand = Demand()
    for at_us in range(0, 10 * OVER_US, 100_000):
        demand.on_offer(ASKED, 300_000, at_us)
    assert demand.renderers(at_us) == pytest.approx(3, rel=0.01)
    assert demand.links(at_us) == pytest.approx(LEAST_LINKS + ASKING_LINKS + 3 * LINKS_PER_RENDERER, abs=2)


def test_what_was_asked_long_ago_no_longer_counts():
    demand = Demand()
    demand.on_offer(ASKED, OVER_US, 0)
    assert demand.renderers(0) == 1
    assert demand.renderers(OVER_US) == pytest.approx(math.exp(-1))
    assert demand.links(20 * OVER_US) == LEAST_LINKS


@given(st.lists(st.integers(0, 10**15), max_size=20))
def test_however_much_is_asked_the_links_are_bounded(asked):
    demand, small = Demand(), Demand(32, 112)
    for number, busy_us in enumerate(asked):
        demand.on_offer(ASKED, busy_us, number)
        small.on_offer(ASKED, busy_us, number)
        assert LEAST_LINKS <= demand.links(number) <= MOST_LINKS
        assert 32 <= small.links(number) <= 112


def test_who_asks_at_all_needs_more_for_a_minute():
    demand = Demand()
    assert not demand.asking(0)
    demand.on_offer(ASKED, 0, 0)
    assert demand.links(ASKING_FOR_US - 1) == LEAST_LINKS + ASKING_LINKS
    assert demand.links(ASKING_FOR_US) == LEAST_LINKS


def test_of_each_kind_of_picture_the_last_that_was_asked_for_is_known():
    demand = Demand()
    for number in range(2 * MAX_KINDS):
        demand.on_offer(statement(model=bytes([number]) * 32), 0, number)
        demand.on_offer(statement(model=bytes([number]) * 32, steps=7), 0, number)
    assert [each.model[0] for each in demand.asked] == list(range(MAX_KINDS, 2 * MAX_KINDS))
    assert {each.steps for each in demand.asked} == {7}
