"""A provider that is late to start, and the one that is asked beside it: real peers in memory, in virtual time."""

from dataclasses import replace

import pytest
import trio

from peer.asking import JobFailed
from peer.conversing import CANCEL_WITHIN_S, DISMISSED_S
from protocol.policy import job
from protocol.policy.job import HEDGE_RTT_PERCENT, HEDGE_SLACK_US
from protocol.policy.prediction import LEAST_LOAD_PROMISE_US
from protocol.wire.conversation import MIN_QUIET_US, SLACK_US
from protocol.wire.receipt import Settled, SignedReceipt
from protocol.wire.task import Accept, Cancel, OfferMessage, Progress, Start

from .world import (
    DELAY_US,
    MODEL,
    NETWORK,
    Asked,
    now_us,
    spans_us,
    statement,
)

FAR_DELAY_US = 5_000
GRACE_US = HEDGE_SLACK_US + 2 * DELAY_US * HEDGE_RTT_PERCENT // 100  # of near
STEP_US = 100_000
LATE_US = 1_000_000  # far beyond the grace
CROSSING_US = GRACE_US + FAR_DELAY_US + 3 * DELAY_US  # START of near is here just before that of its hedge


class Said:
    """The task messages that went over the wire: when each left, who said it to whom, and what it was."""

    def __init__(self, world):
        self.messages = []
        self.drop = lambda source, message: False
        world.network.tamper = self

    def __call__(self, source, target, message):
        if self.drop(source, message):
            return None
        self.messages.append((now_us(), source, target, message))
        return message

    def times_us(self, kind, source=None, target=None):
        return [
            at_us
            for at_us, by, to, message in self.messages
            if isinstance(message, kind) and source in (None, by) and target in (None, to)
        ]


class Asking(Asked):
    """Notes when each attempt was made; `on_attempt` may do something about it."""

    def __init__(self, on_attempt=lambda attempt: None):
        super().__init__()
        self.at_us = []

        def made(attempt):
            self.at_us.append(now_us())
            on_attempt(attempt)

        self.attempts = type("Noted", (list,), {"append": lambda _, attempt: made(attempt)})()


async def add(world, name, **how):
    """A provider that is warm, and whose steps are long enough to be cancelled in their midst."""
    added = await world.add(name, **how)
    added.renderer.resident, added.renderer.running = (MODEL,), True
    added.renderer.stage_us["step"] = STEP_US
    await trio.sleep(20)  # until its live state was asked for
    return added


@pytest.fixture
async def near(world, alice):
    return await add(world, "near")


@pytest.fixture
async def far(world, near):
    return await add(world, "far", delay_us=FAR_DELAY_US)


def start_after(peer, us):
    """START comes so long after ACCEPT."""
    peer.renderer.handoff_us = us


def outcomes(drawn):
    return [attempt.outcome for attempt in drawn.attempts]


def receipt_of(provider, attempt):
    return SignedReceipt.from_untrusted(provider.receipts[attempt.id], network=NETWORK).receipt


async def all_is_over(alice, *providers):
    """Nothing is left of it: no task, no stream, no conversation; and what was done is owed and settled."""
    await trio.sleep(5)
    assert len(alice.requester._nursery.child_tasks) == 1  # what opens streams ahead
    assert alice.requester.means.lines == []
    for each in providers:
        assert each.provider.statistics()["talking"] == 0
        assert each.host.errors == []
    assert alice.host.errors == []


def is_settled(alice, provider, attempt, outcome):
    """Both have it in their books: what was done, and that it was accepted."""
    receipt = receipt_of(provider, attempt)
    (kept,) = [settled for each, settled in alice.kept if each is attempt]
    settled, _ = Settled.from_untrusted(kept, network=NETWORK)
    assert settled.accepted
    assert provider.settled[attempt.id] == kept
    return receipt.outcome == outcome


