"""Batches as the command asks for them, drawn by real peers in memory and virtual time."""

import io
import json

import pytest
import trio
from PIL import Image

from peer.errors import JOB_FAILED, NOBODY, UserError
from peer.renderer.client import RenderFailed
from protocol.policy.queue import Refused
from protocol.policy.timeline import duration

from .asker import Asker
from .test_batch import ideal_us
from .world import now_us

STEPS = 12
STEP_US = {"fast": 100_000, "middling": 200_000, "slow": 400_000}


def summaries(asker):
    return [json.loads(body["summary"]) for body in asker.told("picture")]


def drew(asker):
    """How many pictures were rendered to their end by each."""
    return {name: len(each.renderer.rendered) for name, each in asker.world.peers.items() if name != "alice"}


@pytest.fixture
async def asker(monkeypatch, world, alice, ledger):
    return Asker(monkeypatch, world, ledger, steps=STEPS, seed=2**32 - 2, count=32)


async def of_speeds(asker, *, delay_us=20_000):
    for name, step_us in STEP_US.items():
        added = await asker.world.add(name, delay_us=delay_us)
        added.renderer.stage_us["step"] = step_us
    await warm(asker, *STEP_US)


async def warm(asker, *names):
    """Each has drawn for alice before: its weights are loaded, and she knows how fast it is."""
    await asker.learn(*names)
    await trio.sleep(130)
    for name in names:
        asker.world.peers[name].renderer.rendered.clear()


def pace_us(peer):
    stage_us = peer.renderer.stage_us
    return sum(stage_us.values()) + (STEPS - 1) * stage_us["step"]


async def test_speeds_of_4_2_1_take_at_most_a_ninth_more_than_the_ideal(autojump_clock, asker):
    await of_speeds(asker)
    began_us = now_us()
    await asker.ask()
    (finished,) = asker.told("finished")
    ideal = ideal_us([pace_us(asker.world.peers[name]) for name in STEP_US], 32)
    took_us = now_us() - began_us
    assert took_us * 9 <= ideal * 10
    assert finished["batch"]["wall_us"] <= took_us
    assert drew(asker) == {each["name"]: each["pictures"] for each in finished["batch"]["drew"]}
    assert sum(drew(asker).values()) == 32
    assert (finished["done"], finished["failed"], finished["batch"]["copies"]) == (32, 0, 0)


async def test_a_picture_drawn_alone_with_its_stated_seed_is_the_same_bit_for_bit(autojump_clock, asker):
    await of_speeds(asker)
    await asker.ask(count=4, steps=2)
    assert asker.told("job")[0]["seeds"] == [2**32 - 2, 2**32 - 1, 0, 1]
    drawn = {each["picture"]: each for each in asker.told("picture")}
    assert sorted(drawn) == [0, 1, 2, 3]
    pixels = []
    for picture in (1, 2):
        seed = drawn[picture]["seed"]
        assert seed == json.loads(drawn[picture]["summary"])["seed"] == asker.told("job")[0]["seeds"][picture]
        pixels.append((seed, rgb(drawn[picture]["file"])))
    for seed, of_batch in pixels:
        await asker.ask(count=1, seed=seed, steps=2)
        assert rgb(asker.told("picture")[0]["file"]) == of_batch


def rgb(file):
    return Image.open(io.BytesIO(file)).tobytes()


async def test_pictures_are_told_as_they_land_and_when_all_will_be_there(autojump_clock, asker):
    await of_speeds(asker)
    began_us = now_us()
    await asker.ask()
    (ended_us,) = (at for at, (kind, _) in zip(asker.at_us, asker.events, strict=True) if kind == "finished")
    first = asker.told("batch")[0]
    assert first["done"] == 0
    assert first["left_us"] == pytest.approx(ended_us - began_us, rel=0.1)
    landed = [at for at, (kind, _) in zip(asker.at_us, asker.events, strict=True) if kind == "picture"]
    for at_us, said in zip(landed, summaries(asker), strict=True):
        assert said["before_us"] + said["wall_us"] == at_us - began_us
    assert landed[0] - began_us < 2 * pace_us(asker.world.peers["fast"])
    order = [body["picture"] for body in asker.told("picture")]
    assert sorted(order) == list(range(32)) != order


