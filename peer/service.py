"""What the command can ask of a running peer: one schema, whether it comes over the control socket or from within.

Requests and events are [kind, map] of canonical values.  Kinds: status, swarm, render, quote, jobs, cancel, why.
"""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from protocol.errors import MalformedMessage
from protocol.policy.calibration import Held
from protocol.policy.ladder import Fitted
from protocol.policy.prediction import Candidate
from protocol.policy.selection import Plan
from protocol.policy.timeline import Timeline, duration
from protocol.wire.canonical import Value
from protocol.wire.fields import Fields
from protocol.wire.statement import Statement
from protocol.wire.task import Progress

from . import __version__, history, quoting
from .asking import Asked, Attempt, Events, JobFailed, Picture
from .batch import BatchRun, Told, Wanted
from .changed import Changed
from .clock import now_us, wall_us
from .errors import JOB_FAILED, NOBODY, WRONG_USAGE, UserError
from .node import Node
from .quoting import Wished, wished_untrusted
from .store.ledger import JobRecord
from .wanted import of_batch, statement_untrusted

Emit = Callable[[str, dict[str, Value]], None]

MAX_COUNT = 1000
LEAST_HELD = 10  # pictures, before it is said how far predictions held
MAX_JOBS = 1000
SAVED_WITHIN_S = 2.0  # for the command to say that the picture it was handed is on disk
MAX_US = 2**63 - 1
STARTING = ("start_peer", "join")  # what may come between "asked" and the request: spans of whoever asks


@dataclass
class _Running:
    """A job of this peer while it is under way."""

    wished: Wished
    fitted: Fitted | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    pictures: dict[int, Picture] = field(default_factory=dict)
    saved: set[int] = field(default_factory=set)
    changed: Changed = field(default_factory=Changed)
    failed: list[JobFailed] = field(default_factory=list)
    batch: BatchRun | None = None  # where it is of several pictures

    async def wait_saved(self) -> None:
        """Until the command has said of each picture whether it is on disk, or should have."""
        with trio.move_on_after(SAVED_WITHIN_S):
            while not self.saved >= self.pictures.keys():
                await self.changed.wait()


