from dataclasses import replace

from protocol.policy.hindsight import LOST, PREDICTED_AS, outcome, sentences
from protocol.policy.prediction import predict
from protocol.policy.selection import plan
from protocol.policy.timeline import ADVICE, EXECUTION, Timeline
from protocol.wire.advert import OfferedAdapter

from .truth import advert, candidate, offered, statement

NAMES = {"near": "oak (near)", "far": "elm (far)"}


def choices(*rtts_us):
    peers = [candidate(name, rtt_us) for name, rtt_us in zip(("near", "far"), rtts_us, strict=False)]
    return plan(peers, statement(), now_us=0, seed=0).ranked


def as_predicted(choice, **more):
    took = dict(choice.spans)
    for name, us in more.items():
        took[name] = took.get(name, 0) + us
    return took


def test_what_came_as_predicted_is_no_surprise_and_nobody_was_faster():
    near, far = choices(20_000, 60_000)
    assert sentences(as_predicted(near), near, [far], NAMES) == [
        "In hindsight nobody else was expected to be faster."
    ]
    assert sentences(as_predicted(near), near, [], NAMES) == []


def test_the_largest_surprise_is_named_and_who_would_have_been_faster():
    near, far = choices(20_000, 60_000)
    said = sentences(as_predicted(near, wait=500_000, step=400_000), near, [far], NAMES)
    assert said[0] == "Not foreseen: waiting in its queue took 500 ms, 0 us were predicted."
    assert said[1].startswith("In hindsight elm (far) would have been faster: ")


def test_who_was_not_surely_faster_only_might_have_been():
    near, far = choices(20_000, 60_000)
    more_us = far.predicted_us - near.predicted_us + 1
    assert more_us < far.prediction.margin_us
    (said,) = sentences(as_predicted(near, step=more_us), near, [far], NAMES)[-1:]
    assert "elm (far) might have been faster" in said


def test_attempts_that_gave_nothing_are_a_surprise():
    near, _ = choices(20_000, 60_000)
    said = sentences(as_predicted(near, **{LOST: 2_000_000}), near, [], NAMES)
    assert said == ["Not foreseen: 2.00 s for attempts that gave no picture."]


def test_the_spans_of_a_timeline_are_counted_as_they_were_predicted_and_those_of_other_attempts_as_lost():
    timeline = Timeline(0)
    at_us = 0
    for name, us, attempt in (
        ("plan", 1, None), ("dial", 2, b"a"), ("offer", 4, b"a"), ("lost", 8, b"a"), ("offer", 16, b"b"),
        ("start_renderer", 32, b"b"), ("load_weights", 64, b"b"), ("encode_prompt", 128, b"b"), ("step", 256, b"b"),
        ("step", 512, b"b"), ("leave", 1024, b"b"), ("transfer", 2048, b"b"), ("check", 4096, b"b"),
    ):  # fmt: skip
        timeline.add(name, at_us, us, observer="x", attempt=attempt, critical=True)
        at_us += us
    timeline.add("step", 0, 10**6, observer="x", attempt=b"b")  # beside the critical path
    timeline.finish(at_us)
    assert outcome(timeline.spans(), b"b".hex()) == {
        LOST: 14,
        "offer": 16,
        "load_weights": 96,
        "fixed": 128,
        "step": 768,
        "transfer": 3072,
    }


def test_every_span_that_may_be_predicted_is():
    everyones = {
        "start_peer",
        "join",
        "submit",
        "look",
        "plan",
        "check",
        "save",
        "embed",
        "deliver",
        "write_file",
        "lost",
    }
    assert set(ADVICE) | EXECUTION == set(PREDICTED_AS) | everyones
    adapter = OfferedAdapter(b"a" * 32, "style")
    who = candidate(advert=advert(models=(replace(offered(), adapters=(adapter,)),)))
    styled = statement(adapters=((adapter.id, 1_000_000),))
    assert set(PREDICTED_AS.values()) == {name for name, _ in predict(who, styled, 0).spans}


def test_a_peer_without_a_name_is_called_by_its_end():
    near, far = choices(20_000, 60_000)
    assert "In hindsight far would" in sentences(as_predicted(near, wait=10**6), near, [far], {})[-1]
