"""What adverts make peers do, in memory and virtual time."""

import pytest
import trio

from peer import gossip
from peer.gossip import DIAL_EVERY_S, DIAL_JITTER_S, YIELD_S
from protocol.policy import neighbours, shards
from protocol.wire.advert import SYNC_PROTOCOL
from protocol.wire.lookup import PROTOCOL as LOOKUP_PROTOCOL

from .world import MODEL, OTHER_MODEL, Peer, now_us, statement

LIFETIME_S = 180


@pytest.fixture
async def strangers(world):
    """Two running peers, the one with the smaller id first, that know nothing of each other; and their world."""
    peers = [
        Peer(world, name, provide=True, allow=(), models=(MODEL,), home=None) for name in ("alice", "bob")
    ]
    for each in peers:
        await each.start()
    return (*sorted(peers, key=lambda each: each.id), world)


def dials_of(peer):
    dials = []
    dial = peer.host.dial

    async def noted(address, **more):
        dials.append(trio.current_time())
        return await dial(address, **more)

    peer.host.dial = noted
    return dials


def tell(teller, hearer):
    assert hearer.gossip._take(teller.gossip._sign().envelope.to_bytes())


async def test_of_two_that_hear_of_each_other_at_once_only_one_dials(autojump_clock, strangers):
    smaller, larger, world = strangers
    world.network.delays_us[frozenset((smaller.id, larger.id))] = 75_000
    dials = dials_of(smaller), dials_of(larger)
    tell(smaller, larger)
    tell(larger, smaller)
    await trio.sleep(10)
    assert [len(each) for each in dials] == [1, 0]
    assert larger.id in smaller.host.connected()


async def test_the_larger_dials_when_the_smaller_does_not(autojump_clock, strangers):
    smaller, larger, _ = strangers
    dials = dials_of(larger)
    began = trio.current_time()
    tell(smaller, larger)
    await trio.sleep(10)
    (dialled,) = dials
    assert YIELD_S <= dialled - began <= YIELD_S + DIAL_EVERY_S + 2 * DIAL_JITTER_S


async def test_what_is_known_of_dials_is_forgotten_with_the_peer(autojump_clock, strangers):
    smaller, larger, world = strangers
    world.network.cut(smaller.id, larger.id, for_ever=True)
    tell(smaller, larger)
    await trio.sleep(60)
    assert larger.gossip._retry_at_s
    assert larger.gossip._pause_s
    await trio.sleep(LIFETIME_S)
    assert not larger.gossip._retry_at_s
    assert not larger.gossip._pause_s
    assert not larger.directory.candidates(now_us(), own=False)


@pytest.fixture
async def crowd(world, monkeypatch):
    """Ten providers in a swarm where a topic carries few adverts; all were told of the first."""
    monkeypatch.setattr(shards, "TOPIC_BYTES_PER_S", 200)
    monkeypatch.setattr(neighbours, "CONNECTIONS", 6)
    monkeypatch.setattr(neighbours, "NEAR", 3)
    monkeypatch.setattr("tests.world.CONNECTIONS", 6)
    peers = [
        Peer(world, f"peer {number}", provide=True, allow=(), models=(MODEL,), home=None)
        for number in range(10)
    ]
    for index, each in enumerate(peers):
        for other in peers[:index]:
            world.network.delays_us[frozenset((each.id, other.id))] = 5_000 + 500 * abs(
                index - peers.index(other)
            )
        await each.start()
        if index:
            tell(peers[0], each)
    return peers, world


@pytest.mark.parametrize("protocol", [SYNC_PROTOCOL, LOOKUP_PROTOCOL])
async def test_who_asks_and_leaves_broke_no_rule(autojump_clock, strangers, protocol):
    asker, asked, _ = strangers
    await asker.host.dial(asked.host.addresses[0])
    stream = await asker.host.open_stream(asked.id, protocol)
    await stream.send_all(b"\x00")  # the beginning of a message
    await trio.sleep(0.1)
    await asker.host.disconnect(asked.id)
    await trio.sleep(10)
    assert asked.host.errors == []


async def test_a_swarm_that_outgrows_a_topic_splits_and_everyone_still_knows_its_shard(autojump_clock, crowd):
    peers, _ = crowd
    await trio.sleep(1500)
    bits = {each.gossip.shards.bits for each in peers}
    assert min(bits) >= 1

    def known(each):
        return {candidate.peer for candidate in each.directory.candidates(now_us(), own=False)}

    def mates(each):
        own = each.gossip.shards
        others = (other for other in peers if other is not each and other.gossip.shards.bits == own.bits)
        return {other.id for other in others if own.holds(other.id)}

    for _ in range(60):  # a connection may just have been opened
        if all(mates(each) | each.host.connected() <= known(each) for each in peers):
            break
        await trio.sleep(1)
    else:
        pytest.fail("someone does not know its shard, or whom it is connected to")
    assert all(len(each.gossip._topics) == 1 for each in peers)
    asker = peers[0]
    before = len(asker.directory.candidates(now_us(), own=False))
    await asker.gossip.seek(MODEL)
    assert before <= len(asker.directory.candidates(now_us(), own=False))
    assert all(not each.host.errors for each in peers)


