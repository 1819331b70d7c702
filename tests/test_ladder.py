import itertools
from dataclasses import replace

import pytest

from protocol.policy.cost import OVERHEAD_US, Wishes
from protocol.policy.ladder import LADDER, LEAST_SIDE_PX, LEAST_STEPS, Rung, fit, given_up
from protocol.policy.prediction import predict
from protocol.policy.selection import NoCandidate
from protocol.wire.advert import FewStep, Limits, OfferedAdapter, Speed
from protocol.wire.statement import Statement

from .truth import advert, candidate, live, offered, statement

S = 1_000_000
ASKED = statement(width=512, height=768, steps=20)
PLAIN = tuple(rung for rung in LADDER if not rung.few_step)
QUICK = OfferedAdapter(b"q" * 32, "quick", FewStep(4, 1 * S, "ddim"))
STYLE = OfferedAdapter(b"s" * 32, "style")


def peer(name, step_us, *, rtt_us=2_000, adapters=(), **changes):
    speeds = (Speed(512, 768, "fp32", step_us, 10_000),)
    model = replace(offered(), speeds=speeds, adapters=adapters, total_bytes=36_000_000)
    return candidate(name, rtt_us, advert=advert(name=name, models=(model,), **changes), state=live())


def fitted(candidates, within_us, asked=ASKED, **more):
    return fit(candidates, asked, within_us, **{"spent_us": 0, "now_us": 0} | more)


def needed_us(who, wanted):
    return predict(who, wanted, 0).p90_us + OVERHEAD_US


def test_the_ladder_begins_with_what_was_asked_and_goes_down_only():
    assert LADDER[0].of(ASKED) == ASKED
    for better, worse in itertools.pairwise(rung.of(ASKED) for rung in PLAIN):
        assert worse.steps <= better.steps
        assert worse.pixels <= better.pixels
        assert worse != better
    assert len({rung.name for rung in LADDER}) == len(LADDER)


@pytest.mark.parametrize("width", [8, 64, 120, 128, 192, 512, 520, 8192])
@pytest.mark.parametrize("steps", [1, 3, 4, 5, 12, 1000])
def test_every_rung_is_a_statement_that_a_model_which_draws_the_asked_size_draws_too(width, steps):
    asked = statement(width=width, height=2 * width if width < 5000 else width, steps=steps)
    for rung in LADDER:
        drawn = rung.of(asked)
        assert Statement.from_untrusted(drawn.to_bytes()) == drawn
        assert min(LEAST_STEPS, steps) <= drawn.steps <= steps
        assert min(LEAST_SIDE_PX, width) <= drawn.width <= width
        for multiple in 8, 16, 32, 64:
            if not asked.width % multiple and not asked.height % multiple:
                assert not drawn.width % multiple
                assert not drawn.height % multiple
        same = replace(drawn, width=asked.width, height=asked.height, steps=asked.steps)
        assert same == asked


def test_the_best_rung_that_fits_is_taken_to_the_microsecond():
    who = peer("near", 40_000)
    for rung, better in zip(PLAIN[1:], PLAIN, strict=False):
        us = needed_us(who, rung.of(ASKED))
        assert us < needed_us(who, better.of(ASKED))
        found = fitted([who], us)
        assert (found.rung, found.drawn) == (rung, rung.of(ASKED))
        last = rung is LADDER[-1]
        if last:
            with pytest.raises(NoCandidate):
                fitted([who], us - 1)
        else:
            assert fitted([who], us - 1).rung != rung
        assert fitted([who], us + 500, spent_us=500).rung == rung


def test_all_candidates_are_looked_at_not_the_cheapest_or_nearest_only():
    slow = peer("slow", 200_000, rtt_us=1_000)
    quick = peer("quick", 20_000, rtt_us=30_000, price_millionths=S)
    us = needed_us(quick, ASKED)
    assert fitted([slow, quick], us, wishes=Wishes(0)).rung == LADDER[0]
    assert fitted([slow], us).rung == LADDER[-1]


def test_what_is_given_up_is_said():
    who = peer("near", 40_000)
    assert fitted([who], 60 * S).sentence == "Within 60.0 s: as asked, nothing is given up."
    lost = PLAIN[4].of(ASKED)
    found = fitted([who], needed_us(who, lost))
    assert found.sentence.endswith(
        ": half of the steps, much smaller, that is 10 steps instead of 20 and 256x384 px instead of 512x768."
    )
    assert given_up(ASKED, ASKED) == ""


def test_of_a_picture_of_few_steps_rungs_that_change_nothing_are_passed_over():
    asked = replace(ASKED, steps=4)
    who = peer("near", 40_000)
    found = fitted([who], needed_us(who, asked) - 1, asked)
    assert found.drawn.steps == 4
    assert (found.drawn.width, found.drawn.height) == (384, 576)


