"""Who is asked for a model that few have, and how long a request waits for it: in memory and virtual time."""

import pytest
import trio

from peer.gossip import ROUND_EVERY_S, SYNC_WITHIN_S
from peer.wanted import OWN_WAITS_S
from protocol.policy.lookups import SOUGHT_EVERY_US, Lookups
from protocol.policy.shards import Shards

from .asker import Asker
from .test_adapters_asked import GLASS, S
from .world import MODEL, OTHER_MODEL, Peer, now_us


@pytest.fixture
async def asker(monkeypatch, world, alice, ledger):
    """Alice's, whose shard is half of the swarm, and who looks nobody up unless she is asked for a picture."""
    monkeypatch.setattr(Shards, "on_round", lambda *_: False)
    monkeypatch.setattr(Lookups, "errand", lambda *_, **more: None)
    alice.gossip.shards.bits = 1
    await trio.sleep(ROUND_EVERY_S)  # from then on she listens to that half alone
    return Asker(monkeypatch, world, ledger)


async def frozen(world):
    """A neighbour that does not offer MODEL, and answers nothing."""
    frozen = await world.add("frozen", models=(OTHER_MODEL,))
    world.network.freeze(frozen.id)


def sought_of(peer):
    sought = []
    peer.gossip._on_sought = lambda asker, model: sought.append((round(trio.current_time()), model))
    return sought


async def took_us(asker, **changes):
    began_us = now_us()
    await asker.ask("quote", **changes)
    return now_us() - began_us


async def unknown(world, friend, **more):
    """A peer that alice has not heard of and cannot reach; `friend` is connected to it."""
    peer = Peer(world, "unknown", provide=True, allow=(), models=(MODEL,), home=None, **more)
    world.network.cut(peer.id, world.peers["alice"].id, for_ever=True)
    await peer.start()
    await peer.host.dial(friend.host.addresses[0])
    await trio.sleep(5)
    assert peer.id in {signed.peer for signed in friend.directory.young(now_us())}
    assert world.peers["alice"].directory.signed_advert(peer.id) is None
    return peer


async def test_where_somebody_who_draws_it_is_known_no_neighbour_is_waited_for(autojump_clock, asker, world):
    sought = sought_of(await world.add("near"))
    await frozen(world)
    assert await took_us(asker) == 0
    await trio.sleep(1)
    assert [model for _, model in sought] == [MODEL]


async def test_the_same_is_asked_for_once_in_a_minute(autojump_clock, asker, world):
    sought, began_s = sought_of(await world.add("near")), round(trio.current_time())
    for _ in range(13):
        await asker.ask("quote")
        await trio.sleep(SOUGHT_EVERY_US / 12e6)
    assert [at_s - began_s for at_s, _ in sought] == [0, 60]


async def test_where_nobody_is_known_the_first_who_is_found_is_waited_for_and_nobody_else(
    autojump_clock, asker, world
):
    other = await world.add("other", models=(OTHER_MODEL,))
    await frozen(world)
    unknown_to_alice = await unknown(world, other)
    assert 0 < await took_us(asker) < 50_000
    assert asker.alice.directory.signed_advert(unknown_to_alice.id) is not None


async def test_where_nobody_else_draws_it_ones_own_device_does_not_wait_for_long(
    autojump_clock, asker, world
):
    await world.add("other", models=(OTHER_MODEL,))
    await frozen(world)
    assert await took_us(asker, remote=False) == OWN_WAITS_S * 1e6
    await trio.sleep(SYNC_WITHIN_S)
    assert await took_us(asker, remote=False) == 0


async def test_an_adapter_that_nobody_known_applies_is_waited_for(autojump_clock, asker, world):
    adapted = {"~adapters": [["stained-glass", S]]}
    await unknown(world, await world.add("near"), adapters=(GLASS,))
    quote = await asker.only("quote", "quote", **adapted)
    assert [each["name"] for each in quote["adapters"]] == ["stained-glass"]


async def test_who_gives_up_waiting_does_not_end_the_search(autojump_clock, asker, world):
    unknown_to_alice = await unknown(world, await world.add("other", models=(OTHER_MODEL,)))
    with trio.move_on_after(0):
        await asker.ask("quote")
    await trio.sleep(1)
    assert asker.alice.directory.signed_advert(unknown_to_alice.id) is not None
