"""A job of this peer while it is under way: has its pictures drawn, tells of them, and keeps what became of it."""

import json
import secrets
from collections.abc import Callable
from typing import Any

import trio

from protocol.policy.selection import Plan
from protocol.wire.canonical import Value
from protocol.wire.task import Progress

from . import account
from .asking import Asked, Attempt, Events, JobFailed, Picture
from .batch import BatchRun, Told, Wanted
from .changed import Changed
from .clock import now_us, wall_us
from .errors import JOB_FAILED, NOBODY, UserError
from .node import Node
from .order import Order
from .store.ledger import JobRecord

Emit = Callable[[str, dict[str, Value]], None]

SAVED_WITHIN_S = 2.0  # for the command to say that the picture it was handed is on disk


class Drawing:
    """Made for one order; `run` once."""

    def __init__(self, node: Node, order: Order, emit: Emit) -> None:
        self.job = secrets.token_hex(8)
        self._node = node
        self._order = order
        self._emit = emit
        self._statements = order.statements()
        self._scope = trio.CancelScope()
        self._pictures: dict[int, Picture] = {}
        self._failed: list[JobFailed] = []
        self._saved: set[int] = set()
        self._changed = Changed()
        self._batch: BatchRun | None = None  # where it is of several pictures

    def cancel(self) -> None:
        """What has been drawn stays."""
        self._scope.cancel()

    def on_saved(self, index: int, start_us: int, us: int | None) -> None:
        """The command wrote that picture to disk, from `start_us` for `us`, or could not: None."""
        if index not in self._pictures or index in self._saved:
            return
        timeline = self._pictures[index].timeline
        handed_us = timeline.asked_us + timeline.wall_us
        if us is not None and start_us >= handed_us:
            timeline.extend("deliver", handed_us, start_us - handed_us, observer=self._node.peer)
            timeline.extend("write_file", start_us, us, observer=self._node.peer)
        self._saved.add(index)
        self._changed.notify()

    async def run(self) -> None:
        """Until it is over and in the ledger.  UserError if it was cancelled, or if there is no picture."""
        order, ledger = self._order, self._node.ledger
        self._emit("job", {"job": self.job, "seeds": [each.seed for each in self._statements]})
        if order.fitted:
            self._emit("told", {"picture": None, "sentence": order.fitted.sentence})
        began = JobRecord(self.job, wall_us(), "running", order.to_json())
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._draw)
                    # Beside the work, not before it: a crash from here on leaves a job that was interrupted.
                    nursery.start_soon(trio.to_thread.run_sync, ledger.put_job, began)
                if order.saves:
                    await self._wait_saved()
        finally:
            ended = self._record(began.created_us)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(ledger.put_job, ended)
        if self._scope.cancelled_caught:
            raise UserError(f"The job {self.job} was cancelled.", 130)
        batch = {"batch": self._batch.account()} if self._batch else {}
        done, failed = len(self._pictures), len(self._failed)
        self._emit("finished", {"job": self.job, "done": done, "failed": failed, **batch})
        if failed and not done:
            last = self._failed[-1]
            raise UserError(last.sentence, NOBODY if last.nobody else JOB_FAILED)

    async def _draw(self) -> None:
        """Of each picture, it or why it is missing is emitted."""
        order = self._order
        if order.count > 1:
            wanted = Wanted(self.job, self._statements, order.remote, order.asked)
            self._batch = BatchRun(self._node, wanted, Told(self._events, self._missed, self._expected))
            await self._batch.run()
            return
        (statement,), asked = self._statements, order.asked
        try:
            await self._node.requester.render(
                statement, self.job, remote=order.remote, events=self._events(0, asked), asked=asked
            )
        except JobFailed as exc:
            self._missed(0, exc)

    def _events(self, index: int, asked: Asked) -> Events:
        """What is told of one picture."""
        node, statement = self._node, self._statements[index]

        def planned(plan: Plan) -> None:
            exclusions = account.exclusions(plan, node)
            listed = account.candidates(plan, node)
            self._emit("plan", {"picture": index, "candidates": listed, "exclusions": exclusions})

        def attempted(attempt: Attempt) -> None:
            peer = attempt.choice.peer
            self._emit(
                "attempt",
                {
                    "picture": index,
                    "attempt": attempt.id.hex(),
                    "peer": peer,
                    "name": node.name_of(peer),
                    "number": attempt.number,
                    "predicted_us": attempt.choice.predicted_us,
                },
            )

        def progressed(number: int, progress: Progress) -> None:
            self._emit(
                "progress",
                {
                    "picture": index,
                    "number": number,
                    "step": progress.step,
                    "steps": statement.steps,
                    "preview": progress.preview.to_value() if progress.preview else None,
                    "elapsed_us": now_us() - asked.at_us,
                },
            )

        def drawn(picture: Picture) -> None:
            self._pictures[index] = picture
            summary = json.dumps(account.summary(node, self.job, self._order, picture))
            self._emit(
                "picture",
                {"picture": index, "seed": statement.seed, "file": picture.file, "summary": summary},
            )

        return Events(
            planned=planned,
            attempted=attempted,
            told=lambda sentence: self._emit("told", {"picture": index, "sentence": sentence}),
            progressed=progressed,
            drawn=drawn,
        )

    def _missed(self, index: int, failure: JobFailed) -> None:
        self._emit("failed", {"picture": index, "sentence": failure.sentence})
        self._failed.append(failure)

    def _expected(self, left_us: int | None) -> None:
        done, failed = len(self._pictures), len(self._failed)
        self._emit("batch", {"done": done, "failed": failed, "left_us": left_us})

    async def _wait_saved(self) -> None:
        """Until the command has said of each picture whether it is on disk, or should have."""
        with trio.move_on_after(SAVED_WITHIN_S):
            while not self._saved >= self._pictures.keys():
                await self._changed.wait()

    def _there_us(self, index: int) -> int:
        """When all was done about that picture, so far."""
        timeline = self._pictures[index].timeline
        return timeline.asked_us + timeline.wall_us

    def _record(self, created_us: int) -> JobRecord:
        """What became of it."""
        done, failed, count = len(self._pictures), self._failed, self._order.count
        state = "done" if done == count else "cancelled"
        if failed and done + len(failed) == count:
            state = "failed"
        why: dict[str, Any] = {"job": self.job, "sentences": []}
        if done:
            last = max(self._pictures, key=self._there_us)
            picture = self._pictures[last]
            why = account.report(self._node, self.job, self._order, (last, picture), self._batch)
        elif failed:
            why = account.failure(self._node, self.job, self._order, failed[-1])
        return JobRecord(
            self.job,
            created_us,
            state,
            {**self._order.to_json(), "provider": why.get("provider")},
            outcome=failed[-1].sentence if failed else None,
            timeline=tuple(why.get("timeline", ())),
            candidates=tuple(why.get("candidates", ())),
            why=why,
        )
