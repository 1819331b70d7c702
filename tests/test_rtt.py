import random

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.policy.rtt import (
    DRIFT_MILLIONTHS,
    MAX_SAMPLES,
    WINDOW_US,
    Rtt,
    RttEstimator,
    Way,
    narrow,
    offset_interval,
)

from .truth import WORLDS


def test_nothing_is_estimated_before_the_first_sample():
    assert RttEstimator().estimate() is None


def test_the_minimum_is_kept_and_jitter_beside_it():
    estimator = RttEstimator()
    for now_us, rtt_us in enumerate([30, 20, 60, 25]):
        estimator.add(rtt_us, now_us)
    assert estimator.estimate() == Rtt(min_us=20, jitter_us=(10 + 40 + 35) // 3, samples=4)


def test_an_old_minimum_is_forgotten_when_the_route_has_changed():
    estimator = RttEstimator()
    estimator.add(10_000, 0)
    estimator.add(50_000, WINDOW_US)
    assert estimator.estimate().min_us == 10_000
    estimator.add(50_000, WINDOW_US + 1)
    assert estimator.estimate().min_us == 50_000


def test_samples_are_bounded():
    estimator = RttEstimator()
    for number in range(10 * MAX_SAMPLES):
        estimator.add(1000, number)
    assert estimator.estimate().samples == MAX_SAMPLES


def test_a_negative_round_trip_is_our_bug():
    with pytest.raises(LocalProtocolError):
        RttEstimator().add(-1, 0)


@pytest.mark.parametrize("world", WORLDS)
def test_sixteen_jittered_samples_find_the_distance_within_five_percent(world):
    dice = random.Random(world)
    true = [rtt for row in WORLDS[world]() for rtt in row if rtt]
    good = 0
    for rtt_us in true:
        estimator = RttEstimator()
        for number in range(16):
            estimator.add(rtt_us + round(dice.expovariate(1 / (0.1 * rtt_us))), number)
        good += estimator.estimate().min_us <= 1.05 * rtt_us
    assert good >= 0.99 * len(true)


@pytest.mark.parametrize(("there_us", "back_us"), [(10, 10), (0, 40), (40, 0), (3, 17)])
@pytest.mark.parametrize("offset_us", [0, 5_000_000, -7])
def test_the_offset_lies_in_an_interval_as_wide_as_the_time_on_the_way(there_us, back_us, offset_us):
    t1 = 1000
    t2 = t1 + there_us + offset_us
    t3 = t2 + 500
    t4 = t3 - offset_us + back_us
    low, high = offset_interval(t1, t2, t3, t4)
    assert low <= offset_us <= high
    assert high - low == there_us + back_us


@pytest.mark.parametrize("times", [(0, 10, 5, 20), (0, 0, 100, 20)])
def test_times_that_contradict_each_other_are_the_remotes_fault(times):
    with pytest.raises(RemoteProtocolError):
        offset_interval(*times)


def test_hearing_the_answer_before_asking_is_our_bug():
    with pytest.raises(LocalProtocolError):
        offset_interval(10, 0, 0, 9)


def test_two_intervals_narrow_each_other_and_a_contradiction_keeps_the_newer():
    assert narrow((0, 10), (5, 20)) == (5, 10)
    assert narrow((0, 10), (11, 20)) == (11, 20)


@pytest.mark.parametrize("drift_millionths", [-DRIFT_MILLIONTHS, -7, 0, 13, DRIFT_MILLIONTHS])
def test_the_offset_of_clocks_that_drift_stays_within_its_interval(drift_millionths):
    dice = random.Random(1)
    known, compared_us = None, 0
    for t1 in range(0, 7_200_000_000, 15_000_000):  # a ping every 15 s, two hours long
        offset_us = 1_000_000 + t1 * drift_millionths // 1_000_000
        there_us, back_us = (20_000 + round(dice.expovariate(1 / 2_000)) for _ in range(2))
        t2, t4 = t1 + offset_us + there_us, t1 + there_us + back_us
        interval = offset_interval(t1, t2, t2, t4)
        known = interval if known is None else narrow(known, interval, later_us=t4 - compared_us)
        compared_us = t4
        assert known[0] <= offset_us <= known[1]
        assert known[1] - known[0] <= interval[1] - interval[0]
    assert abs(sum(known) // 2 - offset_us) <= 1_000  # paths are as long both ways: the middle is the truth


def test_a_round_trip_of_ones_own_counts_however_much_less_a_third_peer_says():
    estimator = RttEstimator()
    estimator.add(5_000, 0, Way.RELAYED)
    assert estimator.estimate() == Rtt(5_000, 0, 1, Way.RELAYED)
    estimator.add(80_000, 1, Way.ANSWER)
    assert estimator.estimate() == Rtt(80_000, 0, 1, Way.ANSWER)
    estimator.add(50_000, 2, Way.DIRECT)
    estimator.add(1_000, 3, Way.RELAYED)
    assert estimator.estimate() == Rtt(50_000, 0, 1)


def test_an_answer_bounds_the_round_trip_and_says_nothing_of_its_jitter():
    estimator = RttEstimator()
    for now_us, rtt_us in enumerate([50_000, 52_000, 51_000]):
        estimator.add(rtt_us, now_us)
    estimator.add(47_000, 3, Way.ANSWER)
    assert estimator.estimate() == Rtt(47_000, 1_500, 3)
    estimator.add(900_000, 4, Way.ANSWER)  # it was busy
    assert estimator.estimate() == Rtt(47_000, 1_500, 3)
    estimator.add(46_000, 5)
    assert estimator.estimate() == Rtt(46_000, (2_000 + 1_000 + 5_000) // 3, 4)


def test_an_answer_over_a_route_that_has_changed_is_forgotten_with_the_pings_of_it():
    estimator = RttEstimator()
    estimator.add(10_000, 0, Way.ANSWER)
    estimator.add(90_000, WINDOW_US - 1, Way.ANSWER)
    estimator.add(50_000, WINDOW_US)
    assert estimator.estimate() == Rtt(10_000, 0, 1)
    estimator.add(50_000, WINDOW_US + 1)  # no answer since then
    assert estimator.estimate() == Rtt(50_000, 0, 2)


def test_a_way_that_is_used_no_longer_is_forgotten():
    estimator = RttEstimator()
    estimator.add(5_000, 0)
    estimator.add(60_000, WINDOW_US, Way.RELAYED)
    assert estimator.estimate().way is Way.DIRECT
    estimator.add(60_000, WINDOW_US + 1, Way.RELAYED)
    assert estimator.estimate() == Rtt(60_000, 0, 2, Way.RELAYED)
