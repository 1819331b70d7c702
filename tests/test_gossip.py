"""What adverts make peers do, in memory and virtual time."""

import pytest
import trio

from peer.gossip import DIAL_EVERY_S, DIAL_JITTER_S, YIELD_S

from .world import MODEL, Peer, World, now_us, use_virtual_time

LIFETIME_S = 180


@pytest.fixture
async def strangers(autojump_clock, monkeypatch, nursery):
    """Two running peers, the one with the smaller id first, that know nothing of each other; and their world."""
    use_virtual_time(monkeypatch)
    world = World(nursery)
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
