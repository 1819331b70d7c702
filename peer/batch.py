"""Has the pictures of a batch drawn: each is a job of its own at the one peer that protocol/policy/batch.py names."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import trio

from protocol.policy.batch import LOOK_EVERY_US, Action, Batch, Ended, Give, Miss, Outlook, Withdraw, outlooks
from protocol.policy.refusals import nobody_drew
from protocol.policy.selection import NoCandidate, Plan
from protocol.policy.shortlist import Shortlists
from protocol.policy.timeline import Timeline, duration
from protocol.wire.statement import Statement
from protocol.wire.task import Progress

from .asking import Asked, Events, JobFailed, Need, Picture, Tried
from .changed import Changed
from .clock import now_us
from .node import Node


@dataclass(frozen=True)
class Wanted:
    """The pictures of one job, in their order."""

    job: str
    statements: Sequence[Statement]
    remote: bool
    asked: Asked


@dataclass(frozen=True)
class Told:
    """Whom to tell what.  All are called from the event loop and must not block."""

    events_of: Callable[[int, Asked], Events]  # of picture number ..., which was asked for then
    missed: Callable[[int, JobFailed], None]
    # All are expected to be there so long from now (us); None: not known.
    expected: Callable[[int | None], None]


class BatchRun:
    """One batch, while it is drawn."""

    def __init__(self, node: Node, wanted: Wanted, told: Told) -> None:
        self.plan: Plan | None = None  # the first
        self.landed_us = wanted.asked.at_us  # the last picture
        self._node = node
        self._wanted = wanted
        self._told = told
        self._batch = Batch(len(wanted.statements))
        self._shortlists = Shortlists()
        self._needs: dict[int, Need] = {}  # by attempt, while it is under way
        self._refusals: dict[str, str] = {}  # what peers said last that did not draw
        self._failed: JobFailed | None = None  # the last
        self._nobody = ""  # why nobody can be asked now, where that is so
        self._changed = Changed()

    async def run(self) -> None:
        """Until each picture is there or missed.  Cancelling it cancels all attempts at their providers."""
        async with trio.open_nursery() as nursery:
            while True:
                for action in self._decide():
                    self._carry_out(action, nursery)
                if self._batch.over:
                    break
                with trio.move_on_after(LOOK_EVERY_US / 1e6):
                    await self._changed.wait()

    def account(self) -> dict[str, Any]:
        """Who drew how many, and how long all of it took."""
        return {
            "wall_us": self.landed_us - self._wanted.asked.at_us,
            "drew": [
                {"peer": peer, "name": self._node.name_of(peer), "pictures": pictures}
                for peer, pictures in self._batch.drew.most_common()
            ],
            "copies": self._batch.copies,
        }

    def sentences(self) -> list[str]:
        account = self.account()
        of = sum(each["pictures"] for each in account["drew"])
        shares = ", ".join(f"{each['pictures']} by {each['name']}" for each in account["drew"])
        said = [f"{of} of {self._batch.count} pictures in {duration(account['wall_us'])}: {shares}."]
        if account["copies"]:
            was = "was" if account["copies"] == 1 else "were"
            said.append(f"{account['copies']} that {was} late {was} drawn by a second peer as well.")
        return said

    def _decide(self) -> list[Action]:
        at_us, wanted = now_us(), self._wanted
        now: tuple[Outlook, ...] = ()
        self._nobody = ""
        try:
            plan = self._shortlists.plan(
                self._node.directory,
                wanted.statements[0],
                now_us=at_us,
                own=not wanted.remote,
                excluded=frozenset(),
                seed=secrets.randbits(63),
                wishes=wanted.asked.wishes,
            )
        except NoCandidate as exc:
            self._nobody = str(exc)
        else:
            self.plan = self.plan or plan
            now = outlooks(plan)
        actions = self._batch.decide(now, at_us, nobody=self._nobody)
        there_us = self._batch.there_us
        self._told.expected(None if there_us is None else max(0, there_us - at_us))
        return actions

    def _carry_out(self, action: Action, nursery: trio.Nursery) -> None:
        match action:
            case Give():
                self._needs[action.number] = Need()
                nursery.start_soon(self._ask, action)
            case Withdraw(number):
                self._needs[number].withdraw()
            case Miss(picture, sentence):
                refused = self._failed is not None and self._failed.nobody and sentence != self._nobody
                words = nobody_drew(self._refusals.items()) if refused and self._refusals else sentence
                self._told.missed(picture, self._failure(words))

    def _failure(self, sentence: str) -> JobFailed:
        """Why the last of those that are missed is."""
        if self._failed is not None:
            return JobFailed(sentence, self._failed.tried)
        timeline = Timeline(self._wanted.asked.at_us)
        timeline.finish(now_us())
        return JobFailed(sentence, Tried(timeline, self.plan, ()))

    async def _ask(self, give: Give) -> None:
        wanted, number = self._wanted, give.number
        need = self._needs[number]
        asked = replace(wanted.asked, only=give.peer, need=need)
        if number > 1:
            asked = replace(asked, at_us=now_us(), spans=())  # what came before it is told of the first
        events = self._told.events_of(give.picture, asked)

        def progressed(attempt: int, progress: Progress) -> None:
            self._batch.on_progress(number, progress.step, now_us())
            events.progressed(attempt, progress)

        def drawn(picture: Picture) -> None:
            withdraws = self._batch.on_there(number, now_us())
            if withdraws is None:
                return  # the same picture came from another peer just before
            self.landed_us = now_us()
            events.drawn(picture)
            for each in withdraws:
                self._needs[each.number].withdraw()
            self._changed.notify()

        watched = replace(events, progressed=progressed, drawn=drawn)
        try:
            await self._node.requester.render(
                wanted.statements[give.picture],
                wanted.job,
                remote=wanted.remote,
                events=watched,
                asked=asked,
            )
        except JobFailed as exc:
            if not need.withdrawn:
                self._on_failed(give, exc)
        finally:
            del self._needs[number]

    def _on_failed(self, give: Give, failed: JobFailed) -> None:
        self._failed = failed
        name = self._node.name_of(give.peer)
        last = failed.tried.attempts[-1] if failed.tried.attempts else None
        self._refusals[name] = (last.sentence if last else None) or failed.sentence
        how = Ended.BUSY
        if last is not None and last.outcome != "refused":
            how = Ended.BROKE
        if last is not None and last.final:
            how = Ended.NEVER
        self._batch.on_ended(give.number, how, f"{name}: {self._refusals[name]}", now_us())
        self._changed.notify()
