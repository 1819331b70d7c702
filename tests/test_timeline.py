import ast
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError
from protocol.policy import timeline as module
from protocol.policy.chain import LOST
from protocol.policy.timeline import ADVICE, EXECUTION, Timeline, duration

ASKED_US = 5_000_000


def spans_of(*spans, wall_us=1000):
    timeline = Timeline(ASKED_US)
    for name, start_us, us, critical in spans:
        timeline.add(name, ASKED_US + start_us, us, observer="me", critical=critical)
    timeline.finish(ASKED_US + wall_us)
    return timeline


def test_what_no_critical_span_covers_is_unaccounted():
    timeline = spans_of(("plan", 0, 100, True), ("step", 150, 800, True), ("preview", 960, 40, False))
    assert timeline.wall_us == 1000
    assert timeline.unaccounted_us == 100


@pytest.mark.parametrize("delayed", ["plan", "offer", "step", "transfer"])
def test_delaying_one_stage_grows_its_own_span_only(delayed):
    def run(delays):
        timeline, now_us = Timeline(ASKED_US), ASKED_US
        for name in ("plan", "offer", "step", "transfer"):
            us = 1000 + delays.get(name, 0)
            timeline.add(name, now_us, us, observer="me", critical=True)
            now_us += us
        timeline.finish(now_us)
        assert timeline.unaccounted_us == 0
        return {span.span: span.us for span in timeline.spans()}

    plain, slow = run({}), run({delayed: 100_000})
    assert {name: slow[name] - plain[name] for name in plain if slow[name] != plain[name]} == {
        delayed: 100_000
    }


def test_where_critical_spans_overlap_the_earlier_keeps_the_time_and_it_is_counted():
    timeline = spans_of(("transfer", 500, 500, True), ("step", 0, 600, True), ("step", 100, 200, True))
    shown = [(span.span, span.start_us, span.us, span.critical) for span in timeline.spans()]
    assert shown == [("step", 0, 600, True), ("step", 100, 200, False), ("transfer", 600, 400, True)]
    assert timeline.unaccounted_us == 0
    assert timeline.statistics() == {"spans": 3, "dropped": 0, "overlaps": 2, "overlap_us": 300}


def test_a_span_is_cut_at_asked_and_at_the_end():
    timeline = spans_of(("dial", -50, 100, True), ("check", 900, 500, True))
    assert [(span.start_us, span.us) for span in timeline.spans()] == [(0, 50), (900, 100)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["plan", "step"]), st.integers(-50, 1100), st.integers(0, 600), st.booleans()
        )
    )
)
def test_the_critical_spans_and_the_unaccounted_always_add_up_to_the_wall(spans):
    timeline = spans_of(*spans)
    critical = [span for span in timeline.spans() if span.critical]
    assert sum(span.us for span in critical) + timeline.unaccounted_us == timeline.wall_us
    assert timeline.unaccounted_us >= 0
    assert all(first.end_us <= second.start_us for first, second in itertools.pairwise(critical))
    covered = {
        us
        for _, start, length, crit in spans
        if crit
        for us in range(max(0, start), min(1000, start + length))
    }
    assert timeline.unaccounted_us == 1000 - len(covered)


def test_entries_survive_json():
    timeline = Timeline(ASKED_US)
    timeline.add("wait", ASKED_US + 5, 10, observer="them", attempt=b"\x01\x02", parent="task", critical=True)
    timeline.finish(ASKED_US + 20)
    entries = json.loads(json.dumps(timeline.entries()))
    expected = {"span": "wait", "parent": "task", "attempt": "0102", "observer": "them"}
    assert entries == [{**expected, "start_us": 5, "us": 10, "critical": True}]
    again = Timeline.from_entries(entries, wall_us=20)
    assert again.entries() == entries
    assert (again.wall_us, again.unaccounted_us) == (20, 10)


@pytest.mark.parametrize("entry", [{}, {"span": 1}])
def test_what_is_no_entry_is_a_value_error(entry):
    with pytest.raises(ValueError, match="not an entry"):
        Timeline.from_entries([entry], wall_us=1)


