"""Prices, deadlines, rungs and quotes as the command asks for them, between peers in memory and virtual time."""

import json

import pytest
import trio

from peer.errors import JOB_FAILED, NOBODY, WRONG_USAGE, UserError
from peer.work import QUIET_S
from protocol.policy.credits import PRESETS_MILLIONTHS

from .asker import Asker
from .world import MODEL, OTHER_MODEL, now_us, statement

CREDIT = 1_000_000
RATE = 250 * CREDIT
PRICE = RATE * 64 * 64 * 20 // 1_000_000


@pytest.fixture
async def asker(monkeypatch, world, alice, ledger):
    return Asker(monkeypatch, world, ledger, steps=20)


async def learn(asker, *names):
    """How fast they are, and that they are idle again."""
    await asker.learn(*names)
    await trio.sleep(60)


def wishes(*, value=None, deadline_us=None, within_us=None):
    return {"~value_of_time_millionths": value, "~deadline_us": deadline_us, "~within_us": within_us}


async def test_a_quote_names_price_time_and_cost_and_asks_nobody(autojump_clock, asker):
    near = await asker.world.add("near", rate_millionths=RATE)
    quote = await asker.only("quote", "quote", wishes=wishes(value=2 * CREDIT))
    (row,) = quote["candidates"]
    assert (row["name"], row["price_millionths"]) == ("near", PRICE)
    assert row["p90_us"] > row["predicted_us"] == sum(row["spans"].values())
    assert row["cost_millionths"] == PRICE + 2 * row["p90_us"]
    assert (quote["steps"], quote["width"], quote["rung"]) == (20, 64, None)
    assert near.journal == []
    assert near.renderer.prompts == []
    assert (await asker.only("jobs", "jobs", limit=9))["jobs"] == []


async def test_ones_own_device_that_works_for_others_or_loads_ahead_is_quoted_with_its_wait(
    autojump_clock, monkeypatch, world, ledger
):
    alice = await world.add("alice", models=(MODEL, OTHER_MODEL))
    bob = await world.add("bob", provide=False)
    asker = Asker(monkeypatch, world, ledger, remote=False)

    async def wait_us():
        (row,) = (await asker.only("quote", "quote"))["candidates"]
        return row["spans"]["wait"]

    await bob.ask()
    assert await wait_us() == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bob.ask, statement(steps=200))
        await trio.sleep(1)
        assert 3_000_000 <= await wait_us() < 4_000_000  # 200 steps of 20 ms
    assert await wait_us() == 0
    alice.directory.speeds.on_load(alice.id, OTHER_MODEL, 10_000_000)
    alice.renderer.load_us, alice.residents._ahead = 10_000_000, True
    alice.residents.on_sought(bob.id, OTHER_MODEL)
    await trio.sleep(2 * QUIET_S)
    assert 6_000_000 <= await wait_us() < 10_000_000


async def test_of_many_pictures_the_mean_is_quoted(autojump_clock, asker):
    await asker.world.add("near")
    (row,) = (await asker.only("quote", "quote", count=5))["candidates"]
    assert row["cost_millionths"] == row["predicted_us"]  # at a credit a second


async def test_a_summary_states_price_and_value_of_time_and_why_says_what_decided(autojump_clock, asker):
    await asker.world.add("near", rate_millionths=RATE)
    await asker.world.add("far", delay_us=20_000)
    summary = await asker.only("picture", wishes=wishes(value=PRESETS_MILLIONTHS["cheap"]))
    assert (summary["provider_name"], summary["price_millionths"]) == ("far", 0)
    assert summary["value_of_time_millionths"] == PRESETS_MILLIONTHS["cheap"]
    assert summary["wished"] == {"value_of_time_millionths": PRESETS_MILLIONTHS["cheap"]}
    report = await asker.why()
    said = " ".join(report["sentences"])
    assert "It asks 20.5 credits less than the next best; being " in said
    assert "It cost 0 credits, and " in said
    assert report["asked"]["value_of_time_millionths"] == PRESETS_MILLIONTHS["cheap"]
    assert [each["price_millionths"] for each in report["candidates"]] == [0, PRICE]


async def test_where_nobody_asks_a_price_nothing_is_said_of_it(autojump_clock, asker):
    await asker.world.add("near")
    await asker.only("picture")
    assert "credit" not in json.dumps((await asker.why())["sentences"])


async def test_why_tells_what_was_not_foreseen_and_who_would_have_been_faster(autojump_clock, asker):
    near = await asker.world.add("near")
    await asker.world.add("far", delay_us=20_000)
    await learn(asker, "near", "far")
    near.renderer.stage_us["decode"] = 2_000_000
    assert (await asker.only("picture"))["provider"] == near.id
    said = (await asker.why())["sentences"]
    assert any(each.startswith("Not foreseen: encoding and decoding took 2.0") for each in said)
    assert any(each.startswith("In hindsight far would have been faster: ") for each in said)


async def test_a_deadline_in_reach_is_held_and_one_out_of_reach_is_refused_at_submit(autojump_clock, asker):
    near = await asker.world.add("near")
    await learn(asker, "near")
    assert (await asker.only("picture", wishes=wishes(deadline_us=5_000_000)))["wall_us"] < 5_000_000
    await trio.sleep(60)
    drawn = len(near.renderer.rendered)
    with pytest.raises(UserError, match="Nobody is expected to have it") as told:
        await asker.ask(wishes=wishes(deadline_us=100_000))
    assert told.value.exit_code == NOBODY
    assert len(near.renderer.rendered) == drawn
    with pytest.raises(UserError, match="Nobody is expected to have it"):
        await asker.ask("quote", wishes=wishes(deadline_us=100_000))


