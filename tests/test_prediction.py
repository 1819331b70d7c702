from dataclasses import replace

import pytest

from protocol.policy import prediction as module
from protocol.policy import speeds as learning
from protocol.policy.calibration import FIRST_MULTIPLE
from protocol.policy.prediction import (
    CONNECT_ROUND_TRIPS,
    UNKNOWN_FIXED_US,
    UNKNOWN_LOAD_US,
    UNKNOWN_RTT_US,
    Constraint,
    Exclusion,
    claimed_us,
    predict,
    predict_own,
    promised_load_us,
    unknown_load_us,
)
from protocol.policy.rtt import Rtt
from protocol.policy.speeds import Measured, SpeedBook, observed
from protocol.policy.waits import CHOSEN_PERCENT
from protocol.wire.advert import Device, Limits, Speed

from .truth import MODEL, OTHER_MODEL, advert, candidate, live, offered, statement

S = 1_000_000
DOWNLOAD_US = 128 * 128 * 19 // 10 * S // learning.UNKNOWN_BYTES_PER_S


def predicted(wanted=None, **changes):
    return predict(candidate(**changes), wanted or statement(), 0)


def spans(**changes):
    return dict(predicted(**changes).spans)


def test_an_idle_connected_warm_peer_costs_the_way_there_and_back_its_measured_render_and_the_download():
    prediction = predicted(rtt_us=20_000)
    assert dict(prediction.spans) == {
        "dial": 0,
        "offer": 10_000,
        "wait": 0,
        "load_weights": 0,
        "fixed": 50_000,
        "step": 20 * 40_000,
        "transfer": 10_000
        + 20_000
        + DOWNLOAD_US,  # of 31 kB, the path takes 50 kB a round trip: one doubling
    }
    assert prediction.total_us == sum(us for _, us in prediction.spans)
    assert (prediction.step_us, prediction.busy_us, prediction.wait_us) == (40_000, 850_000, 0)
    assert prediction.uncertain_us == 85_000
    assert prediction.spread_us == 20_000 + 850_000 // 4
    assert prediction.p90_us == prediction.total_us + int(prediction.spread_us * FIRST_MULTIPLE)


def test_a_peer_that_is_not_connected_must_be_dialled():
    assert spans(rtt_us=20_000, connected=False)["dial"] == CONNECT_ROUND_TRIPS * 20_000


def test_an_unknown_distance_is_pessimistic_and_uncertain():
    known, unknown = predicted(rtt_us=20_000), predicted(rtt_us=None)
    assert dict(unknown.spans)["offer"] == UNKNOWN_RTT_US // 2
    assert unknown.uncertain_us - known.uncertain_us == UNKNOWN_RTT_US


def test_jitter_is_uncertain():
    assert predicted(rtt=Rtt(20_000, 3000, 8)).uncertain_us - predicted().uncertain_us == 3000


@pytest.mark.parametrize(
    ("side_px", "rtt_us", "doublings"),
    [
        (64, 150_000, 0),  # 7.8 kB go in the first window
        (128, 150_000, 1),  # 31 kB: 14.6 and 29.2
        (512, 150_000, 4),  # 498 kB, of which the path holds 375
        (512, 1_000, 0),  # it holds 2.5 kB: nothing waits for the window
    ],
)
def test_a_picture_from_afar_waits_while_the_window_of_tcp_grows(side_px, rtt_us, doublings):
    wanted = statement(width=side_px, height=side_px)
    found = dict(predicted(wanted, rtt_us=rtt_us).spans)["transfer"]
    data_bytes = side_px * side_px * 19 // 10
    assert found == rtt_us // 2 + doublings * rtt_us + data_bytes * S // learning.UNKNOWN_BYTES_PER_S


@pytest.mark.parametrize("rtt_us", [0, 20_000, 150_000])
def test_what_a_transfer_took_is_what_the_next_is_predicted_to_take(rtt_us):
    book, data_bytes = SpeedBook(), 128 * 128 * 19 // 10
    for _ in range(20):
        took_us = dict(predicted(rtt_us=rtt_us).spans)["transfer"] + 30_000
        book.on_transfer("near", data_bytes, took_us, rtt_us=rtt_us)
    assert abs(spans(rtt_us=rtt_us, speeds=book.of("near"))["transfer"] - took_us) <= 1


def test_ones_own_device_has_no_way_to_go():
    own = spans(own=True, rtt_us=None, connected=False)
    assert (own["dial"], own["offer"], own["transfer"]) == (0, 0, 0)


@pytest.mark.parametrize(("age_us", "wait_us"), [(0, 3 * S), (S, 1_433_062), (9 * S, 0)])
def test_an_advertised_wait_ages(age_us, wait_us):
    assert predicted(state=live(wait_us=3 * S), state_age_us=age_us).wait_us == wait_us


