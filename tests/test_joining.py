"""Whom a peer dials when it starts, in memory and virtual time."""

import itertools

import pytest
import trio

from peer import joining as of_joining
from peer.joining import LOOK_EVERY_S, REMEMBERED, Joining
from peer.store.ledger import KnownPeer

from .world import MODEL, Peer

GONE = "12D3KooW" + "g" * 44


async def started(world, name):
    peer = Peer(world, name, provide=True, allow=(), models=(MODEL,), home=None)
    await peer.start()
    return peer


def joining(peer, ledger, *, addresses=(), rejoin=True):
    peer.dialled = []
    dial = peer.host.dial

    async def noted(address, **more):
        peer.dialled.append((round(trio.current_time() - peer.began_s), address))
        return await dial(address, **more)

    peer.host.dial, peer.began_s = noted, trio.current_time()
    journal = peer.journalled = []
    peer.joining = Joining(
        peer.host,
        peer.directory,
        peer.gossip,
        ledger,
        addresses=addresses,
        rejoin=rejoin,
        journal=lambda event, **fields: journal.append((event, fields)),
    )
    return peer.joining


def told(ledger, *known):
    ledger.put_peers(KnownPeer(peer, addresses, 100 - k) for k, (peer, addresses) in enumerate(known))


async def test_a_peer_that_starts_again_finds_those_it_was_in_touch_with(
    autojump_clock, world, ledger, nursery
):
    alice, bob = await started(world, "alice"), await started(world, "bob")
    before = joining(alice, ledger, addresses=bob.host.addresses)
    nursery.start_soon(before.run)
    await trio.sleep(20)
    assert [(each.peer, each.addresses) for each in ledger.known_peers()] == [(bob.id, bob.host.addresses)]
    again = await started(world, "carol")
    nursery.start_soon(joining(again, ledger).run)
    await trio.sleep(5)
    assert bob.id in again.host.connected()
    assert again.dialled[0] == (0, bob.host.addresses[0])


async def test_what_is_known_already_is_not_written_again(autojump_clock, world, ledger, monkeypatch):
    alice, bob = await started(world, "alice"), await started(world, "bob")
    kept = joining(alice, ledger)
    await alice.host.dial(bob.host.addresses[0])
    await trio.sleep(10)
    await kept.remember()
    monkeypatch.setattr(ledger, "put_peers", None)
    await kept.remember()


async def test_nobody_remembered_is_dialled_at_once_where_somebody_told_answers(
    autojump_clock, world, ledger, nursery
):
    alice, bob, carol = [await started(world, name) for name in ("alice", "bob", "carol")]
    told(ledger, (carol.id, carol.host.addresses))
    nursery.start_soon(joining(alice, ledger, addresses=bob.host.addresses).run)
    await trio.sleep(1)
    assert alice.dialled == [(0, bob.host.addresses[0])]


async def test_a_peer_of_one_command_dials_only_whom_it_was_told(autojump_clock, world, ledger, nursery):
    alice, bob = await started(world, "alice"), await started(world, "bob")
    told(ledger, (bob.id, bob.host.addresses))
    nursery.start_soon(joining(alice, ledger, rejoin=False).run)
    await trio.sleep(600)
    assert alice.dialled == []


async def test_who_does_not_answer_is_tried_ever_more_seldom(autojump_clock, world, ledger, nursery):
    alice = await started(world, "alice")
    gone = f"/ip4/10.0.0.99/tcp/4001/p2p/{GONE}"
    told(ledger, (GONE, (gone,)))
    nursery.start_soon(joining(alice, ledger).run)
    await trio.sleep(400)
    assert [at_s for at_s, _ in alice.dialled] == [0, 5, 15, 35, 75, 155, 315]
    assert alice.journalled[0] == (
        "join_failed",
        {"address": gone, "why": f"could not reach ..{GONE[-8:]}: nobody is there"},
    )


async def test_who_was_named_and_does_not_answer_is_tried_ever_more_seldom_and_told_of_when_that_is_news(
    autojump_clock, world, ledger, nursery
):
    alice, bob = await started(world, "alice"), await started(world, "bob")
    world.network._ended.add(bob.id)
    nursery.start_soon(joining(alice, ledger, addresses=bob.host.addresses).run)
    await trio.sleep(100)
    assert [at_s for at_s, _ in alice.dialled] == [0, 1, 3, 7, 15, 31, 61, 91]
    world.network.freeze(bob.id)
    world.network._ended.clear()
    await trio.sleep(60)
    assert [fields["why"].rpartition(": ")[2] for _, fields in alice.journalled] == [
        "nobody is there",
        "no answer",
    ]
    world.network.thaw(bob.id)
    await trio.sleep(40)
    assert bob.id in alice.host.connected()
    alice.dialled.clear()
    began_s = round(trio.current_time() - alice.began_s)
    world.network.cut(alice.id, bob.id, for_ever=True)
    await trio.sleep(20)
    assert len(alice.dialled) >= 3  # as if it had never failed before
    assert len(alice.journalled) == 3
    assert alice.dialled[0][0] - began_s <= LOOK_EVERY_S


async def test_of_many_remembered_the_last_seen_are_dialled_all_at_once(
    autojump_clock, world, ledger, nursery
):
    alice = await started(world, "alice")
    ids = [GONE[:-1] + letter for letter in "abcdefghijkmnopqrstuvwxyz"[: REMEMBERED + 5]]
    many = [(each, (f"/ip4/10.1.0.{k}/tcp/1/p2p/{each}",)) for k, each in enumerate(ids)]
    told(ledger, *many)
    nursery.start_soon(joining(alice, ledger).run)
    await trio.sleep(1)
    assert sorted(alice.dialled) == sorted((0, addresses[0]) for _, addresses in many[:REMEMBERED])