class Service:
    """Answers requests about one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._running: dict[str, _Running] = {}

    async def handle(self, kind: str, body: dict[str, Value], emit: Emit) -> None:
        """Emits the events of one request; UserError if it cannot be done."""
        fields = Fields({"wishes": None, **body} if kind in ("render", "quote") else body, kind)
        match kind:
            case "status":
                emit("status", self._status())
            case "swarm":
                emit("swarm", {"peers": self._swarm()})
            case "render":
                await self._render(fields, emit)
            case "quote":
                await self._quote(fields, emit)
            case "jobs":
                limit = fields.integer("limit", 1, MAX_JOBS)
                running = frozenset(self._running)
                listed = await trio.to_thread.run_sync(history.jobs, self._node.ledger, limit, running)
                emit("jobs", {"jobs": listed})
            case "cancel":
                emit("cancelled", {"job": self._cancel(fields.text("job", at_most_bytes=64))})
            case "why":
                job = fields.maybe("job", lambda key: fields.text(key, at_most_bytes=64))
                report = await trio.to_thread.run_sync(history.why, self._node.ledger, job)
                emit("why", {"report": report})
            case _:
                raise UserError(f"There is no request {kind!r}.", WRONG_USAGE)

    def on_saved(self, body: dict[str, Value]) -> None:
        """The command wrote a picture of a job under way to disk, from `start_us` for `us`, or could not: nil.

        MalformedMessage if it says no such thing.
        """
        fields = Fields(body, "saved")
        running = self._running.get(fields.text("job", at_most_bytes=64))
        index = fields.integer("picture", 0, MAX_COUNT)
        start_us = fields.integer("start_us", 0, MAX_US)
        us = fields.maybe("us", lambda key: fields.integer(key, 0, MAX_US))
        if running is None or index not in running.pictures or index in running.saved:
            return
        timeline = running.pictures[index].timeline
        handed_us = timeline.asked_us + timeline.wall_us
        if us is not None and start_us >= handed_us:
            timeline.extend("deliver", handed_us, start_us - handed_us, observer=self._node.peer)
            timeline.extend("write_file", start_us, us, observer=self._node.peer)
        running.saved.add(index)
        running.changed.notify()

    # what is

    def _status(self) -> dict[str, Value]:
        node = self._node
        return {
            "peer": node.peer,
            "name": node.config.name,
            "addresses": list(node.host.addresses),
            "providing": node.config.provide,
            "models": [
                {
                    "id": model.id.hex(),
                    "name": model.name,
                    "family": model.family,
                    "state": "resident" if model.id in node.renderer.resident else "disk",
                }
                for model in node.models.values()
            ],
            "devices": [device.to_value() for device in node.devices],
            "peers_known": node.directory.statistics()["peers"],
            "peers_connected": len(node.host.connected()),
            "version": __version__,
            "uptime_us": now_us() - node.started_us,
            "clock_notes": list(node.directory.notes()),
        }

    def _swarm(self) -> list[Value]:
        candidates = sorted(
            self._node.directory.candidates(now_us()), key=lambda each: (not each.own, each.rtt_us)
        )
        return [self._row(candidate) for candidate in candidates]

    def _row(self, candidate: Candidate) -> Value:
        advert = candidate.advert
        provides = bool(advert.kinds)
        steps = [speed.step_us for model in advert.models for speed in model.speeds]
        if candidate.speeds:
            steps = [speed.step_us for speed in candidate.speeds.speeds.values()] or steps
        device = advert.devices[0] if advert.devices else None
        state = candidate.state
        return {
            "peer": candidate.peer,
            "name": advert.name,
            "self": candidate.own,
            "provides": self._node.config.provide if candidate.own else provides,
            "device": f"{device.name}{f' x{device.count}' if device.count > 1 else ''}"
            if device
            else "unknown",
            "models": [model.name for model in advert.models] if provides else [],
            "model_ids": [model.id.hex() for model in advert.models] if provides else [],
            "rtt_us": 0 if candidate.own else candidate.rtt.min_us if candidate.rtt else None,
            "jitter_us": candidate.rtt.jitter_us if candidate.rtt else None,
            "wait_us": state.wait_us if state else None,
            "step_us": min(steps) if steps else None,
            "connected": candidate.connected,
            "note": candidate.notes[0] if candidate.notes else None,
        }

    # pictures

    async def _render(self, fields: Fields, emit: Emit) -> None:
        began_us = now_us()
        try:
            asked = _asked(fields, began_us)
            saves = fields.maybe("~saves", fields.flag) or False
            count = fields.integer("count", 1, MAX_COUNT)
            wished = wished_untrusted(fields, count)
            remote = fields.flag("remote")
            statement = await statement_untrusted(self._node, fields)
        except MalformedMessage as exc:
            raise UserError(f"{exc}.", WRONG_USAGE) from exc
        asked = replace(asked, wishes=wished.wishes(asked.at_us, batch=count > 1))
        fitted = quoting.fitted(self._node, statement, wished, asked.at_us, remote=remote)
        statement = fitted.drawn if fitted else statement
        if count > 1:
            quoting.check_in_time(self._node, statement, asked.wishes, remote=remote, count=count)
        job = secrets.token_hex(8)
        statements = [of_batch(statement, index) for index in range(count)]
        emit("job", {"job": job, "seeds": [each.seed for each in statements]})
        if fitted:
            emit("told", {"picture": None, "sentence": fitted.sentence})
        running = self._running[job] = _Running(wished, fitted)
        request = _request(statements[0], count, remote) | wished.to_json()
        record = JobRecord(job, wall_us(), "running", request)
        ledger = self._node.ledger
        failed = running.failed
        wanted = Wanted(job, statements, remote, asked)
        try:
            with running.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._draw, wanted, running, emit)
                    # Beside the work, not before it: a crash from here on leaves a job that was interrupted.
                    nursery.start_soon(trio.to_thread.run_sync, ledger.put_job, record)
                if saves:
                    await running.wait_saved()
        finally:
            del self._running[job]
            done = list(running.pictures.values())
            state = (
                "done"
                if len(done) == count
                else "failed"
                if len(done) + len(failed) == count
                else "cancelled"
            )
            why: dict[str, Any] = (
                self._report(job, done[-1], running)
                if done
                else self._failure(job, failed[-1], running)
                if failed
                else {"job": job, "sentences": []}
            )
            record = JobRecord(
                job,
                record.created_us,
                state,
                request | {"provider": done[-1].provider if done else None},
                outcome=failed[-1].sentence if failed else None,
                timeline=tuple(why.get("timeline", ())),
                candidates=tuple(why.get("candidates", ())),
                why=why,
            )
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(ledger.put_job, record)
        if running.scope.cancelled_caught:
            raise UserError(f"The job {job} was cancelled.", 130)
        account = {"batch": running.batch.account()} if running.batch else {}
        emit("finished", {"job": job, "done": len(done), "failed": len(failed), **account})
        if failed and not done:
            raise UserError(failed[-1].sentence, NOBODY if failed[-1].nobody else JOB_FAILED)

    async def _draw(self, wanted: Wanted, running: _Running, emit: Emit) -> None:
        """Of each picture, it or why it is missing is emitted."""

        def events_of(index: int, asked: Asked) -> Events:
            return self._events(wanted.job, index, wanted.statements[index], emit, asked)

        def missed(index: int, failure: JobFailed) -> None:
            emit("failed", {"picture": index, "sentence": failure.sentence})
            running.failed.append(failure)

        def expected(left_us: int) -> None:
            done, failed = len(running.pictures), len(running.failed)
            emit("batch", {"done": done, "failed": failed, "left_us": left_us})

        if len(wanted.statements) > 1:
            told = Told(events_of, missed, expected)
            running.batch = BatchRun(self._node, wanted, told)
            await running.batch.run()
            return
        (statement,), asked = wanted.statements, wanted.asked
        events, remote = events_of(0, asked), wanted.remote
        try:
            await self._node.requester.render(
                statement, wanted.job, remote=remote, events=events, asked=asked
            )
        except JobFailed as exc:
            missed(0, exc)

    async def _quote(self, fields: Fields, emit: Emit) -> None:
        """What `render` would do with the same request: nobody is asked for anything."""
        asked_us = now_us()
        try:
            count = fields.integer("count", 1, MAX_COUNT)
            wished = wished_untrusted(fields, count)
            remote = fields.flag("remote")
            statement = await statement_untrusted(self._node, fields)
        except MalformedMessage as exc:
            raise UserError(f"{exc}.", WRONG_USAGE) from exc
        fitted = quoting.fitted(self._node, statement, wished, asked_us, remote=remote)
        statement = fitted.drawn if fitted else statement
        wishes = wished.wishes(asked_us, batch=count > 1)
        answer = quoting.quote(self._node, statement, wishes, remote=remote, count=count)
        emit("quote", {**answer, "rung": quoting.rung(fitted)})

    def _events(self, job: str, index: int, statement: Statement, emit: Emit, asked: Asked) -> Events:
        """What is told of one picture."""
        node = self._node

        def planned(plan: Plan) -> None:
            exclusions: list[Value] = [
                {"peer": peer, "sentence": sentence} for peer, sentence in plan.exclusions
            ]
            listed = quoting.candidates(plan, node)
            emit("plan", {"picture": index, "candidates": listed, "exclusions": exclusions})

        def attempted(attempt: Attempt) -> None:
            peer = attempt.choice.peer
            emit(
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
            emit(
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
            self._running[job].pictures[index] = picture
            summary = json.dumps(self._summary(job, picture))
            emit(
                "picture",
                {"picture": index, "seed": statement.seed, "file": picture.file, "summary": summary},
            )

        return Events(
            planned=planned,
            attempted=attempted,
            told=lambda sentence: emit("told", {"picture": index, "sentence": sentence}),
            progressed=progressed,
            drawn=drawn,
        )

    def _summary(self, job: str, picture: Picture) -> dict[str, Any]:
        timeline, running = picture.timeline, self._running[job]
        return {
            "job": job,
            "image": None,
            "sha256": hashlib.sha256(picture.file).hexdigest(),
            "width": picture.statement.width,
            "height": picture.statement.height,
            "seed": picture.statement.seed,
            "requester": self._node.peer,
            "provider": picture.provider,
            "provider_name": self._node.name_of(picture.provider),
            "peers_known": self._node.directory.statistics()["peers"],
            "checked": list(picture.checked),
            "asked_us": timeline.asked_us,
            "wall_us": timeline.wall_us,
            "unaccounted_us": timeline.unaccounted_us,
            "timeline": timeline.entries(),
            "candidates": quoting.candidates(picture.plan, self._node),
            "attempts": [_attempt(attempt, self._node) for attempt in picture.attempts],
            "price_millionths": quoting.price_millionths(picture),
            "value_of_time_millionths": picture.plan.wishes.value_of_time_millionths,
            "wished": running.wished.to_json(),
            "rung": quoting.rung(running.fitted),
            "model": picture.statement.model.hex(),
            "prompt_included": False,
        }

    # jobs

    def _cancel(self, prefix: str) -> str:
        meant = [job for job in self._running if job.startswith(prefix)]
        if len(meant) != 1:
            what = "Several jobs begin" if meant else "No running job begins"
            raise UserError(f"{what} with {prefix!r}.", WRONG_USAGE)
        self._running[meant[0]].scope.cancel()
        return meant[0]

    def _report(self, job: str, picture: Picture, running: _Running) -> dict[str, Any]:
        timeline, plan, many = picture.timeline, picture.plan, running.batch
        if many is not None and many.plan is not None:
            plan = many.plan
        avoidable = timeline.largest_avoidable()
        chosen = plan.ranked[0]
        return {
            "job": job,
            "candidates": quoting.candidates(plan, self._node),
            "chosen": chosen.peer,
            "provider": picture.provider,
            "exclusions": [{"peer": peer, "sentence": sentence} for peer, sentence in plan.exclusions],
            "timeline": timeline.entries(),
            "attempts": [_attempt(attempt, self._node) for attempt in picture.attempts],
            "wall_us": timeline.wall_us,
            "unaccounted_us": timeline.unaccounted_us,
            "avoidable": {"span": avoidable.span, "us": avoidable.us, "sentence": avoidable.sentence}
            if avoidable
            else None,
            "price_millionths": quoting.price_millionths(picture),
            "value_of_time_millionths": plan.wishes.value_of_time_millionths,
            "rung": quoting.rung(running.fitted),
            "sentences": [
                *([plan.why()] if many is None else many.sentences()),
                *_compared(timeline, picture.plan, self._node.directory.calibration.held()),
                *quoting.aftermath(picture, running.wished, running.fitted, self._node),
            ],
        }

    def _failure(self, job: str, failed: JobFailed, running: _Running) -> dict[str, Any]:
        """As `_report`, of a job without a picture."""
        timeline, plan = failed.tried.timeline, failed.tried.plan
        report: dict[str, Any] = {
            "job": job,
            "timeline": timeline.entries(),
            "attempts": [_attempt(attempt, self._node) for attempt in failed.tried.attempts],
            "wall_us": timeline.wall_us,
            "unaccounted_us": timeline.unaccounted_us,
            "rung": quoting.rung(running.fitted),
            "sentences": [failed.sentence],
        }
        if plan is None:
            return report
        return report | {
            "candidates": quoting.candidates(plan, self._node),
            "chosen": plan.ranked[0].peer,
            "exclusions": [{"peer": peer, "sentence": sentence} for peer, sentence in plan.exclusions],
        }


def _asked(fields: Fields, now_us: int) -> Asked:
    """When the person asked, and what was done before the request came here, as the command measured it.

    Both on CLOCK_MONOTONIC, which the processes of a machine share; without them it was asked just now.
    """
    at_us = fields.maybe("~asked_us", lambda key: fields.integer(key, 0, now_us))
    spans = fields.maybe("~spans", lambda key: fields.items(key, at_most=len(STARTING)))
    before = []
    for span in spans or ():
        match span:
            case [str(name), int(start_us), int(us)] if name in STARTING and 0 <= us <= now_us - start_us:
                before.append((name, start_us, us))
            case _:
                raise MalformedMessage("a span is a name, a start and a duration")
    return Asked(now_us if at_us is None else at_us, tuple(before))


def _compared(timeline: Timeline, plan: Plan, held: Held | None) -> list[str]:
    first = plan.ranked[0]
    took = f"it took {duration(timeline.wall_us)}"
    said = [
        f"Predicted {duration(first.predicted_us)}, at most {duration(first.p90_us)} nine times of ten; {took}."
    ]
    if held is not None and held.pictures >= LEAST_HELD:
        said.append(f"Since this peer started, {held.sentence()}")
    return said


def _request(statement: Statement, count: int, remote: bool) -> dict[str, Any]:
    return {
        "model": statement.model.hex(),
        "width": statement.width,
        "height": statement.height,
        "steps": statement.steps,
        "guidance_millionths": statement.guidance_millionths,
        "sampler": statement.sampler,
        "seed": statement.seed,
        "count": count,
        "remote": remote,
    }


def _attempt(attempt: Attempt, node: Node) -> dict[str, Any]:
    return {
        "attempt": attempt.id.hex(),
        "number": attempt.number,
        "peer": attempt.choice.peer,
        "name": node.name_of(attempt.choice.peer),
        "why": attempt.why,
        "outcome": attempt.outcome,
        "sentence": attempt.sentence,
        "predicted_us": attempt.choice.predicted_us,
    }