def test_a_wait_that_is_told_of_at_once_runs_down_however_long_ago_it_was_told():
    told = {"state": live(wait_us=3 * S), "state_age_us": S, "mean_wait_us": 5 * S}
    assert predicted(**told, silent_us=0).wait_us == 2 * S
    assert predicted(**told).wait_us > 2 * S


def test_what_a_peer_makes_others_wait_and_is_late_at_the_mean_counts():
    told = {"state": live(wait_us=0), "state_age_us": 60 * S}
    assert predicted(**told, mean_wait_us=S).wait_us == S * CHOSEN_PERCENT // 100
    assert predicted(**told, late_us=S).wait_us == S


def test_own_work_there_is_waited_for():
    prediction = predicted(state=live(wait_us=S), own_in_flight_us=2 * S)
    assert prediction.wait_us == dict(prediction.spans)["wait"] == 3 * S


def test_the_age_of_an_idle_peers_state_makes_nothing_uncertain_but_no_state_does():
    assert predicted(state_age_us=5 * S).uncertain_us == predicted().uncertain_us
    assert predicted(state=None).uncertain_us > predicted().uncertain_us


@pytest.mark.parametrize(
    ("model", "state", "load_us"),
    [
        (offered("resident"), None, 0),
        (offered("resident", load_us=3 * S), live(resident=()), 3 * S),
        (offered("disk", load_us=3 * S), live(), 0),
        (offered("disk", load_us=3 * S), None, 3 * S),
        (offered("disk"), None, UNKNOWN_LOAD_US),
    ],
)
def test_weights_that_are_not_resident_must_be_loaded_and_live_state_knows_best(model, state, load_us):
    assert spans(advert=advert(models=(model,)), state=state)["load_weights"] == load_us


def test_an_unknown_load_is_uncertain_in_full():
    prediction = predicted(advert=advert(models=(offered("disk"),)), state=live(resident=()))
    assert prediction.uncertain_us >= UNKNOWN_LOAD_US


def of_bytes(total_bytes, **changes):
    return advert(models=(replace(offered("disk", step_us=None), total_bytes=total_bytes),), **changes)


def test_an_unknown_load_goes_with_the_size_of_the_model_and_the_start_of_a_renderer():
    small = spans(advert=of_bytes(24_000_000), state=live(resident=()))
    large = spans(advert=of_bytes(14_000_000_000), state=live(resident=()))
    assert small["load_weights"] == module.RENDERER_START_US + 120_000
    assert large["load_weights"] == module.RENDERER_START_US + 70 * S


