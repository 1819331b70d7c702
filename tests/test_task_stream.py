"""A task stream between two ends in memory, in virtual time."""

import pytest
import trio
from trio.testing import memory_stream_pair

import peer.task_stream
from peer.task_stream import PeerLost, TaskStream, expect
from protocol.errors import LocalProtocolError, MalformedMessage, RemoteProtocolError
from protocol.wire.conversation import (
    ACCEPT_WITHIN_US,
    ACK_WITHIN_US,
    MIN_QUIET_US,
    QUIET_STEPS,
    SLACK_US,
    Conversation,
    Role,
)
from protocol.wire.frames import pack
from protocol.wire.hello import LiveState
from protocol.wire.task import (
    Accept,
    Ack,
    Cancel,
    Chunk,
    Loading,
    OfferMessage,
    Progress,
    ReceiptMessage,
    Refuse,
    Result,
    SettledMessage,
    Start,
    to_value,
)

IDLE = LiveState(wait_us=0, running=0, queued=0, free_memory_mib=None, resident=())
OFFER = OfferMessage(b"envelope", 0)
ROUND_TRIP_US = 40_000
STEP_US = 3_000_000


def accept(wait_us=0, load_us=0):
    return Accept(wait_us, load_us, STEP_US, IDLE, heard_us=0, sent_us=0)


def result(file_bytes=5):
    return Result("png", 8, 8, file_bytes, bytes(32), (("step", 0, STEP_US),), 0)


@pytest.fixture
async def ends(autojump_clock, monkeypatch):
    monkeypatch.setattr(peer.task_stream, "now_us", lambda: round(trio.current_time() * 1e6))
    near, far = memory_stream_pair()
    requester = TaskStream(near, Conversation(Role.REQUESTER, round_trip_us=ROUND_TRIP_US))
    provider = TaskStream(far, Conversation(Role.PROVIDER))
    return requester, provider, far


async def lost_after_us(talk, match):
    began = trio.current_time()
    with pytest.raises(PeerLost, match=match):
        await talk.receive()
    return round((trio.current_time() - began) * 1e6)


async def receive_for_ever(talk):
    while True:
        await talk.receive()


async def started(requester, provider):
    await requester.send(OFFER)
    await provider.receive()
    await provider.send(accept())
    await provider.send(Start(STEP_US, 0))
    assert [type(await requester.receive()) for _ in range(2)] == [Accept, Start]


async def test_a_whole_task(autojump_clock, ends):
    requester, provider, _ = ends

    async def work():
        assert await provider.receive() == OFFER
        await provider.send(accept(load_us=500_000))
        await provider.send(Loading("weights", 0))
        await trio.sleep(0.5)
        await provider.send(Start(STEP_US, 0))
        for step in range(1, 4):
            await trio.sleep(STEP_US / 1e6)  # renders are slow; this clock is not
            await provider.send(Progress(step, None, 0))
        await provider.send(result())
        await provider.send(Chunk(0, b"bytes"))
        assert await provider.receive() == Ack(5)
        await provider.send(ReceiptMessage(b"receipt", 0))
        assert await provider.receive() == SettledMessage(b"settled", 0)

    heard = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await requester.send(OFFER)
        while not heard or heard[-1] != "receipt":
            message = await requester.receive()
            heard.append(message.KIND)
            if isinstance(message, Chunk):
                await requester.send(Ack(len(message.data)))
        await requester.send(SettledMessage(b"settled", 0))
    assert heard == ["accept", "loading", "start", *3 * ["progress"], "result", "chunk", "receipt"]
    assert requester.conversation.over
    assert provider.conversation.over


async def test_an_offer_that_is_not_answered_costs_exactly_its_deadline(autojump_clock, ends):
    requester, _, _ = ends
    await requester.send(OFFER)
    assert await lost_after_us(requester, "waiting for accept") == ACCEPT_WITHIN_US + ROUND_TRIP_US


async def test_a_provider_that_goes_quiet_at_work_costs_exactly_its_deadline(autojump_clock, ends):
    requester, provider, _ = ends
    await started(requester, provider)
    await provider.send(Progress(1, None, 0))
    await requester.receive()
    assert await lost_after_us(requester, "waiting for progress") == QUIET_STEPS * STEP_US + ROUND_TRIP_US


async def test_heartbeats_keep_a_queue_alive_but_not_past_the_promised_start(autojump_clock, ends):
    requester, provider, _ = ends
    await requester.send(OFFER)
    await provider.receive()
    await provider.send(accept(wait_us=1_500_000, load_us=500_000))
    await requester.receive()
    began = trio.current_time()

    async def beat():
        while True:
            await provider.send(Loading("queue", 0))
            await trio.sleep(0.25)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        with pytest.raises(PeerLost, match="waiting for start"):
            await receive_for_ever(requester)
        nursery.cancel_scope.cancel()
    assert round((trio.current_time() - began) * 1e6) == 2_000_000 + SLACK_US + ROUND_TRIP_US


