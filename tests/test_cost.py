import random
from dataclasses import replace

import pytest

from protocol.policy import cost, credits
from protocol.policy.calibration import FIRST_MULTIPLE
from protocol.policy.cost import OVERHEAD_US, Wishes
from protocol.policy.credits import PRESETS_MILLIONTHS, price_millionths, shown_credits
from protocol.policy.prediction import predict
from protocol.policy.selection import NoCandidate, plan
from protocol.wire.advert import Speed
from protocol.wire.fields import U64

from .truth import advert, candidate, live, offered, statement

S = 1_000_000
CREDIT = 1_000_000
WANTED = statement(width=1000, height=1000, steps=2)  # two megapixel steps: twice the rate


def at(name, price_credits, rtt_us=20_000, step_us=40_000, **changes):
    speed = Speed(1000, 1000, "fp32", step_us, 50_000)
    told = advert(
        models=(replace(offered(), speeds=(speed,)),),
        price_millionths=None if price_credits is None else round(price_credits * CREDIT),
    )
    return candidate(name, rtt_us, advert=told, **changes)


def ranked(candidates, wanted=WANTED, *, seed=0, **wishes):
    wishes = Wishes(**wishes)
    return [each.peer for each in plan(candidates, wanted, now_us=0, seed=seed, wishes=wishes).ranked]


def worth(credits_a_second):
    return {"value_of_time_millionths": round(credits_a_second * CREDIT)}