def test_an_unknown_step_goes_with_the_size_of_the_model_down_to_a_bound():
    steps_us = {
        size: predicted(advert=of_bytes(size)).step_us
        for size in (None, module.MEASURED_BYTES, 2 * module.MEASURED_BYTES, 24_000_000, 0)
    }
    full_us = steps_us[None]
    assert list(steps_us.values())[1:] == [full_us, 2 * full_us, full_us // 16, full_us // 16]


def test_a_small_model_that_nobody_measured_is_predicted_to_take_seconds_not_a_quarter_of_a_minute():
    cold = predicted(advert=of_bytes(24_000_000), state=live(resident=()))
    assert 3 * S < cold.total_us < 5 * S  # 4.6 s were measured of the reference model


def test_a_provider_expects_of_a_load_what_it_measured_and_promises_more():
    book = SpeedBook()
    for size in (None, 24_000_000, 14_000_000_000):
        expected_us, _, _ = predict_own(book.of("me"), statement(), resident=False, model_bytes=size)
        assert expected_us == unknown_load_us(size)
    book.on_load("me", MODEL, 20 * S)
    expected_us, _, _ = predict_own(book.of("me"), statement(), resident=False, model_bytes=24_000_000)
    assert expected_us == 20 * S
    assert promised_load_us(expected_us) == 60 * S
    assert promised_load_us(1) == module.LEAST_LOAD_PROMISE_US
    assert promised_load_us(0) == 0


def test_a_provider_expects_of_a_small_model_it_never_ran_as_little_as_its_requesters_do():
    large, small = (
        predict_own(None, statement(), resident=True, model_bytes=size)
        for size in (4_300_000_000, 36_000_000)
    )
    assert small[1] < large[1] // 10
    assert small[2] < large[2] // 10


def test_a_claim_at_another_size_is_scaled_by_pixels_and_less_certain():
    same, larger = predicted(), predicted(statement(width=256, height=256))
    assert larger.step_us == 4 * same.step_us
    assert larger.uncertain_us > 4 * same.uncertain_us


def test_of_several_sizes_the_nearest_is_scaled():
    speeds = (Speed(64, 64, "fp32", 5, 0), Speed(512, 512, "fp32", 16_000, 0), Speed(256, 256, "fp16", 1, 0))
    model = module.OfferedModel(MODEL, "m", "sd", "resident", (512, 512), None, speeds)
    assert predicted(statement(width=256, height=256), advert=advert(models=(model,))).step_us == 4000


@pytest.mark.parametrize(("kind", "step_us"), [("cuda", 8192), ("cpu", 327_680), ("toaster", 327_680)])
def test_an_unknown_speed_is_a_pessimistic_one_of_its_kind_of_device(kind, step_us):
    device = Device(kind, "", 1, None, None, None, ())
    prediction = predicted(advert=advert(models=(offered(step_us=None),), devices=(device,)))
    assert prediction.step_us == step_us
    assert prediction.uncertain_us == prediction.busy_us == 20 * step_us + UNKNOWN_FIXED_US


def test_where_nothing_is_claimed_or_seen_a_device_is_as_fast_as_others_of_its_name():
    devices, book = SpeedBook(), SpeedBook()
    silent = {"advert": advert(models=(offered(step_us=None),)), "devices": devices}
    unknown_us = predicted(**silent).step_us
    devices.on_render("cpu another CPU", statement(), step_us=7_000, fixed_us=9_000)
    assert predicted(**silent).step_us == unknown_us
    devices.on_render("cpu a CPU", statement(), step_us=30_000, fixed_us=6_000)
    seen = predicted(**silent)
    assert (seen.step_us, dict(seen.spans)["fixed"]) == (30_000, 6_000)
    assert seen.uncertain_us == (30_000 * 20 + 6_000) * module.DEVICE_UNCERTAIN_PERCENT // 100
    devices.on_render("cpu a slow CPU", statement(), step_us=unknown_us + 1, fixed_us=6_000)
    slow = replace(silent["advert"], devices=(Device("cpu", "a slow CPU", 1, None, None, None, ("fp32",)),))
    assert predicted(**silent | {"advert": slow}).step_us == unknown_us  # it says little of others
    book.on_render("near", statement(), step_us=60_000, fixed_us=6_000)
    assert predicted(**silent, speeds=book.of("near")).step_us == 60_000
    claims = silent | {"advert": advert()}
    assert predicted(**claims).step_us == 40_000


def test_what_was_observed_overrides_what_is_claimed():
    book = SpeedBook()
    book.on_render("near", statement(), step_us=400_001, fixed_us=10_000)
    book.on_load("near", MODEL, 2 * S)
    book.on_transfer("near", 1_000_000, 500_000, rtt_us=0)
    found = spans(speeds=book.of("near"), state=live(resident=()))
    assert found["step"] == 20 * 400_001  # ten times slower than it claims
    assert found["fixed"] == 10_000
    assert found["load_weights"] == 2 * S
    assert found["transfer"] == 10_000 + 20_000 + 128 * 128 * 19 // 10 // 2


def test_a_claim_that_is_not_contradicted_counts_as_two_observations():
    book, steps_us = SpeedBook(), []
    for _ in range(6):
        book.on_render("near", statement(), step_us=60_000, fixed_us=50_000)
        found = spans(speeds=book.of("near"))
        assert found["fixed"] == 50_000
        steps_us.append(found["step"] // 20)
    assert steps_us == [46_666, 50_000, 52_000, 53_333, 53_333, 53_333]


def test_a_claim_is_the_providers_own_word_and_says_nothing_of_the_way():
    book = SpeedBook()
    book.on_render("near", statement(), step_us=60_000, fixed_us=50_000)
    asked = candidate(
        rtt_us=20_000,
        connected=False,
        speeds=book.of("near"),
        state=live(wait_us=S),
        late_us=S,
        mean_wait_us=S,
    )
    assert claimed_us(asked, statement()) == S + 50_000 + 20 * 40_000
    told = predict(asked, statement(), 0)
    assert told.unclaimed_us == sum(dict(told.spans)[name] for name in ("dial", "offer", "transfer"))


@pytest.mark.parametrize(
    ("times", "steps_us"),
    [
        (10, [400_000, 400_000, 400_000]),  # a lie: not believed from the first picture on
        (3, [66_666, 120_000, 120_000]),  # may be a hiccup, until it is not the only one
        (1 / 10, [4_000, 4_000, 4_000]),
    ],
)
def test_a_claim_that_is_contradicted_does_not_count(times, steps_us):
    book = SpeedBook()
    for step_us in steps_us:
        book.on_render("near", statement(), step_us=int(40_000 * times), fixed_us=50_000)
        assert abs(spans(speeds=book.of("near"))["step"] - 20 * step_us) < 20


def test_steps_of_what_was_not_finished_show_the_speed_too():
    book = SpeedBook()
    book.on_steps("near", statement(), 5, 2_000_001)
    assert spans(speeds=book.of("near"))["step"] == 20 * 400_000
    book.on_render("far", statement(), step_us=40_000, fixed_us=50_000)
    book.on_steps("far", statement(), 3, 180_000)
    assert book.of("far").nearest(MODEL, "fp32", 128 * 128) == Measured(128 * 128, 50_000, 50_000, 2)


def test_an_observation_counts_as_much_as_each_before_it_until_one_of_four_is_news():
    book = SpeedBook()
    for step_us, mean_us in (
        (40_000, 40_000),
        (80_000, 60_000),
        (60_000, 60_000),
        (20_000, 50_000),
        (90_000, 60_000),
    ):
        book.on_render("near", statement(), step_us=step_us, fixed_us=0)
        assert book.of("near").nearest(MODEL, "fp32", 128 * 128).step_us == mean_us
    assert book.of("near").nearest(MODEL, "fp16", 128 * 128) is None
    assert book.of("near").nearest(OTHER_MODEL, "fp32", 128 * 128) is None


SPANS = (
    ("wait", 0, 5_000),
    ("load_weights", 5_000, 900_000),
    ("encode_prompt", 905_000, 10_000),
    *(("step", 915_000 + 30_000 * number, 30_000) for number in range(4)),
)


def test_a_render_is_as_its_provider_tells_it_where_that_fills_what_was_seen():
    assert observed(SPANS, 4, 130_000) == (30_000, 10_000)
    assert observed(SPANS, 4, 100_000) == (30_000, 10_000)  # RESULT came soon after a START that was late


def test_a_provider_that_tells_less_than_was_seen_is_as_slow_as_it_was_seen_to_be():
    assert observed(SPANS, 4, 1_300_000) == (300_000, 100_000)
    assert observed((), 4, 1_300_000) == (325_000, 0)
    assert observed((("step", 0, 0),), 4, 1_300_000) == (325_000, 0)


def test_sizes_are_learned_apart_and_the_nearest_is_used():
    book = SpeedBook()
    book.on_render("near", statement(), step_us=40_000, fixed_us=1)
    book.on_render("near", statement(width=512, height=512), step_us=900_000, fixed_us=2)
    assert book.of("near").nearest(MODEL, "fp32", 500 * 500).step_us == 900_000
    assert book.of("near").nearest(MODEL, "fp32", 64 * 64).step_us == 40_000


def test_what_is_learned_is_bounded(monkeypatch):
    monkeypatch.setattr(learning, "MAX_LEARNED_PEERS", 2)
    monkeypatch.setattr(learning, "MAX_LEARNED_SPEEDS", 2)
    book = SpeedBook()
    for name in ("a", "b", "a", "c"):
        for side in (64, 128, 256):
            book.on_render(name, statement(width=side, height=side), step_us=1, fixed_us=1)
        for model in (b"1" * 32, b"2" * 32, b"3" * 32):
            book.on_load(name, model, 1)
    assert book.statistics() == {"peers": 2, "speeds": 4, "loads": 4}
    assert book.of("b") is None


LIMITS = Limits(pixels=256 * 256, steps=50, prompt_bytes=30, queue=1)


@pytest.mark.parametrize(
    ("changes", "wanted", "constraint", "words"),
    [
        ({"kinds": (), "limits": None}, {}, Constraint.PROVIDING, "does not render"),
        ({"kinds": ("upscale",)}, {}, Constraint.KIND, "txt2img"),
        ({}, {"model": OTHER_MODEL}, Constraint.MODEL, "this model"),
        ({}, {"adapters": ((b"a" * 32, 1),)}, Constraint.ADAPTERS, "the adapter 61616161 with this model"),
        ({}, {"precision": "fp16"}, Constraint.PRECISION, "fp32, not in fp16"),
        ({}, {"width": 256, "height": 264}, Constraint.PIXELS, "65536 pixels at most; 256x264"),
        ({}, {"steps": 51}, Constraint.STEPS, "50 steps at most, not 51"),
        ({}, {"prompt": "é" * 16}, Constraint.PROMPT, "30 bytes at most, not 32"),
        ({}, {"negative": "n" * 31}, Constraint.PROMPT, "30 bytes at most, not 31"),
    ],
)
def test_who_cannot_is_excluded_with_a_sentence(changes, wanted, constraint, words):
    result = predicted(statement(**wanted), advert=advert(**{"limits": LIMITS, **changes}))
    assert isinstance(result, Exclusion)
    assert result.constraint is constraint
    assert words in result.reason


def test_limits_are_inclusive_and_unknown_devices_rule_nobody_out():
    wanted = statement(width=256, height=256, steps=50, prompt="p" * 30, precision="bf16")
    assert not isinstance(predicted(wanted, advert=advert(limits=LIMITS, devices=())), Exclusion)