@pytest.mark.parametrize(
    "address",
    [
        f"/ip4/169.254.169.254/tcp/80/p2p/{GONE}",  # where clouds keep secrets
        f"/ip4/10.0.0.2/tcp/4001/p2p/{GONE[:-1]}h",  # another peer
        f"/dns4/example.org/tcp/4001/p2p/{GONE}",
        "/ip4/10.0.0.2/tcp/4001",
    ],
)
async def test_an_address_that_no_advert_could_make_us_dial_is_not_dialled_later(
    autojump_clock, world, ledger, nursery, address
):
    alice = await started(world, "alice")
    told(ledger, (GONE, (address,)))
    nursery.start_soon(joining(alice, ledger).run)
    await trio.sleep(60)
    assert alice.dialled == []


# with others connected


@pytest.fixture
def evenly(monkeypatch):
    """The pauses between two tries are as long as they are at the mean."""
    monkeypatch.setattr(of_joining, "REUNION_SPREAD", (1, 1))


PAUSES_S = (60, 120, 240, 300, 300)


async def in_company(world, name="alice"):
    """A peer and another that it is connected to."""
    peer, other = await started(world, name), await started(world, f"{name}'s friend")
    await peer.host.dial(other.host.addresses[0])
    return peer


@pytest.mark.parametrize("apart_s", [170, 200, 400])
async def test_two_parts_of_a_swarm_that_were_apart_for_longer_than_adverts_live_find_each_other(
    autojump_clock, world, apart_s
):
    peers = [await world.add(name) for name in ("alice", "bob", "carol", "dave")]
    for one, other in itertools.product(peers[:2], peers[2:]):
        world.network.cut(one.id, other.id, for_ever=True)
    await trio.sleep(apart_s)
    world.network.mend()
    await trio.sleep(4 / 3 * (60 + 120 + 240))
    everyone = {each.id for each in peers}
    assert [each.host.connected() for each in peers] == [everyone - {each.id} for each in peers]
    await world.settle()


async def test_who_was_named_is_tried_now_and_then_while_others_are_connected(
    autojump_clock, world, ledger, nursery, evenly
):
    alice, bob = await in_company(world), await started(world, "bob")
    world.network._ended.add(bob.id)
    nursery.start_soon(joining(alice, ledger, addresses=bob.host.addresses, rejoin=False).run)
    await trio.sleep(sum(PAUSES_S) - 1)
    assert [at_s for at_s, _ in alice.dialled] == [*itertools.accumulate(PAUSES_S[:-1])]
    assert [event for event, _ in alice.journalled] == ["join_failed"]  # that it still does is no news
    world.network._ended.clear()
    await trio.sleep(2)
    assert bob.id in alice.host.connected()
    await trio.sleep(1000)
    assert len(alice.dialled) == len(PAUSES_S)


async def test_those_remembered_of_whom_nothing_is_known_are_tried_in_turn_one_at_a_time(
    autojump_clock, world, ledger, nursery, evenly
):
    alice = await in_company(world)
    ids = [GONE[:-1] + letter for letter in "abc"]
    many = [(each, (f"/ip4/10.1.0.{k}/tcp/1/p2p/{each}",)) for k, each in enumerate(ids)]
    told(ledger, *many)
    nursery.start_soon(joining(alice, ledger).run)
    await trio.sleep(sum(PAUSES_S) + 1)
    addresses = [addresses[0] for _, addresses in many]
    assert alice.dialled == [*zip(itertools.accumulate(PAUSES_S), addresses + addresses, strict=False)]


async def test_one_that_was_named_and_one_remembered_are_tried_until_one_answers(
    autojump_clock, world, ledger, nursery, evenly
):
    alice, bob, carol = await in_company(world), await started(world, "bob"), await started(world, "carol")
    told(ledger, (carol.id, carol.host.addresses))
    world.network._ended |= {bob.id, carol.id}
    nursery.start_soon(joining(alice, ledger, addresses=bob.host.addresses).run)
    await trio.sleep(61)
    assert alice.dialled == [(60, bob.host.addresses[0]), (60, carol.host.addresses[0])]
    world.network._ended.clear()
    await trio.sleep(120)
    assert alice.dialled[2:] == [(180, bob.host.addresses[0])]


async def test_who_was_only_heard_of_is_tried_once_the_advert_has_expired(
    autojump_clock, world, ledger, nursery, evenly
):
    alice, bob = await in_company(world), await started(world, "bob")
    world.network._ended.add(bob.id)
    nursery.start_soon(joining(alice, ledger).run)
    await trio.sleep(700)
    assert alice.gossip._take(bob.gossip._sign().envelope.to_bytes())
    await trio.sleep(180 + 10)  # until it has expired, and that was seen
    alice.dialled.clear()
    await trio.sleep(61)
    assert [address for _, address in alice.dialled] == [bob.host.addresses[0]]


async def test_who_was_found_may_be_left_again_from_the_next_try_on(
    autojump_clock, world, ledger, nursery, evenly
):
    alice, bob = await in_company(world), await started(world, "bob")
    nursery.start_soon(joining(alice, ledger, addresses=bob.host.addresses).run)
    await trio.sleep(61)
    assert bob.id in alice.host.connected()
    assert bob.id not in alice.gossip._dialled
    await trio.sleep(120)
    assert bob.id in alice.gossip._dialled