def test_the_largest_avoidable_span_is_never_execution():
    timeline = spans_of(
        ("step", 0, 700, True), ("load_weights", 700, 200, True), ("transfer", 900, 100, True)
    )
    avoidable = timeline.largest_avoidable()
    assert (avoidable.span, avoidable.us) == ("load_weights", 200)
    assert avoidable.sentence.startswith("200 us of 1.00 ms went into loading the model's weights")


def test_unaccounted_time_may_be_the_largest_avoidable_and_execution_alone_has_none():
    assert spans_of(("step", 0, 700, True)).largest_avoidable().span == "unaccounted"
    assert spans_of(("step", 0, 1000, True)).largest_avoidable() is None


def test_bars_fit_the_width_and_join_runs_of_steps():
    spans = [("plan", 0, 100, True), *(("step", 100 + 40 * index, 40, True) for index in range(20))]
    rows = spans_of(*spans, ("preview", 150, 10, False), wall_us=1000).bars(60)
    assert all(len(row) <= 60 for row in rows)
    assert [row.split()[0] for row in rows] == ["plan", "step", "preview", "step", "unaccounted"]
    assert "░" in rows[2]
    assert "x18" in rows[3]


def test_spans_beyond_the_bound_are_counted_not_kept(monkeypatch):
    monkeypatch.setattr(module, "MAX_SPANS", 2)
    assert spans_of(*[("step", 0, 1, False)] * 5).statistics() == {
        "spans": 2,
        "dropped": 3,
        "overlaps": 0,
        "overlap_us": 0,
    }


def test_a_timeline_ends_once_and_not_before_it_began():
    timeline = Timeline(ASKED_US)
    with pytest.raises(LocalProtocolError):
        _ = timeline.wall_us
    with pytest.raises(LocalProtocolError):
        timeline.finish(ASKED_US - 1)
    timeline.finish(ASKED_US)
    with pytest.raises(LocalProtocolError):
        timeline.finish(ASKED_US)
    with pytest.raises(LocalProtocolError):
        timeline.add("step", 0, -1, observer="me")


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (999, "999 us"),
        (1_234, "1.23 ms"),
        (12_340, "12.3 ms"),
        (500_000, "500 ms"),
        (1_234_000, "1.23 s"),
        (12_340_000, "12.3 s"),
        (300_000_000, "5 min"),
        (7_200_000_000, "2.0 h"),
    ],
)
def test_durations_read_as_a_person_says_them(us, text):
    assert duration(us) == text


def test_a_timeline_goes_on_to_where_the_picture_is_on_disk():
    timeline = spans_of(("plan", 0, 1000, True))
    timeline.extend("deliver", ASKED_US + 1000, 50, observer="me")
    timeline.extend("write_file", ASKED_US + 1060, 40, observer="me")
    assert (timeline.wall_us, timeline.unaccounted_us) == (1100, 10)
    with pytest.raises(LocalProtocolError):
        timeline.extend("write_file", ASKED_US + 1099, 40, observer="me")


def test_every_span_that_is_measured_is_execution_or_has_words_for_a_person():
    names = {LOST, *measured_names()}
    assert {
        "submit",
        "dial",
        "leave",
        "transfer",
        "handoff",
        "handback",
        "load_weights",
        "write_file",
        "step",
    } <= names
    assert names <= EXECUTION | ADVICE.keys()
    assert not EXECUTION & ADVICE.keys()


def measured_names():
    """The names of spans, wherever in the code one is made of a literal."""
    root = Path(module.__file__).parents[2]
    for path in (root / "peer").rglob("*.py"):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            first = None
            if isinstance(node, ast.Call) and node.args:
                called = ast.unparse(node.func)
                first = node.args[0]
                if called.endswith("spans.append"):
                    first = first.elts[0] if isinstance(first, ast.Tuple) else None
                elif not called.endswith(
                    ("_span", "_lap", "timeline.extend", "timeline.add", "leg.add", "leg.add_heard")
                ):
                    first = None
            elif isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 3:
                values = [ast.unparse(each) for each in node.elts[1:]]
                first = node.elts[0] if all("_us" in value for value in values) else None
            if isinstance(first, ast.Name):
                first = ast.Constant(constants.get(first.id))
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value