async def test_coordinates_come_from_the_pings_that_are_sent_anyway_and_go_out_in_adverts(
    autojump_clock, strangers
):
    smaller, larger, world = strangers
    world.network.delays_us[frozenset((smaller.id, larger.id))] = 40_000
    tell(smaller, larger)
    await trio.sleep(1200)
    for each, other in ((smaller, larger), (larger, smaller)):
        told = each.directory.signed_advert(other.id).advert.coordinate
        assert each.gossip.coordinates.own.rtt_us(told) == pytest.approx(80_000, rel=0.1)


async def test_a_forwarder_that_floods_is_listened_to_no_more_than_its_share(autojump_clock, strangers):
    smaller, larger, _ = strangers
    data = smaller.gossip._sign().envelope.to_bytes()
    taken = [larger.gossip._valid(smaller.id, smaller.id, data) for _ in range(5000)]
    assert sum(taken) == gossip.RELAY_BURST
    assert larger.gossip._valid("another", smaller.id, data)


async def test_of_those_that_made_way_for_others_nothing_is_kept(autojump_clock, strangers):
    smaller, larger, _ = strangers
    tell(smaller, larger)
    assert smaller.id in larger.gossip._retry_at_s
    larger.directory._forget_advert(smaller.id)
    await trio.sleep(2 * gossip.ROUND_EVERY_S)
    assert larger.gossip._retry_at_s == {}


async def test_a_sync_that_makes_no_sense_ends_nothing_and_is_remembered(autojump_clock, strangers):
    smaller, larger, _ = strangers
    tell(smaller, larger)
    tell(larger, smaller)
    await trio.sleep(10)

    async def nonsense(stream):
        await stream.send_all(b"\0\0\0\1\xc0")

    larger.host.set_handler("/nearlight/adverts/1", nonsense)
    await smaller.gossip.sync(larger.id)
    (candidate,) = smaller.directory.candidates(now_us(), own=False)
    assert candidate.penalty_us > 0


async def test_who_is_connected_and_was_not_heard_of_is_asked_who_it_is(autojump_clock, strangers):
    smaller, larger, _ = strangers

    async def lost(*_):
        await trio.lowlevel.checkpoint()

    larger.host.publish = lost
    larger.host.set_handler(SYNC_PROTOCOL, lost)
    tell(smaller, larger)
    await trio.sleep(YIELD_S + DIAL_EVERY_S)
    assert larger.id in smaller.host.connected()
    assert smaller.directory.signed_advert(larger.id) is None
    await trio.sleep(2 * gossip.ROUND_EVERY_S)
    assert smaller.directory.signed_advert(larger.id)


async def test_a_speed_that_is_new_is_told_right_after_the_loading_that_came_before_it(
    autojump_clock, alice, near
):
    near.renderer.load_us = 2_000_000  # so that what it has loaded is told by itself
    sequences = []
    for pause_s in 0, 3, 3:
        if pause_s:
            await alice.ask()
            await trio.sleep(pause_s)
        sequences.append(alice.directory.signed_advert(near.id).advert.sequence)
    assert sequences[1] - sequences[0] >= 2
    assert sequences[2] == sequences[1]


# what others ask for


@pytest.fixture
async def foresighted(world, alice):
    """A provider that loads models before it is asked for them; it has two, and nobody has asked for either."""
    foresighted = await world.add("foresighted", models=(MODEL, OTHER_MODEL), delay_us=20_000)
    foresighted.residents._ahead = True
    await trio.sleep(10)
    assert foresighted.renderer.resident == ()
    return foresighted


async def test_a_model_that_another_peer_looks_up_is_loaded_ahead(autojump_clock, alice, foresighted):
    alice.gossip.shards.bits = 1
    await alice.gossip.seek(OTHER_MODEL)
    await trio.sleep(10)
    assert foresighted.renderer.resident == (OTHER_MODEL,)


async def test_a_model_that_another_provider_had_to_load_is_loaded_ahead(
    autojump_clock, world, alice, foresighted
):
    near = await world.add("near", models=(MODEL, OTHER_MODEL))
    await alice.ask(statement(model=OTHER_MODEL))
    assert near.renderer.resident == (OTHER_MODEL,)
    assert foresighted.renderer.resident == ()
    await trio.sleep(60)  # until that is told, and some
    assert foresighted.renderer.resident == (OTHER_MODEL,)
    assert foresighted.renderer.rendered == []
