"""Sessions between peers: what is known before hello, and of a peer that never says it."""

import pytest
import trio

from peer.link import Session
from peer.reach import HELLO_WITHIN_S
from peer.task_stream import PeerLost
from protocol.errors import LocalProtocolError, ProtocolError

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
