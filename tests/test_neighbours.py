"""Whom to stay connected to: distances exact, thousands of fakes, and no turns taken for nothing."""

import random

from protocol.policy.neighbours import (
    CONNECTIONS,
    FAR,
    FURTHER_AT_ONCE,
    FURTHER_EVERY_US,
    KEPT_US,
    LOT_EVERY_US,
    LOTS_EVERY_US,
    MOST_CONNECTIONS,
    NEAR,
    SOURCE_SHARE,
    SWAP_EVERY_US,
    Neighbours,
)
from protocol.wire.coordinate import Coordinate
from protocol.wire.lookup import bits_in_common, place_of

from .truth import OTHER_MODEL, advert, candidate, offered, statement

HERE = Coordinate(0, 0, 0, 0, 50_000)
NOWHERE = Coordinate(0, 0, 0, 0, 1_500_000)


def at(us):
    return Coordinate(us, 0, 0, 0, 50_000)


def known(name, us=None, *, rtt_us=None, connected=False, ip=None, **changes):
    """A peer that says it is `us` away, in a network of its own unless `ip` says which."""
    number = int.from_bytes(name.encode()[-3:], "big")
    ip = ip or f"{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}.1"
    what = advert(addresses=(f"/ip4/{ip}/tcp/1",), coordinate=None if us is None else at(us), **changes)
    return candidate(name, rtt_us, connected=connected, advert=what)


def chosen(candidates, own="me", now_us=0, **more):
    more = {"bits": 0, "coordinate": HERE, "now_us": now_us, **more}
    return Neighbours(own).changes(candidates, **more)


def test_where_all_fit_all_are_dialled_whatever_is_known_of_them():
    candidates = [known(f"p{number:02}", number) for number in range(CONNECTIONS - 1)]
    candidates.append(known("mute"))
    assert set(chosen(candidates).dial) == {each.peer for each in candidates}


def test_the_nearest_by_their_coordinates_are_dialled_and_some_by_lot():
    candidates = [known(f"{number:03}", 1000 * (number + 1)) for number in range(400)]
    dial = chosen(candidates).dial
    assert dial[:NEAR] == tuple(f"{number:03}" for number in range(NEAR))
    assert len(dial) == CONNECTIONS
    assert sum(int(peer) >= 100 for peer in dial) >= FAR // 2
    assert dial != chosen(candidates, own="another").dial
    assert dial == chosen(candidates, now_us=LOTS_EVERY_US - 1).dial
    assert dial != chosen(candidates, now_us=LOTS_EVERY_US).dial


def test_what_was_measured_counts_and_not_what_is_told():
    liars = [known(f"{number:03}", 1, rtt_us=300_000) for number in range(50)]
    honest = [known(f"{number:03}", 50_000) for number in range(100, 150)]
    measured = [known(f"{number:03}", 900_000, rtt_us=10_000) for number in range(200, 205)]
    dial = chosen(liars + honest + measured).dial
    assert {each.peer for each in measured} <= set(dial[:NEAR])
    assert not {each.peer for each in liars} & set(dial[:NEAR])


def test_who_does_not_know_where_it_is_estimates_nothing():
    candidates = [known(f"{number:03}", 1000 * (number + 1)) for number in range(100)]
    measured = known("mm1", rtt_us=500_000)
    assert chosen([*candidates, measured], coordinate=NOWHERE).dial[0] == "mm1"


def test_thousands_of_fakes_of_one_source_get_no_more_than_their_share():
    fakes = [known(f"f{number:04}", 0, ip="192.0.2.9") for number in range(3000)]
    honest = [known(f"{number:03}", 20_000 + number) for number in range(100)]
    dial = chosen(fakes + honest).dial
    assert len(dial) == CONNECTIONS
    assert sum(peer.startswith("f") for peer in dial) <= CONNECTIONS // SOURCE_SHARE + 1


