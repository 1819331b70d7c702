"""Waits: how what a provider told turns into what is expected now."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.policy.waits import (
    CHOSEN_PERCENT,
    FRESH_US,
    LATE_HALVES_US,
    MAX_LATE_US,
    MEAN_OVER_US,
    PUNCTUAL_US,
    SHORT_GROWS,
    Waits,
    changed_share,
    expected_us,
)

S = 1_000_000
US = st.integers(0, 10**15)


def test_what_was_just_told_is_taken_as_it_is():
    assert expected_us(3 * S, 0, 0, 9 * S) == 3 * S


def test_what_was_told_long_ago_gives_way_to_what_is_usual():
    assert expected_us(3 * S, 3600 * S, 3600 * S, S) == S * CHOSEN_PERCENT // 100


def test_a_peer_that_said_it_is_free_is_less_surely_so_as_time_passes():
    usual_us = S // 2
    kept = math.exp(-1)
    assert expected_us(0, 5 * FRESH_US, FRESH_US, usual_us) == int(
        (1 - kept) * usual_us * CHOSEN_PERCENT / 100
    )


def test_the_longer_nothing_is_heard_of_queues_the_more_of_them_changed():
    assert changed_share(0) == 0
    assert changed_share(FRESH_US) == 1 - math.exp(-1)
    assert changed_share(3600 * S) == 1


def test_what_a_peer_told_that_would_have_told_of_more_runs_down():
    assert expected_us(3 * S, S, 0, 9 * S) == 2 * S


@given(US, US, US, US)
def test_the_wait_lies_between_what_was_told_and_what_is_usual(told_us, age_us, silent_us, mean_us):
    usual_us = mean_us * CHOSEN_PERCENT / 100
    wait_us = expected_us(told_us, age_us, silent_us, mean_us)
    aged_us = max(0, told_us - age_us)
    assert min(aged_us, usual_us) * 0.999999 - 1 <= wait_us <= max(aged_us, usual_us) * 1.000001


def test_the_mean_begins_with_the_first_and_follows_the_last_ten_seconds():
    waits = Waits()
    assert waits.mean_us == 0
    waits.on_told(4 * S, 0)
    assert waits.mean_us == 4 * S
    waits.on_told(2 * S, 1)
    assert waits.mean_us == 3 * S
    waits.on_told(0, MEAN_OVER_US)
    assert waits.mean_us < 3 * S * 0.37


def test_of_a_peer_that_tells_of_itself_the_mean_is_of_what_ran_down_between():
    waits, asked = Waits(), Waits()
    for each in (waits, asked):
        each.on_told(4 * S, 0)
    waits.on_told(
        4 * S, 8 * S, watched=True
    )  # 4 s that ran down in 4 s, and as long nothing: 1 s at the mean
    asked.on_told(4 * S, 8 * S)
    kept = math.exp(-0.8)
    assert waits.mean_us == int(4 * S * kept + S * (1 - kept))
    assert asked.mean_us == 4 * S


def test_lateness_is_learned_at_once_and_forgotten_and_punctuality_is_no_credit():
    waits = Waits()
    for late_us in (2 * S, 2_666_667, 3 * S, 3_250_000):
        waits.on_start(S, 5 * S, now_us=0)
        assert waits.late_us(0) == late_us
    for _ in range(60):
        waits.on_start(5 * S, S, now_us=0)
    assert waits.late_us(0) < 10
    waits.on_start(S, S + PUNCTUAL_US, now_us=0)
    assert waits.late_us(0) < 10


def test_who_is_waited_for_no_longer_is_late_by_that_at_least_and_never_less_than_was_known():
    waits = Waits()
    waits.on_no_start(S, 5 * S, now_us=0)
    assert waits.late_us(0) == 2 * S  # half of it, as with a first start
    waits.on_no_start(S, 2 * S, now_us=0)
    assert waits.late_us(0) == 2 * S


def test_lateness_halves_every_minute():
    waits = Waits()
    waits.on_start(0, 8 * S, now_us=7)
    assert waits.late_us(7) == 4 * S
    assert waits.late_us(7 + LATE_HALVES_US) == 2 * S
    waits.on_start(0, 0, now_us=7 + LATE_HALVES_US)
    assert waits.late_us(7 + LATE_HALVES_US) == 2 * S * 2 // 3


def test_who_is_late_again_is_remembered_four_times_as_long_until_it_is_punctual():
    for times, halves in ((1, 1), (2, 4), (3, 16), (4, 64), (9, 64)):
        waits = Waits()
        for _ in range(times):
            waits.on_start(0, 8 * S, now_us=0)
        assert waits.late_us(halves * LATE_HALVES_US) == pytest.approx(waits.late_us(0) / 2, abs=1)
    waits.on_start(0, 0, now_us=0)
    assert waits.late_us(LATE_HALVES_US) == pytest.approx(waits.late_us(0) / 2, abs=1)


def test_who_refuses_though_it_says_it_is_free_is_soon_expected_to_let_one_wait():
    waits = Waits()
    waits.on_refused(told_us=3 * S, max_wait_us=S, now_us=0)
    assert waits.late_us(0) == 0  # it said so
    waits.on_refused(told_us=0, max_wait_us=S, now_us=0)
    assert waits.late_us(0) == S
    known_us = waits.late_us(S)
    waits.on_refused(told_us=0, max_wait_us=S, now_us=S)
    assert waits.late_us(S) == SHORT_GROWS * known_us


def test_refusals_of_what_was_offered_together_tell_the_same_once():
    waits = Waits()
    for now_us in (0, 1, S // 2):
        waits.on_refused(told_us=0, max_wait_us=S, now_us=now_us)
    assert waits.late_us(0) == S


@given(st.lists(st.tuples(US, US), max_size=20))
def test_no_report_makes_lateness_negative_or_endless(reports):
    waits = Waits()
    for now_us, (first_us, second_us) in enumerate(reports):
        waits.on_start(first_us, second_us, now_us)
        waits.on_no_start(second_us, first_us, now_us)
        waits.on_refused(first_us, second_us, now_us)
        assert 0 <= waits.late_us(now_us) <= MAX_LATE_US
