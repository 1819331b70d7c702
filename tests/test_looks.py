"""Whom a requester asks how busy it is before it makes its first offer."""

import pytest
import trio

from protocol.policy.looks import FRESH_US, LOOK_PERCENT, LOOKS, WAITED_PERCENT, Look, look
from protocol.policy.selection import Choice, Plan
from protocol.wire.hello import LiveState

from .truth import prediction
from .world import DELAY_US, MODEL, now_us

S = 1_000_000
OLD_US = 10 * S
TOOK_US = 2 * S
NEAR_US = TOOK_US * LOOK_PERCENT // 100
WITHIN_US = TOOK_US * WAITED_PERCENT // 100


def choice(name, *, idle_us=TOOK_US, wait_us=0, rtt_us=1_000):
    return Choice(name, rtt_us, 0, prediction(wait_us=wait_us, step_us=idle_us))


def asked(*choices, told_us=0, now_us=OLD_US):
    heard = told_us if isinstance(told_us, dict) else {each.peer: told_us for each in choices}
    found = look(Plan(choices, ()), heard.get, now_us)
    return found and found.peers


def test_those_who_would_be_best_if_they_were_idle_are_asked_the_best_first():
    best, busy = choice("best"), choice("busy", idle_us=TOOK_US - 1, wait_us=S)
    slower = choice("slower", idle_us=TOOK_US + 1)
    assert look(Plan((best, busy, slower), ()), {"best": 0, "busy": 0, "slower": 0}.get, OLD_US) == Look(
        ("busy", "best"), WITHIN_US
    )


def test_who_is_alone_is_asked_for_the_picture_at_once():
    assert asked(choice("only")) is None


@pytest.mark.parametrize(("rtt_us", "peers"), [(NEAR_US, ("far", "here")), (NEAR_US + 1, ("here",))])
def test_who_is_too_far_to_be_waited_for_is_not_asked(rtt_us, peers):
    assert asked(choice("here"), choice("far", rtt_us=rtt_us)) == peers


@pytest.mark.parametrize("rtt_us", [None, 1_000])
def test_who_was_not_measured_or_never_told_is_not_asked(rtt_us):
    known, unknown = choice("known"), choice("unknown", rtt_us=rtt_us)
    assert asked(known, unknown, told_us={"known": 0}) == ("known",)


@pytest.mark.parametrize(
    ("rtt_us", "age_us"), [(1_000, FRESH_US), (FRESH_US * 3 // 4, FRESH_US * 3 // 2)], ids=["near", "far"]
)
def test_what_was_heard_just_now_is_not_asked_again(rtt_us, age_us):
    two = choice("a", idle_us=10 * S, rtt_us=rtt_us), choice("b", idle_us=10 * S, rtt_us=rtt_us)
    assert asked(*two, told_us=OLD_US - age_us + 1) is None
    assert asked(*two, told_us=OLD_US - age_us) == ("a", "b")


def test_so_many_are_asked_at_most():
    many = [choice(f"{k:02}", idle_us=TOOK_US - k, wait_us=k) for k in range(LOOKS + 3)]
    assert asked(*many) == tuple(each.peer for each in reversed(many[3:]))


# --- a real requester


async def warm(world, name, **how):
    """A provider that is warm and idle."""
    added = await world.add(name, **how)
    added.renderer.resident, added.renderer.running = (MODEL,), True
    added.renderer.stage_us["step"] = S
    await trio.sleep(20)
    return added


async def seems_busy(alice, peer):
    """For an instant, a while ago; before and after, it is idle."""
    alice.links.stay_active()
    await trio.sleep(10)
    alice.directory.on_state(
        peer.id,
        LiveState(wait_us=2 * S, queued=3, running=True, resident=(MODEL,), free_memory_mib=None),
        now_us(),
    )


async def test_who_became_idle_meanwhile_is_found_out_before_it_is_passed_over(autojump_clock, world, alice):
    near = await warm(world, "near")
    await warm(world, "far", delay_us=60_000)
    await seems_busy(alice, near)
    await trio.sleep(0.3)
    drawn = await alice.ask()
    assert [(each.choice.peer, each.outcome) for each in drawn.attempts] == [(near.id, "done")]
    (looked,) = [span for span in drawn.timeline.spans() if span.span == "look"]
    assert (looked.us, looked.critical) == (2 * DELAY_US, True)


async def test_an_answer_that_does_not_come_is_not_waited_for(autojump_clock, world, alice):
    near = await warm(world, "near")
    far = await warm(world, "far", delay_us=60_000)
    await seems_busy(alice, near)
    await trio.sleep(0.3)
    world.network.freeze(near.id)
    drawn = await alice.ask()
    assert drawn.attempts[0].choice.peer == far.id
    (looked,) = [span for span in drawn.timeline.spans() if span.span == "look"]
    best_us = min(each.predicted_us for each in drawn.plan.ranked)
    assert looked.us == pytest.approx(best_us * WAITED_PERCENT // 100, rel=0.05)