def test_nothing_that_fits_is_a_sentence_with_the_best_and_what_binds():
    who = peer("oak", 40_000)
    with pytest.raises(NoCandidate) as told:
        fitted([who, peer("elm", 90_000)], 50_000)
    said = str(told.value)
    assert said.startswith(
        "Nothing can be had within 50.0 ms: the soonest is 256x384 px in 5 steps from oak (oak) within "
    )
    assert said.endswith(" of that for the way of the picture.")
    ms = int(said.split(" ms, ")[0].rsplit(" ", 1)[1])
    assert fitted([who], ms * 1000).rung == LADDER[-1]  # what it says would do, does


def test_the_way_or_the_start_may_be_what_binds():
    far = peer("far", 100, rtt_us=400_000)
    with pytest.raises(NoCandidate, match="of that for the way of the picture"):
        fitted([far], 100_000)
    with pytest.raises(
        NoCandidate, match=r"3.00 s of that before anyone could be asked \(`peer up` keeps a peer ready\)"
    ):
        fitted([peer("near", 40_000)], 300_000, spent_us=3 * S)


def test_who_cannot_draw_it_at_all_is_told_as_ever():
    small = peer("small", 1, limits=Limits(64, 100, 1000, 1))
    with pytest.raises(NoCandidate, match="The largest picture that anyone"):
        fitted([small], 60 * S)
    with pytest.raises(NoCandidate, match="No other peer is known"):
        fitted([], S)


def test_a_ladder_can_be_another():
    two = (Rung("as asked"), Rung("draft", 20, 50))
    who = peer("near", 40_000)
    assert fitted([who], needed_us(who, two[1].of(ASKED)), ladder=two).rung.name == "draft"


def few_step(asked=ASKED, adapter=QUICK):
    rung = replace(LADDER[1], adapter=adapter)
    return rung.of(asked) if rung.suits(asked) else None


def test_an_adapter_for_few_steps_comes_before_fewer_steps_and_says_all_that_it_changes():
    who = peer("near", 40_000, adapters=(STYLE, QUICK))
    us = needed_us(who, few_step())
    found = fitted([who], us, adapters=(STYLE, QUICK))
    assert found.drawn == few_step()
    assert (found.drawn.steps, found.drawn.guidance_millionths, found.drawn.sampler) == (4, S, "ddim")
    assert found.drawn.adapters == ((QUICK.id, S),)
    assert found.sentence.endswith(
        ": few-step adapter, that is 4 steps instead of 20, guidance 1 instead of 3, the sampler ddim instead of euler "
        f"and the adapter quick ({b'q'.hex() * 4})."
    )
    assert fitted([who], us - 1, adapters=(QUICK,)).rung.name == "few-step adapter, smaller"
    assert fitted([who], needed_us(who, ASKED), adapters=(QUICK,)).drawn == ASKED
    assert Statement.from_untrusted(found.drawn.to_bytes()) == found.drawn


def test_without_guidance_a_step_is_half_as_long():
    who = peer("near", 40_000, adapters=(QUICK,))
    guided, not_guided = (
        dict(predict(who, replace(ASKED, guidance_millionths=guidance), 0).spans)["step"]
        for guidance in (S + 1, S)
    )
    assert guided == 2 * not_guided == 20 * 40_000


def test_only_who_offers_the_adapter_is_asked_for_it_and_where_nobody_does_steps_are_given_up():
    without, slow = peer("without", 40_000), peer("with", 400_000, adapters=(QUICK,))
    us = needed_us(without, PLAIN[1].of(ASKED))
    assert fitted([without, slow], us, adapters=(QUICK,)).rung == PLAIN[1]
    assert fitted([without], us, adapters=(QUICK,)).rung == PLAIN[1]
    quick = peer("quick", 40_000, adapters=(QUICK,))
    assert fitted([without, quick], us, adapters=(QUICK,)).rung.adapter == QUICK
    assert fitted([without, quick], us).rung == PLAIN[1]  # nothing is known of it


@pytest.mark.parametrize(
    ("asked", "adapter"),
    [
        (replace(ASKED, steps=3), QUICK),  # it does more
        (replace(ASKED, negative="text"), QUICK),  # which it would drop
        (replace(ASKED, adapters=((QUICK.id, S),)), QUICK),
        (replace(ASKED, adapters=((STYLE.id, S),) * 8), QUICK),
        (replace(ASKED, sampler="flow_euler"), QUICK),
        (ASKED, STYLE),
    ],
)
def test_an_adapter_that_would_change_more_than_steps_and_guidance_is_no_rung(asked, adapter):
    assert few_step(asked, adapter) is None


def test_an_adapter_that_was_asked_for_stays():
    styled = replace(ASKED, adapters=((STYLE.id, S // 2),))
    assert few_step(styled).adapters == ((STYLE.id, S // 2), (QUICK.id, S))


def test_of_adapters_for_few_steps_the_one_with_the_most_that_fits_is_taken():
    eight = replace(QUICK, id=b"8" * 32, few_step=FewStep(8, S, "ddim"))
    who = peer("near", 40_000, adapters=(QUICK, eight))
    us = needed_us(who, few_step(adapter=eight))
    assert fitted([who], us, adapters=(QUICK, eight)).rung.adapter == eight
    assert fitted([who], us - 1, adapters=(QUICK, eight)).rung.adapter == QUICK
