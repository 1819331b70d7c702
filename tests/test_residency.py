import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from protocol.policy.residency import (
    DEMAND_OVER_US,
    FAILED_FOR_US,
    HEARSAY_EVERY_US,
    LISTED_EVERY_US,
    MAX_PEERS,
    STAY_US,
    Ahead,
    Residency,
)

S = 1_000_000
GB = 1_000_000_000
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
RELOAD_US = {A: 4 * S, B: 4 * S, C: 20 * S}
BYTES = {A: 2 * GB, B: 2 * GB, C: 10 * GB}


def residency(*listed):
    return Residency(BYTES, listed, RELOAD_US.__getitem__)


def test_what_nobody_asks_for_and_nobody_listed_is_not_loaded():
    assert residency().ahead((), None, 0) is None


def test_a_listed_model_is_loaded_before_anyone_asks_the_dearest_first():
    kept = residency(A, B)
    assert kept.ahead((), None, 0) == Ahead(A, ())
    assert kept.ahead((A,), None, 0) == Ahead(B, ())
    assert kept.ahead((A, B), None, 0) is None
    # Asked for half as often, and five times as dear.
    assert residency(A, C).ahead((), None, 0) == Ahead(C, ())


def test_a_listed_model_that_does_not_fit_is_left_out():
    assert residency(C, B).ahead((), 4 * GB, 0) == Ahead(B, ())
    assert residency(C, B).ahead((B,), 4 * GB, 0) is None


def test_what_was_asked_for_is_loaded_again_until_that_is_long_ago():
    kept = residency()
    kept.on_taken(A, 0)
    assert kept.ahead((), None, DEMAND_OVER_US) == Ahead(A, ())
    assert kept.ahead((), None, LISTED_EVERY_US) is None


def test_the_worth_is_the_share_of_time_that_it_saves():
    kept = residency()
    kept.on_taken(A, 0)
    kept.on_taken(A, 0)
    assert kept.worth(A, 0) == pytest.approx(2 * RELOAD_US[A] / DEMAND_OVER_US)
    assert kept.worth(A, DEMAND_OVER_US) == pytest.approx(kept.worth(A, 0) / 2.718281828)
    assert kept.worth(B, 0) == 0


def test_a_long_load_that_others_would_wait_for_is_not_begun():
    kept = residency()
    kept.on_taken(C, 0)  # one in ten minutes, 20 s each
    assert kept.ahead((A,), None, 0) == Ahead(C, ())
    for _ in range(59):  # two of them in those 20 s, who would wait for 10 s each
        kept.on_taken(A, 0)
    assert kept.ahead((A,), None, 0) == Ahead(C, ())
    for _ in range(2):
        kept.on_taken(A, 0)
    assert kept.ahead((A,), None, 0) is None


def test_what_is_worth_twice_as_much_takes_the_place_of_another_that_had_its_time():
    kept = residency()
    kept.on_loaded(A, None, 0)
    kept.on_taken(A, 0)
    for _ in range(2):
        kept.on_taken(B, 0)
    assert kept.ahead((A,), 3 * GB, STAY_US) is None
    kept.on_taken(B, 0)
    assert kept.ahead((A,), 3 * GB, STAY_US - 1) is None
    assert kept.ahead((A,), 3 * GB, STAY_US) == Ahead(B, (A,))


def test_a_model_that_could_not_be_loaded_is_left_alone_for_a_while():
    kept = residency(A)
    kept.on_failed(A, 0)
    assert kept.ahead((), None, FAILED_FOR_US - 1) is None
    assert kept.ahead((), None, FAILED_FOR_US) == Ahead(A, ())
    kept.on_failed(A, 0)
    kept.on_loaded(A, None, 1)
    assert kept.ahead((), None, 2) == Ahead(A, ())


def test_a_lookup_and_a_load_elsewhere_are_one_task_for_all_who_have_the_model():
    kept = residency()
    for peer in "xyz":
        kept.on_advert(peer, [A, b"?" * 32], [], 0)
    assert kept.worth(A, 0) == 0
    kept.on_sought("y", A, 0)
    assert kept.worth(A, 0) == pytest.approx(RELOAD_US[A] / DEMAND_OVER_US / 4)
    kept.on_advert("x", [A], [A], 0)
    assert kept.worth(A, 0) == pytest.approx(RELOAD_US[A] / DEMAND_OVER_US / 2)
    kept.on_advert("x", [A], [A], 0)  # nothing new
    assert kept.worth(A, 0) == pytest.approx(RELOAD_US[A] / DEMAND_OVER_US / 2)
    kept.on_advert("new", [A], [A], 0)  # it may have had it for long
    assert kept.worth(A, 0) == pytest.approx(RELOAD_US[A] / DEMAND_OVER_US / 2)
    kept.on_sought("z", b"?" * 32, 0)
    assert kept.statistics()["asked"] == 1


def test_what_costs_nothing_to_say_counts_once_in_a_while_for_each_peer():
    kept, once = residency(), RELOAD_US[A] / DEMAND_OVER_US
    for _ in range(100):
        kept.on_sought("x", A, 0)
        kept.on_refused("x", A, 0)
        kept.on_advert("x", [A], [], 0)
        kept.on_advert("x", [A], [A], 0)
    assert kept.worth(A, 0) == pytest.approx(once)
    kept.on_refused("y", A, 0)
    assert kept.worth(A, 0) == pytest.approx(2 * once)
    kept.on_refused("x", A, HEARSAY_EVERY_US)
    assert kept.worth(A, HEARSAY_EVERY_US) > 2 * once