async def test_a_late_start_is_hedged_at_once_and_the_hedge_draws_the_picture(
    autojump_clock, world, alice, near, far
):
    start_after(near, LATE_US)
    said, asking = Said(world), Asking()
    drawn = await alice.ask(asked=asking)
    first, second = drawn.attempts
    assert [first.choice.peer, second.choice.peer] == [near.id, far.id]
    assert outcomes(drawn) == ["outrun", "done"]
    assert drawn.provider == far.id
    hedged_us = first.accepted_us + GRACE_US
    assert asking.at_us[1] == hedged_us
    assert said.times_us(OfferMessage, target=far.id) == [hedged_us]  # on a stream opened ahead
    (started_us,) = said.times_us(Start, source=far.id)
    assert said.times_us(Cancel) == [started_us + FAR_DELAY_US]
    assert second.why == "near had not started 52.4 ms after it was to"
    assert asking.told == ["near: it has not started in time; asking another peer as well"]
    await all_is_over(alice, near, far)
    assert is_settled(alice, near, first, "cancelled")
    assert is_settled(alice, far, second, "done")
    assert receipt_of(near, first).steps_done == 0
    assert near.renderer.rendered == []


async def test_the_time_until_the_hedge_was_asked_is_lost_and_all_time_is_accounted_for(
    autojump_clock, world, alice, near, far
):
    start_after(near, LATE_US)
    drawn = await alice.ask()
    first, second = drawn.attempts
    assert spans_us(drawn.timeline)["lost"] == GRACE_US
    assert drawn.timeline.unaccounted_us == 0
    critical = [span for span in drawn.timeline.spans() if span.critical]
    assert {span.attempt for span in critical if span.span == "step"} == {second.id.hex()}
    asked_us = drawn.timeline.asked_us
    ends_us = [asked_us + span.end_us for span in critical if span.attempt == first.id.hex()]
    assert max(ends_us) == first.accepted_us + GRACE_US


async def test_who_starts_after_all_before_the_hedge_does_draws_and_the_hedge_is_cancelled_within_its_step(
    autojump_clock, world, alice, near, far
):
    start_after(near, CROSSING_US)
    said = Said(world)
    drawn = await alice.ask()
    _, second = drawn.attempts
    assert outcomes(drawn) == ["done", "outrun"]
    (start_us,) = said.times_us(Start, source=near.id)
    (hedge_start_us,) = said.times_us(Start, source=far.id)
    assert hedge_start_us < start_us + DELAY_US < hedge_start_us + FAR_DELAY_US
    assert said.times_us(Cancel, target=far.id) == [start_us + DELAY_US]
    assert said.times_us(Cancel, target=near.id) == []
    assert "lost" not in spans_us(drawn.timeline)
    assert drawn.timeline.unaccounted_us == 0
    assert second.id.hex() in {span.attempt for span in drawn.timeline.spans() if not span.critical}
    await all_is_over(alice, near, far)
    assert is_settled(alice, far, second, "cancelled")
    assert receipt_of(far, second).steps_done <= 1
    assert receipt_of(far, second).render_us <= 2 * FAR_DELAY_US + STEP_US
    assert far.renderer.cancelled == [second.id]


async def test_the_picture_does_not_wait_for_the_last_word_of_whoever_was_outrun(
    autojump_clock, world, alice, near, far
):
    start_after(near, 20_000_000)  # so long does its renderer not look up
    began_us = now_us()
    drawn = await alice.ask()
    first, _ = drawn.attempts
    assert now_us() - began_us < 1_000_000
    assert alice.requester.talks_with(near.id)
    assert first.receipt is None
    await trio.sleep(20)
    await all_is_over(alice, near, far)
    assert is_settled(alice, near, first, "cancelled")


async def test_whoever_was_outrun_and_never_has_a_last_word_is_not_listened_to_for_ever(
    autojump_clock, world, alice, near, far
):
    start_after(near, CROSSING_US)
    far.renderer.hangs_at_step, far.renderer.cancel = 1, lambda task: None
    near.renderer.stage_us["step"] = 1_000
    drawn = await alice.ask(statement(steps=200))  # of which far may take longer than it is listened to
    assert outcomes(drawn) == ["done", "outrun"]
    await trio.sleep(DISMISSED_S - 2)
    assert alice.requester.talks_with(far.id)
    await all_is_over(alice, near, far)
    assert not alice.requester.talks_with(far.id)


