"""Demand: what one asks of others, and how many of them that needs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.policy.demand import LEAST_LINKS, LINKS_PER_RENDERER, MOST_LINKS, OVER_US, Demand


def test_who_keeps_three_renderers_busy_is_seen_to():
    demand = Demand()
    for at_us in range(0, 10 * OVER_US, 100_000):
        demand.on_offer(300_000, at_us)
    assert demand.renderers(at_us) == pytest.approx(3, rel=0.01)
    assert demand.links(at_us) == pytest.approx(LEAST_LINKS + 3 * LINKS_PER_RENDERER, abs=2)


def test_what_was_asked_long_ago_no_longer_counts():
    demand = Demand()
    demand.on_offer(OVER_US, 0)
    assert demand.renderers(0) == 1
    assert demand.renderers(OVER_US) == pytest.approx(math.exp(-1))
    assert demand.links(20 * OVER_US) == LEAST_LINKS


@given(st.lists(st.integers(0, 10**15), max_size=20))
def test_however_much_is_asked_the_links_are_bounded(asked):
    demand, small = Demand(), Demand(32, 112)
    for number, busy_us in enumerate(asked):
        demand.on_offer(busy_us, number)
        small.on_offer(busy_us, number)
        assert LEAST_LINKS <= demand.links(number) <= MOST_LINKS
        assert 32 <= small.links(number) <= 112