def test_fakes_of_many_sources_cost_one_connection_at_a_time_and_none_that_was_measured_near():
    near = [known(f"{number:03}", 50_000, rtt_us=50_000, connected=True) for number in range(CONNECTIONS)]
    fakes = {f"f{number:03}": known(f"f{number:03}", 0) for number in range(500)}
    neighbours, now_us, tried, dropped = Neighbours("me"), 0, set(), set()
    state = {each.peer: each for each in near} | fakes
    for _ in range(200):
        changes = neighbours.changes(
            list(state.values()), bits=0, coordinate=HERE, now_us=now_us,
            droppable={peer for peer, each in state.items() if each.connected},
        )  # fmt: skip
        assert len(changes.dial) <= 1
        for peer in changes.dial:
            tried.add(peer)
            state[peer] = known(peer, 0, rtt_us=250_000, connected=True)
        for peer in changes.drop:
            dropped.add(peer)
            state[peer] = known(peer, 0, rtt_us=state[peer].rtt.min_us)
        now_us += SWAP_EVERY_US // 2
        assert sum(each.connected for each in state.values()) <= CONNECTIONS + 1
    assert 90 <= len(tried) <= 101
    kept = [peer for peer in (each.peer for each in near) if state[peer].connected]
    assert len(kept) >= NEAR


def test_of_two_alike_the_connected_stays():
    connected = [known(f"{number:03}", 0, rtt_us=10_000, connected=True) for number in range(CONNECTIONS)]
    others = [known(f"{number:03}", 9_000, rtt_us=9_000) for number in range(100, 160)]
    ranked = Neighbours("me")._wanted([*connected, *others], 0, HERE, 0, CONNECTIONS, ())
    assert all(int(peer) < 100 for peer in list(ranked)[:NEAR])


def test_only_connections_of_ones_own_that_carry_nothing_are_given_up_and_only_beyond_the_limit():
    connected = [
        known(f"{number:03}", 0, rtt_us=1000 * number, connected=True) for number in range(CONNECTIONS + 3)
    ]
    everyone = {each.peer for each in connected}
    assert chosen(connected).drop == ()
    drop = chosen(connected, droppable=everyone).drop
    assert 1 <= len(drop) <= 3
    assert chosen(connected[:CONNECTIONS], droppable=everyone).drop == ()


def dialled(candidates, **more):
    """All that are dialled one after the other, by someone whose dials take no time."""
    neighbours, state, order, now_us = Neighbours("me"), {each.peer: each for each in candidates}, [], 0
    while dial := neighbours.changes(
        list(state.values()), bits=0, coordinate=HERE, now_us=now_us, **more
    ).dial[: MOST_CONNECTIONS - len(order)]:
        order += dial
        state |= {peer: state[peer]._replace(connected=True) for peer in dial}
        now_us += FURTHER_EVERY_US
    return order


def test_who_asks_much_connects_to_more_of_the_nearest_up_to_a_bound_one_after_the_other():
    candidates = [known(f"{number:03}", 10_000 * (number + 1)) for number in range(400)]
    dial = chosen(candidates, connections=CONNECTIONS + 40).dial
    assert dial[: NEAR + 1] == tuple(f"{number:03}" for number in range(NEAR + 1))
    assert len(dial) == CONNECTIONS + FURTHER_AT_ONCE
    assert {f"{number:03}" for number in range(NEAR + 40)} <= set(
        dialled(candidates, connections=CONNECTIONS + 40)
    )
    assert len(dialled(candidates, connections=10**9)) == MOST_CONNECTIONS
    assert chosen(candidates, connections=0) == chosen(candidates)


def test_further_ones_come_some_at_once_and_then_one_by_one():
    connected = [known(f"{number:03}", 1_000, connected=True) for number in range(CONNECTIONS)]
    others = [known(f"{number:03}", 9_000) for number in range(CONNECTIONS, 200)]
    neighbours = Neighbours("me")

    def dials(now_us):
        wanted = neighbours.changes(
            [*connected, *others], bits=0, coordinate=HERE, now_us=now_us, connections=MOST_CONNECTIONS
        )
        return len(wanted.dial)

    assert [dials(int(at * FURTHER_EVERY_US)) for at in (0, 0, 0.5, 1, 1.9, 2, 5)] == [
        FURTHER_AT_ONCE,
        0,
        0,
        1,
        0,
        1,
        3,
    ]
    assert dials(1000 * FURTHER_EVERY_US) == FURTHER_AT_ONCE


