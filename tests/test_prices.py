"""What pictures cost, between real peers in memory and virtual time.  No credits are moved by anybody."""

from dataclasses import replace

import pytest
import trio

from peer.asking import JobFailed
from protocol.policy.cost import OVERHEAD_US, Wishes
from protocol.wire.advert import SignedAdvert
from protocol.wire.receipt import MAX_RECEIPT_BYTES, SignedReceipt

from .samples import NETWORK as SAMPLE_NETWORK
from .samples import PROVIDER_SEED, RECEIPT
from .world import NETWORK, now_us

CREDIT = 1_000_000
RATE = 250 * CREDIT  # for one step of one megapixel
PRICE = RATE * 64 * 64 * 4 // 1_000_000  # of the picture that is asked for: four steps
FAR_DELAY_US = 20_000
TIME_IS_WORTHLESS = Wishes(0)
TIME_IS_ALL = Wishes(1_000_000 * CREDIT)


def receipt_of(provider, attempt):
    return SignedReceipt.from_untrusted(provider.receipts[attempt.id], network=NETWORK).receipt


def claim_rate(alice, provider, rate_millionths):
    """Alice last heard that `provider` asks so much."""
    told = replace(provider._able(), price_millionths=rate_millionths)
    signed = SignedAdvert.sign(told, network=NETWORK, private_key=provider.key)
    assert alice.directory.on_advert(signed, now_us(), 0).fresh


async def test_the_offer_caps_the_price_and_the_receipt_states_it_and_what_the_time_cost(
    autojump_clock, world, alice
):
    near = await world.add("near", rate_millionths=RATE)
    drawn = await alice.ask(wishes=Wishes(3 * CREDIT))
    (attempt,) = drawn.attempts
    offer = attempt.offer.offer
    assert (offer.price_cap_millionths, offer.value_of_time_millionths) == (PRICE, 3 * CREDIT)
    receipt = receipt_of(near, attempt)
    assert receipt.price_millionths == PRICE == attempt.choice.price_millionths
    assert receipt.latency_millionths == 3 * (receipt.queue_us + receipt.load_us + receipt.render_us)


async def test_who_asks_less_is_chosen_where_time_is_worth_little_and_who_is_near_where_it_is_worth_much(
    autojump_clock, world, alice
):
    near = await world.add("near", rate_millionths=RATE)
    far = await world.add("far", delay_us=FAR_DELAY_US)
    # At last the weights are loaded on both, and nothing is left of the work that each was seen to do.
    for wishes, expected in ((TIME_IS_ALL, near), (TIME_IS_WORTHLESS, far), (TIME_IS_ALL, near)):
        drawn = await alice.ask(wishes=wishes)
        assert drawn.provider == expected.id
    assert "sooner, which is worth " in drawn.plan.why()
    assert receipt_of(far, (await alice.ask(wishes=TIME_IS_WORTHLESS)).attempts[0]).price_millionths == 0


async def test_a_peer_that_asks_more_than_it_was_known_to_refuses_and_the_next_is_asked(
    autojump_clock, world, alice
):
    near = await world.add("near", rate_millionths=2 * RATE)
    far = await world.add("far", delay_us=FAR_DELAY_US, rate_millionths=RATE)
    claim_rate(alice, near, RATE)
    drawn = await alice.ask()
    assert [attempt.choice.peer for attempt in drawn.attempts] == [near.id, far.id]
    refused = drawn.attempts[0]
    assert refused.outcome == "refused"
    assert refused.sentence == "This picture costs 8.192 credits here; 4.096 credits were offered at most."
    assert ("task_refused", {"peer": alice.id, "code": "price"}) in near.journal


async def test_where_only_the_price_is_in_the_way_that_is_what_is_said(autojump_clock, world, alice):
    near = await world.add("near", rate_millionths=RATE)
    claim_rate(alice, near, None)
    with pytest.raises(JobFailed) as failed:
        await alice.ask()
    assert "This picture costs 4.096 credits here; 0 credits were offered at most." in failed.value.sentence
    assert failed.value.nobody


async def test_a_receipt_that_asks_for_more_than_was_offered_is_not_accepted(autojump_clock, world, alice):
    near = await world.add("near")
    far = await world.add("far", delay_us=FAR_DELAY_US)
    near.work._rate = lambda _requester: RATE
    near.work.quote_millionths = lambda *_: 0
    drawn = await alice.ask()
    assert drawn.provider == far.id
    assert "the receipt asks for more than was offered" in drawn.attempts[0].sentence


async def test_one_pays_oneself_nothing(autojump_clock, world):
    loner = await world.add("loner", rate_millionths=RATE)
    drawn = await loner.ask(remote=False)
    assert drawn.provider == loner.id
    assert receipt_of(loner, drawn.attempts[0]).price_millionths == 0


async def test_steps_that_were_done_are_owed_when_it_is_cancelled(autojump_clock, world, alice):
    near = await world.add("near", rate_millionths=RATE)
    near.renderer.stage_us["step"] = 1_000_000
    with trio.move_on_after(2.5):
        await alice.ask()
    await trio.sleep(2)
    (envelope,) = near.receipts.values()
    receipt = SignedReceipt.from_untrusted(envelope, network=NETWORK).receipt
    assert (receipt.outcome, receipt.steps_done) == ("cancelled", 2)
    assert receipt.price_millionths == PRICE // 2


async def test_a_deadline_that_nobody_can_hold_is_told_before_anyone_is_asked(autojump_clock, world, alice):
    near = await world.add("near")
    await alice.ask()
    near.renderer.prompts.clear()
    await trio.sleep(10)  # what it told of its wait has aged
    with pytest.raises(JobFailed) as failed:
        await alice.ask(wishes=Wishes(due_us=now_us() + OVERHEAD_US + 10_000))
    assert failed.value.sentence.startswith("Nobody is expected to have it in the 10.0 ms that are left")
    assert failed.value.nobody
    assert near.renderer.prompts == []
    assert (await alice.ask(wishes=Wishes(due_us=now_us() + 1_000_000))).provider == near.id


async def test_who_would_be_late_is_not_asked_however_cheap(autojump_clock, world, alice):
    near = await world.add("near", rate_millionths=RATE)
    far = await world.add("far", delay_us=FAR_DELAY_US)
    far.renderer.stage_us["step"] = 400_000
    assert {(await alice.ask(wishes=each)).provider for each in (TIME_IS_ALL, TIME_IS_WORTHLESS)} == {
        near.id,
        far.id,
    }
    await trio.sleep(20)  # what they told of their waits has aged
    due = replace(TIME_IS_WORTHLESS, due_us=now_us() + 1_000_000)
    drawn = await alice.ask(wishes=due)
    assert drawn.provider == near.id
    assert dict(drawn.plan.exclusions)[far.id].startswith("It is expected to take ")


def test_the_longest_receipt_fits():
    longest = replace(
        RECEIPT,
        environment="e" * 128,
        price_millionths=2**64 - 1,
        latency_millionths=2**64 - 1,
        queue_us=10**15,
        load_us=10**15,
        render_us=10**15,
        finished_us=2**63,
        file_bytes=1 << 28,
    )
    signed = SignedReceipt.sign(longest, network=SAMPLE_NETWORK, private_key=PROVIDER_SEED)
    assert len(signed.envelope.to_bytes()) <= MAX_RECEIPT_BYTES
    assert SignedReceipt.from_untrusted(signed.envelope.to_bytes(), network=SAMPLE_NETWORK).receipt == longest
