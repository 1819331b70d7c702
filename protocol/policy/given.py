"""One's own work at one provider: what of the wait that it told is that work, and what it cannot have known of."""

from dataclasses import dataclass

MAX_TASKS = 256


@dataclass(slots=True)
class _Task:
    offered_us: int
    busy_us: int
    start_by_us: int | None = None  # as it promised
    began_us: int | None = None
    told_us: int | None = None  # of the wait told last; None: it is not in it
    told_at_us: int = 0


class Given:
    """The attempts given to one provider, in the order given.  `now_us` is monotonic."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: dict[bytes, _Task] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def on_offered(self, attempt: bytes, busy_us: int, now_us: int) -> None:
        """It will occupy the renderer for `busy_us`, loading included."""
        if len(self._tasks) < MAX_TASKS:
            self._tasks[attempt] = _Task(now_us, busy_us)

    def on_accepted(self, attempt: bytes, start_by_us: int) -> None:
        """It promised to begin by then."""
        task = self._tasks.get(attempt)
        if task is not None:
            task.start_by_us = start_by_us

    def on_start(self, attempt: bytes, now_us: int) -> None:
        """It runs from now on; said again, nothing changes."""
        task = self._tasks.get(attempt)
        if task is not None and task.began_us is None:
            task.began_us = now_us

    def on_told(self, wait_us: int, tasks: int, spoken_us: int, now_us: int) -> int:
        """It spoke at `spoken_us` of so many tasks and of such a wait: how much of that is one's own (us).

        As many as it has can be one's own, the first given first.  Where it has no others, all of the wait is shared out.
        """
        own: list[tuple[_Task, int]] = []
        for task in self._tasks.values():
            task.told_us, task.told_at_us = None, now_us
            if task.offered_us <= spoken_us and len(own) < tasks:
                ran_us = now_us - task.began_us if task.began_us is not None else 0
                own.append((task, max(0, task.busy_us - ran_us)))
        left_us = sum(us for _, us in own)
        total_us = wait_us if len(own) == tasks else min(wait_us, left_us)
        before_us = 0
        for number, (task, us) in enumerate(own, 1):
            before_us += us
            up_to_us = total_us * before_us // left_us if left_us else total_us * number // len(own)
            task.told_us = up_to_us - sum(each.told_us or 0 for each, _ in own[: number - 1])
        return total_us if own else 0

    def on_ended(self, attempt: bytes, now_us: int) -> int:
        """By how much (us) less would have been told, had it been known that the attempt no longer needs the renderer now.

        Its part of what was told, without what it ran since: negative where it ran longer, for the others waited meanwhile.
        """
        task = self._tasks.pop(attempt, None)
        if task is None or task.told_us is None:
            return 0
        ran_us = 0 if task.began_us is None else max(0, now_us - max(task.began_us, task.told_at_us))
        return task.told_us - ran_us

    def late_us(self, now_us: int) -> int:
        """By how much that is later, of those that have not begun: what comes behind them begins as late at least."""
        due = [each.start_by_us for each in self._tasks.values() if each.began_us is None]
        return max([0, *(now_us - due_us for due_us in due if due_us is not None)])

    def untold_us(self, spoken_us: int, now_us: int) -> int:
        """What is left of the work given after `spoken_us`, if it runs without a pause in the order given."""
        free_us = 0
        for task in self._tasks.values():
            if task.offered_us > spoken_us:
                free_us = max(free_us, task.offered_us) + task.busy_us
        return max(0, free_us - now_us)
