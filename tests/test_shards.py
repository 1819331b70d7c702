"""The depth of a shard and the pace of adverts, for many peers in virtual time."""

import random

import pytest

from protocol.policy.lookups import ASKING_LOOK_US, ENOUGH_KNOWN, LOOK_EVERY_US, Lookups, answer
from protocol.policy.shards import (
    FEW,
    GRACE_US,
    OFTEN_US,
    SELDOM_US,
    SETTLED_US,
    TOPIC_BYTES_PER_S,
    Shards,
    advert_cost_bytes,
    neighbours_in_topic,
    pace,
)
from protocol.wire.advert import MAX_LIFETIME_S, MAX_SHARD_BITS, SignedAdvert
from protocol.wire.coordinate import Coordinate
from protocol.wire.identity import peer_id_of, public_key_of
from protocol.wire.lookup import Find, bits_in_common, place_of, topic_of

from .truth import MODEL, OTHER_MODEL, advert, candidate, offered

ADVERT_BYTES = 800
ROUND_US = 10_000_000


def swarm(size, seed=1):
    dice = random.Random(seed)
    return {f"peer{dice.randrange(10**12)}": None for _ in range(size)}


def live(names, rounds, shards=None, now_us=0):
    """Everyone hears everyone of its topics at once.  Who knows whom follows from who listens where."""
    shards = dict(shards or {}) | {name: Shards(name) for name in names if name not in (shards or {})}
    for turn in range(rounds):
        at_us = now_us + turn * ROUND_US
        heard = {}
        for name, each in shards.items():
            for bits in each.depths(at_us):
                heard.setdefault(topic_of("main", each.place, bits), []).append((name, each.bits))
        for name, each in shards.items():
            known = {
                peer for bits in each.depths(at_us) for peer in heard[topic_of("main", each.place, bits)]
            }
            each.on_round([peer for peer in known if peer[0] != name], ADVERT_BYTES, at_us)
    return shards


def test_a_small_swarm_is_one_topic_that_advertises_often():
    shards = live(swarm(5), 30)
    assert {each.bits for each in shards.values()} == {0}
    assert {each.pace(ADVERT_BYTES).interval_us for each in shards.values()} == {OFTEN_US}


@pytest.mark.parametrize("size", [10, 20, 50, 150])
def test_gossip_stays_within_its_budget_and_adverts_outlive_their_intervals(size):
    shards = live(swarm(size), 60)
    for each in shards.values():
        paced = each.pace(ADVERT_BYTES)
        cost_bytes = advert_cost_bytes(ADVERT_BYTES, min(each.peers - 1, neighbours_in_topic(each.bits)))
        assert OFTEN_US <= paced.interval_us <= SELDOM_US
        assert each.peers * cost_bytes * 1_000_000 / paced.interval_us <= 1.15 * TOPIC_BYTES_PER_S
        assert paced.interval_us * 4 // 3 < paced.lifetime_s * 1_000_000 <= MAX_LIFETIME_S * 1_000_000


def test_the_peers_of_a_shard_come_to_one_depth_and_stay_there():
    shards = live(swarm(260), 60)
    before = {name: each.bits for name, each in shards.items()}
    assert min(before.values()) >= 2
    assert max(before.values()) - min(before.values()) <= 1
    after = live((), 60, shards, 60 * ROUND_US)
    assert {name: each.bits for name, each in after.items()} == before
    sizes = [each.peers for each in after.values()]
    assert 15 <= min(sizes) <= max(sizes) <= 160


def test_a_swarm_that_shrinks_comes_together_again():
    shards = live(swarm(150), 40)
    assert min(each.bits for each in shards.values()) >= 1
    left = dict(list(shards.items())[:12])
    after = live((), 150, left, 40 * ROUND_US)
    assert {each.bits for each in after.values()} == {0}


def test_the_old_depth_is_kept_for_a_while():
    shards = Shards("me")
    known = [(name, 0) for name in swarm(200)]
    assert not shards.on_round(known, ADVERT_BYTES, 0)
    assert not shards.on_round(known, ADVERT_BYTES, SETTLED_US - 1)
    assert shards.on_round(known, ADVERT_BYTES, SETTLED_US)
    assert shards.depths(SETTLED_US) == (1, 0)
    assert shards.depths(SETTLED_US + GRACE_US - 1) == (1, 0)
    assert shards.depths(SETTLED_US + GRACE_US) == (1,)


def test_a_short_crowd_changes_nothing():
    shards = Shards("me")
    crowd = [(name, 0) for name in swarm(200)]
    for turn in range(100):
        known = crowd if turn % 5 else crowd[:20]
        assert not shards.on_round(known, ADVERT_BYTES, turn * ROUND_US)


def test_a_newcomer_follows_the_majority_one_depth_at_a_time():
    others = live(swarm(260), 40)
    told = [(name, each.bits) for name, each in others.items()]
    newcomer = Shards("newcomer")
    for turn in range(10):
        newcomer.on_round([each for each in told if newcomer.holds(each[0])], ADVERT_BYTES, turn)
    usual = max({each.bits for each in others.values()}, key=[each.bits for each in others.values()].count)
    assert abs(newcomer.bits - usual) <= 1


def test_a_minority_or_a_few_that_tell_any_depth_are_not_followed():
    shards = Shards("me")
    honest = [(name, 0) for name in swarm(21)]
    assert not shards.on_round([*honest, *((name, MAX_SHARD_BITS) for name in swarm(20, 2))], ADVERT_BYTES, 0)
    few = [(name, MAX_SHARD_BITS) for name in swarm(FEW - 1, 3)]
    assert not Shards("me").on_round(few, ADVERT_BYTES, 0)