async def test_a_transfer_that_stops_is_lost_after_a_second_and_two_round_trips(autojump_clock, ends):
    requester, provider, _ = ends
    await started(requester, provider)
    await provider.send(result())
    await requester.receive()
    assert await lost_after_us(requester, "waiting for bytes") == MIN_QUIET_US + 2 * ROUND_TRIP_US


async def test_a_requester_that_acknowledges_nothing_is_lost(autojump_clock, ends):
    requester, provider, _ = ends
    await started(requester, provider)
    await provider.send(result())
    assert await lost_after_us(provider, "waiting for ack") == ACK_WITHIN_US


async def test_a_provider_waits_for_an_offer_as_long_as_its_caller_lets_it(autojump_clock, ends):
    _, provider, _ = ends
    with trio.move_on_after(3600) as scope:
        await provider.receive()
    assert scope.cancelled_caught


async def test_a_peer_that_hangs_up(autojump_clock, ends):
    requester, _, wire = ends
    await requester.send(OFFER)
    await wire.aclose()
    with pytest.raises(PeerLost, match="hung up"):
        await requester.receive()
    with pytest.raises(PeerLost, match="connection was lost"):
        await requester.send(Cancel(0))


async def test_a_peer_that_hangs_up_inside_a_message(autojump_clock, ends):
    requester, _, wire = ends
    await requester.send(OFFER)
    await wire.send_all(pack(["loading", {"phase": "queue", "sent_us": 0}])[:-3])
    await wire.aclose()
    with pytest.raises(RemoteProtocolError):
        await requester.receive()


async def test_a_huge_length_is_refused_before_it_is_buffered(autojump_clock, ends):
    requester, _, wire = ends
    await wire.send_all(b"\xff\xff\xff\xff")
    with pytest.raises(MalformedMessage):
        await requester.receive()


@pytest.mark.parametrize(
    "value", [None, [], ["accept"], ["accept", {}], ["hug", {}], ["start", {"step_us": -1, "sent_us": 0}]]
)
async def test_what_is_no_task_message_is_malformed(autojump_clock, ends, value):
    requester, _, wire = ends
    await requester.send(OFFER)
    await wire.send_all(pack(value))
    with pytest.raises(MalformedMessage):
        await requester.receive()


async def test_a_message_out_of_turn_is_the_peers_fault_and_ours_is_ours(autojump_clock, ends):
    requester, _, wire = ends
    await requester.send(OFFER)
    with pytest.raises(LocalProtocolError):
        await requester.send(OFFER)
    await wire.send_all(pack(["start", {"step_us": 1, "sent_us": 0}]))
    with pytest.raises(RemoteProtocolError, match="may not send start"):
        await requester.receive()


async def test_messages_that_arrive_together_are_told_one_by_one(autojump_clock, ends):
    requester, provider, _ = ends
    await requester.send(OFFER)
    await provider.receive()
    await provider.send(accept())
    for phase in ("queue", "weights", "queue"):
        await provider.send(Loading(phase, 0))
    await requester.receive()
    assert [(await requester.receive()).phase for _ in range(3)] == ["queue", "weights", "queue"]


async def test_cancelling_says_nothing_where_it_means_nothing(autojump_clock, ends):
    requester, provider, _ = ends
    assert not await requester.cancel(0)
    await requester.send(OFFER)
    assert await requester.cancel(0)
    assert not await requester.cancel(0)
    await provider.receive()
    assert await provider.receive() == Cancel(0)
    await provider.send(Refuse("busy", "Busy.", None, 0, 0))
    await requester.receive()
    assert not await requester.cancel(0)


def test_expect_names_what_was_not_due():
    expect(OFFER, OfferMessage)
    with pytest.raises(RemoteProtocolError, match="cancel was not due"):
        expect(Cancel(0), OfferMessage)


async def test_a_cancel_that_waits_behind_another_message_is_not_said_where_all_is_over_by_then(ends):
    requester, _, far = ends
    gate, send_all, said = trio.Event(), requester._stream.send_all, []

    async def send_slowly(data):
        await gate.wait()
        await send_all(data)

    async def cancel():
        said.append(await requester.cancel(0))

    requester._stream.send_all = send_slowly
    async with trio.open_nursery() as nursery:
        nursery.start_soon(requester.send, OFFER)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(cancel)
        await trio.testing.wait_all_tasks_blocked()
        await far.send_all(pack(to_value(Refuse("busy", "No room.", None, 0, 0))))
        await requester.receive()
        gate.set()
    assert said == [False]
