"""Adapters on the wire and in what is expected of a peer: who offers which, and what they are called."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import MalformedMessage
from protocol.policy.adapters import MAX_KNOWN, called, told_of
from protocol.policy.prediction import Exclusion, adapters_us, predict, promised_load_us
from protocol.policy.selection import NoCandidate, plan
from protocol.policy.speeds import SpeedBook
from protocol.wire.advert import MAX_ADVERT_BYTES, Advert, FewStep, OfferedAdapter, SignedAdvert, Speed
from protocol.wire.canonical import decode_untrusted, encode
from protocol.wire.fields import Fields, plain
from protocol.wire.statement import MAX_ADAPTERS, SAMPLERS, Statement

from . import samples
from .truth import MODEL, OTHER_MODEL, advert, candidate, live, offered, statement

S = 1_000_000
STYLE = OfferedAdapter(b"s" * 32, "style")
QUICK = OfferedAdapter(b"q" * 32, "quick", FewStep(4, S, "ddim"))

shown = st.text(max_size=80).map(plain)
few_steps = st.builds(
    FewStep, st.integers(1, 1000), st.integers(0, 100 * S), st.sampled_from(sorted(SAMPLERS))
)
adapters = st.builds(OfferedAdapter, st.binary(min_size=32, max_size=32), shown, st.none() | few_steps)


def offering(*adapters, **changes):
    return advert(models=(replace(offered(**changes), adapters=adapters),))


@settings(max_examples=300)
@given(st.lists(adapters, max_size=MAX_ADAPTERS).map(tuple))
def test_what_is_offered_is_what_is_read(adapters):
    told = offering(*adapters)
    assert Advert.from_untrusted(decode_untrusted(encode(told.to_value()))) == told


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 10 * S)), max_size=MAX_ADAPTERS)
)
def test_what_is_stated_is_what_is_read(adapters):
    asked = statement(adapters=tuple(adapters))
    assert Statement.from_untrusted(asked.to_bytes()) == asked


def test_a_peer_without_the_field_offers_none():
    value = samples.ADVERT.to_value()
    assert "~adapters" not in value["models"][0]
    assert Advert.from_untrusted(value).models[0].adapters == ()
    value["models"][0]["~adapters"] = None
    assert Advert.from_untrusted(value).models[0].adapters == ()


@pytest.mark.parametrize(
    "wrong",
    [
        [STYLE.to_value()] * (MAX_ADAPTERS + 1),
        [STYLE.to_value() | {"id": b"short"}],
        [STYLE.to_value() | {"name": "a\nb"}],
        [STYLE.to_value() | {"weight": 1}],
        [QUICK.to_value() | {"~few_step": {"steps": 0, "guidance_millionths": 0, "sampler": "ddim"}}],
        [QUICK.to_value() | {"~few_step": {"steps": 4, "guidance_millionths": 0, "sampler": "magic"}}],
        [QUICK.to_value() | {"~few_step": [4, 0]}],
        [7],
        7,
    ],
)
def test_what_is_no_adapter_is_malformed(wrong):
    value = samples.ADVERT.to_value()
    value["models"][0]["~adapters"] = wrong
    with pytest.raises(MalformedMessage):
        Advert.from_untrusted(value)


def test_as_many_as_a_peer_tells_of_fit_into_an_advert():
    """Sixteen with long names, beside what else two models say."""
    speeds = tuple(Speed(512 + n, 512, "fp32", 10**7, 10**7) for n in range(4))
    adapters = [
        OfferedAdapter(bytes([n]) * 32, f"an adapter with a name, {n}", QUICK.few_step) for n in range(8)
    ]
    models = tuple(
        replace(offered(model=model, load_us=10**7), name="n" * 64, speeds=speeds, total_bytes=10**11,
                adapters=tuple(adapters))
        for model in (MODEL, OTHER_MODEL)
    )  # fmt: skip
    told = replace(samples.ADVERT, models=models, name="n" * 64)
    signed = SignedAdvert.sign(told, network="main", private_key=samples.PROVIDER_SEED)
    assert len(signed.envelope.to_bytes()) <= MAX_ADVERT_BYTES


def test_two_small_adapters_cost_an_advert_little():
    size = len(samples.ADAPTERS_ADVERT.envelope.to_bytes()) - len(samples.SIGNED_ADVERT.envelope.to_bytes())
    assert size < 200


def test_what_most_say_of_an_adapter_is_believed():
    lie = replace(QUICK, few_step=FewStep(1, 0, "euler"))
    peers = [candidate("a", advert=offering(QUICK, STYLE)), candidate("b", advert=offering(QUICK))]
    known = told_of([candidate("liar", advert=offering(lie)), *peers], MODEL)
    assert known == {QUICK.id: QUICK, STYLE.id: STYLE}
    assert list(known) == [QUICK.id, STYLE.id]
    assert told_of(peers, OTHER_MODEL) == {}
    assert called(QUICK.id, known) == "quick (71717171)"
    assert called(b"x" * 32, known) == "78787878"


def test_who_says_a_thing_often_says_it_once():
    peers = [candidate("a", advert=offering(*[replace(QUICK, name="lie")] * 8)),
             candidate("b", advert=offering(QUICK)), candidate("c", advert=offering(QUICK))]  # fmt: skip
    assert told_of(peers, MODEL)[QUICK.id] == QUICK


def test_what_is_made_up_is_bounded():
    peers = [
        candidate(str(n), advert=offering(*(OfferedAdapter(bytes([n, k]) * 16, "x") for k in range(8))))
        for n in range(100)
    ]
    assert len(told_of(peers, MODEL)) == MAX_KNOWN


def test_who_does_not_offer_it_is_ruled_out_by_its_name():
    asked = statement(adapters=((QUICK.id, S),))
    with_it, without = candidate("oak", advert=offering(QUICK)), candidate("elm", advert=offering(STYLE))
    planned = plan([with_it, without], asked, now_us=0, seed=0)
    assert [choice.peer for choice in planned.ranked] == ["oak"]
    assert planned.exclusions == (("elm", "It does not offer the adapter quick (71717171) with this model."),)
    assert isinstance(predict(without, asked, 0), Exclusion)


def test_where_nobody_has_it_or_nobody_has_all_the_sentence_says_what_there_is():
    peers = [candidate("oak", advert=offering(QUICK)), candidate("elm", advert=offering(STYLE))]
    with pytest.raises(NoCandidate) as told:
        plan(peers, statement(adapters=((b"x" * 32, S),)), now_us=0, seed=0)
    assert str(told.value) == (
        "Nobody with this model offers the adapter 78787878; offered: quick (71717171), style (73737373)."
    )
    with pytest.raises(NoCandidate, match="offers all of these adapters; offered, one or the other: quick"):
        plan(peers, statement(adapters=((QUICK.id, S), (STYLE.id, S))), now_us=0, seed=0)


def test_applying_an_adapter_takes_time_that_goes_with_the_model_until_it_was_seen():
    asked = statement(adapters=((QUICK.id, S),))
    who = candidate(advert=advert(models=(replace(offered(), adapters=(QUICK,), total_bytes=36 * S),)))
    plain_us, us = predict(who, statement(), 0), predict(who, asked, 0)
    assert dict(us.spans)["load_adapter"] == 72_000
    assert us.total_us == plain_us.total_us + 72_000
    assert us.busy_us == plain_us.busy_us + 72_000
    assert us.spread_us == plain_us.spread_us + 72_000
    assert "load_adapter" not in dict(plain_us.spans)
    book = SpeedBook()
    book.on_adapters("near", asked, 30_000)
    assert dict(predict(who._replace(speeds=book.of("near")), asked, 0).spans)["load_adapter"] == 30_000
    for _ in range(20):
        book.on_adapters("near", asked, 0)  # it stays applied
    assert dict(predict(who._replace(speeds=book.of("near")), asked, 0).spans)["load_adapter"] < 1_000
    assert adapters_us(None, statement(), 36 * S) == 0


def test_a_promise_leaves_room_for_adapters_that_were_let_go_of():
    assert promised_load_us(0) == 0
    assert promised_load_us(0, 0) == S
    assert promised_load_us(0, 2 * S) == 6 * S
    (choice,) = plan(
        [candidate(advert=offering(QUICK), state=live())],
        statement(adapters=((QUICK.id, S),)),
        now_us=0,
        seed=0,
    ).ranked
    assert choice.start_within_us(0, 10 * S) == S


def test_a_step_without_guidance_teaches_how_long_one_with_it_takes():
    book = SpeedBook()
    book.on_render("near", statement(guidance_millionths=S), step_us=20_000, fixed_us=1)
    book.on_render("far", statement(sampler="flow_euler", guidance_millionths=S), step_us=20_000, fixed_us=1)
    assert book.of("near").nearest(MODEL, "fp32", 128 * 128).step_us == 40_000
    assert book.of("far").nearest(MODEL, "fp32", 128 * 128).step_us == 20_000


def test_fields_of_an_adapter_are_read_to_the_end():
    with pytest.raises(MalformedMessage):
        OfferedAdapter.from_fields(Fields({"id": b"s" * 32}, "adapter"))
