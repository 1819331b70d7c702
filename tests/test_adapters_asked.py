"""Adapters asked for by name between peers in memory: who is asked, what they do, and what the person is told."""

from dataclasses import replace

import pytest
import trio

from peer.cli.arguments import parse_adapter, render_request
from peer.cli.show import adapters_lines, adapters_of
from peer.errors import NOBODY, WRONG_USAGE, UserError
from protocol.wire.advert import FewStep, SignedAdvert
from protocol.wire.offer import SignedOffer
from protocol.wire.receipt import SignedReceipt
from protocol.wire.task import Loading

from .asker import Asker
from .world import MODEL, NETWORK, FakeAdapter, now_us, spans_us, statement

S = 1_000_000
GLASS = FakeAdapter(b"g" * 32, "stained-glass")
QUICK = FakeAdapter(b"q" * 32, "few-step", FewStep(4, S, "ddim"))


@pytest.fixture
async def asker(monkeypatch, world, alice, ledger):
    return Asker(monkeypatch, world, ledger, steps=20)


@pytest.fixture
async def studio(world, alice):
    """Who applies both."""
    return await world.add("studio", adapters=(GLASS, QUICK))


def statements_of(alice):
    return [
        SignedOffer.from_untrusted(attempt.offer.envelope.to_bytes(), network=NETWORK).offer.statement
        for attempt, _ in alice.kept
    ]