async def test_whoever_was_outrun_and_is_silent_after_that_is_avoided_which_costs_the_picture_nothing(
    autojump_clock, world, alice, near, far
):
    start_after(near, LATE_US)
    said = Said(world)

    def freeze(source, message):
        if source == far.id and isinstance(message, Start):
            world.network.freeze(near.id)
        return False

    said.drop = freeze
    drawn = await alice.ask(statement(steps=1))
    assert outcomes(drawn) == ["outrun", "done"]
    assert drawn.timeline.wall_us < MIN_QUIET_US
    assert penalties(alice)[near.id] == 0
    await trio.sleep((MIN_QUIET_US + GRACE_US) / 1e6)
    assert penalties(alice)[near.id] > 0
    assert penalties(alice)[far.id] == 0
    assert alice.requester.means.lines == []


def penalties(alice):
    return {each.peer: each.penalty_us for each in alice.directory.candidates(now_us(), own=False)}


async def test_a_hedge_that_is_refused_changes_nothing_for_the_first(autojump_clock, world, alice, near):
    far = await add(world, "far", delay_us=FAR_DELAY_US, allow=("someone else",))
    start_after(near, LATE_US)
    asking = Asking()
    drawn = await alice.ask(asked=asking)
    assert outcomes(drawn) == ["done", "refused"]
    assert drawn.provider == near.id
    assert asking.told[-1].startswith("far: refused: This peer renders for named peers only; another peer is")
    assert drawn.timeline.unaccounted_us == 0
    assert "lost" not in spans_us(drawn.timeline)
    await all_is_over(alice, near, far)


async def test_a_hedge_that_is_lost_changes_nothing_for_the_first_but_is_avoided(
    autojump_clock, world, alice, near, far
):
    start_after(near, LATE_US)

    def cut(attempt):
        if attempt.number == 2:
            world.network.cut(alice.id, far.id, for_ever=True)

    drawn = await alice.ask(asked=Asking(cut))
    assert outcomes(drawn) == ["done", "lost"]
    assert drawn.timeline.unaccounted_us == 0
    assert [event for event in near.events("task_finished") if event["outcome"] != "done"] == []
    await all_is_over(alice, near)


async def test_where_the_first_is_lost_while_the_hedge_waits_that_is_waited_for(
    autojump_clock, world, alice, near, far
):
    start_after(near, 20_000_000)
    start_after(far, LATE_US)

    def cut(attempt):
        if attempt.number == 2:
            world.nursery.start_soon(cut_soon)

    async def cut_soon():
        await trio.sleep(0.1)
        world.network.cut(alice.id, near.id, for_ever=True)

    asking = Asking(cut)
    drawn = await alice.ask(asked=asking)
    assert outcomes(drawn) == ["lost", "done"]
    assert asking.told[-1] == "near: the connection was lost; another peer is at it"
    assert spans_us(drawn.timeline)["lost"] == GRACE_US
    assert drawn.timeline.unaccounted_us == 0


async def test_where_both_are_lost_a_third_is_asked_and_no_time_is_counted_twice(
    autojump_clock, world, alice, near, far
):
    third = await add(world, "third", delay_us=2 * FAR_DELAY_US)
    start_after(near, LATE_US)
    start_after(far, LATE_US)

    def cut(attempt):
        if attempt.number == 2:
            world.nursery.start_soon(cut_soon)

    async def cut_soon():
        for each in (near, far):
            await trio.sleep(1.5 * FAR_DELAY_US / 1e6)
            world.network.cut(alice.id, each.id, for_ever=True)

    drawn = await alice.ask(asked=Asking(cut))
    assert outcomes(drawn) == ["lost", "lost", "done"]
    assert drawn.provider == third.id
    assert drawn.timeline.unaccounted_us == 0
    assert spans_us(drawn.timeline)["lost"] == GRACE_US + FAR_DELAY_US  # ACCEPT of far took two of its ways