async def test_where_the_time_went_is_said_of_the_picture_that_was_there_last(autojump_clock, asker):
    await of_speeds(asker)
    began_us = now_us()
    await asker.ask(count=8)
    picture, said = asker.told("picture")[-1]["picture"], summaries(asker)[-1]
    landed_us = max(at for at, (kind, _) in zip(asker.at_us, asker.events, strict=True) if kind == "picture")
    report = await asker.why()
    assert (report["picture"], report["pictures"]) == (picture, 8)
    for same in ("before_us", "wall_us", "provider", "timeline", "attempts"):
        assert report[same] == said[same]
    assert report["before_us"] + report["wall_us"] == landed_us - began_us
    turn = f", whose turn came after {duration(report['before_us'])},"
    assert (
        report["sentences"][1] == f"Picture {picture + 1} of 8{turn} was there last: what follows is of it."
    )
    (row,) = (await asker.only("jobs", "jobs", limit=1))["jobs"]
    assert row["wall_us"] == landed_us - began_us


async def test_the_picture_that_was_there_last_is_the_one_that_took_longest_to_write(autojump_clock, asker):
    await of_speeds(asker)

    def save(body):
        where = {"job": json.loads(body["summary"])["job"], "picture": body["picture"]}
        us = 60_000_000 if body["picture"] == 0 else 1_000
        asker.service.on_saved({**where, "start_us": now_us(), "us": us})

    asker.when["picture"] = save
    await asker.ask(count=8, **{"~saves": True})
    first = next(each for each in asker.told("picture") if each["picture"] == 0)
    summary, report = json.loads(first["summary"]), await asker.why()
    assert report["picture"] == 0
    assert report["wall_us"] == summary["wall_us"] + 60_000_000
    assert report["sentences"][1] == "Picture 1 of 8 was there last: what follows is of it."


async def test_a_provider_that_dies_midway_costs_little_and_no_picture(autojump_clock, asker):
    await of_speeds(asker)
    world = asker.world
    fast, alice = world.peers["fast"], world.peers["alice"]
    asker.when["picture"] = lambda body: (
        body["picture"] == 7 and world.network.cut(alice.id, fast.id, for_ever=True)
    )
    began_us = now_us()
    await asker.ask()
    assert sorted(body["picture"] for body in asker.told("picture")) == list(range(32))
    pictures = {each["name"]: each["pictures"] for each in asker.told("finished")[0]["batch"]["drew"]}
    paces = [pace_us(world.peers[name]) for name in ("middling", "slow")]
    left = 32 - pictures["fast"]
    assert now_us() - began_us <= 1.1 * ideal_us(paces, left) + paces[1]
    assert alice.renderer.rendered == []


async def test_a_straggler_is_drawn_by_another_as_well_and_the_first_is_taken(autojump_clock, asker):
    await of_speeds(asker)
    fast, slow = (asker.world.peers[name] for name in ("fast", "slow"))

    def slower(body):
        slow.renderer.stage_us["step"] = 6_000_000

    asker.when["picture"] = slower
    await asker.ask(count=14)
    assert sorted(body["picture"] for body in asker.told("picture")) == list(range(14))
    (finished,) = asker.told("finished")
    assert finished["batch"]["copies"] == 1
    assert finished["batch"]["wall_us"] < 14 * pace_us(fast)
    said = (await asker.why())["sentences"]
    assert said[0].startswith("14 of 14 pictures in ")
    assert said[1] == "1 that was late was drawn by a second peer as well."
    await trio.sleep(1)
    assert len(slow.renderer.cancelled) == 1


async def test_a_batch_does_not_wait_for_the_last_word_of_a_straggler_and_settles_it_when_that_comes(
    autojump_clock, asker
):
    await of_speeds(asker)
    slow, alice, stop = asker.world.peers["slow"], asker.alice, asker.world.peers["slow"].renderer.cancel

    def slower(body):
        slow.renderer.stage_us["step"] = 6_000_000

    async def stop_after_a_step(attempt):
        await trio.sleep(6)
        stop(attempt)

    slow.renderer.cancel = lambda attempt: asker.world.nursery.start_soon(stop_after_a_step, attempt)
    asker.when["picture"] = slower
    await asker.ask(count=14)
    pictures_us = [at for at, (kind, _) in zip(asker.at_us, asker.events, strict=True) if kind == "picture"]
    assert now_us() - pictures_us[-1] < 100_000
    assert slow.renderer.cancelled == []
    await trio.sleep(10)
    (attempt,) = slow.renderer.cancelled
    assert attempt in slow.settled
    assert alice.requester.means.lines == []


