"""A provider's queue before one renderer: who is taken, who runs next, and which attempts were seen before.

Tasks run in the order of their turns.  A task has its turn when it comes, but not before the requester's own tasks that
are here already would have ended one after the other: nobody is kept waiting by the many tasks of another, and nobody
who waited is overtaken by whoever comes next, so that a wait once told stays true.  (Strict turns between requesters,
whoever came first, cost a tenth of the 95th percentile in `testnet simulate` at load .85.)  What was promised to those
already accepted is kept: a task that would make one of them start too late in its turn has its turn behind that one.

A deadline, which the provider cannot check, is worth this much.  A task that would be late in its turn goes before
others where all of them still start when they were told.  There is room for that where tasks took less than was
expected, and before tasks that have a deadline themselves: these are told to wait half of what theirs leaves them.  Who
overtook counts as still being here until it would have ended in its turn, and who is still here has no turn yet and
overtakes nobody: whatever deadlines a requester states, it gets no more of the renderer than without them, and nobody
else more of its part.  What cannot be in time is refused, or given up once it is certain.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from ..errors import LocalProtocolError
from ..wire.offer import MAX_AHEAD_US
from .timeline import duration

# Of the time that a deadline leaves, half is for the order here, half for asking someone else.
SLACK_SHARE = 2
LUCK_PERCENT = 10  # a task may take so much less than expected: before that it is not given up


@dataclass(frozen=True)
class QueueLimits:
    waiting: int = 16  # tasks; more would wait for minutes
    waiting_per_requester: int = 8
    remembered: int = 8192  # attempts: 13 a second for as long as an offer can be replayed
    remembered_per_requester: int = 2048  # one requester alone cannot fill the memory
    retain_us: int = 600_000_000  # how long a result is kept, unless the shell says otherwise


@dataclass(frozen=True)
class Accepted:
    wait_us: int  # until it is expected to start; where a deadline leaves time, until it does at the latest


@dataclass(frozen=True)
class Refused:
    code: str  # "busy": another time perhaps; "duplicate": the attempt's name is another requester's
    sentence: str


@dataclass(frozen=True)
class Repeat:
    """The same offer came before: answer as then.  `state` is where that attempt is now."""

    state: "State"


class State(Enum):
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


@dataclass
class _Task:
    attempt: bytes
    requester: str
    cost_us: int
    latest_start_us: int | None
    remember_until_us: int
    turn_us: int
    due_us: int | None = None  # of no use when it ends later
    told_us: int = 0  # when it was told to start
    state: State = State.QUEUED
    retain_until_us: int | None = None
    ends_us: int = 0  # while it runs: when it is expected to end


class Queue:
    """The tasks of one renderer.  Costs are predicted by the caller; `now_us` never runs backwards."""

    def __init__(self, limits: QueueLimits | None = None) -> None:
        self.limits = limits or QueueLimits()
        self._waiting: list[_Task] = []  # in the order of their turns
        self._seen: dict[bytes, _Task] = {}
        self._seen_by: Counter[str] = Counter()
        self._running: _Task | None = None
        self._own_work_ends_us: int | None = None
        self._owing: dict[str, int] = {}  # who overtook: until when it has no turn
        self._counts: Counter[str] = Counter()

    @property
    def running(self) -> bytes | None:
        return self._running.attempt if self._running else None

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def waiting(self) -> tuple[bytes, ...]:
        """Attempts, in the order in which they will run."""
        return tuple(task.attempt for task in self._waiting)

    def offer(
        self,
        attempt: bytes,
        requester: str,
        cost_us: int,
        max_wait_us: int | None,
        now_us: int,
        *,
        due_us: int | None = None,
        last: bool = False,
    ) -> Accepted | Refused | Repeat:
        """`cost_us`: how long it will occupy the renderer, loading included.  `max_wait_us` None: any wait will do.

        `due_us`, on the clock of `now_us`: it is of no use when it ends later.  `last`: not before any that waits.

        An attempt that was refused is not remembered; one that was accepted is, for at least as long as its offer
        can be replayed, and as long as its result is retained.
        """
        if cost_us < 0:
            raise LocalProtocolError(f"a task that costs {cost_us} us")
        known = self._seen.get(attempt)
        if known is not None:
            if known.requester != requester:
                return self._refuse("duplicate", "This attempt's name belongs to another requester's task.")
            self._counts["repeated"] += 1
            return Repeat(known.state)
        refusal = self._full(requester, now_us)
        if refusal is not None:
            return self._refuse("busy", refusal)
        latest_us = None if max_wait_us is None else now_us + max_wait_us
        turn_us = self._turn_us(requester, now_us)
        task = _Task(attempt, requester, cost_us, latest_us, now_us + MAX_AHEAD_US, turn_us, due_us)
        in_turn = len(self._waiting) if last else self._in_turn(task, now_us)
        in_turn_us = self._start_us(in_turn, now_us)
        place = in_turn
        if due_us is not None and in_turn_us + cost_us > due_us:
            earlier = None if last or turn_us > now_us else self._earlier(in_turn, cost_us, due_us, now_us)
            if earlier is None:
                return self._refuse("busy", _in_vain(in_turn_us + cost_us - now_us, due_us - now_us))
            place = earlier
        start_us = self._start_us(place, now_us)
        if latest_us is not None and start_us > latest_us:
            wait, within = duration(start_us - now_us), duration(latest_us - now_us)
            return self._refuse("busy", f"It would start in {wait}, and was to start within {within}.")
        if place < in_turn:
            self._owing[requester] = in_turn_us + cost_us + 1  # just after whoever comes again at that moment
            task.turn_us = self._waiting[place].turn_us
            self._counts["overtaking"] += 1
        elif place > self._place(turn_us):
            task.turn_us = self._waiting[place - 1].turn_us
            if latest_us is None and not last:
                task.latest_start_us = start_us  # nor does it make way for those who come next
        task.told_us = self._told_us(task, start_us, now_us)
        self._waiting.insert(place, task)
        self._seen[attempt] = task
        self._seen_by[requester] += 1
        self._counts["accepted"] += 1
        return Accepted(task.told_us - now_us)

    def next(self, now_us: int) -> bytes | None:
        """Takes the task whose turn it is and counts it as running; None while one runs or none waits.

        Ask `late` first: it takes those away that would be drawn in vain.
        """
        if self._running is not None or not self._waiting:
            return None
        task = self._waiting.pop(0)
        task.state, task.ends_us = State.RUNNING, now_us + task.cost_us
        self._running = task
        return task.attempt

    def late(self, now_us: int) -> tuple[bytes, ...]:
        """Accepted attempts that can no longer end by their deadline, each told once.

        Those that waited are gone from the queue; one that runs is to be stopped, and `on_finished` called.
        """
        tasks = [task for task in self._waiting if self._is_late(task, task.cost_us, now_us)]
        for task in tasks:
            self._drop(task)
        running = self._running
        if running is not None and self._is_late(running, running.ends_us - now_us, now_us):
            running.due_us = None
            tasks.append(running)
        self._counts["late"] += len(tasks)
        return tuple(task.attempt for task in tasks)

    def on_own_work(self, left_us: int | None, now_us: int) -> None:
        """For so long the renderer is expected to be busy with what is nobody's task; None: that is over."""
        self._own_work_ends_us = None if left_us is None else now_us + left_us

    def own_work_us(self, now_us: int) -> int:
        """What is left of that; 0 where there is none."""
        return 0 if self._own_work_ends_us is None else self._left_us(now_us)

    def on_progress(self, attempt: bytes, left_us: int, now_us: int) -> None:
        """The running task is expected to take `left_us` more."""
        self._running_task(attempt).ends_us = now_us + left_us

    def on_finished(self, attempt: bytes, now_us: int, retain_until_us: int | None = None) -> None:
        """The running task ended, well or not.  Its result is kept until then; None: for `limits.retain_us`."""
        task = self._running_task(attempt)
        self._running = None
        task.state = State.FINISHED
        task.retain_until_us = now_us + self.limits.retain_us if retain_until_us is None else retain_until_us
        task.remember_until_us = max(task.remember_until_us, task.retain_until_us)
        self._counts["finished"] += 1

    def cancel(self, attempt: bytes, now_us: int) -> str:
        """Where it was: "queued" (it is gone now), "running" (stop it, then call `on_finished`) or "unknown"."""
        task = self._seen.get(attempt)
        if task is None or task.state not in (State.QUEUED, State.RUNNING):
            return "unknown"
        if task.state is State.RUNNING:
            return "running"
        self._drop(task)
        self._counts["cancelled"] += 1
        return "queued"

    def state(self, attempt: bytes) -> State | None:
        task = self._seen.get(attempt)
        return task.state if task else None

    def wait_us(self, requester: str, now_us: int) -> int:
        """Until a task that `requester` offered now would start."""
        place = self._place(self._turn_us(requester, now_us))
        return self._left_us(now_us) + sum(task.cost_us for task in self._waiting[:place])

    def wait_of_us(self, attempt: bytes, now_us: int) -> int | None:
        """Until this queued task starts, as it was told in `Accepted`; None if it is not queued."""
        for task, start in self._starts(now_us, self._waiting):
            if task.attempt == attempt:
                return (start if task.due_us is None else max(start, task.told_us)) - now_us
        return None

    def released(self, now_us: int) -> tuple[bytes, ...]:
        """Attempts whose results need be kept no longer, each told once.  Forgets attempts that cannot come back."""
        freed = []
        for attempt, task in list(self._seen.items()):
            if (
                task.state is State.FINISHED
                and task.retain_until_us is not None
                and task.retain_until_us <= now_us
            ):
                freed.append(attempt)
                task.retain_until_us = None
            if task.state in (State.FINISHED, State.CANCELLED) and task.remember_until_us <= now_us:
                # `freed` above came first: remember_until_us >= retain_until_us.
                self._forget(task)
        return tuple(freed)

    def statistics(self) -> dict[str, int]:
        names = ("accepted", "refused", "repeated", "finished", "cancelled", "overtaking", "late")
        return {
            "running": int(self._running is not None),
            "queued": self.queued,
            "remembered": len(self._seen),
            **{name: self._counts[name] for name in names},
        }

    def _refuse(self, code: str, sentence: str) -> Refused:
        self._counts["refused"] += 1
        return Refused(code, sentence)

    def _full(self, requester: str, now_us: int) -> str | None:
        limits = self.limits
        # It need not wait at all.
        starts_at_once = not self._waiting and self._running is None and self._own_work_ends_us is None
        if self.queued >= limits.waiting and not starts_at_once:
            return f"{self.queued} tasks wait here already, the most it takes."
        of_requester = sum(task.requester == requester for task in self._waiting)
        if of_requester >= limits.waiting_per_requester and not starts_at_once:
            return f"{limits.waiting_per_requester} of your tasks wait here already, the most it takes of one requester."
        if (
            len(self._seen) >= limits.remembered
            or self._seen_by[requester] >= limits.remembered_per_requester
        ):
            self._forget_expired(now_us)
        if self._seen_by[requester] >= limits.remembered_per_requester:
            return "You have offered it more tasks than it can tell apart: wait some minutes."
        if len(self._seen) >= limits.remembered:
            return "It has been offered more tasks than it can tell apart: wait some minutes."
        return None

    def _forget_expired(self, now_us: int) -> None:
        # A retained result keeps its attempt until `released` has told the shell.
        for task in list(self._seen.values()):
            ended = task.state is State.CANCELLED or (
                task.state is State.FINISHED and task.retain_until_us is None
            )
            if ended and task.remember_until_us <= now_us:
                self._forget(task)

    def _forget(self, task: _Task) -> None:
        del self._seen[task.attempt]
        self._seen_by[task.requester] -= 1
        if not self._seen_by[task.requester]:
            del self._seen_by[task.requester]

    def _running_task(self, attempt: bytes) -> _Task:
        if self._running is None or self._running.attempt != attempt:
            raise LocalProtocolError("this attempt is not running")
        return self._running

    def _left_us(self, now_us: int) -> int:
        """What the running task still takes.  One that is late is expected to take as long again as it is late."""
        ends_us = self._running.ends_us if self._running else self._own_work_ends_us
        return 0 if ends_us is None else abs(ends_us - now_us)

    def _turn_us(self, requester: str, now_us: int) -> int:
        """When the next task of `requester` has its turn."""
        here = self._waiting if self._running is None else [self._running, *self._waiting]
        mine = (task.turn_us + task.cost_us for task in here if task.requester == requester)
        return max(now_us, self._owing.get(requester, now_us), max(mine, default=now_us))

    def _place(self, turn_us: int) -> int:
        return bisect_right(self._waiting, turn_us, key=lambda task: task.turn_us)

    def _start_us(self, place: int, now_us: int) -> int:
        """When a task at this place in the line would start."""
        return now_us + self._left_us(now_us) + sum(task.cost_us for task in self._waiting[:place])

    def _earlier(self, before: int, cost_us: int, due_us: int, now_us: int) -> int | None:
        """The last place before that one at which a task is in time and all it overtakes start when they were told."""
        for requester in [each for each, until_us in self._owing.items() if until_us <= now_us]:
            del self._owing[requester]
        start_us = self._start_us(before, now_us)
        for place in range(before - 1, -1, -1):
            overtaken = self._waiting[place]
            start_us -= overtaken.cost_us
            if start_us + cost_us > overtaken.told_us:
                break
            if start_us + cost_us <= due_us:
                return place
        return None

    def _in_turn(self, task: _Task, now_us: int) -> int:
        """Its place: that of its turn, or behind the last of those to whom it would break a promise."""
        place = self._place(task.turn_us)
        for number, (each, before_us) in enumerate(self._starts(now_us, self._waiting), 1):
            promised_us = each.latest_start_us
            if (
                number > place
                and promised_us is not None
                and before_us <= promised_us < before_us + task.cost_us
            ):
                place = number
        return place

    def _told_us(self, task: _Task, start_us: int, now_us: int) -> int:
        """When `task` is told to start: as is expected, or later where nobody's turn comes before and it has time."""
        if task.due_us is None or start_us == now_us or task.turn_us > now_us:
            return start_us
        lax_us = start_us + (task.due_us - task.cost_us - start_us) // SLACK_SHARE
        return lax_us if task.latest_start_us is None else min(lax_us, task.latest_start_us)

    def _is_late(self, task: _Task, left_us: int, now_us: int) -> bool:
        least_us = max(0, left_us) * (100 - LUCK_PERCENT) // 100
        return task.due_us is not None and now_us + least_us > task.due_us

    def _drop(self, task: _Task) -> None:
        self._waiting.remove(task)
        task.state = State.CANCELLED

    def _starts(self, now_us: int, tasks: Iterable[_Task]) -> Iterator[tuple[_Task, int]]:
        """(task, expected start) of `tasks` that run in this order."""
        start = now_us + self._left_us(now_us)
        for task in tasks:
            yield task, start
            start += task.cost_us


def _in_vain(ready_us: int, left_us: int) -> str:
    return f"It would be ready in {duration(ready_us)}, and is of no use after {duration(max(0, left_us))}."
