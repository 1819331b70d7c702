"""Renders for others: answers offers, runs the queue on the renderer, streams what comes of it, signs the receipt."""

import hashlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import trio

from protocol.errors import RemoteProtocolError, UnknownCriticalField
from protocol.policy.prediction import SpeedBook, predict_own, promised_load_us
from protocol.policy.queue import Queue, Refused, Repeat, State
from protocol.policy.streams import Streams
from protocol.wire.advert import Limits
from protocol.wire.conversation import ACK_WITHIN_US, HEARTBEAT_US, Conversation, Role
from protocol.wire.hello import LiveState
from protocol.wire.identity import key_of_untrusted, public_key_of
from protocol.wire.offer import ReplayedOffer, SignedOffer, check_addressed_untrusted
from protocol.wire.receipt import Receipt, Settled, SignedReceipt
from protocol.wire.statement import Statement
from protocol.wire.task import (
    Accept,
    Ack,
    Cancel,
    Chunk,
    Failed,
    Loading,
    OfferMessage,
    Preview,
    Progress,
    ReceiptMessage,
    Refuse,
    Result,
    Resume,
    SettledMessage,
    Start,
    TaskMessage,
)
from protocol.wire.transfer import Sender

from .changed import Changed
from .clock import now_us, wall_us
from .groups import one_error
from .link import Links, Session
from .renderer.client import RenderCancelled, Rendered, Renderer, RendererDied, RenderFailed, Step
from .store.models import LocalModel
from .task_stream import PeerLost, TaskStream, expect

RETAIN_S = 600  # how long a result can be fetched again
HELLO_WITHIN_S = 2.0
SETTLE_WITHIN_S = 10.0
RETIRE_EVERY_US = 600_000_000  # a model that needs more than the limit is not loaded again for each picture
NOTHING = bytes(32)  # a hash of what there is none of


@dataclass
class Task:
    """One attempt on this provider.  Whoever follows it looks at its state at each `changed`."""

    attempt: bytes
    requester: str
    statement: Statement
    heard_us: int
    load_us: int  # promised: what is predicted, and more
    step_us: int  # predicted
    changed: Changed = field(default_factory=Changed)
    phase: str = "queue"
    started: bool = False
    steps_done: int = 0
    preview: Preview | None = None
    previews: int = 0
    rendered: Rendered | None = None
    failed: tuple[str, str, str] | None = None  # code, fault, sentence
    cancelled: bool = False
    receipt: SignedReceipt | None = None
    spans: list[tuple[str, int, int]] = field(default_factory=list)  # name, start (monotonic), us
    followers: int = 0  # streams on which its requester hears of it
    dropped_at_us: int | None = None  # since then there is none

    @property
    def over(self) -> bool:
        return self.receipt is not None or self.failed is not None