async def test_one_who_refuses_does_not_stop_the_others(autojump_clock, asker):
    await of_speeds(asker)
    asker.world.peers["middling"].provider._allow = frozenset({"someone else"})
    await asker.ask(count=12)
    assert asker.told("finished")[0]["done"] == 12
    assert drew(asker)["middling"] == 0
    assert sum(body["name"] == "middling" for body in asker.told("attempt")) <= 2


async def test_where_all_refuse_the_batch_ends_at_once_and_says_why(autojump_clock, asker):
    for name in ("near", "far"):
        await asker.world.add(name, allow=("someone else",))
    began_us = now_us()
    with pytest.raises(UserError, match="This peer renders for named peers only") as told:
        await asker.ask(count=3)
    assert told.value.exit_code == NOBODY
    assert now_us() - began_us < 1_000_000
    assert sorted(body["picture"] for body in asker.told("failed")) == [0, 1, 2]
    assert (await asker.why())["state"] == "failed"


async def test_where_nobody_is_left_after_somebody_refused_that_is_said(autojump_clock, asker):
    only = await asker.world.add("only")
    only.work.offer = lambda *_: Refused("busy", "It is full.")
    alice = asker.alice

    def leaves(_):
        asker.world.nursery.start_soon(leave)

    async def leave():
        await trio.sleep(0.1)  # it has refused by then
        alice.directory._forget_advert(only.id)

    asker.when["attempt"] = leaves
    with pytest.raises(UserError, match="No other peer is known"):
        await asker.ask(count=2)


async def test_where_some_pictures_fail_the_others_stay(autojump_clock, asker):
    only = await asker.world.add("only")
    await warm(asker, "only")

    def breaks(body):
        only.renderer.error = RenderFailed("internal", "Its renderer broke.")

    asker.when["picture"] = breaks
    await asker.ask(count=3)
    assert asker.told("finished")[0] | {"batch": None, "job": None} == {
        "job": None, "done": 1, "failed": 2, "batch": None,
    }  # fmt: skip
    assert {body["sentence"] for body in asker.told("failed")} == {"only: Its renderer broke."}


async def test_cancelled_what_has_landed_stays_and_no_provider_goes_on(autojump_clock, asker):
    await of_speeds(asker)
    with trio.CancelScope() as scope:
        asker.when["picture"] = lambda body: len(asker.told("picture")) == 5 and scope.cancel()
        await asker.ask()
    assert len(asker.told("picture")) == 5
    pictures = sum(drew(asker).values())
    await trio.sleep(30)
    assert sum(drew(asker).values()) == pictures <= 8
    for name in STEP_US:
        assert asker.world.peers[name].work.statistics()["queued"] == 0
        assert asker.world.peers[name].work.statistics()["running"] == 0


async def test_ones_own_device_draws_its_share(autojump_clock, monkeypatch, asker):
    near = await asker.world.add("near")
    near.renderer.stage_us["step"] = 100_000
    await warm(asker, "near")
    alice = asker.world.peers["alice"]
    alice.provider._providing = True
    alice.renderer.stage_us["step"] = 100_000
    alice.gossip.renew()
    await asker.ask(count=1, remote=False)
    await asker.ask(count=12, remote=False)
    pictures = {each["name"]: each["pictures"] for each in asker.told("finished")[0]["batch"]["drew"]}
    assert sum(pictures.values()) == 12
    assert min(pictures.values()) >= 5


async def test_a_quote_says_how_it_would_be_split_and_when_all_is_there(autojump_clock, asker):
    await of_speeds(asker)
    (quote,) = [body for _, body in await asker.ask("quote", count=28)]
    shares = {each["name"]: each["pictures"] for each in quote["split"]["peers"]}
    assert shares == {"fast": 16, "middling": 8, "slow": 4}
    assert quote["split"]["price_millionths"] == 0
    assert sum(drew(asker).values()) == 0
    began_us = now_us()
    await asker.ask(count=28)
    assert now_us() - began_us == pytest.approx(quote["split"]["there_us"], rel=0.1)
    assert next(body for _, body in await asker.ask("quote", count=1))["split"] is None


async def test_a_batch_that_cannot_be_there_in_time_is_refused_at_submit(autojump_clock, asker):
    await of_speeds(asker)
    due = {"~value_of_time_millionths": None, "~deadline_us": 10_000_000, "~within_us": None}
    for kind in "render", "quote":
        with pytest.raises(
            UserError, match=r"Nobody is expected to have all 32 pictures in the 9\.97 s"
        ) as told:
            await asker.ask(kind, wishes=due)
        assert told.value.exit_code == NOBODY != JOB_FAILED
    assert sum(drew(asker).values()) == 0