async def test_cancelled_while_two_are_at_it_both_stop_and_what_they_did_is_settled(
    autojump_clock, world, alice, near, far
):
    start_after(near, GRACE_US + LATE_US)
    start_after(far, LATE_US)
    made = []
    with trio.CancelScope() as scope:

        def cancel_soon(attempt):
            made.append(attempt)
            if attempt.number == 2:
                world.nursery.start_soon(cancel_later)

        async def cancel_later():
            await trio.sleep(0.5)
            scope.cancel()

        asking = Asking(cancel_soon)
        await alice.ask(asked=asking)
    assert scope.cancelled_caught
    first, second = made
    assert [first.outcome, second.outcome] == ["cancelled", "cancelled"]
    assert now_us() - asking.at_us[1] < 500_000 + CANCEL_WITHIN_S * 1e6
    await all_is_over(alice, near, far)
    assert is_settled(alice, near, first, "cancelled")
    assert is_settled(alice, far, second, "cancelled")


async def test_cancelled_before_an_offer_is_made_nothing_is_said(autojump_clock, world, alice, near, far):
    said = Said(world)
    with trio.move_on_after(DELAY_US / 1e6) as scope:  # its stream is not open yet
        await alice.ask()
    assert scope.cancelled_caught
    await all_is_over(alice, near, far)
    assert said.messages == []


async def test_of_two_results_the_first_is_taken_and_the_other_settled(
    autojump_clock, world, alice, near, far
):
    start_after(near, GRACE_US + DELAY_US)
    for each in (near, far):
        each.renderer.stage_us["step"] = 30_000
    said = Said(world)
    said.drop = lambda source, message: isinstance(message, Start | Progress)
    drawn = await alice.ask()
    first, second = drawn.attempts
    assert outcomes(drawn) == ["done", "outrun"]
    await all_is_over(alice, near, far)
    assert is_settled(alice, near, first, "done")
    assert is_settled(alice, far, second, "done")


async def test_a_hedge_whose_stream_is_still_being_opened_is_dropped_without_a_word(
    autojump_clock, world, alice, near, far, monkeypatch
):
    start_after(near, 2 * GRACE_US)
    open_stream = alice.host.open_stream

    async def open_late(there, protocol):
        await trio.sleep(1 if there == far.id else 0)
        return await open_stream(there, protocol)

    monkeypatch.setattr(alice.host, "open_stream", open_late)
    said = Said(world)
    drawn = await alice.ask()
    assert outcomes(drawn) == ["done", "outrun"]
    await all_is_over(alice, near, far)
    assert said.times_us(OfferMessage, target=far.id) == []
    assert far.receipts == {}


@pytest.mark.parametrize("promised", ["wait_us", "load_us"])
async def test_who_promises_to_start_far_later_than_was_asked_for_is_hedged_as_if_it_had_not(
    autojump_clock, world, alice, near, far, promised
):
    start_after(near, LATE_US)
    if promised == "load_us":
        near.renderer.resident = ()
        near.renderer.load_us = 2 * LEAST_LOAD_PROMISE_US
        await trio.sleep(20)  # until that is known
        far.renderer.resident = ()

    def promises(source, _, message):
        late = source == near.id and isinstance(message, Accept)
        return replace(message, **{promised: 10**15}) if late else message

    world.network.tamper = promises
    drawn = await alice.ask()
    assert outcomes(drawn) == ["outrun", "done"]
    assert drawn.timeline.wall_us < 2 * LEAST_LOAD_PROMISE_US
    assert drawn.provider == far.id


async def test_where_there_is_nobody_else_a_late_start_is_waited_for(autojump_clock, alice, near):
    start_after(near, SLACK_US - 1_000_000)
    drawn = await alice.ask()
    assert outcomes(drawn) == ["done"]


async def test_a_renderer_that_hangs_while_its_peer_lives_is_lost_in_the_end(autojump_clock, alice, near):
    start_after(near, 10 * SLACK_US)
    began_us = now_us()
    with pytest.raises(JobFailed, match="waiting for start"):
        await alice.ask()
    assert SLACK_US < now_us() - began_us < SLACK_US + 1_000_000


@pytest.fixture
async def promises_years(world, near, request, monkeypatch):
    """It may not refuse, and accepts with a wait or a load of years."""
    monkeypatch.setattr(job, "MAX_REDIRECTS", 0)
    start_after(near, 10**15)

    def promises(source, _, message):
        absurd = source == near.id and isinstance(message, Accept)
        return replace(message, **{request.param: 10**15}) if absurd else message

    world.network.tamper = promises


