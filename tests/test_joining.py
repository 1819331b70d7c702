"""Whom a peer dials when it starts, in memory and virtual time."""

import pytest
import trio

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
    return Joining(
        peer.host,
        peer.directory,
        ledger,
        addresses=addresses,
        rejoin=rejoin,
        journal=lambda event, **fields: journal.append((event, fields)),
    )


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


async def test_nobody_remembered_is_dialled_while_somebody_told_answers(
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
