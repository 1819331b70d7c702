import pytest
from hypothesis import settings
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


def test_a_newcomer_does_not_break_a_promise():
    queue = filled("a1")
    assert queue.offer(b"a2", "a", S, S, 0) == Accepted(S)
    assert queue.offer(b"b1", "b", S, None, 0).code == "busy"
    assert drained(queue) == ["a1", "a2"]


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
        match self.queue.offer(attempt, requester, cost, max_wait, self.now):
            case Accepted(wait_us):
                self.at[attempt], self.owner[attempt] = State.QUEUED, requester
                assert max_wait is None or wait_us <= max_wait
                assert wait_us == told
                assert self.queue.wait_of_us(attempt, self.now) == wait_us
            case other:
                assert isinstance(other, Refused)
                assert attempt not in self.at

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