@pytest.mark.parametrize("promises_years", ["wait_us", "load_us"], indirect=True)
async def test_who_is_made_to_take_a_picture_and_promises_it_in_years_is_hedged_within_seconds(
    autojump_clock, alice, near, far, promises_years
):
    drawn = await alice.ask()
    first, _ = drawn.attempts
    assert first.offer.offer.max_wait_us is None
    assert outcomes(drawn) == ["outrun", "done"]
    assert drawn.timeline.wall_us < 17 * first.choice.busy_us + 5_000_000


@pytest.mark.parametrize("promises_years", ["wait_us", "load_us"], indirect=True)
async def test_who_promises_a_picture_in_years_is_lost_within_minutes_where_there_is_nobody_else(
    autojump_clock, alice, near, promises_years
):
    began_us, asking = now_us(), Asking()
    with pytest.raises(JobFailed, match="waiting for start"):
        await alice.ask(asked=asking)
    choice = asking.plans[0].ranked[0]
    assert now_us() - began_us < choice.longest_start_us + SLACK_US + 1_000_000
    assert choice.longest_start_us == LEAST_LOAD_PROMISE_US + 17 * choice.busy_us
    (known,) = alice.directory.candidates(now_us(), own=False)
    assert known.penalty_us > 0


async def test_who_tells_of_steps_of_ten_minutes_may_not_be_silent_for_longer_than_its_kind(
    autojump_clock, world, alice, near, far
):
    near.renderer.hangs_at_step = 2
    frozen_us = []

    def freezes(source, _, message):
        if source == near.id and isinstance(message, Progress) and message.step and not frozen_us:
            frozen_us.append(now_us())
            world.network.freeze(near.id)
        slow = source == near.id and isinstance(message, Start)
        return replace(message, step_us=600_000_000) if slow else message

    world.network.tamper = freezes
    asking = Asking()
    drawn = await alice.ask(asked=asking)
    assert outcomes(drawn) == ["lost", "done"]
    assert asking.at_us[1] - frozen_us[0] <= MIN_QUIET_US + 3 * DELAY_US


async def test_who_says_for_ever_that_it_is_at_work_is_lost_in_the_end(autojump_clock, alice, near, far):
    near.renderer.hangs_at_step = 2
    drawn = await alice.ask()
    assert outcomes(drawn) == ["lost", "done"]
    assert "waiting for step" in drawn.attempts[0].sentence
    assert SLACK_US < drawn.timeline.wall_us < SLACK_US + 10_000_000


async def test_silence_before_the_start_still_loses_a_provider_within_its_deadline(
    autojump_clock, world, alice, near
):
    start_after(near, LATE_US * 5)
    at_us = []

    def freeze(attempt):
        world.nursery.start_soon(freeze_soon)

    async def freeze_soon():
        await trio.sleep(0.5)
        at_us.append(now_us())
        world.network.freeze(near.id)

    with pytest.raises(JobFailed, match="nothing was heard in time"):
        await alice.ask(asked=Asking(freeze))
    assert now_us() - at_us[0] <= MIN_QUIET_US + 3 * DELAY_US


async def test_how_late_it_was_is_remembered_of_whoever_was_outrun(autojump_clock, world, alice, near, far):
    start_after(near, LATE_US)
    await alice.ask()
    await trio.sleep(2)
    start_after(near, 0)
    late_us = {each.peer: each.late_us for each in alice.directory.candidates(now_us(), own=False)}
    assert late_us[near.id] > 0
    assert late_us[far.id] == 0


async def test_what_is_owed_for_work_that_was_stopped_is_no_more_than_its_steps(autojump_clock, world, alice):
    near = await add(world, "near", rate_millionths=1_000_000)
    far = await add(world, "far", delay_us=FAR_DELAY_US, rate_millionths=1_000_000)
    near.renderer.stage_us["step"] = far.renderer.stage_us["step"] = 2_000
    start_after(near, CROSSING_US)
    drawn = await alice.ask(statement(steps=20))
    _, second = drawn.attempts
    await all_is_over(alice, near, far)
    receipt = receipt_of(far, second)
    assert is_settled(alice, far, second, "cancelled")
    assert 0 < receipt.steps_done < 20
    assert receipt.price_millionths == -(-second.choice.price_millionths * receipt.steps_done // 20)