def test_what_is_known_of_others_is_bounded():
    kept = residency()
    for peer in range(MAX_PEERS + 10):
        kept.on_advert(str(peer), [A], [], 0)
        kept.on_sought(str(peer), A, 0)
    assert kept.statistics()["elsewhere"] == kept.statistics()["said"] == MAX_PEERS


def test_for_a_task_goes_what_is_worth_least_and_no_more_than_is_needed():
    kept = residency()
    kept.on_taken(A, 0)
    assert kept.makes_way(C, (A, B), (), None, 0) == ()
    assert kept.makes_way(C, (A, B), (), 14 * GB, 0) == ()
    assert kept.makes_way(C, (A, B), (), 12 * GB, 0) == (B,)
    assert kept.makes_way(C, (A, B), (), 11 * GB, 0) == (B, A)
    assert kept.makes_way(C, (A, B), (), GB, 0) == (B, A)  # it will be tried all the same
    assert kept.makes_way(A, (A, B), (), 2 * GB, 0) == (B,)  # the limit has become less
    assert kept.makes_way(B, (A, C), (), 12 * GB, 0) == (C,)


def test_what_a_waiting_task_needs_goes_last_and_of_those_what_is_needed_last():
    kept = residency()
    kept.on_taken(B, 0)
    assert kept.makes_way(C, (A, B), (A,), 12 * GB, 0) == (B,)
    assert kept.makes_way(C, (A, B), (A, B), 12 * GB, 0) == (B,)
    assert kept.makes_way(C, (A, B), (B, A), 12 * GB, 0) == (A,)


def test_what_is_still_loaded_after_the_tasks_that_wait():
    kept = residency()
    kept.on_taken(B, 0)
    assert kept.after((A, B), (), 12 * GB, 0) == {A, B}
    assert kept.after((A, B), (C,), 12 * GB, 0) == {B}
    assert kept.after((A, B), (C, A), 12 * GB, 0) == {A}
    assert kept.after((A, B), (C, A, C, B), 12 * GB, 0) == set()  # for C goes B, and A for B


def test_measured_weights_replace_the_size_of_the_files():
    kept = residency()
    assert kept.needed([A, A, B]) == 4 * GB
    kept.on_loaded(A, GB, 0)
    assert kept.needed([A, B]) == 3 * GB


@given(
    sizes=st.lists(st.integers(1, 10), min_size=1, max_size=6),
    resident=st.sets(st.integers(0, 5)),
    upcoming=st.lists(st.integers(0, 5), max_size=5),
    asked=st.lists(st.integers(0, 5), max_size=8),
    room=st.integers(0, 40),
    wanted=st.integers(0, 5),
)
def test_the_room_is_kept_wherever_that_is_possible(sizes, resident, upcoming, asked, room, wanted):
    models = {bytes([number]): size for number, size in enumerate(sizes)}
    name = [bytes([number % len(sizes)]) for number in range(6)]
    kept = Residency(models, (), lambda model: S)
    for number in asked:
        kept.on_taken(name[number], 0)
    held = {name[number] for number in resident}
    # What is loaded fits, or one model was loaded all the same.
    going = kept.makes_way(name[wanted], held, [name[number] for number in upcoming], room, 0)
    left = held - set(going)
    assert name[wanted] not in going
    assert len(set(going)) == len(going)
    assert kept.needed({*left, name[wanted]}) <= room or left <= {name[wanted]}
    for each in going:  # nothing goes for nothing
        assert kept.needed({*left, each, name[wanted]}) > room
    ahead = kept.ahead(held, room, 0)
    if ahead is not None:
        assert ahead.model not in held
        assert set(ahead.evict) <= held
        assert kept.needed((held - set(ahead.evict)) | {ahead.model}) <= room


class Renderer(RuleBasedStateMachine):
    """Whatever is asked for, looked up or told: loads ahead are few, fit, and pay."""

    def __init__(self):
        super().__init__()
        self.kept, self.now = residency(A, C), 0
        self.resident, self.room, self.since = set(), 12 * GB, {}

    @rule(model=st.sampled_from([A, B, C]), times=st.integers(1, 30))
    def asked(self, model, times):
        for _ in range(times):
            self.kept.on_taken(model, self.now)

    @rule(peer=st.sampled_from("xy"), offered=st.sets(st.sampled_from([A, B, C])))
    def advert(self, peer, offered):
        self.kept.on_advert(peer, offered, offered, self.now)

    @rule(model=st.sampled_from([A, B, C]))
    def task(self, model):
        self.resident -= set(self.kept.makes_way(model, self.resident, (), self.room, self.now))
        if model not in self.resident:
            self.load(model)
        assert self.kept.needed(self.resident) <= self.room

    @rule(us=st.integers(0, 100 * S))
    def rest(self, us):
        self.now += us
        ahead = self.kept.ahead(self.resident, self.room, self.now)
        if ahead is None:
            return
        lost = sum(self.kept.worth(each, self.now) for each in ahead.evict)
        assert self.kept.worth(ahead.model, self.now) > lost
        assert all(self.now - self.since[each] >= STAY_US for each in ahead.evict)
        self.resident -= set(ahead.evict)
        self.load(ahead.model)
        assert self.kept.needed(self.resident) <= self.room
        again = self.kept.ahead(self.resident, self.room, self.now)
        assert again is None or ahead.model not in again.evict

    def load(self, model):
        self.now += RELOAD_US[model]
        self.resident.add(model)
        self.since[model] = self.now
        self.kept.on_loaded(model, None, self.now)


Renderer.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestRenderer = Renderer.TestCase
