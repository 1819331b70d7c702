"""Calibration: nine pictures of ten come within their p90, whatever the times are like."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.policy import calibration as module
from protocol.policy.calibration import (
    FIRST_MULTIPLE,
    MOST_MULTIPLE,
    Calibration,
    Forecast,
    pinball_us,
)

S = 1_000_000


def forecast(calibration, peer="near", p50_us=S, spread_us=S // 2, claimed_us=S, unclaimed_us=0):
    p90_us = p50_us + int(spread_us * calibration.multiple(peer))
    return Forecast(peer, p50_us, p90_us, spread_us, claimed_us, unclaimed_us)


TIMES = {
    "as predicted, with hiccups": lambda dice: (
        S * (3 if dice.random() < 0.02 else dice.lognormvariate(0, 0.1))
    ),
    "twice as long as predicted": lambda dice: 2 * S * dice.lognormvariate(0, 0.3),
    "half as long as predicted": lambda dice: 0.5 * S * dice.lognormvariate(0, 0.3),
    "heavy tails": lambda dice: S * dice.paretovariate(1.5),
}


@pytest.mark.parametrize("times", TIMES)
def test_the_p90_holds_for_nine_of_ten(times):
    calibration, dice = Calibration(), random.Random(times)
    within = 0
    for number in range(2200):
        said, took_us = forecast(calibration, str(number % 7)), int(TIMES[times](dice))
        within += number >= 400 and took_us <= said.p90_us
        calibration.on_picture(said, took_us)
    if times.startswith("half"):
        assert within / 1800 > 0.98  # it is never less than the p50
    else:
        assert 0.88 <= within / 1800 <= 0.92


def test_a_peer_that_is_later_than_others_gets_a_margin_of_its_own():
    calibration, dice = Calibration(), random.Random(1)
    within = {"near": 0, "late": 0}
    for number in range(4000):
        peer = "late" if number % 5 == 0 else "near"
        said, took_us = forecast(calibration, peer), int(S * dice.lognormvariate(0.7 * (peer == "late"), 0.1))
        within[peer] += number >= 2000 and took_us <= said.p90_us
        calibration.on_picture(said, took_us)
    assert calibration.multiple("late") > calibration.multiple("near")
    assert 0.85 <= within["near"] / 1600
    assert 0.75 <= within["late"] / 400


def test_what_held_is_counted():
    calibration = Calibration()
    assert calibration.held() is None
    for took_us in (S // 2, S + 1, 9 * S):
        calibration.on_picture(Forecast("near", S, 2 * S, S, S // 2, S // 4), took_us)
    held = calibration.held()
    assert (held.pictures, held.within_p50, held.within_p90) == (3, 1 / 3, 2 / 3)
    assert held.loss_us == pytest.approx((0.1 * 1.5 * S + 0.1 * (S - 1) + 0.9 * 7 * S) / 3)
    assert held.claims_loss_us == pytest.approx((0 + 0.9 * (S / 2 + 1) + 0.9 * 8.5 * S) / 3)
    assert held.claims_and_ways_loss_us == pytest.approx(
        (0.1 * S / 4 + 0.9 * (S / 4 + 1) + 0.9 * 8.25 * S) / 3
    )
    assert held.sentence() == (
        "33% of 3 pictures came within their p50 and 67% within their p90; "
        "the p90's loss is 81% of that of the providers' own claims, "
        "85% where the ways to them are added as they were measured."
    )


def test_the_pinball_loss_is_least_at_the_quantile():
    took_us = [number * 1000 for number in range(1000)]
    losses = {said_us: math.fsum(pinball_us(said_us, us) for us in took_us) for said_us in took_us}
    assert abs(min(losses, key=losses.get) - 900_000) <= 1000


def test_the_peers_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_PEERS", 2)
    calibration = Calibration()
    for peer in "abc":
        calibration.on_picture(forecast(calibration, peer), 9 * S)
    assert calibration.multiple("a") == calibration.multiple("z") < calibration.multiple("c")


@given(st.lists(st.tuples(st.integers(0, 10**15), st.integers(0, 10**15)), max_size=30))
def test_whatever_comes_the_multiple_stays_in_its_bounds(pictures):
    calibration = Calibration()
    assert calibration.multiple("near") == FIRST_MULTIPLE
    for p90_us, took_us in pictures:
        calibration.on_picture(Forecast("near", 0, p90_us, 1, 0, 0), took_us)
        assert 0 <= calibration.multiple("near") <= 2 * MOST_MULTIPLE
