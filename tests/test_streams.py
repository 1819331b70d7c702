"""Which task streams a provider keeps open, and for how long."""

import pytest

from protocol.errors import LocalProtocolError
from protocol.policy.streams import StreamLimits, Streams

LIMITS = StreamLimits(talking=6, talking_per_peer=3)
IDLE, SOON = LIMITS.idle_us, LIMITS.first_word_us


def talk(streams, peer, now_us=0):
    number = streams.opened(peer, now_us)
    return number is not None and streams.speaks(peer, number)


def test_two_idle_streams_of_a_peer_wait_long_and_the_next_not():
    streams = Streams("own", LIMITS)
    first, second, third = (streams.opened("a", at_us) for at_us in (0, 10, 20))
    assert [streams.closes_us("a", number) for number in (first, second, third)] == [
        IDLE,
        10 + IDLE,
        20 + SOON,
    ]
    assert streams.closes_us("b", streams.opened("b", 30)) == 30 + IDLE
    streams.closed("a", first)
    assert streams.closes_us("a", third) == 20 + IDLE  # it is one of the two now
    assert streams.speaks("a", second)
    assert streams.closes_us("a", streams.opened("a", 40)) == 40 + IDLE


def test_idle_streams_take_no_place_of_a_conversation():
    streams = Streams("own", LIMITS)
    kept = [streams.opened("a", 0), streams.opened("a", 0)]
    assert all(talk(streams, "a") for _ in range(3))
    assert streams.statistics() == {"idle": 2, "talking": 3, "turned_away": 0}
    assert streams.opened("a", 0) is None  # it would be a fourth
    assert not streams.speaks("a", kept[0])
    assert streams.statistics()["turned_away"] == 2


def test_streams_beyond_the_kept_ones_count_before_they_speak():
    streams = Streams("own", LIMITS)
    opened = [streams.opened("a", 0) for _ in range(2 + 3)]
    assert None not in opened
    assert streams.opened("a", 0) is None


def test_one_requester_leaves_places_for_others():
    streams = Streams("own", StreamLimits())
    while talk(streams, "greedy"):
        pass
    assert streams.statistics()["talking"] == StreamLimits().talking_per_peer
    assert talk(streams, "modest")


def test_all_places_taken_leave_one_for_the_peer_itself():
    streams = Streams("own", LIMITS)
    assert [talk(streams, peer) for peer in "aaabbb"] == [True] * 6
    number = streams.opened("c", 0)
    assert not streams.speaks("c", number)
    assert talk(streams, "own")
    streams.closed("a", 1)
    assert streams.speaks("c", number)


def test_what_has_closed_is_forgotten():
    streams = Streams("own", LIMITS)
    numbers = [streams.opened("a", 0) for _ in range(3)]
    assert streams.speaks("a", numbers[0])
    with pytest.raises(LocalProtocolError):
        streams.speaks("a", numbers[0])
    for number in numbers:
        streams.closed("a", number)
    assert streams.statistics() == {"idle": 0, "talking": 0, "turned_away": 0}
    assert not streams._peers
