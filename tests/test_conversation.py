"""Both sides are held to one table, and silence has an end."""

import itertools

import pytest

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.wire.conversation import (
    ACCEPT_WITHIN_US,
    ACK_WITHIN_US,
    HEARTBEAT_US,
    KINDS,
    LEAST_BYTES_PER_S,
    MIN_QUIET_US,
    SLACK_US,
    TRANSITIONS,
    Conversation,
    Patience,
    Role,
    State,
)
from protocol.wire.task import _READERS

RTT_US = 80_000


def held(role, *kinds, now_us=0):
    """The conversation of `role` after `kinds`, each said by whoever may."""
    conversation = Conversation(role, round_trip_us=RTT_US)
    for kind in kinds:
        speaker = Role.REQUESTER if kind in {"offer", "resume", "ack", "cancel", "settled"} else Role.PROVIDER
        (conversation.sent if speaker is role else conversation.received)(kind, now_us=now_us)
    return conversation


def test_every_message_has_a_place_in_the_table():
    assert set(_READERS) == KINDS


@pytest.mark.parametrize(("state", "speaker", "kind"), list(itertools.product(State, Role, sorted(KINDS))))
def test_both_sides_hold_a_speaker_to_one_rule(state, speaker, kind):
    speaking, listening = Conversation(speaker), Conversation(speaker.other)
    speaking.states[speaker] = listening.states[speaker] = state
    if (speaker, state, kind) in TRANSITIONS:
        speaking.sent(kind, now_us=0)
        listening.received(kind, now_us=0)
        assert speaking.states == listening.states
    else:
        assert not speaking.may_send(kind)
        with pytest.raises(LocalProtocolError):
            speaking.sent(kind, now_us=0)
        with pytest.raises(RemoteProtocolError):
            listening.received(kind, now_us=0)


WHOLE = (
    "offer",
    "accept",
    "loading",
    "start",
    "progress",
    "progress",
    "result",
    "chunk",
    "ack",
    "receipt",
    "settled",
)


@pytest.mark.parametrize(
    "kinds",
    [
        WHOLE,
        ("offer", "refuse"),
        ("offer", "accept", "failed"),
        ("offer", "accept", "start", "failed"),
        ("offer", "accept", "start", "progress", "cancel", "progress", "receipt", "settled"),
        ("offer", "cancel", "accept", "receipt", "settled"),
        ("resume", "accept", "result", "chunk", "chunk", "ack", "receipt", "settled"),
        ("resume", "refuse"),
    ],
)
@pytest.mark.parametrize("role", Role)
def test_whole_conversations(role, kinds):
    conversation = held(role, *kinds)
    assert conversation.over
    assert conversation.deadline is None
    assert not any(conversation.may_send(kind) for kind in KINDS)


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_conversation_is_not_over_before_its_end(length):
    assert not held(Role.REQUESTER, *WHOLE[:length]).over


def deadline_of(conversation):
    return conversation.deadline.waiting_for, conversation.deadline.at_us


def test_the_deadlines_of_a_requester():
    assert held(Role.REQUESTER).deadline is None
    assert deadline_of(held(Role.REQUESTER, "offer", now_us=5)) == ("accept", 5 + ACCEPT_WITHIN_US + RTT_US)
    assert deadline_of(held(Role.REQUESTER, "offer", "accept")) == ("progress", MIN_QUIET_US + RTT_US)
    assert deadline_of(held(Role.REQUESTER, *WHOLE[:8]))[0] == "bytes"


def test_start_has_a_deadline_that_loading_does_not_put_off():
    conversation = held(Role.REQUESTER, "offer", "accept")
    conversation.expect_start_within(3_000_000, now_us=0)
    start_by_us = 3_000_000 + SLACK_US + RTT_US
    for now_us in range(0, start_by_us, HEARTBEAT_US):
        conversation.received("loading", now_us=now_us)
        assert conversation.deadline.at_us <= start_by_us
    assert deadline_of(conversation) == ("start", start_by_us)
    conversation.received("start", now_us=start_by_us)
    assert deadline_of(conversation)[0] == "progress"


@pytest.mark.parametrize(
    ("step_us", "quiet_us"), [(0, MIN_QUIET_US), (100_000, MIN_QUIET_US), (900_000, 3_600_000)]
)
def test_progress_may_be_four_steps_late_and_never_less_than_a_second(step_us, quiet_us):
    conversation = held(Role.REQUESTER, "offer", "accept", "start")
    conversation.expect_steps_of(step_us, now_us=0)
    conversation.received("progress", now_us=7)
    assert deadline_of(conversation) == ("progress", 7 + quiet_us + RTT_US)


def test_of_what_a_provider_says_no_more_is_believed_than_its_requester_expects():
    conversation = held(Role.REQUESTER, "offer", "accept")
    conversation.patience = Patience(start_us=5_000_000, step_us=500_000, run_us=9_000_000)
    conversation.expect_start_within(10**15, now_us=0)
    conversation.received("loading", now_us=60_000_000)
    assert deadline_of(conversation) == ("start", 5_000_000 + SLACK_US + RTT_US)
    conversation.received("start", now_us=0)
    conversation.expect_steps_of(600_000_000, now_us=0)
    assert deadline_of(conversation) == ("progress", 2_000_000 + RTT_US)
    conversation.received("progress", now_us=60_000_000)
    assert deadline_of(conversation) == ("step", 9_000_000 + SLACK_US + RTT_US)
    for step, told_us, counted_from_us in (
        (1, 1_000_000, 1_000_000),
        (1, 2_000_000, 1_000_000),
        (2, 3_000_000, 3_000_000),
    ):
        conversation.on_step(step, now_us=told_us)
        assert deadline_of(conversation) == ("step", counted_from_us + 9_000_000 + SLACK_US + RTT_US)
    conversation.received("result", now_us=0)
    conversation.expect_bytes(100 * LEAST_BYTES_PER_S, now_us=0)
    assert deadline_of(conversation) == ("bytes", MIN_QUIET_US + 2 * RTT_US)
    conversation.received("chunk", now_us=200_000_000)
    assert deadline_of(conversation) == ("bytes", 100_000_000 + SLACK_US + RTT_US)


def test_four_heartbeats_fit_into_the_shortest_deadline():
    assert 4 * HEARTBEAT_US <= MIN_QUIET_US


def test_a_provider_waits_for_acknowledgements_only():
    assert held(Role.PROVIDER, "offer", "accept", "start").deadline is None
    sending = held(Role.PROVIDER, *WHOLE[:7], now_us=11)
    assert deadline_of(sending) == ("ack", 11 + ACK_WITHIN_US)
    sending.sent("chunk", now_us=500)  # its own words put nothing off
    assert deadline_of(sending) == ("ack", 11 + ACK_WITHIN_US)
    sending.received("ack", now_us=600)
    assert deadline_of(sending) == ("ack", 600 + ACK_WITHIN_US)