async def test_it_is_drawn_by_who_has_it_and_named_in_all_that_is_told(autojump_clock, asker, world, studio):
    plain = await world.add("plain")
    quote = await asker.only("quote", "quote", **{"~adapters": [["stained-glass", S // 2]]})
    assert [row["name"] for row in quote["candidates"]] == ["studio"]
    assert "It does not offer the adapter stained-glass (67676767) with this model." in [
        each["sentence"] for each in quote["exclusions"] if each["name"] == "plain"
    ]
    picture = await asker.only("picture", **{"~adapters": [["stained-glass", S // 2]]})
    told = [{"id": GLASS.id.hex(), "name": "stained-glass", "weight_millionths": S // 2}]
    assert picture["adapters"] == quote["adapters"] == (await asker.why())["adapters"] == told
    assert adapters_of(picture) == ", with stained-glass=0.5"
    (asked,) = statements_of(asker.alice)
    assert asked.adapters == ((GLASS.id, S // 2),)
    ((_, receipt),) = studio.receipts.items()
    assert SignedReceipt.from_untrusted(receipt, network=NETWORK).receipt.statement == asked.hash
    assert (plain.renderer.rendered, len(studio.renderer.rendered)) == ([], 1)


@pytest.mark.parametrize(
    ("adapters", "code", "words"),
    [
        (
            [["nope", S]],
            NOBODY,
            "No adapter 'nope' is known here for the model model; there are: few-step (717",
        ),
        ([["few-step", S], ["7171", S]], WRONG_USAGE, "The adapter few-step is named twice"),
        ([["few-step", 11 * S]], WRONG_USAGE, "a name and a weight"),
        ([["few-step"]], WRONG_USAGE, "a name and a weight"),
        ([["", S]], NOBODY, "No adapter '' is known"),
        ([["few-step", S]] * 9, WRONG_USAGE, "list of 0 to 8"),
    ],
)
async def test_what_cannot_be_meant_is_a_sentence(autojump_clock, asker, studio, adapters, code, words):
    with pytest.raises(UserError) as told:
        await asker.ask(**{"~adapters": adapters})
    assert told.value.exit_code == code
    assert words in told.value.sentence


async def test_two_of_one_name_are_told_apart_by_their_ids(autojump_clock, asker, world, studio):
    await world.add("other", adapters=(replace(GLASS, id=b"h" * 32),))
    with pytest.raises(
        UserError, match=r"Several adapters .* stained-glass \(67676767\), stained-glass \(68686868\)"
    ):
        await asker.ask(**{"~adapters": [["stained-glass", S]]})
    await asker.only("picture", **{"~adapters": [["6868", S]]})
    assert statements_of(asker.alice)[0].adapters == ((b"h" * 32, S),)


async def test_nobody_who_has_it_is_a_sentence_that_names_what_there_is(autojump_clock, asker, world):
    await world.add("plain")
    with pytest.raises(
        UserError, match="No adapter 'few-step' is known here for the model model; there are none"
    ):
        await asker.ask(**{"~adapters": [["few-step", S]]})


async def test_one_for_few_steps_is_used_as_it_wants_unless_something_else_is_said(
    autojump_clock, asker, studio
):
    await asker.ask(steps=None, **{"~adapters": [["few-step", S]]})
    await asker.ask(steps=8, guidance_millionths=3 * S, **{"~adapters": [["few-step", S]]})
    used, said = statements_of(asker.alice)
    assert (used.steps, used.guidance_millionths, used.sampler) == (4, S, "ddim")
    assert (said.steps, said.guidance_millionths) == (8, 3 * S)


async def test_in_too_little_time_the_adapter_for_few_steps_is_taken_and_told(autojump_clock, asker, studio):
    await asker.learn("studio")
    await asker.only("picture", **{"~adapters": [["few-step", S]]})  # which shows how soon it is applied
    await trio.sleep(60)
    wishes = {"~value_of_time_millionths": None, "~deadline_us": None, "~within_us": 300_000}
    events = await asker.ask(wishes=wishes)
    told = [body["sentence"] for kind, body in events if kind == "told"]
    assert told == [
        "Within 300 ms: few-step adapter, that is 4 steps instead of 20, guidance 1 instead of 7.5 "
        "and the adapter few-step (71717171)."
    ]
    drawn = statements_of(asker.alice)[-1]
    assert drawn.adapters == ((QUICK.id, S),)
    assert (drawn.steps, drawn.width) == (4, 64)
    report = await asker.why()
    assert report["rung"]["adapter"] == QUICK.id.hex()
    assert report["adapters"] == [{"id": QUICK.id.hex(), "name": "few-step", "weight_millionths": S}]
    assert told[0] in report["sentences"]


async def test_a_peer_with_adapters_of_its_own_takes_no_other_unasked(autojump_clock, asker, studio):
    """Anyone may say of anything that it needs few steps: only where one knows no better that is believed."""
    await asker.learn("studio")
    await asker.only("picture", **{"~adapters": [["few-step", S]]})
    await trio.sleep(60)
    asker.service._node.adapters[MODEL] = {GLASS.id: GLASS}
    wishes = {"~value_of_time_millionths": None, "~deadline_us": None, "~within_us": 300_000}
    summary = await asker.only("picture", wishes=wishes)
    assert summary["rung"]["adapter"] is None
    asker.service._node.adapters[MODEL][QUICK.id] = QUICK
    summary = await asker.only("picture", wishes=wishes)
    assert summary["rung"]["adapter"] == QUICK.id.hex()


async def test_until_it_is_applied_is_a_span_a_phase_and_loading_in_the_receipt(
    autojump_clock, world, alice, studio
):
    phases = []

    def tamper(here, there, message):
        if isinstance(message, Loading):
            phases.append(message.phase)
        return message

    world.network.tamper = tamper
    styled = statement(adapters=((GLASS.id, S),))
    await alice.ask()
    studio.renderer.apply_us = 600_000
    pictures = [await alice.ask(styled), await alice.ask(styled), await alice.ask()]
    took = [spans_us(picture.timeline).get("load_adapter", 0) for picture in pictures]
    assert took[1:] == [0, 0]
    assert 590_000 < took[0] <= 600_000  # a millisecond of it is the way of ACCEPT
    assert "adapter" in phases
    loads = [
        SignedReceipt.from_untrusted(receipt, network=NETWORK).receipt.load_us
        for receipt in studio.receipts.values()
    ]
    assert loads[1:] == [600_000, 0, 0]
    learned = alice.directory.speeds.of(studio.id)
    assert learned.load_us[GLASS.id] == 450_000  # the second counts a quarter


async def test_who_does_not_have_it_refuses_with_its_id(autojump_clock, world, alice):
    near = await world.add("near")
    able = near._able()
    told = replace(able, models=(replace(able.models[0], adapters=(GLASS.offered(),)),))
    signed = SignedAdvert.sign(told, network=NETWORK, private_key=near.key)
    assert alice.directory.on_advert(signed, now_us(), 0).fresh
    with pytest.raises(Exception, match="does not have the adapter 67676767 for that model"):
        await alice.ask(statement(adapters=((GLASS.id, S),)))
    assert near.renderer.rendered == []


@pytest.mark.parametrize(
    ("text", "is_"),
    [
        ("few-step", ["few-step", S]),
        ("few-step=0.25", ["few-step", S // 4]),
        (" few-step = 2 ", ["few-step", 2 * S]),
        ("a=b=0", ["a=b", 0]),
        ("ee44bcbb=10", ["ee44bcbb", 10 * S]),
    ],
)
def test_names_and_weights_as_they_are_typed(text, is_):
    assert parse_adapter(text) == is_


@pytest.mark.parametrize("text", ["", "=1", "x=", "x=y", "x=-1", "x=11", "x=nan", "x\ny", "x" * 65])
def test_what_is_no_name_with_a_weight_is_wrong_usage(text):
    with pytest.raises(UserError) as told:
        parse_adapter(text)
    assert told.value.exit_code == WRONG_USAGE


def test_a_request_without_adapters_is_as_ever_and_nine_are_too_many():
    asked = {"negative": "", "model": None, "size": None, "steps": None, "guidance": None, "sampler": None,
             "seed": None, "count": 1, "remote": False}  # fmt: skip
    assert "~adapters" not in render_request("a", **asked)
    assert render_request("a", adapters=["x=2"], **asked)["~adapters"] == [["x", 2 * S]]
    with pytest.raises(UserError, match="at most 8"):
        render_request("a", adapters=["x"] * 9, **asked)


def test_a_swarm_is_told_of_with_its_adapters_and_how_many_have_them():
    ids = ["aa" * 32, "bb" * 32]
    glass, quick = (
        {"model": ids[0], "id": id * 32, "name": name} for id, name in (("67", "glass"), ("71", "quick\n"))
    )
    rows = [{"models": ["small"], "model_ids": ids[:1], "adapters": [glass]},
            {"models": ["small", "large"], "model_ids": ids, "adapters": [glass, quick, {**quick, "model": ids[1]}]},
            {"models": ["small"]}]  # fmt: skip
    assert adapters_lines(rows) == [
        "Adapters of large: quick (71717171) at 1.",
        "Adapters of small: glass (67676767) at 2, quick (71717171) at 1.",
    ]
    assert adapters_lines(rows[2:]) == []
