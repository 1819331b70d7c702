"""Network coordinates in worlds whose distances are known exactly, with and without liars."""

import random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.policy.coordinates import (
    LEAST_HEIGHT_US,
    MOST_ERROR,
    NEIGHBOURS,
    PEER_EVERY_US,
    Coordinates,
)
from protocol.wire.coordinate import MAX_OFFSET_US, Coordinate

from .truth import grid, line, scattered, split

FAR_OFF = Coordinate(MAX_OFFSET_US, -MAX_OFFSET_US, MAX_OFFSET_US, MAX_OFFSET_US, 0)
HERE = Coordinate(0, 0, 0, 100, 0)
ROUNDS, NEIGHBOURS_EACH = 40, 8


def settled(matrix, *, liars=(), lie=None, seed=1):
    """The coordinates of all, after each has measured some others many times."""
    dice = random.Random(seed)
    size = len(matrix)
    all_of = [Coordinates(bytes([index])) for index in range(size)]
    others = [
        dice.sample([other for other in range(size) if other != index], min(NEIGHBOURS_EACH, size - 1))
        for index in range(size)
    ]
    for turn in range(ROUNDS):
        for index in range(size):
            for other in others[index]:
                claimed = lie(dice) if other in liars else all_of[other].own
                all_of[index].on_rtt(str(other), claimed, matrix[index][other], turn * PEER_EVERY_US)
    return all_of


def relative_errors(matrix, coordinates, but=()):
    """Of the estimates, over all pairs of who is not in `but`."""
    some = [index for index in range(len(matrix)) if index not in but]
    return [
        abs(coordinates[a].own.rtt_us(coordinates[b].own) - matrix[a][b]) / matrix[a][b]
        for a in some
        for b in some
        if a != b
    ]


# A circle fits in no space.
@pytest.mark.parametrize(("world", "wanted"), [(line, 0.1), (grid, 0.1), (split, 0.15), (scattered, 0.1)])
def test_estimates_are_near_the_truth_where_the_world_is_a_space(world, wanted):
    matrix = world(16)
    assert median(relative_errors(matrix, settled(matrix))) < wanted


@pytest.mark.parametrize(
    "lie",
    [
        lambda dice: FAR_OFF,
        lambda dice: HERE,
        lambda dice: Coordinate(
            dice.randrange(-300_000, 300_000), dice.randrange(-300_000, 300_000), 0, 0, 0
        ),
    ],
    ids=["explodes", "here", "jumps"],
)
def test_a_quarter_of_liars_does_not_spoil_the_estimates_between_the_others(lie):
    matrix = scattered(20)
    liars = {0, 4, 8, 12, 16}
    honest = median(relative_errors(matrix, settled(matrix), but=liars))
    spoiled = median(relative_errors(matrix, settled(matrix, liars=liars, lie=lie), but=liars))
    assert spoiled < max(0.15, 2 * honest)


def test_before_anything_was_measured_a_peer_is_at_the_origin_and_says_that_it_does_not_know():
    assert Coordinates(b"a").own == Coordinate(0, 0, 0, round(LEAST_HEIGHT_US), round(MOST_ERROR * 1e6))


def test_two_in_one_place_part_and_find_their_distance():
    one, other = Coordinates(b"1"), Coordinates(b"2")
    for turn in range(100):
        one.on_rtt("other", other.own, 50_000, turn * PEER_EVERY_US)
        other.on_rtt("one", one.own, 50_000, turn * PEER_EVERY_US)
    assert one.own.rtt_us(other.own) == pytest.approx(50_000, rel=0.02)


def test_a_peer_pulls_once_in_a_while_however_often_it_is_measured():
    coordinates = Coordinates(b"a")
    coordinates.on_rtt("loud", HERE, 50_000, 0)
    before = coordinates.own
    coordinates.on_rtt("loud", HERE, 50_000, PEER_EVERY_US - 1)
    assert coordinates.own == before
    coordinates.on_rtt("loud", HERE, 50_000, PEER_EVERY_US)
    assert coordinates.own != before


@pytest.mark.parametrize("rtt_us", [0, -1, 2 * MAX_OFFSET_US + 1])
def test_impossible_round_trips_and_peers_without_a_coordinate_move_nobody(rtt_us):
    coordinates = Coordinates(b"a")
    before = coordinates.own
    coordinates.on_rtt("odd", HERE, rtt_us, 0)
    coordinates.on_rtt("mute", None, 50_000, 0)
    assert coordinates.own == before


claims = st.builds(
    Coordinate,
    st.integers(-MAX_OFFSET_US, MAX_OFFSET_US),
    st.integers(-MAX_OFFSET_US, MAX_OFFSET_US),
    st.integers(-MAX_OFFSET_US, MAX_OFFSET_US),
    st.integers(0, MAX_OFFSET_US),
    st.integers(0, 2_000_000),
)


@settings(max_examples=50)
@given(st.lists(st.tuples(claims, st.integers(1, 2 * MAX_OFFSET_US)), max_size=200))
def test_whatever_is_claimed_a_peer_stays_within_the_bounds_of_the_wire(told):
    coordinates = Coordinates(b"a")
    for turn, (claimed, rtt_us) in enumerate(told):
        coordinates.on_rtt(str(turn), claimed, rtt_us, turn)
        assert Coordinate.from_untrusted(coordinates.own.to_bytes()) == coordinates.own
    assert coordinates.statistics()["neighbours"] <= NEIGHBOURS


@given(st.binary(max_size=64))
def test_bytes_are_a_coordinate_within_bounds_or_none(data):
    coordinate = Coordinate.from_untrusted(data)
    assert coordinate is None or coordinate.to_bytes() == data


@given(claims, claims)
def test_an_estimate_is_the_same_both_ways_and_at_least_both_heights(one, other):
    assert one.rtt_us(other) == other.rtt_us(one) >= one.height_us + other.height_us


def test_an_advert_with_a_coordinate_beyond_the_bounds_is_one_without():
    assert Coordinate.from_untrusted(FAR_OFF.to_bytes()) == FAR_OFF
    beyond = (MAX_OFFSET_US + 1).to_bytes(4, "big") + bytes(16)
    assert Coordinate.from_untrusted(beyond) is None
