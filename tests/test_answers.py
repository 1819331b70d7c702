"""What ACCEPT and REFUSE show of the way to a peer and of its clock, between real peers in memory and in virtual time."""

from dataclasses import replace

import pytest

from protocol.policy.rtt import Rtt
from protocol.wire.task import Accept, OfferMessage, Refuse

from .world import DELAY_US, FakeStream, spans_us

FAR_DELAY_US = 20_000
HOUR_US = 3_600_000_000


class Way:
    """That between two peers takes `us` for an offer and its answer, and what it always does for all else.

    `offsets_us` is what alice knows of the other's clock at each message.
    """

    def __init__(self, world, alice, other, us):
        self.offsets_us = []
        between = frozenset((alice.id, other.id))

        def tamper(here, there, message):
            if {here, there} == between:
                answered = isinstance(message, OfferMessage | Accept | Refuse)
                world.network.delays_us[between] = us if answered else DELAY_US
            self.offsets_us.append(alice.links.session(other.id).offset_us)
            return message

        world.network.tamper = tamper


@pytest.fixture(params=["ACCEPT", "REFUSE"])
async def other(request, world, alice):
    """It answers like that; someone else draws what it does not."""
    refuses = request.param == "REFUSE"
    other = await world.add("other", allow=("someone else",) if refuses else ())
    await world.add("far", delay_us=FAR_DELAY_US)
    return other


@pytest.mark.parametrize(("way_us", "least_us"), [(200, 200), (DELAY_US, DELAY_US), (15_000, DELAY_US)])
async def test_an_answer_that_was_quicker_than_every_ping_is_the_round_trip(
    autojump_clock, world, alice, other, way_us, least_us
):
    before = alice.directory.rtt(other.id)
    assert before.min_us == 2 * DELAY_US
    Way(world, alice, other, way_us)
    await alice.ask()
    after = alice.directory.rtt(other.id)
    assert after == Rtt(2 * least_us, before.jitter_us, after.samples)


@pytest.mark.parametrize(("way_us", "least_us"), [(200, 200), (DELAY_US, DELAY_US), (15_000, DELAY_US)])
async def test_what_is_known_of_the_others_clock_is_true_and_as_narrow_as_the_quickest_way(
    autojump_clock, world, alice, other, way_us, least_us
):
    offset_us = other.links.session(alice.id).epoch_us  # all have one clock, which both sides count from anew
    way = Way(world, alice, other, way_us)
    await alice.ask()
    assert all(low <= offset_us <= high for low, high in way.offsets_us)
    widths_us = [high - low for low, high in way.offsets_us]
    assert widths_us[0] == 2 * DELAY_US
    assert min(widths_us) == 2 * least_us


async def test_an_answer_whose_times_contradict_each_other_does_not_hold(autojump_clock, world, alice, other):
    def tamper(here, there, message):
        if here == other.id and isinstance(message, Accept | Refuse):
            return replace(message, heard_us=message.sent_us + 1)
        return message

    before = alice.directory.rtt(other.id)
    world.network.tamper = tamper
    drawn = await alice.ask()
    assert [attempt.outcome for attempt in drawn.attempts] == ["bad", "done"]
    assert alice.directory.rtt(other.id).min_us == before.min_us


@pytest.mark.parametrize("early_us", [HOUR_US, 1_500])
async def test_nobody_is_nearer_for_a_wall_clock_that_was_set_and_no_span_is_negative(
    autojump_clock, world, alice, other, monkeypatch, early_us
):
    """Stamps of what came then lie too early."""
    receive_some = FakeStream.receive_some

    async def stamped_too_early(stream, *args):
        data = await receive_some(stream, *args)
        stream.heard_us -= early_us
        return data

    before = alice.directory.rtt(other.id)
    monkeypatch.setattr(FakeStream, "receive_some", stamped_too_early)
    drawn = await alice.ask()
    after = alice.directory.rtt(other.id)
    assert after == Rtt(2 * DELAY_US, before.jitter_us, after.samples)
    assert all(span.us >= 0 <= span.start_us for span in drawn.timeline.spans())
    assert sum(spans_us(drawn.timeline).values()) + drawn.timeline.unaccounted_us == drawn.timeline.wall_us
    assert drawn.timeline.unaccounted_us >= 0