def test_a_majority_of_liars_leads_no_deeper_than_there_are_liars_in_ones_shard():
    shards = Shards("me")
    liars = [(name, MAX_SHARD_BITS) for name in swarm(100)]
    for turn in range(60):
        shards.on_round(liars, ADVERT_BYTES, turn * ROUND_US)
    assert 1 <= shards.bits <= 6  # of 100 places, fewer than FEW share more bits


def test_topics_are_named_by_the_bits_of_the_place():
    place = bytes([0b10110000]) + bytes(31)
    assert topic_of("main", place, 0) == "nearlight/main/adverts/1"
    assert topic_of("main", place, 5) == "nearlight/main/adverts/1/10110"
    assert bits_in_common(place, bytes(32)) == 0
    assert bits_in_common(place, bytes([0b10110001]) + bytes(31)) == 7
    assert bits_in_common(place, place) == 256


def test_the_pace_slows_as_the_topic_fills():
    intervals = [pace(ADVERT_BYTES, peers, 0).interval_us for peers in (2, 10, 20, 40, 100)]
    assert intervals == sorted(intervals)
    assert intervals[0] == OFTEN_US
    assert intervals[-1] == SELDOM_US


# lookups


def signed(number, **changes):
    key = number.to_bytes(32, "big")
    return SignedAdvert.sign(advert(**changes), network="test", private_key=key)


def name_of(number):
    return peer_id_of(public_key_of(number.to_bytes(32, "big")))


def at(us):
    return Coordinate(us, 0, 0, 0, 50_000)


def test_an_answer_names_the_nearest_in_place_the_peer_itself_first():
    held = [signed(number) for number in range(1, 60)]
    found = answer(Find(place=place_of(name_of(7)), at_most=5), held)
    assert found[0].peer == name_of(7)
    common = [bits_in_common(place_of(name_of(7)), place_of(each.peer)) for each in found]
    assert common == sorted(common, reverse=True)
    assert len(found) == 5


def test_an_answer_names_the_nearest_of_those_who_offer_the_model():
    held = [
        signed(number, coordinate=at(1000 * number) if number % 3 else None,
               models=(offered(model=MODEL if number % 2 else OTHER_MODEL),))
        for number in range(1, 20)
    ]  # fmt: skip
    found = answer(Find(near=at(0), model=MODEL, at_most=4), held)
    assert [each.peer for each in found] == [name_of(number) for number in (1, 5, 7, 11)]


def connected(names):
    return [candidate(name, 1000 * (index + 1)) for index, name in enumerate(names)]


def sharded(bits):
    shards = Shards("me")
    shards.bits = bits
    return shards


def test_nothing_is_looked_up_while_one_topic_carries_all():
    assert Lookups("me").errand(connected(swarm(10)), sharded(0), at(0), 0) is None
    assert Lookups("me").errand([], sharded(4), at(0), 0) is None


def test_who_has_no_neighbours_in_its_shard_asks_for_its_own_place():
    errand = Lookups("me").errand(connected(swarm(10)), sharded(16), at(0), 0)
    assert errand.find == Find(place=place_of("me"))


def test_connected_peers_of_other_shards_are_asked_for_their_adverts_before_those_expire():
    lookups, others, asked = Lookups("me"), connected(swarm(10)), {}
    for second in range(0, 600, 5):
        errand = lookups.errand(others, sharded(16), at(0), second * 1_000_000)
        if errand is not None and errand.find == Find(place=place_of(errand.peer), at_most=1):
            asked.setdefault(errand.peer, []).append(second)
    assert set(asked) == {each.peer for each in others}
    for times in asked.values():
        assert all(later - earlier < 180 for earlier, later in zip([0, *times], times, strict=False))


def test_lookups_are_few():
    lookups, others = Lookups("me"), connected(swarm(32))
    errands = [
        errand
        for second in range(0, 3600, 5)
        if (errand := lookups.errand(others, sharded(1), at(0), second * 1_000_000)) is not None
    ]
    looks = [errand for errand in errands if errand.find.at_most > 1]
    assert len(looks) <= 3600 // (LOOK_EVERY_US // 1_000_000) + 10
    assert {errand.find.near is None for errand in looks} == {True, False}


def test_who_asks_for_pictures_looks_often_until_it_finds_nobody_new_or_knows_enough():
    def looked(others, news):
        lookups, seconds = Lookups("me"), []
        for second in range(0, 900, 5):
            errand = lookups.errand(others, sharded(1), at(0), second * 1_000_000, asking=True)
            if errand is not None and errand.look:
                seconds.append(second)
                lookups.on_looked(news)
        return seconds

    few, many = connected(swarm(20)), connected(swarm(ENOUGH_KNOWN))
    assert len(looked(few, 1)) > 900 * 1_000_000 / ASKING_LOOK_US / 3
    seconds = looked(few, 0)
    assert len(seconds) <= 900 * 1_000_000 / LOOK_EVERY_US + 6
    assert seconds[1] - seconds[0] < LOOK_EVERY_US // 2_000_000
    assert len(looked(many, 1)) <= 900 * 1_000_000 / LOOK_EVERY_US + 1


def test_a_model_is_asked_for_near_and_anywhere():
    others = connected(swarm(32))
    errands = Lookups("me").for_model(others, OTHER_MODEL, at(0))
    assert [errand.peer for errand in errands[:4]] == [each.peer for each in others[:4]]
    assert len({errand.peer for errand in errands}) == 8
    assert {errand.find.model for errand in errands} == {OTHER_MODEL}
    assert Lookups("me").for_model(others, MODEL, at(0)) == []  # all of them offer it
