"""Whom to dial again though others are connected, and when."""

import itertools

from protocol.policy.reunion import FIRST_US, LAST_US, MAX_GONE, Reunion

LOOK_US = 5_000_000


def tries_us(reunion, until_us, *, since_us=0, bits=0, spread=1.0):
    """When it is tried, looked at now and then."""
    tries = []
    for now_us in range(since_us, until_us + 1, LOOK_US):
        if reunion.is_due(bits, now_us):
            tries.append(now_us)
            reunion.on_tried(spread, now_us)
    return tries


def gaps(times):
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_the_pause_doubles_up_to_its_longest():
    first, *rest = tries_us(Reunion(0), 10 * LAST_US)
    assert first == FIRST_US
    assert gaps([first, *rest])[:4] == [2 * FIRST_US, 4 * FIRST_US, LAST_US, LAST_US]


def test_not_everybody_tries_at_once():
    assert gaps(tries_us(Reunion(0), 10 * LAST_US, spread=1.25))[-1] == LAST_US * 1.25


def test_a_swarm_of_any_size_is_tried_as_often_by_all_of_it_together():
    assert gaps(tries_us(Reunion(0), 100 * LAST_US, bits=4))[-1] == 16 * LAST_US
    small = Reunion(0)
    small.on_tried(1.0, 0)
    assert not small.is_due(4, LAST_US)
    assert small.is_due(0, LAST_US)  # it has become one


def test_whoever_goes_is_tried_soon_but_does_not_put_off_the_next_try():
    reunion = Reunion(0)
    tries_us(reunion, 5 * LAST_US)
    for number in range(10):
        reunion.on_advert(f"peer{number}", ("address",))
    began_us = 6 * LAST_US
    reunion.on_look(lambda peer: peer != "peer0", began_us)
    for number in range(1, 10):
        reunion.on_look(lambda peer, number=number: peer > f"peer{number}", began_us + number)
    assert list(reunion.gone) == [f"peer{number}" for number in range(9, -1, -1)]
    assert not reunion.is_due(0, began_us + FIRST_US - 1)
    assert reunion.is_due(0, began_us + FIRST_US)


def test_those_that_went_last_are_kept_and_who_is_heard_of_again_is_not_gone():
    reunion = Reunion(0)
    for number in range(2 * MAX_GONE):
        reunion.on_advert(str(number), (f"address {number}",))
        reunion.on_look(lambda peer: False, 0)
    assert list(reunion.gone) == [str(number) for number in range(2 * MAX_GONE - 1, MAX_GONE - 1, -1)]
    last = str(2 * MAX_GONE - 1)
    assert reunion.gone[last] == (f"address {last}",)
    reunion.on_advert(last, ("another",))
    assert last not in reunion.gone
    reunion.on_look(lambda peer: True, 0)
    assert last not in reunion.gone


def test_of_those_named_and_of_the_others_who_was_not_tried_for_longest_is():
    reunion = Reunion(0)
    assert reunion.pick([], []) == []
    assert [reunion.pick(["a", "b"], ["x", "y", "z"]) for _ in range(3)] == [
        ["a", "x"],
        ["b", "y"],
        ["a", "z"],
    ]
    assert reunion.pick([], ["x", "y", "new", "z"]) == ["new"]
    assert reunion.pick(["b"], ["x", "y", "new", "z"]) == ["b", "x"]