class Provider:
    """Everything that happens when someone asks this peer for a picture."""

    def __init__(
        self,
        *,
        private_key: bytes,
        network: str,
        links: Links,
        renderer: Renderer,
        models: dict[bytes, LocalModel],
        limits: Limits,
        allow: frozenset[str],
        providing: bool,
        precisions: frozenset[str],
        speeds: SpeedBook,
        on_capabilities: Callable[[], None],
        on_receipt: Callable[[Task, bytes], Awaitable[None]],
        on_settled: Callable[[bytes, bytes], Awaitable[None]],
        journal: Callable[..., None],
        memory_limit_bytes: int | None = None,
    ) -> None:
        self._private_key = private_key
        self._key = public_key_of(private_key)
        self._network = network
        self._links = links
        self._renderer = renderer
        self._models = models
        self._limits = limits
        self._allow = allow
        self._providing = providing
        self._precisions = precisions
        self._speeds = speeds
        self._on_capabilities = on_capabilities
        self._on_receipt = on_receipt
        self._on_settled = on_settled
        self._journal = journal
        self._queue = Queue()
        self._tasks: dict[bytes, Task] = {}
        self._work = Changed()
        self._memory_limit_bytes = memory_limit_bytes
        self._retired_us: int | None = None
        self.own_peer = links.own.peer
        self._streams = Streams(self.own_peer)

    def live_state(self) -> LiveState:
        return LiveState(
            wait_us=self._queue.wait_us(now_us()),
            running=int(self._queue.running is not None),
            queued=self._queue.queued,
            free_memory_mib=None,
            resident=self._renderer.resident,
        )

    def statistics(self) -> dict[str, int]:
        return self._queue.statistics() | self._streams.statistics()

    # the conversation

    async def serve(self, stream: Any, peer: str) -> None:
        """One task stream that `peer` opened; RemoteProtocolError where it says what it may not."""
        number = self._streams.opened(peer, now_us())
        if number is None:
            await trio.aclose_forcefully(stream)
            return
        talk = TaskStream(stream, Conversation(Role.PROVIDER))
        try:
            await self._converse(talk, peer, number)
        except PeerLost:
            pass  # it may come back for the result, which is retained
        finally:
            self._streams.closed(peer, number)
            await talk.aclose()

    async def _converse(self, talk: TaskStream, peer: str, number: int) -> None:
        message = await self._first_word(talk, peer, number)
        heard_us = now_us()
        session = await self._links.wait_session(peer, HELLO_WITHIN_S)
        expect(message, OfferMessage, Resume)
        offset = 0
        if not self._streams.speaks(peer, number):
            if isinstance(message, OfferMessage):
                sentence = "This peer holds as many conversations as it can."
                await self._refuse(talk, session, heard_us, "busy", sentence)
            return
        if isinstance(message, OfferMessage):
            task = await self._offered(talk, session, message, heard_us)
        else:
            assert isinstance(message, Resume)
            task = await self._resumed(talk, session, message, heard_us)
            offset = message.offset
        if task is not None:
            await self._follow(talk, session, task, offset)

    async def _first_word(self, talk: TaskStream, peer: str, number: int) -> TaskMessage:
        """Of a stream that may have been opened ahead of its use; PeerLost when its time is up."""
        while (left_us := self._streams.closes_us(peer, number) - now_us()) > 0:
            with trio.move_on_after(left_us / 1e6):
                return await talk.receive()
        raise PeerLost("nothing was asked in time")

    async def _refuse(
        self, talk: TaskStream, session: Session, heard_us: int, code: str, sentence: str
    ) -> None:
        state = self.live_state() if self._providing else None
        await talk.send(Refuse(code, sentence[:256], state, session.clock_us(heard_us), session.clock_us()))
        self._journal("task_refused", peer=session.peer, code=code)

    async def _offered(
        self, talk: TaskStream, session: Session, message: OfferMessage, heard_us: int
    ) -> Task | None:
        refuse = partial(self._refuse, talk, session, heard_us)
        try:
            signed = SignedOffer.from_untrusted(message.envelope, network=self._network)
            check_addressed_untrusted(
                signed,
                provider=self._key,
                boot_id=self._links.boot_id,
                stream_peer=session.peer,
                now_us=session.clock_us(),
            )
        except UnknownCriticalField as exc:
            await refuse("unknown_field", f"{exc}.")
            return None
        except ReplayedOffer as exc:
            await refuse("replayed", f"{exc}.")
            return None
        offer, statement = signed.offer, signed.offer.statement
        refusal = self._cannot(session.peer, statement) or await self._cannot_draw(statement)
        if refusal is not None:
            await refuse(*refusal)
            return None
        model = self._models[statement.model]
        load_us, step_us, fixed_us = predict_own(
            self._speeds.of(self.own_peer),
            statement,
            resident=model.id in self._renderer.resident,
            model_bytes=model.bytes,
        )
        cost_us = load_us + fixed_us + step_us * statement.steps
        verdict = self._queue.offer(offer.attempt, session.peer, cost_us, offer.max_wait_us, now_us())
        if isinstance(verdict, Refused):
            await refuse("busy" if verdict.code == "busy" else "replayed", verdict.sentence)
            return None
        if isinstance(verdict, Repeat):
            task = self._tasks.get(offer.attempt)
            if task is None or task.cancelled:
                await refuse("replayed", "This attempt is over and its result is no longer kept.")
                return None
            wait_us = self._queue.wait_of_us(offer.attempt, now_us()) or 0
        else:
            task = Task(
                offer.attempt,
                session.peer,
                statement,
                heard_us,
                promised_load_us(load_us),
                step_us,
                dropped_at_us=heard_us,
            )
            self._tasks[offer.attempt] = task
            wait_us = verdict.wait_us
            self._work.notify()
            self._journal("task_accepted", peer=session.peer, attempt=offer.attempt.hex())
        await self._accept(talk, session, task, wait_us, heard_us)
        return task

    def _cannot(self, peer: str, statement: Statement) -> tuple[str, str] | None:
        if not self._providing and peer != self.own_peer:
            return "not_providing", "This peer does not render for others."
        if self._allow and peer not in self._allow and peer != self.own_peer:
            return "not_allowed", "This peer renders for named peers only."
        if statement.model not in self._models:
            return "model_unknown", "This peer does not have that model."
        if statement.adapters:
            return "unsupported", "This peer has no adapters."
        if statement.precision not in self._precisions:
            offered = ", ".join(sorted(self._precisions))
            return "unsupported", f"This peer computes in {offered}, not in {statement.precision}."
        limits = self._limits
        if statement.pixels > limits.pixels:
            return "too_large", f"This peer draws {limits.pixels} pixels at most."
        if statement.steps > limits.steps:
            return "too_large", f"This peer does {limits.steps} steps at most."
        if max(len(statement.prompt.encode()), len(statement.negative.encode())) > limits.prompt_bytes:
            return "too_large", f"This peer takes prompts of {limits.prompt_bytes} bytes at most."
        return None

    async def _cannot_draw(self, statement: Statement) -> tuple[str, str] | None:
        """What the model itself cannot do, known without loading it."""
        model = self._models[statement.model]
        failed = model.why_not(statement)
        if failed is None and not model.surely_reads(statement):
            failed = await trio.to_thread.run_sync(model.why_not_read, statement)
        if failed is None:
            return None
        return "too_large" if failed.code == "prompt_too_long" else "unsupported", failed.sentence

    async def _resumed(
        self, talk: TaskStream, session: Session, message: Resume, heard_us: int
    ) -> Task | None:
        task = self._tasks.get(message.attempt)
        known = task is not None and task.requester == session.peer and not task.cancelled
        if task is None or not known or (task.rendered and message.offset > len(task.rendered.file)):
            clock = session.clock_us
            sentence = "No such result is kept here."
            await talk.send(Refuse("unknown_attempt", sentence, self.live_state(), clock(heard_us), clock()))
            return None
        await self._accept(talk, session, task, self._queue.wait_of_us(task.attempt, now_us()) or 0, heard_us)
        return task

    async def _accept(
        self, talk: TaskStream, session: Session, task: Task, wait_us: int, heard_us: int
    ) -> None:
        await talk.send(
            Accept(
                wait_us=wait_us,
                load_us=task.load_us,
                step_us=task.step_us,
                state=self.live_state(),
                heard_us=session.clock_us(heard_us),
                sent_us=session.clock_us(),
            )
        )

    async def _follow(self, talk: TaskStream, session: Session, task: Task, offset: int) -> None:
        """Tells the requester how its task goes, to the end; hears it at the same time."""
        acks: list[Sender] = []
        heard = Changed()
        settled = trio.Event()

        async def hear() -> None:
            while not settled.is_set():
                message = await talk.receive()
                if isinstance(message, Cancel):
                    self.cancel(task)
                elif isinstance(message, Ack) and acks:
                    acks[0].on_ack(message.offset, now_us())
                    heard.notify()
                elif isinstance(message, SettledMessage):
                    await self._settle(task, message)
                    settled.set()
                    heard.notify()

        task.followers, task.dropped_at_us = task.followers + 1, None
        try:
            with one_error(RemoteProtocolError, PeerLost):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(hear)
                    await self._tell(talk, session, task)
                    if task.rendered is not None and not task.cancelled:
                        await self._send_result(
                            talk, session, task, offset, acks, heard
                        )  # up to its last byte
                    if task.failed is not None:
                        await talk.send(Failed(*task.failed, session.clock_us()))
                    else:
                        while task.receipt is None:
                            await task.changed.wait()
                        await talk.send(ReceiptMessage(task.receipt.envelope.to_bytes(), session.clock_us()))
                        while acks and not acks[0].done and not settled.is_set():
                            await self._wait_ack(heard)
                        with trio.move_on_after(SETTLE_WITHIN_S):
                            await settled.wait()
                    nursery.cancel_scope.cancel()
        finally:
            task.followers -= 1
            if not task.followers:
                task.dropped_at_us = now_us()

    async def _tell(self, talk: TaskStream, session: Session, task: Task) -> None:
        """LOADING until it starts, then PROGRESS with the latest preview, until there is a result or an end."""
        started, steps, previews = False, -1, 0
        while task.rendered is None and not task.over:
            if not started and task.started:
                started = True
                await talk.send(Start(task.step_us, session.clock_us()))
            elif not started:
                await talk.send(Loading(task.phase, session.clock_us()))
            else:
                preview = task.preview if task.previews != previews else None
                previews, steps = task.previews, task.steps_done
                await talk.send(Progress(steps, preview, session.clock_us()))
            if task.rendered is not None or task.over or (task.started and not started):
                continue
            if started and (task.steps_done != steps or task.previews != previews):
                continue
            with trio.move_on_after(HEARTBEAT_US / 1e6):
                await task.changed.wait()

    async def _send_result(
        self,
        talk: TaskStream,
        session: Session,
        task: Task,
        offset: int,
        acks: list[Sender],
        heard: Changed,
    ) -> None:
        rendered = task.rendered
        assert rendered is not None
        spans = tuple((name, max(0, start - task.heard_us), us) for name, start, us in task.spans)
        await talk.send(
            Result(
                codec=task.statement.codec,
                width=rendered.width,
                height=rendered.height,
                file_bytes=len(rendered.file),
                file=hashlib.sha256(rendered.file).digest(),
                spans=spans,
                sent_us=session.clock_us(),
            )
        )
        min_rtt_us = self._links.min_rtt_us(session.peer)
        sender = Sender(len(rendered.file), offset=offset, min_rtt_us=min_rtt_us, now_us=now_us())
        acks.append(sender)
        while offset < len(rendered.file):
            piece = sender.next_chunk(now_us())
            if piece is None:
                await self._wait_ack(heard)
                continue
            start, size = piece
            offset = start + size
            await talk.send(Chunk(start, rendered.file[start:offset]))

    async def _wait_ack(self, heard: Changed) -> None:
        with trio.move_on_after(ACK_WITHIN_US / 1e6) as quiet:
            await heard.wait()
        if quiet.cancelled_caught:  # `hear` has been reading since before an ack was owed
            raise PeerLost("no acknowledgement came in time")

    async def _settle(self, task: Task, message: SettledMessage) -> None:
        settled, envelope = Settled.from_untrusted(message.envelope, network=self._network)
        if envelope.signer != task.requester or settled.attempt != task.attempt:
            raise RemoteProtocolError("this SETTLED is for something else")
        if task.receipt is None or settled.receipt != task.receipt.envelope.hash:
            raise RemoteProtocolError("this SETTLED is for another receipt")
        await self._on_settled(task.attempt, envelope.to_bytes())

    # the work

    def cancel(self, task: Task) -> None:
        """The requester no longer wants it: out of the queue, or stopped at the next step."""
        where = self._queue.cancel(task.attempt, now_us())
        if where == "running":
            task.cancelled = True
            self._renderer.cancel(task.attempt)
        elif where == "queued":
            task.cancelled = True
            self._work.notify()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tidy)
            nursery.start_soon(self._sign_cancelled)
            task_status.started()
            while True:
                attempt = self._queue.next(now_us())
                if attempt is None:
                    await self._work.wait()
                    continue
                await self._run_one(self._tasks[attempt], nursery)
                await self._watch_memory()

    async def _sign_cancelled(self) -> None:
        """Receipts of what was cancelled in the queue, whatever runs meanwhile."""
        while True:
            task = next(filter(self._cancelled_in_queue, self._tasks.values()), None)
            if task is None:
                await self._work.wait()
            else:
                began_us = now_us()
                await self._keep(task, self._sign(task, "cancelled", began_us=began_us))

    def _cancelled_in_queue(self, task: Task) -> bool:
        return not task.over and self._queue.state(task.attempt) is State.CANCELLED

    async def _run_one(self, task: Task, nursery: trio.Nursery) -> None:
        """Draws one; its receipt is stored while its bytes go and the next one is drawn."""
        statement, began_us = task.statement, now_us()
        task.spans.append(("wait", task.heard_us, began_us - task.heard_us))
        model = self._models[statement.model]
        outcome, failed, steps_done, load_us = "cancelled", None, 0, 0
        rendered: Rendered | None = None
        try:
            if model.id not in self._renderer.resident:
                task.phase = "weights"
                task.changed.notify()
                task.spans.extend(await self._renderer.load(Path(model.folder), model.id, model.variant))
                load_us = now_us() - began_us
                self._speeds.on_load(self.own_peer, model.id, load_us)
                self._on_capabilities()
            if not task.cancelled:
                rendered = await self._render(task, model.id)
                outcome, steps_done = "done", rendered.steps_done
                self._learn(statement, rendered)
        except RenderCancelled as exc:
            steps_done = exc.steps_done
        except RenderFailed as exc:
            failed = (exc.code, exc.fault, exc.sentence)
        except RendererDied as exc:
            failed = ("renderer_died", "provider", f"{exc}")
            self._on_capabilities()
        self._queue.on_finished(task.attempt, now_us())
        if failed is not None:
            outcome, task.failed = "failed", failed
        else:
            task.rendered = rendered
            receipt = self._sign(task, outcome, rendered, steps_done, began_us=began_us, load_us=load_us)
            if rendered is not None:
                _, start_us, us = task.spans[-1]
                task.spans.append(("sign", start_us + us, now_us() - start_us - us))
            nursery.start_soon(self._keep, task, receipt)
        task.changed.notify()
        self._journal("task_finished", attempt=task.attempt.hex(), outcome=outcome, steps=steps_done)

    async def _render(self, task: Task, model: bytes) -> Rendered:
        sent_us = now_us()
        rendered = await self._renderer.render(
            task.attempt,
            model,
            task.statement.to_bytes(),
            lambda step: self._on_step(task, step),
            on_started=lambda: self._on_started(task),
        )
        back_us = now_us()
        first_us = min(start for _, start, _ in rendered.spans)
        last_us = max(start + us for _, start, us in rendered.spans)
        task.spans.append(("handoff", sent_us, first_us - sent_us))
        task.spans.extend(rendered.spans)
        task.spans.append(("handback", last_us, back_us - last_us))
        return rendered

    def _on_started(self, task: Task) -> None:
        """The renderer took it, and found nothing in it that it cannot do."""
        task.started = True
        task.changed.notify()
        self._journal("task_started", attempt=task.attempt.hex(), renderer=self._renderer.pid)

    def _on_step(self, task: Task, step: Step) -> None:
        task.steps_done = step.step
        if step.preview is not None:
            width, height, rgb = step.preview
            task.preview, task.previews = Preview(width, height, rgb), task.previews + 1
        left = (task.statement.steps - step.step) * step.us
        self._queue.on_progress(task.attempt, left, now_us())
        task.changed.notify()

    def _learn(self, statement: Statement, rendered: Rendered) -> None:
        steps = sorted(us for name, _, us in rendered.spans if name == "step")
        fixed_us = sum(us for name, _, us in rendered.spans if name != "step")
        if steps:
            first = self._speeds.of(self.own_peer)
            new = (
                first is None or first.nearest(statement.model, statement.precision, statement.pixels) is None
            )
            self._speeds.on_render(
                self.own_peer, statement, step_us=max(1, steps[len(steps) // 2]), fixed_us=fixed_us
            )
            if new:
                self._on_capabilities()

    def _sign(
        self,
        task: Task,
        outcome: str,
        rendered: Rendered | None = None,
        steps_done: int = 0,
        *,
        began_us: int,
        load_us: int = 0,
    ) -> SignedReceipt:
        """`began_us`: when it was taken up.  What its times count adds up to all since its offer was heard."""
        file_hash = hashlib.sha256(rendered.file).digest() if rendered else NOTHING
        receipt = Receipt(
            attempt=task.attempt,
            statement=task.statement.hash,
            requester=key_of_untrusted(task.requester),
            outcome=outcome,
            steps_done=steps_done,
            outputs_root=file_hash,  # the root over one leaf is the leaf
            outputs=int(rendered is not None),
            pixels=rendered.pixels if rendered else NOTHING,
            file=file_hash,
            file_bytes=len(rendered.file) if rendered else 0,
            sigmas=rendered.sigmas if rendered else NOTHING,
            environment=self._renderer.environment[:128],
            queue_us=began_us - task.heard_us,
            load_us=load_us,
            render_us=now_us() - began_us - load_us,
            finished_us=wall_us(),
            retain_s=RETAIN_S if rendered else 0,
        )
        return SignedReceipt.sign(receipt, network=self._network, private_key=self._private_key)

    async def _keep(self, task: Task, receipt: SignedReceipt) -> None:
        """On disk first: a receipt that was sent is never forgotten."""
        await self._on_receipt(task, receipt.envelope.to_bytes())
        task.receipt = receipt
        task.changed.notify()

    async def _watch_memory(self) -> None:
        """Between two tasks: a renderer that has grown too large is replaced before the machine swaps."""
        limit_bytes, last_us = self._memory_limit_bytes, self._retired_us
        if limit_bytes is None or (last_us is not None and now_us() - last_us < RETIRE_EVERY_US):
            return
        renderer_bytes = self._renderer.memory_bytes()
        own_bytes = psutil.Process().memory_info().rss
        if renderer_bytes and renderer_bytes + own_bytes > limit_bytes:
            self._retired_us = now_us()
            mib = {"renderer_mib": renderer_bytes, "peer_mib": own_bytes, "limit_mib": limit_bytes}
            self._journal("memory", **{name: size >> 20 for name, size in mib.items()})
            await self._renderer.retire("it and its peer used more memory than they may")
            self._on_capabilities()

    async def _tidy(self) -> None:
        """Lets go of results nobody can fetch any more, and stops work that nobody waits for."""
        while True:
            await trio.sleep(1)
            for attempt in self._queue.released(now_us()):
                self._tasks.pop(attempt, None)
            for attempt in [attempt for attempt in self._tasks if self._queue.state(attempt) is None]:
                del self._tasks[attempt]  # it was cancelled before it ran, and cannot come back
            for task in list(self._tasks.values()):
                gone_us = now_us() - (task.dropped_at_us or math.inf)
                if not task.over and gone_us > ORPHAN_AFTER_US:
                    self.cancel(task)


ORPHAN_AFTER_US = 15_000_000  # a requester that has not come back by then has asked someone else