def test_the_further_ones_of_who_asks_are_those_that_would_draw_it_soonest():
    candidates = [
        known(f"{number:03}", 1000 * (number + 1), models=(offered(step_us=100_000),))
        for number in range(300)
    ]
    for name, model in (
        ("quick", offered(step_us=1_000)),
        ("other", offered(step_us=1_000, model=OTHER_MODEL)),
        ("disk!", offered("disk", step_us=1_000, load_us=9_000_000)),
    ):
        candidates.append(known(name, 100_000, models=(model,))._replace(state=None))
    for asked, first in (((), "020"), ((statement(),), "quick"), ((statement(model=OTHER_MODEL),), "other")):
        assert chosen(candidates, connections=CONNECTIONS + 1, asked=asked).dial[NEAR] == first
    further = dialled(candidates, connections=CONNECTIONS + 9, asked=(statement(),))
    assert "disk!" not in further


def test_what_was_dialled_for_much_demand_is_kept_for_a_while_after_it():
    connected = [
        known(f"{number:03}", 0, rtt_us=1000 * number, connected=True) for number in range(CONNECTIONS + 40)
    ]
    neighbours = Neighbours("me")

    def dropped(connections, now_us):
        changes = neighbours.changes(
            connected,
            bits=0,
            coordinate=HERE,
            now_us=now_us,
            droppable={each.peer for each in connected},
            connections=connections,
        )
        return len(changes.drop)

    assert dropped(CONNECTIONS + 40, 0) == 0
    assert dropped(CONNECTIONS, KEPT_US - 1) == 0
    assert dropped(CONNECTIONS, KEPT_US) == 40


def test_two_of_ones_own_shard_are_among_them():
    dice = random.Random(1)
    candidates = [known(f"{dice.randrange(10**9):09}", 1000 * number) for number in range(800)]
    dial = chosen(candidates, bits=6).dial
    place = place_of("me")
    assert sum(bits_in_common(place, place_of(peer)) >= 6 for peer in dial) >= 2


def test_inbound_connections_do_not_keep_the_nearest_out():
    strangers = [known(f"i{number:03}", 0, rtt_us=200_000, connected=True) for number in range(200)]
    near = [known(f"{number:03}", 1_000) for number in range(NEAR)]
    assert len(chosen(strangers + near).dial) == 1


def test_in_one_house_nobody_takes_turns():
    dice = random.Random(1)
    connected = [
        known(f"{number:03}", 0, rtt_us=dice.randrange(300, 3_000), connected=True)
        for number in range(CONNECTIONS)
    ]
    others = [known(f"{number:03}", 0, rtt_us=dice.randrange(300, 3_000)) for number in range(100, 118)]
    wanted = Neighbours("me")._wanted([*connected, *others], 0, HERE, 0, CONNECTIONS, ())
    assert sum(int(peer) >= 100 for peer in wanted) <= FAR


def test_who_is_only_drawn_by_lot_is_swapped_in_more_seldom():
    connected = [known(f"{number:03}", 0, rtt_us=10_000, connected=True) for number in range(CONNECTIONS)]
    others = [known(f"{number:03}", 0, rtt_us=90_000) for number in range(100, 200)]
    neighbours, times = Neighbours("me"), []
    for second in range(0, 1200, 10):
        now_us = second * 1_000_000
        if neighbours.changes([*connected, *others], bits=0, coordinate=HERE, now_us=now_us).dial:
            times.append(now_us)
    assert times == [0, LOT_EVERY_US, 2 * LOT_EVERY_US, 3 * LOT_EVERY_US]
