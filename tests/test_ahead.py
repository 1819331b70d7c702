"""Streams opened ahead, between real peers in memory, in virtual time."""

import pytest
import trio

from peer.ahead import IDLE_AT_MOST, UNUSED_AFTER_S
from protocol.wire.conversation import MIN_QUIET_US
from protocol.wire.task import PROTOCOL, Accept, OfferMessage

from .world import DELAY_US, now_us, spans_us, statement


def counts(peer):
    return {name.removeprefix("streams_"): count for name, count in peer.requester.statistics().items()}


def far_ends(world, provider):
    """The provider's ends of the open task streams."""
    ends = [end for pair in world.network._streams for end in pair]
    return [end for end in ends if end._here == provider.id and end.protocol == PROTOCOL and not end._closed]


async def test_the_second_picture_of_a_peer_waits_for_no_stream(autojump_clock, alice, near):
    first = await alice.ask()
    assert spans_us(first.timeline)["dial"] == 2 * DELAY_US
    second = await alice.ask()
    assert "dial" not in spans_us(second.timeline)
    assert counts(alice) == {"ready": 1, "taken": 1, "fresh": 1, "ended": 0}


async def test_a_peer_that_asked_for_nothing_opens_nothing(autojump_clock, alice, near):
    await trio.sleep(600)
    assert counts(alice) == {"ready": 0, "taken": 0, "fresh": 0, "ended": 0}


async def test_a_stream_that_is_not_used_is_closed_again_and_none_takes_its_place(
    autojump_clock, world, alice, near
):
    await alice.ask()
    assert counts(alice)["ready"] == 1
    await trio.sleep(UNUSED_AFTER_S + 1)
    assert counts(alice) == {"ready": 0, "taken": 0, "fresh": 1, "ended": 1}
    assert not far_ends(world, near)
    await alice.ask()
    assert counts(alice)["fresh"] == 2


async def test_a_stream_ends_with_its_connection(autojump_clock, world, alice, near):
    await alice.ask()
    world.network.cut(alice.id, near.id)
    await trio.sleep(0.1)
    assert counts(alice)["ready"] == 0
    drawn = await alice.ask()
    assert len(drawn.attempts) == 1


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_stream_that_ends_as_the_offer_is_made_is_no_loss(autojump_clock, world, alice, near, how):
    offers = []

    def ends(source, target, message):
        """Just as the offer leaves, the provider has had enough of the stream."""
        if isinstance(message, OfferMessage):
            offers.append(message)
            if len(offers) == 2:
                stream = far_ends(world, near)[-1]
                if how == "closed":
                    stream._closed = True
                    stream._put(b"")
                else:
                    world.network.lose(stream)
                return None
        return message

    await alice.ask()
    world.network.tamper = ends
    offers.append(None)
    wanted = statement(seed=8)
    drawn = await alice.ask(wanted)
    (attempt,) = drawn.attempts
    assert attempt.outcome == "done"
    assert [offer.envelope for offer in offers[1:]] == [attempt.offer.envelope.to_bytes()] * 2
    assert alice.directory.candidates(now_us(), own=False)[0].penalty_us == 0
    assert drawn.timeline.unaccounted_us == 0
    assert near.renderer.prompts == ["a lighthouse"] * 2


async def test_an_offer_that_was_heard_on_the_stream_that_ended_is_not_rendered_twice(
    autojump_clock, world, alice, near
):
    await alice.ask()
    accepted = []

    def ends(source, target, message):
        if isinstance(message, Accept):
            accepted.append(message)
            if len(accepted) == 1:
                world.network.lose(far_ends(world, near)[-1])
                return None
        return message

    world.network.tamper = ends
    drawn = await alice.ask(statement(seed=8))
    assert [attempt.outcome for attempt in drawn.attempts] == ["done"]
    assert len(accepted) == 2
    assert len(near.renderer.rendered) == 2


async def test_a_peer_that_freezes_costs_its_deadline_once(autojump_clock, world, alice, near):
    far = await world.add("far", delay_us=20_000)
    await alice.ask()
    await trio.sleep(3)  # until it is heard to be idle again
    world.network.freeze(near.id)
    began_us = now_us()
    drawn = await alice.ask()
    assert [attempt.choice.peer for attempt in drawn.attempts] == [near.id, far.id]
    assert now_us() - began_us < 2 * MIN_QUIET_US


async def test_pictures_at_once_never_hold_more_than_two_streams_on_which_nothing_was_said(
    autojump_clock, world, alice, near
):
    heard = set()
    most = 0

    def count(source, target, message):
        nonlocal most
        if isinstance(message, OfferMessage):
            heard.add(len(heard))
        return message

    world.network.tamper = count
    opened = []
    open_stream = alice.host.open_stream

    async def counted(there, protocol, **more):
        nonlocal most
        if protocol == PROTOCOL:
            opened.append(there)
            most = max(most, len(opened) - len(heard))
        return await open_stream(there, protocol, **more)

    alice.host.open_stream = counted
    async with trio.open_nursery() as nursery:
        for seed in range(6):
            nursery.start_soon(alice.ask, statement(seed=seed))
    assert most == IDLE_AT_MOST
    assert counts(alice)["ready"] <= 1


async def test_a_stream_taken_by_someone_who_is_cancelled_is_closed(autojump_clock, world, alice, near):
    ahead = alice.requester.means.reach._ahead
    ahead.keep(near.id)  # it takes a round trip to open
    with trio.move_on_after(DELAY_US / 1e6) as scope:
        await ahead.open(near.id)
    assert scope.cancelled_caught
    await trio.sleep(1)
    assert not far_ends(world, near)
    assert counts(alice) == {"ready": 0, "taken": 0, "fresh": 0, "ended": 1}
    assert not ahead._places
