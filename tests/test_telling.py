"""When adverts are told: to the microsecond."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.policy.shards import OFTEN_US, SELDOM_US
from protocol.policy.telling import GAP_US, Telling

S = 1_000_000
PAUSE_US = 4 * OFTEN_US // 3


def told(now_us=0, pause_us=PAUSE_US, interval_us=OFTEN_US):
    telling = Telling(now_us)
    assert telling.due_us == now_us
    telling.on_told(now_us, pause_us, interval_us)
    return telling


def test_while_nothing_changes_each_advert_has_its_turn():
    telling = told()
    assert telling.due_us == PAUSE_US
    telling.on_told(PAUSE_US, OFTEN_US, OFTEN_US)
    assert telling.due_us == PAUSE_US + OFTEN_US


def test_the_first_change_is_told_at_once_and_begins_a_new_turn():
    telling = told()
    assert telling.on_change()
    assert not telling.on_change()
    assert telling.due_us == GAP_US
    telling.on_told(10 * S, PAUSE_US, OFTEN_US)
    assert telling.due_us == 10 * S + PAUSE_US


def test_the_next_change_waits_a_mean_interval_or_for_its_turn():
    telling = told()
    telling.on_change()
    telling.on_told(10 * S, PAUSE_US, OFTEN_US)
    telling.on_change()
    assert telling.due_us == 10 * S + OFTEN_US
    sooner = told()
    sooner.on_change()
    sooner.on_told(10 * S, OFTEN_US * 2 // 3, OFTEN_US)
    sooner.on_change()
    assert sooner.due_us == 10 * S + OFTEN_US * 2 // 3


def test_an_urgent_change_waits_for_the_gap_alone_which_grows_with_the_interval():
    telling = told(pause_us=SELDOM_US, interval_us=SELDOM_US)
    telling.on_change()
    telling.on_told(10 * S, SELDOM_US, SELDOM_US)
    assert telling.on_change()
    assert telling.on_change(urgent=True)
    assert not telling.on_change()
    assert telling.due_us == 10 * S + GAP_US * SELDOM_US // OFTEN_US


def test_an_advert_in_its_turn_tells_the_change_too_and_takes_nothing_from_the_next():
    telling = told()
    telling.on_change()
    telling.on_told(PAUSE_US, PAUSE_US, OFTEN_US)
    assert telling.due_us == 2 * PAUSE_US
    telling.on_change()
    assert telling.due_us == PAUSE_US + GAP_US


@given(st.lists(st.integers(OFTEN_US * 2 // 3, OFTEN_US * 4 // 3), min_size=9, max_size=99))
def test_who_changes_always_tells_at_most_twice_in_two_thirds_of_an_interval(pauses):
    telling, told_us = Telling(0), []
    for pause_us in pauses:
        told_us.append(telling.due_us)
        telling.on_told(telling.due_us, pause_us, OFTEN_US)
        telling.on_change()
    for first_us, third_us in zip(told_us, told_us[2:], strict=False):
        assert third_us - first_us >= OFTEN_US * 2 // 3