def test_a_price_is_for_megapixel_steps_and_rounded_up():
    assert price_millionths(5_000, 512 * 512, 20) == -(-5_000 * 512 * 512 * 20 // 10**6) == 26_215
    assert price_millionths(1, 64, 1) == 1
    assert price_millionths(0, 512 * 512, 20) == price_millionths(None, 512 * 512, 20) == 0
    assert price_millionths(U64, 1 << 26, 1000) == U64  # a receipt can say no more


@pytest.mark.parametrize("prices", [None, 0, 3, 1_000_000])
@pytest.mark.parametrize("batch", [False, True])
def test_among_equal_prices_plans_are_what_they_are_without_any(prices, batch):
    dice = random.Random(1)
    with_prices, without = [], []
    for number in range(30):
        changes = {
            "rtt_us": dice.randrange(1000, 200_000),
            "state": live(dice.choice([0, dice.randrange(S)])),
        }
        changes["step_us"] = dice.randrange(10_000, 80_000)
        with_prices.append(at(str(number), prices, **changes))
        without.append(at(str(number), None, **changes))
    for seed in range(20):
        expected = plan(without, WANTED, now_us=0, seed=seed, wishes=Wishes(batch=batch)).ranked
        for value in PRESETS_MILLIONTHS.values():
            wishes = Wishes(value, batch=batch)
            found = plan(with_prices, WANTED, now_us=0, seed=seed, wishes=wishes).ranked
            assert [each[:-1] for each in found] == [each[:-1] for each in expected]


def test_time_is_bought_until_it_costs_more_than_it_is_worth():
    """The dear one costs a credit more; the cheap one takes a second more, and is less sure."""
    dear, cheap = at("dear", 1, step_us=S), at("cheap", 0.5, step_us=3 * S // 2)
    for wishes in {}, {"batch": True}:
        gain_us = [
            cost.time_us(predict(each, WANTED, 0), Wishes(**wishes)) for each in (dear, cheap)
        ]  # what counts of either
        gain_s = (gain_us[1] - gain_us[0]) / S
        assert gain_s == pytest.approx(1 if wishes else 1 + FIRST_MULTIPLE / 4)
        assert ranked([dear, cheap], **worth(1.01 / gain_s), **wishes)[0] == "dear"
        assert ranked([dear, cheap], **worth(0.99 / gain_s), **wishes)[0] == "cheap"


def test_the_presets_are_near_balanced_and_cheap():
    free, quick = at("free", 0, step_us=S), at("quick", 10, step_us=S // 10)  # 20 credits for 2 s
    assert [name for name in PRESETS_MILLIONTHS if ranked([free, quick], **{
        "value_of_time_millionths": PRESETS_MILLIONTHS[name]})[0] == "quick"] == ["near"]  # fmt: skip
    dearest = at("quick", 100_000, step_us=S // 10)
    assert ranked([free, dearest], value_of_time_millionths=PRESETS_MILLIONTHS["near"])[0] == "free"
    little = at("little", 0.01, step_us=S // 10)  # 0.02 credits for 2 s
    assert ranked([free, little])[0] == "little"
    assert ranked([free, little], value_of_time_millionths=PRESETS_MILLIONTHS["cheap"])[0] == "free"
    assert ranked([free, little], value_of_time_millionths=0)[0] == "free"
    assert Wishes().value_of_time_millionths == PRESETS_MILLIONTHS["balanced"]


def test_where_time_is_worth_nothing_the_nearest_of_the_cheapest_is_chosen():
    peers = [at("far", 1, 90_000), at("dear", 2, 1_000), at("near", 1, 10_000)]
    assert ranked(peers, value_of_time_millionths=0) == ["near", "far", "dear"]


def test_ones_own_device_asks_nothing():
    own = at("own", 7, own=True)
    assert cost.asked_price_millionths(own, WANTED) == 0
    assert plan([own], WANTED, now_us=0, seed=0).ranked[0].price_millionths == 0
    assert plan([at("other", 7)], WANTED, now_us=0, seed=0).ranked[0].price_millionths == 14 * CREDIT


def test_a_price_out_of_this_world_is_no_crash_and_not_chosen():
    told = advert(price_millionths=U64)
    assert ranked([candidate("mad", 1, advert=told), at("sane", 1)], **worth(0)) == ["sane", "mad"]


def test_who_would_be_late_is_ruled_out_with_a_reason():
    quick, slow = at("quick", 5, step_us=S // 10), at("slow", 0, step_us=S)
    due_us = OVERHEAD_US + predict(quick, WANTED, 0).p90_us
    chosen = plan([quick, slow], WANTED, now_us=0, seed=0, wishes=Wishes(0, due_us))
    assert [each.peer for each in chosen.ranked] == ["quick"]
    assert [peer for peer, _ in chosen.exclusions] == ["slow"]
    assert "are left" in chosen.exclusions[0][1]


def test_the_mean_of_a_batch_need_not_be_certain():
    quick = at("quick", 0)
    prediction = predict(quick, WANTED, 0)
    due_us = OVERHEAD_US + prediction.total_us
    assert ranked([quick], due_us=due_us, batch=True) == ["quick"]
    with pytest.raises(NoCandidate):
        ranked([quick], due_us=due_us)


def test_nobody_in_time_is_a_sentence_that_names_the_soonest_and_what_binds():
    peers = [at("slower peer", 0, step_us=2 * S), at("soonest", 0, step_us=S)]
    with pytest.raises(NoCandidate) as caught:
        ranked(peers, due_us=OVERHEAD_US + S)
    said = str(caught.value)
    assert said.startswith("Nobody is expected to have it in the 1.00 s that are left for it: the soonest, ")
    assert "(oonest), in 3." in said  # the end of its id
    assert said.endswith("2.00 s of that for the steps.")
    with pytest.raises(NoCandidate, match="The time for it is over"):
        ranked(peers, due_us=10)


def test_a_time_that_is_no_must_rules_out_the_late_only_while_others_are_in_time():
    quick, slow = at("quick", 5, step_us=S // 10), at("slow", 0, step_us=S)
    due_us = OVERHEAD_US + 2 * S
    assert ranked([quick, slow], due_us=due_us, must=False, **worth(0)) == ["quick"]
    assert ranked([slow], due_us=due_us, must=False) == ["slow"]


@pytest.mark.parametrize(
    ("peers", "value", "says"),
    [
        ((at("a", 1, step_us=S // 10), at("b", 0.5, step_us=S)), 1, "1 credit more than the next best"),
        ((at("a", 0, step_us=S), at("b", 10, step_us=S // 10)), 1, "20 credits less than the next best; being "),
        ((at("a", 0, step_us=S // 10), at("b", 1, step_us=S)), 1, "was predicted no later"),
        ((at("a", 1), at("b", 1, 90_000)), 1, "It was predicted 390 ms sooner"),
    ],
)  # fmt: skip
def test_the_plan_says_whether_price_or_time_decided(peers, value, says):
    chosen = plan(peers, WANTED, now_us=0, seed=0, wishes=Wishes(value * CREDIT))
    assert chosen.ranked[0].peer == "a"
    assert says in chosen.why()


def test_a_dearer_one_that_is_not_worth_it_was_a_draw():
    for us, other_us, price, other in (
        (5 * S, 6 * S, 2 * CREDIT, 0),
        (6 * S, 5 * S, CREDIT, 0),
        (9 * S, 5 * S, 0, CREDIT),
    ):
        assert "chance" in credits.why_cost(price, other, us, other_us, CREDIT)


def test_what_time_is_worth_is_shown_to_three_digits():
    amounts = (0, 1, 5_204, 17_829_353, 1_002_033_000, 999_999)
    assert [credits.about_credits(each).split()[0] for each in amounts] == [
        "0",
        "0.000001",
        "0.0052",
        "17.8",
        "1002",
        "1",
    ]


def test_credits_are_shown_to_the_last_digit():
    assert [shown_credits(each) for each in (0, 1, 5_200, CREDIT, 12 * CREDIT, 1_500_000)] == [
        "0 credits",
        "0.000001 credits",
        "0.0052 credits",
        "1 credit",
        "12 credits",
        "1.5 credits",
    ]


def test_who_draws_is_told_of_the_deadline_less_the_way_here_unless_late_will_do():
    wishes = Wishes(due_us=5_000_000)
    assert wishes.ready_within_us(300_000, 1_000_000) == 4_000_000 - OVERHEAD_US - 300_000
    assert wishes.ready_within_us(300_000, 5_000_000) == 0
    assert Wishes(due_us=5_000_000, must=False).ready_within_us(0, 0) is None
    assert cost.USUAL.ready_within_us(0, 0) is None
