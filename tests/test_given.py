"""One's own work at a provider: its part of what was told, exactly."""

import pytest
from hypothesis import given as each
from hypothesis import strategies as st

from protocol.policy.given import MAX_TASKS, Given

S = 1_000_000


def of(*busy_us):
    given = Given()
    for number, us in enumerate(busy_us):
        given.on_offered(b"%d" % number, us, 0)
    return given


def test_where_there_are_no_others_all_that_was_told_is_ones_own_whatever_was_predicted():
    given = of(3 * S, S)
    assert given.on_told(8 * S, 2, 0, 0) == 8 * S
    assert (given.on_ended(b"0", 0), given.on_ended(b"1", 0)) == (6 * S, 2 * S)


def test_beside_others_ones_own_part_is_what_was_predicted_and_never_more_than_was_told():
    given = of(3 * S)
    assert given.on_told(8 * S, 2, 0, 0) == 3 * S
    assert given.on_told(2 * S, 2, 0, 0) == 2 * S
    assert given.on_ended(b"0", S) == 2 * S


@pytest.mark.parametrize(("ended_us", "less_us"), [(3 * S, 2 * S), (5 * S, 0), (6 * S, -S)])
def test_what_it_ran_since_is_not_taken_off_again_and_what_it_ran_longer_the_others_waited(ended_us, less_us):
    given = of(4 * S)
    given.on_start(b"0", S)
    given.on_start(b"0", 2 * S)  # said again after a lost connection
    assert given.on_told(5 * S, 2, 2 * S, 2 * S) == 3 * S
    assert given.on_ended(b"0", ended_us) == less_us
    assert given.on_ended(b"0", ended_us) == 0


def test_what_the_provider_cannot_have_known_of_is_in_nothing_it_told():
    given = of(S)
    given.on_offered(b"late", S, 10)
    assert given.on_told(5 * S, 2, 9, 20) == S
    assert (given.untold_us(9, 20), given.untold_us(10, 20)) == (S - 10, 0)
    assert given.on_ended(b"late", 30) == 0


def test_who_says_it_has_nothing_was_not_told_of_ones_own_work():
    given = of(S)
    assert given.on_told(0, 0, 0, 0) == 0
    assert given.on_ended(b"0", 0) == 0


def test_what_has_not_begun_when_it_should_have_shows_how_late_the_next_will_be():
    given = of(S, S, S)
    for attempt, start_by_us in ((b"0", 2 * S), (b"1", S), (b"stranger", 0)):
        given.on_accepted(attempt, start_by_us)
    assert [given.late_us(now_us) for now_us in (0, S, 3 * S)] == [0, 0, 2 * S]
    given.on_start(b"1", 3 * S)
    assert given.late_us(3 * S) == S
    given.on_ended(b"0", 3 * S)
    assert given.late_us(3 * S) == 0


def test_the_tasks_are_bounded():
    assert len(of(*[1] * (MAX_TASKS + 1))) == MAX_TASKS


@each(st.lists(st.integers(0, 10**9), max_size=6), st.integers(0, 10**15), st.integers(0, 10))
def test_the_parts_add_up_to_ones_own_and_none_is_negative(busy_us, wait_us, tasks):
    given = of(*busy_us)
    own_us = given.on_told(wait_us, tasks, 0, 0)
    parts = [given.on_ended(b"%d" % number, 0) for number in range(len(busy_us))]
    assert min(parts, default=0) >= 0
    assert sum(parts) == own_us <= wait_us
