"""Sessions between peers: what is known before hello, and of a peer that never says it."""

import pytest
import trio

from peer.link import HELLO_WITHIN_S as LINK_HELLO_WITHIN_S
from peer.link import LINK_WITHIN_S, PROTOCOL, Session
from peer.reach import HELLO_WITHIN_S
from peer.task_stream import PeerLost
from protocol.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from protocol.policy.attention import ACTIVE_FOR_US, IDLE_EVERY_US, LIKELY_EVERY_US, WATCHED_EVERY_US
from protocol.policy.watching import NEWS_US, WATCHED_FOR_US
from protocol.wire.frames import pack
from protocol.wire.hello import LiveState, StateMessage, WaitMessage

from .truth import statement
from .world import now_us


def test_to_ask_for_a_clock_before_hello_is_a_bug_of_ours():
    session = Session("peer")
    for ask in (session.remote_now_us, lambda: session.to_local_us(0)):
        with pytest.raises(LocalProtocolError):
            ask()


async def test_a_peer_that_does_not_say_hello_is_lost_and_not_to_blame(autojump_clock, alice):
    began = trio.current_time()
    with pytest.raises(PeerLost, match="did not say hello in time") as caught:
        await alice.links.wait_session("nobody", 5)
    assert trio.current_time() - began == 5
    assert not isinstance(caught.value, ProtocolError)


async def test_a_provider_whose_hello_is_late_is_only_lost_to_its_requester(
    autojump_clock, world, alice, near
):
    far = await world.add("far", delay_us=20_000)
    del alice.links._sessions[near.id]
    drawn = await alice.ask()
    assert [(attempt.choice.peer, attempt.outcome) for attempt in drawn.attempts] == [
        (near.id, "outrun"),  # by far, which was asked beside it
        (far.id, "done"),
    ]
    await trio.sleep(HELLO_WITHIN_S)
    penalties = {each.peer: each.penalty_us for each in alice.directory.candidates(now_us(), own=False)}
    assert penalties[near.id] > penalties[far.id] == 0


@pytest.mark.parametrize(
    ("mute", "within_s"), [("0", LINK_WITHIN_S), ("z", LINK_HELLO_WITHIN_S)], ids=["is to open it", "is not"]
)
async def test_a_connection_on_which_the_other_side_says_no_hello_ends_and_another_may_begin(
    autojump_clock, world, alice, mute, within_s
):
    host = world.network.host(mute)  # its id says who opens the link
    host.set_handler(PROTOCOL, hear_out)
    await host.dial(alice.host.addresses[0])
    await trio.sleep(within_s - 0.1)
    assert mute in alice.host.connected()
    await trio.sleep(0.2)
    assert mute not in alice.host.connected()
    assert alice.host.errors == []
    await host.dial(alice.host.addresses[0])
    assert mute in alice.host.connected()


async def hear_out(stream):
    while await stream.receive_some():
        pass


async def test_a_second_link_that_says_nothing_takes_nothing_from_the_first(autojump_clock, alice, near):
    await near.host.open_stream(alice.id, PROTOCOL)
    await trio.sleep(LINK_HELLO_WITHIN_S + 0.1)
    assert near.id in alice.host.connected()
    assert alice.links.session(near.id)


# live state, unasked


async def watches(asker, provider):
    """`asker` asks for pictures, which `provider` is likely to draw; until it watches it."""
    asker.links.stay_active()
    asker.links.on_plan([provider.id])
    await trio.sleep(LIKELY_EVERY_US / 1e6 + 0.1)  # the next ping asks for it
    assert asker.directory.watched(provider.id, now_us())


def wait_us(asker, provider):
    """What it thinks it would wait for `provider` now."""
    (found,) = (each for each in asker.directory.candidates(now_us(), own=False) if each.peer == provider.id)
    return max(0, found.state.wait_us - found.state_age_us)


async def test_who_watches_hears_of_a_task_and_of_its_early_end_as_soon_as_the_way_is_long(
    autojump_clock, world, alice, near
):
    bob = await world.add("bob", provide=False)
    await watches(alice, near)
    way_s = world.network.delay_us(alice.id, near.id) / 1e6

    async def told(running):
        while near.work.live_state(alice.id).running != running:  # noqa: ASYNC110  what is tested is all that tells it
            await trio.sleep(0.001)
        await trio.sleep(way_s + 0.002)
        assert abs(wait_us(alice, near) - near.work.live_state(alice.id).wait_us) < 10_000
        assert alice.links.heard_us(near.id) >= now_us() - 2e6 * way_s - 10_000

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bob.ask, statement(steps=100))
        await told(running=1)
        assert wait_us(alice, near) > NEWS_US
        nursery.cancel_scope.cancel()
    await told(running=0)


async def test_who_is_watched_is_asked_less_often_and_as_often_as_before_when_no_more_is_asked_for(
    autojump_clock, alice, near
):
    await watches(alice, near)
    asked_us = now_us()
    assert alice.links.state_due_us(near.id, asked_us) == asked_us + WATCHED_EVERY_US
    await trio.sleep(ACTIVE_FOR_US / 1e6 + WATCHED_FOR_US / 1e6)
    assert not alice.directory.watched(near.id, now_us())
    assert alice.links.state_due_us(near.id, now_us()) >= now_us() + IDLE_EVERY_US - 10_000


@pytest.mark.parametrize("message", [StateMessage(LiveState(0, 0, 0, None, ())), WaitMessage(0, 0, 0)])
async def test_state_that_nobody_asked_for_ends_the_link(autojump_clock, alice, near, message):
    stream = await near.host.open_stream(alice.id, PROTOCOL)
    hello = near.links._hello(0)
    for value in (hello.to_value(), message.to_value()):
        await stream.send_all(pack(value))
    await trio.sleep(1)
    ((who, _, error),) = alice.host.errors
    assert who == near.id
    with pytest.RaisesGroup(pytest.RaisesExc(RemoteProtocolError, match="nobody asked")):
        raise error


async def test_nobody_can_foresee_the_number_of_a_ping_and_so_answer_before_it_is_heard(
    autojump_clock, monkeypatch, world, alice
):
    drawn = iter([7, 7, 7, 7, 300, 300, 65_535, *range(8, 100)])
    monkeypatch.setattr("peer.link.secrets.randbits", lambda bits: next(drawn))
    far = await world.add("far", delay_us=60_000)
    await trio.sleep(1)
    assert alice.directory.rtt(far.id).min_us >= 60_000
    assert (
        next(drawn) > 8
    )  # those of one side that are unanswered differ: what was said twice was drawn again
