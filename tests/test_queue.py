import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.errors import LocalProtocolError
from protocol.policy.queue import Accepted, Queue, QueueLimits, Refused, Repeat, State
from protocol.wire.offer import MAX_AHEAD_US

S = 1_000_000


def filled(*tasks, limits=None):
    """A queue with tasks "a1", "a2", "b1", ...: the letter is the requester; each costs a second."""
    queue = Queue(limits)
    for task in tasks:
        assert isinstance(queue.offer(task.encode(), task[0], S, None, 0), Accepted)
    return queue


def drained(queue, now_us=0):
    order = []
    while (attempt := queue.next(now_us)) is not None:
        order.append(attempt.decode())
        queue.on_finished(attempt, now_us)
    return order


def test_an_idle_queue_starts_at_once():
    assert Queue().offer(b"a1", "a", S, 0, 0) == Accepted(wait_us=0)


def test_requesters_take_turns_and_each_is_served_in_order_of_arrival():
    assert drained(filled("a1", "a2", "a3", "b1", "c1", "b2")) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_waited_is_not_overtaken_by_whoever_comes_next():
    queue = filled("a1", "a2", "a3")
    assert queue.next(0) == b"a1"
    assert isinstance(queue.offer(b"b1", "b", S, None, 3 * S // 2), Accepted)
    queue.on_finished(b"a1", 3 * S // 2)
    assert drained(queue, 3 * S // 2) == ["a2", "b1", "a3"]


def test_one_runs_at_a_time():
    queue = filled("a1", "a2")
    assert queue.next(0) == b"a1"
    assert queue.running == b"a1"
    assert queue.next(0) is None
    queue.on_finished(b"a1", S)
    assert queue.next(S) == b"a2"


def test_the_wait_is_what_is_left_of_the_running_task_and_all_that_comes_before():
    queue = filled("a1", "a2", "b1")
    queue.next(0)
    assert queue.wait_us("c", S // 4) == 3 * S // 4 + S  # "a2" has its turn when "a1" is through
    assert queue.wait_us("c", S) == 2 * S
    assert queue.wait_us("b", S // 4) == queue.wait_us("a", S // 4) == 3 * S // 4 + 2 * S
    assert queue.wait_of_us(b"b1", S // 4) == 3 * S // 4  # "a" had its turn
    assert queue.wait_of_us(b"a2", S // 4) == 3 * S // 4 + S
    assert queue.wait_of_us(b"a1", S // 4) is None


def test_a_late_task_is_expected_to_take_as_long_again_as_it_is_late_unless_it_says_better():
    queue = filled("a1")
    queue.next(0)
    assert queue.wait_us("b", 3 * S) == 2 * S
    queue.on_progress(b"a1", S // 2, 3 * S)
    assert queue.wait_us("b", 3 * S) == S // 2


def test_an_offer_that_would_start_too_late_is_refused():
    queue = filled("a1", "a2")
    refused = queue.offer(b"b1", "b", S, S - 1, 0)
    assert isinstance(refused, Refused)
    assert refused.code == "busy"
    assert refused.sentence == "It would start in 1.00 s, and was to start within 1000 ms."
    assert queue.offer(b"b1", "b", S, S, 0) == Accepted(S)


def test_a_newcomer_has_its_turn_behind_those_whom_it_would_break_a_promise():
    queue = filled("a1", "a2")
    assert queue.offer(b"a3", "a", S, 2 * S, 0) == Accepted(2 * S)
    assert queue.offer(b"b1", "b", S, 3 * S - 1, 0).sentence == (
        "It would start in 3.00 s, and was to start within 3.00 s."
    )
    assert queue.offer(b"b1", "b", S, None, 0) == Accepted(3 * S)
    assert queue.offer(b"c1", "c", S, None, 0) == Accepted(4 * S)  # nor does it overtake who did
    assert drained(queue) == ["a1", "a2", "a3", "b1", "c1"]


def test_a_newcomer_overtakes_those_who_have_time():
    queue = filled("a1", "a2")
    assert queue.offer(b"a3", "a", S, 3 * S, 0) == Accepted(2 * S)
    assert queue.offer(b"b1", "b", S, None, 0) == Accepted(S)
    assert drained(queue) == ["a1", "b1", "a2", "a3"]


def test_a_promise_that_is_broken_already_blocks_nobody():
    queue = filled("a1")
    queue.next(0)
    assert queue.offer(b"a2", "a", S, S, 0) == Accepted(S)
    assert isinstance(queue.offer(b"b1", "b", S, None, 3 * S), Accepted)


def test_a_repeated_offer_is_recognised_wherever_its_attempt_is():
    queue = filled("a1", "a2", "a3")
    queue.next(0)
    assert queue.cancel(b"a3", 0) == "queued"
    assert queue.offer(b"a1", "a", S, 0, 0) == Repeat(State.RUNNING)
    assert queue.offer(b"a2", "a", S, 0, 0) == Repeat(State.QUEUED)
    assert queue.offer(b"a3", "a", S, 0, 0) == Repeat(State.CANCELLED)
    queue.on_finished(b"a1", S)
    assert queue.offer(b"a1", "a", S, 0, S) == Repeat(State.FINISHED)
    assert queue.offer(b"a1", "b", S, 0, S).code == "duplicate"


def test_a_refused_attempt_may_be_offered_again():
    queue = filled("a1", "a2")
    assert isinstance(queue.offer(b"b1", "b", S, 0, 0), Refused)
    assert isinstance(queue.offer(b"b1", "b", S, None, 0), Accepted)


def test_cancelling_says_where_it_was():
    queue = filled("a1", "a2")
    queue.next(0)
    assert queue.cancel(b"a2", 0) == "queued"
    assert queue.cancel(b"a2", 0) == "unknown"
    assert queue.cancel(b"a1", 0) == "running"
    queue.on_finished(b"a1", 1)
    assert queue.cancel(b"a1", 1) == "unknown"
    assert queue.next(1) is None


def test_the_queue_and_each_requesters_part_of_it_are_bounded():
    queue = filled("a1", "a2", limits=QueueLimits(waiting=3, waiting_per_requester=2))
    assert "2 of your tasks" in queue.offer(b"a3", "a", S, None, 0).sentence
    assert isinstance(queue.offer(b"b1", "b", S, None, 0), Accepted)
    assert "3 tasks wait" in queue.offer(b"c1", "c", S, None, 0).sentence


def test_a_queue_without_room_to_wait_still_takes_what_starts_at_once():
    queue = filled("a1", limits=QueueLimits(waiting=0))
    assert isinstance(queue.offer(b"b1", "b", S, None, 0), Refused)
    queue.next(0)
    assert isinstance(queue.offer(b"b1", "b", S, None, 0), Refused)
    queue.on_finished(b"a1", 1)
    assert isinstance(queue.offer(b"b1", "b", S, None, 1), Accepted)


def test_a_full_memory_refuses_rather_than_forgets():
    queue = filled("a1", "b1", limits=QueueLimits(remembered=2))
    drained(queue)
    assert "tell apart" in queue.offer(b"c1", "c", S, None, 1).sentence
    assert queue.offer(b"a1", "a", S, None, 1) == Repeat(State.FINISHED)
    queue.released(MAX_AHEAD_US)
    assert isinstance(queue.offer(b"c1", "c", S, None, MAX_AHEAD_US), Accepted)


def test_one_requester_cannot_fill_the_memory():
    queue = filled("a1", "a2", limits=QueueLimits(remembered_per_requester=2))
    drained(queue)
    assert "You have offered" in queue.offer(b"a3", "a", S, None, 1).sentence
    assert isinstance(queue.offer(b"b1", "b", S, None, 1), Accepted)


def test_an_attempt_is_remembered_while_its_offer_can_be_replayed_and_its_result_is_kept():
    queue = filled("a1", "b1")
    queue.next(0)
    queue.on_finished(b"a1", S, retain_until_us=10 * S)
    queue.next(S)
    queue.on_finished(b"b1", 2 * S, retain_until_us=2 * MAX_AHEAD_US)
    assert queue.released(10 * S - 1) == ()
    assert queue.released(10 * S) == (b"a1",)
    assert queue.released(MAX_AHEAD_US - 1) == ()
    assert queue.state(b"a1") is State.FINISHED
    assert queue.released(MAX_AHEAD_US) == ()
    assert queue.state(b"a1") is None
    assert queue.released(2 * MAX_AHEAD_US) == (b"b1",)
    assert queue.statistics()["remembered"] == 0


def test_finishing_what_does_not_run_is_our_bug():
    with pytest.raises(LocalProtocolError):
        filled("a1").on_finished(b"a1", 0)
    with pytest.raises(LocalProtocolError):
        Queue().offer(b"a1", "a", -1, None, 0)


class QueueMachine(RuleBasedStateMachine):
    """Any order of events, beside a model that is a dict of where each attempt must be."""

    def __init__(self):
        super().__init__()
        self.limits = QueueLimits(4, 2, remembered=12, remembered_per_requester=6, retain_us=20)
        self.queue, self.now, self.count = Queue(self.limits), 0, 0
        self.at, self.owner, self.latest = {}, {}, {}

    @rule(
        requester=st.sampled_from("abc"),
        cost=st.integers(0, 30),
        max_wait=st.none() | st.integers(0, 60),
    )
    def offer(self, requester, cost, max_wait):
        attempt, self.count = self.count.to_bytes(16, "big"), self.count + 1
        told = self.queue.wait_us(requester, self.now)
        kept = self.in_time()
        match self.queue.offer(attempt, requester, cost, max_wait, self.now):
            case Accepted(wait_us):
                self.at[attempt], self.owner[attempt] = State.QUEUED, requester
                assert max_wait is None or wait_us <= max_wait
                assert wait_us == told or (wait_us > told and kept)
                assert kept <= self.in_time()
                if max_wait is not None:
                    self.latest[attempt] = self.now + max_wait
                assert self.queue.wait_of_us(attempt, self.now) == wait_us
            case other:
                assert isinstance(other, Refused)
                assert attempt not in self.at

    def in_time(self):
        """Of those to whom a start was promised, who waits and is expected to start by then."""
        waits = {attempt: self.queue.wait_of_us(attempt, self.now) for attempt in self.latest}
        return {a for a, us in waits.items() if us is not None and self.now + us <= self.latest[a]}

    @precondition(lambda self: self.at)
    @rule(data=st.data())
    def repeat(self, data):
        attempt = data.draw(st.sampled_from(sorted(self.at)))
        assert self.queue.offer(attempt, self.owner[attempt], 1, 0, self.now) == Repeat(self.at[attempt])

    @rule()
    def next(self):
        attempt = self.queue.next(self.now)
        if State.RUNNING in self.at.values() or State.QUEUED not in self.at.values():
            assert attempt is None
        else:
            assert self.at[attempt] is State.QUEUED
            mine = [
                a for a, s in self.at.items() if s is State.QUEUED and self.owner[a] == self.owner[attempt]
            ]
            assert attempt == min(mine)
            self.at[attempt] = State.RUNNING

    @precondition(lambda self: self.queue.running)
    @rule(keep=st.none() | st.integers(0, 2 * MAX_AHEAD_US))
    def finish(self, keep):
        attempt = self.queue.running
        self.queue.on_finished(attempt, self.now, None if keep is None else self.now + keep)
        self.at[attempt] = State.FINISHED

    @precondition(lambda self: self.at)
    @rule(data=st.data())
    def cancel(self, data):
        attempt = data.draw(st.sampled_from(sorted(self.at)))
        expected = {State.QUEUED: "queued", State.RUNNING: "running"}.get(self.at[attempt], "unknown")
        assert self.queue.cancel(attempt, self.now) == expected
        if expected == "queued":
            self.at[attempt] = State.CANCELLED

    @rule(us=st.sampled_from([1, 10, MAX_AHEAD_US // 2, MAX_AHEAD_US]))
    def wait(self, us):
        self.now += us
        self.queue.released(self.now)
        for attempt in [attempt for attempt in self.at if self.queue.state(attempt) is None]:
            assert self.at.pop(attempt) in (State.FINISHED, State.CANCELLED)

    @invariant()
    def agrees(self):
        states = list(self.at.values())
        assert {attempt: self.queue.state(attempt) for attempt in self.at} == self.at
        assert self.queue.queued == states.count(State.QUEUED) <= self.limits.waiting
        assert (self.queue.running is not None) == (State.RUNNING in states)
        assert self.queue.statistics()["remembered"] == len(self.at) <= self.limits.remembered
        assert all(self.queue.wait_us(requester, self.now) >= 0 for requester in "abc")


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueMachine = QueueMachine.TestCase


# deadlines


def lax(queue, attempt, due_us, now_us=0, cost_us=S):
    verdict = queue.offer(attempt.encode(), attempt[0], cost_us, None, now_us, due_us=due_us)
    assert isinstance(verdict, Accepted)
    return verdict.wait_us


def test_a_task_with_a_deadline_that_leaves_time_is_told_to_wait_half_of_it():
    queue = filled("a1")
    queue.next(0)
    assert lax(queue, "b1", 10 * S) == S + 4 * S
    assert queue.wait_of_us(b"b1", S // 2) == 5 * S - S // 2
    assert queue.wait_us("c", 0) == 2 * S  # nobody waits for it longer than without
    assert queue.offer(b"c1", "c", S, 3 * S, 0, due_us=20 * S) == Accepted(3 * S)


def test_what_starts_at_once_is_told_so_whatever_its_deadline():
    assert lax(Queue(), "a1", 10 * S) == 0


def test_who_would_be_late_in_turn_goes_before_those_who_have_time():
    queue = filled("a1")
    queue.next(0)
    assert lax(queue, "b1", 4 * S) == 2 * S
    assert lax(queue, "c1", 2 * S, cost_us=S // 2) == S + S // 4  # "b1" starts at 1.5 s
    queue.on_finished(b"a1", S)
    assert drained(queue, S) == ["c1", "b1"]


def test_nobody_is_overtaken_who_would_start_later_than_he_was_told():
    queue = filled("a1", "b1")
    queue.next(0)
    refused = queue.offer(b"c1", "c", S, None, 0, due_us=2 * S)
    assert refused == Refused("busy", "It would be ready in 3.00 s, and is of no use after 2.00 s.")
    queue.on_finished(b"a1", 0)  # a second sooner than was expected
    queue.next(0)
    assert isinstance(queue.offer(b"d1", "d", S, None, 0), Accepted)  # told to start when "b1" is through
    queue.on_progress(b"b1", 0, S // 4)  # that is, soon
    assert queue.offer(b"c1", "c", S, None, S // 4, due_us=S // 4 + S).code == "busy"
    assert lax(queue, "c1", S, now_us=S // 4, cost_us=S // 2) == 0
    assert queue.wait_of_us(b"d1", S // 4) == S // 2


def test_who_overtook_has_no_turn_until_its_task_would_have_ended():
    queue = filled("a1")
    queue.next(0)
    lax(queue, "b1", 60 * S)
    lax(queue, "c1", 2 * S)  # in its turn it would have ended at 3 s
    queue.on_finished(b"a1", S)
    assert queue.next(S) == b"c1"
    queue.on_finished(b"c1", 2 * S)
    lax(queue, "d1", 60 * S, now_us=2 * S)
    assert queue.offer(b"c2", "c", S // 2, None, 2 * S, due_us=4 * S).code == "busy"
    assert lax(queue, "e1", 4 * S, now_us=2 * S, cost_us=S // 2) < 2 * S
    assert queue.offer(b"c2", "c", S // 4, None, 3 * S, due_us=5 * S).code == "busy"
    assert lax(queue, "c2", 5 * S, now_us=3 * S + 1, cost_us=S // 4) < 2 * S


def test_a_deadline_helps_nobody_before_its_own_tasks():
    queue = filled("a1")
    queue.next(0)
    lax(queue, "b1", 60 * S)
    assert queue.offer(b"a2", "a", S, None, 0, due_us=2 * S).code == "busy"


def test_what_cannot_be_in_time_even_with_luck_is_given_up():
    queue = filled("a1")
    queue.next(0)
    lax(queue, "b1", 3 * S)
    assert queue.late(2 * S + S // 10) == ()
    assert queue.late(2 * S + S // 10 + 1) == (b"b1",)
    assert queue.state(b"b1") is State.CANCELLED
    assert queue.late(9 * S) == ()


def test_a_running_task_is_given_up_when_its_steps_show_that_it_takes_too_long():
    queue = Queue()
    lax(queue, "a1", 2 * S)
    queue.next(0)
    assert queue.late(S) == ()
    queue.on_progress(b"a1", 5 * S, S // 2)
    assert queue.late(S // 2) == (b"a1",)
    assert queue.late(S) == ()
    assert queue.running == b"a1"
    queue.on_finished(b"a1", S)


def test_a_task_may_be_put_behind_all_that_wait():
    queue = filled("a1", "a2", "a3")
    queue.next(0)
    assert queue.offer(b"b1", "b", S, None, 0, last=True) == Accepted(3 * S)
    assert isinstance(queue.offer(b"c1", "c", S, None, 0), Accepted)
    queue.on_finished(b"a1", S)
    assert drained(queue, S) == ["c1", "a2", "a3", "b1"]


def test_the_renderers_own_work_is_waited_for_like_a_task():
    queue = Queue(QueueLimits(waiting=0))
    queue.on_own_work(S, 0)
    assert queue.wait_us("a", S // 4) == 3 * S // 4
    assert queue.wait_us("a", 2 * S) == S
    assert queue.offer(b"a1", "a", S, None, 0).code == "busy"
    queue.on_own_work(None, 2 * S)
    assert queue.offer(b"a1", "a", S, None, 2 * S) == Accepted(0)


class DeadlineMachine(RuleBasedStateMachine):
    """Tasks that take as long as was expected: whoever had no other task here starts when told, whatever others say."""

    def __init__(self):
        super().__init__()
        self.queue, self.now, self.count = Queue(), 0, 0
        self.told, self.due, self.cost, self.offered_us = {}, {}, {}, {}
        self.ends_us = None

    def tasks_of(self, requester):
        return [attempt for attempt in self.told if attempt.startswith(requester.encode())]

    @rule(
        requester=st.sampled_from("abcdef"),
        cost=st.integers(1, 30),
        max_wait=st.none() | st.integers(0, 60),
        slack=st.none() | st.integers(-10, 90),
    )
    def offer(self, requester, cost, max_wait, slack):
        attempt, self.count = f"{requester}{self.count}".encode(), self.count + 1
        due_us = None if slack is None else self.now + cost + slack
        alone = not self.tasks_of(requester)
        turn_us = self.queue._turn_us(requester, self.now)
        verdict = self.queue.offer(attempt, requester, cost, max_wait, self.now, due_us=due_us)
        if isinstance(verdict, Accepted):
            assert max_wait is None or verdict.wait_us <= max_wait
            assert due_us is None or self.now + verdict.wait_us + cost <= due_us
            assert self.queue.wait_of_us(attempt, self.now) == verdict.wait_us
            kept = alone and turn_us <= self.now
            self.told[attempt] = self.now + verdict.wait_us if kept else None
            self.due[attempt], self.cost[attempt], self.offered_us[attempt] = due_us, cost, self.now
            self.take()

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def cancel(self, data):
        attempt = data.draw(st.sampled_from(sorted(self.told)))
        if self.queue.cancel(attempt, self.now) == "queued":
            del self.told[attempt]

    @rule(us=st.integers(1, 40))
    def wait(self, us):
        until = self.now + us
        while self.ends_us is not None and self.ends_us <= until:
            self.now = self.ends_us
            attempt = self.queue.running
            assert self.told[attempt] is None or self.due[attempt] is None or self.now <= self.due[attempt]
            self.queue.on_finished(attempt, self.now)
            del self.told[attempt]
            self.ends_us = None
            self.take()
        self.now = until

    def take(self):
        for attempt in self.queue.late(self.now):
            assert self.told.pop(attempt) is None  # of whoever has no other task here, none is given up
        attempt = self.queue.next(self.now)
        if attempt is not None:
            told = self.told[attempt]
            assert told is None or self.now <= told
            self.ends_us = self.now + self.cost[attempt]


DeadlineMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestDeadlineMachine = DeadlineMachine.TestCase


def served(costs, slack_of, *, until=600):
    """Work done for each requester, who always has one task here, and at first states a deadline that leaves `slack_of` it.

    Who is refused for its deadline offers the same again without.
    """
    queue, now, done, count = Queue(), 0, dict.fromkeys(costs, 0), 0

    def offer(requester):
        nonlocal count
        slack = slack_of[requester]
        for due_us in ([] if slack is None else [now + costs[requester] + slack]) + [None]:
            attempt, count = f"{requester}{count}".encode(), count + 1
            verdict = queue.offer(attempt, requester, costs[requester], None, now, due_us=due_us)
            if isinstance(verdict, Accepted):
                return

    for requester in costs:
        offer(requester)
    while now < until:
        assert queue.late(now) == ()
        attempt = queue.next(now)
        requester = attempt.decode()[0]
        now += costs[requester]
        queue.on_finished(attempt, now)
        queue.released(now)
        done[requester] += costs[requester]
        offer(requester)
    return done


@settings(max_examples=100, deadline=None)
@example(costs=[1, 2], slacks=[None, 0, None, None, None, None], lie=6)
@given(
    costs=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    slacks=st.lists(st.none() | st.integers(0, 400), min_size=6, max_size=6),
    lie=st.integers(0, 100),
)
def test_no_lie_about_a_deadline_gets_anyone_more_of_the_renderer_or_another_less(costs, slacks, lie):
    costs = dict(zip("abcdef", costs, strict=False))
    said = dict(zip("abcdef", slacks, strict=True))
    honest = served(costs, dict.fromkeys(costs))
    lying = served(costs, said | {"a": lie})
    assert lying["a"] <= honest["a"] + 2 * costs["a"]
    for requester, cost in list(costs.items())[1:]:
        if said[requester] is None:  # others overtake too
            assert lying[requester] >= honest[requester] - 2 * cost
