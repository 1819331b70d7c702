"""Of several attempts, two of them at once: which of their time led to the picture."""

from protocol.policy.chain import LOST, Leg, lay
from protocol.policy.timeline import Timeline

OWN, NEAR, FAR = "own", "near", "far"


def leg(name, began_us, after=None, *, spanned_us, ended_us=None, spans=()):
    made = Leg(name, began_us, after, spanned_us, ended_us)
    for span, start_us, end_us in spans:
        made.add(span, start_us, end_us, observer=OWN)
    return made


def laid(legs, last, end_us):
    timeline = Timeline(0)
    lay(timeline, legs, last, end_us, observer=OWN)
    timeline.finish(end_us)
    spans = timeline.spans()
    critical = [(span.span, span.start_us, span.end_us) for span in spans if span.critical]
    beside = [(span.span, span.start_us, span.end_us) for span in spans if not span.critical]
    assert timeline.statistics()["overlaps"] == 0
    return critical, beside, timeline.unaccounted_us


def late():
    """Asked first, accepted at 30, and still not started at 100."""
    return leg(b"near", 0, spanned_us=30, spans=[("plan", 0, 10), ("offer", 10, 30)])


def hedge(after):
    return leg(b"far", 100, after, spanned_us=120, spans=[("plan", 100, 105), ("offer", 105, 120)])


def test_where_the_hedge_gave_the_picture_the_first_was_waited_for_until_it_was_asked():
    first = late()
    first.add("step", 110, 150, observer=NEAR)  # it started after all
    second = hedge(first)
    second.add("step", 120, 180, observer=FAR)
    second.spanned_us = 180
    critical, beside, unaccounted_us = laid([first, second], second, 180)
    assert critical == [
        *(("plan", 0, 10), ("offer", 10, 30), (LOST, 30, 100)),
        *(("plan", 100, 105), ("offer", 105, 120), ("step", 120, 180)),
    ]
    assert beside == [("step", 110, 150)]
    assert unaccounted_us == 0


def test_where_the_first_gave_it_all_the_same_the_hedge_happened_beside_it():
    first = late()
    second = hedge(first)
    first.add("wait", 30, 110, observer=NEAR)
    first.add("step", 110, 150, observer=NEAR)
    first.spanned_us = 150
    critical, beside, unaccounted_us = laid([first, second], first, 150)
    assert critical == [("plan", 0, 10), ("offer", 10, 30), ("wait", 30, 110), ("step", 110, 150)]
    assert beside == [("plan", 100, 105), ("offer", 105, 120)]
    assert unaccounted_us == 0


def test_what_the_late_one_said_while_the_other_was_being_chosen_is_cut_off_there():
    first = leg(b"near", 0, spanned_us=10, spans=[("plan", 0, 10)])
    second = hedge(first)
    first.add("offer", 10, 130, observer=OWN)
    first.spanned_us = 130
    second.spanned_us = 120
    critical, beside, _ = laid([first, second], second, 120)
    assert critical == [("plan", 0, 10), ("offer", 10, 100), ("plan", 100, 105), ("offer", 105, 120)]
    assert beside == []


def test_an_attempt_that_ended_is_lost_time_up_to_its_end_and_one_refused_is_none():
    first = leg(b"near", 0, spanned_us=30, ended_us=90, spans=[("offer", 0, 30)])
    second = leg(b"far", 90, first, spanned_us=110, ended_us=110, spans=[("offer", 90, 110)])
    third = leg(b"else", 110, second, spanned_us=140, spans=[("step", 110, 140)])
    critical, _, unaccounted_us = laid([first, second, third], third, 140)
    assert critical == [("offer", 0, 30), (LOST, 30, 90), ("offer", 90, 110), ("step", 110, 140)]
    assert unaccounted_us == 0


def test_where_nothing_came_of_any_the_last_that_ended_was_waited_for():
    first = late()
    second = hedge(first)
    first.ended_us, second.ended_us = 150, 170
    critical, beside, unaccounted_us = laid([first, second], second, 170)
    assert critical[-1] == (LOST, 120, 170)
    assert (beside, unaccounted_us) == ([], 0)
    first.ended_us = 200
    critical, beside, unaccounted_us = laid([first, second], first, 200)
    assert critical == [("plan", 0, 10), ("offer", 10, 30), (LOST, 30, 200)]
    assert beside == [("plan", 100, 105), ("offer", 105, 120)]
    assert unaccounted_us == 0


def test_without_an_attempt_nothing_is_laid():
    assert laid([], None, 10) == ([], [], 10)