async def test_what_cannot_be_drawn_in_time_any_more_is_given_up_and_nobody_avoided(autojump_clock, asker):
    near = await asker.world.add("near")
    await learn(asker, "near")
    near.renderer.stage_us["step"] = 500_000
    with pytest.raises(UserError, match="cannot be ready any more") as told:
        await asker.ask(wishes=wishes(deadline_us=5_000_000))
    assert told.value.exit_code == JOB_FAILED
    ((found,),) = [asker.alice.directory.candidates(now_us(), own=False)]
    assert found.penalty_us == 0


async def test_a_picture_that_came_too_late_is_said_to_be(autojump_clock, asker):
    await asker.world.add("near")
    await learn(asker, "near")
    asker.alice.save_us = 5_000_000  # it is drawn in time
    await asker.only("picture", wishes=wishes(deadline_us=5_000_000))
    assert any(
        "later than within 5.00 s, as was wanted." in each for each in (await asker.why())["sentences"]
    )


async def test_quality_is_given_up_for_time_and_it_is_said_everywhere(autojump_clock, asker):
    await asker.world.add("near")
    await learn(asker, "near")
    events = await asker.ask(wishes=wishes(within_us=300_000))
    told = next(body["sentence"] for kind, body in events if kind == "told")
    summary = json.loads(next(body["summary"] for kind, body in events if kind == "picture"))
    report = await asker.why()
    assert told == summary["rung"]["sentence"] == report["rung"]["sentence"]
    assert told in report["sentences"]
    assert told.startswith("Within 300 ms: ")
    assert summary["rung"]["given_up"] in told
    assert "instead of" in told
    drawn = next(body for kind, body in events if kind == "progress")
    assert f"{drawn['steps']} steps instead of 20" in told
    assert report["asked"]["steps"] == drawn["steps"]
    assert report["asked"]["within_us"] == 300_000
    quote = await asker.only("quote", "quote", wishes=wishes(within_us=60_000_000))
    assert quote["rung"]["name"] == "as asked"
    assert quote["rung"]["given_up"] == ""


async def test_no_rung_in_time_is_a_sentence_and_no_job(autojump_clock, asker):
    await asker.world.add("near")
    await learn(asker, "near")
    for kind in "render", "quote":
        with pytest.raises(UserError) as told:
            await asker.ask(kind, wishes=wishes(within_us=30_000))
        assert told.value.exit_code == NOBODY
        assert told.value.sentence.startswith(
            "Nothing can be had within 30.0 ms: the soonest is 64x64 px in 5 steps from near "
        )
    # The one that was learned from.
    assert len((await asker.only("jobs", "jobs", limit=9))["jobs"]) == 1


async def test_all_refusing_is_nobody_and_what_the_last_one_said(autojump_clock, asker):
    for name in "near", "far":
        await asker.world.add(name, allow=("someone else",))
    with pytest.raises(UserError, match="This peer renders for named peers only") as told:
        await asker.ask()
    assert told.value.exit_code == NOBODY != JOB_FAILED


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        (wishes(within_us=1), {"count": 2}),
        (wishes(within_us=1, deadline_us=1), {}),
        (wishes(deadline_us=0), {}),
        (wishes(value=-1), {}),
        ({"~deadline_us": "2s"}, {}),
        ({"unheard_of": 1}, {}),
        (7, {}),
    ],
)
async def test_wishes_that_cannot_be_are_wrong_usage(autojump_clock, asker, said, changes):
    for kind in "render", "quote":
        with pytest.raises(UserError) as told:
            await asker.ask(kind, wishes=said, **changes)
        assert told.value.exit_code == WRONG_USAGE


async def test_why_tells_of_a_job_that_drew_nothing_who_was_asked_and_what_they_said(autojump_clock, asker):
    near = await asker.world.add("near", allow=("someone else",))
    far = await asker.world.add("far", allow=("someone else",), delay_us=20_000)
    with pytest.raises(UserError) as told:
        await asker.ask()
    report = await asker.why()
    assert (report["state"], report["sentences"]) == ("failed", [told.value.sentence])
    assert told.value.sentence == (
        "Everyone who was asked refused. near, far: This peer renders for named peers only."
    )
    assert [(each["peer"], each["outcome"]) for each in report["attempts"]] == [
        (near.id, "refused"),
        (far.id, "refused"),
    ]
    assert {each["peer"] for each in report["candidates"]} == {near.id, far.id}
    assert report["chosen"] == near.id
    spans = sum(entry["us"] for entry in report["timeline"] if entry["critical"])
    assert spans + report["unaccounted_us"] == report["wall_us"] > 0


async def test_why_of_a_job_that_nobody_could_be_asked_for_is_a_sentence(autojump_clock, asker):
    with pytest.raises(UserError) as told:
        await asker.ask()
    report = await asker.why()
    assert (
        report["sentences"]
        == [told.value.sentence]
        == ["No other peer is known: join a swarm, or render on this device."]
    )
    assert report["attempts"] == []
