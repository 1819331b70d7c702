"""What a provider has taken on: the queue run on the renderer, and the signed account of each task."""

import hashlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from protocol.policy.credits import price_millionths, time_cost_millionths
from protocol.policy.prediction import adapters_us, predict_own, promised_load_us
from protocol.policy.queue import Accepted, Queue, Refused, Repeat, State
from protocol.policy.residency import Ahead
from protocol.policy.speeds import NOT_RENDERING, SpeedBook, applied_us
from protocol.policy.watching import NEWS_US
from protocol.wire.hello import LiveState
from protocol.wire.identity import key_of_untrusted
from protocol.wire.offer import Offer
from protocol.wire.receipt import Receipt, SignedReceipt
from protocol.wire.statement import Statement
from protocol.wire.task import Preview

from .changed import Changed
from .clock import now_us, wall_us
from .renderer.client import RenderCancelled, Rendered, Renderer, RendererDied, RenderFailed, Step
from .residents import Residents
from .store.adapters import Adapters, LocalAdapter
from .store.models import LocalModel

RETAIN_S = 600  # how long a result can be fetched again
ORPHAN_AFTER_US = 15_000_000  # a requester that has not come back by then has asked someone else
QUIET_S = 2.0  # nobody offered anything for so long: a model may be loaded ahead of demand
NOTHING = bytes(32)  # a hash of what there is none of
TOO_LATE = ("late", "nobody", "It cannot be ready any more by the time until which it is of use.")


@dataclass
class Task:
    """One attempt on this provider.  Whoever follows it looks at its state at each `changed`."""

    attempt: bytes
    requester: str
    statement: Statement
    heard_us: int
    load_us: int  # promised: what is predicted, and more
    step_us: int  # predicted
    rate_millionths: int = 0  # credits x 10^-6 for one step of one megapixel, as it was when it was taken on
    value_of_time_millionths: int = 0  # of a second, by its offer
    changed: Changed = field(default_factory=Changed)
    phase: str = "queue"
    started: bool = False
    steps_done: int = 0
    preview: Preview | None = None
    previews: int = 0
    rendered: Rendered | None = None
    failed: tuple[str, str, str] | None = None  # code, fault, sentence
    cancelled: bool = False
    late: bool = False  # it cannot be ready by its deadline, and is stopped for that
    receipt: SignedReceipt | None = None
    spans: list[tuple[str, int, int]] = field(default_factory=list)  # name, start (monotonic), us
    followers: int = 0  # streams on which its requester hears of it
    dropped_at_us: int | None = None  # since then there is none

    @property
    def over(self) -> bool:
        return self.receipt is not None or self.failed is not None


class Work:
    """The tasks of this peer's renderer.  Who may give it one, and what is said of it to whom, is the provider's."""

    def __init__(
        self,
        *,
        private_key: bytes,
        network: str,
        own_peer: str,
        renderer: Renderer,
        residents: Residents,
        models: dict[bytes, LocalModel],
        adapters: Adapters,
        speeds: SpeedBook,
        on_capabilities: Callable[..., None],
        on_receipt: Callable[[Task, bytes], Awaitable[None]],
        journal: Callable[..., None],
        on_work: Callable[[], None],
        rate_millionths: int | None = None,
    ) -> None:
        """`on_work` is called when what `live_state` tells may be news.

        `rate_millionths`: what is asked of others for one step of one megapixel, in credits x 10^-6.
        """
        self.models = models
        self._adapters = adapters
        self._rate_millionths = rate_millionths or 0
        self._private_key = private_key
        self._network = network
        self._own_peer = own_peer
        self._renderer = renderer
        self._residents = residents
        self._speeds = speeds
        self._on_capabilities = on_capabilities
        self._on_receipt = on_receipt
        self._journal = journal
        self._on_work = on_work
        self._loading: bytes | None = None  # the model that is being loaded
        self._end_us = 0  # of what runs, as far as was told
        self._queue = Queue()
        self._tasks: dict[bytes, Task] = {}
        self._changed = Changed()

    def live_state(self, requester: str) -> LiveState:
        """As `requester` is told it: the wait is that of a task of its own."""
        return LiveState(
            wait_us=self._queue.wait_us(requester, now_us()),
            running=int(self._queue.running is not None),
            queued=self._queue.queued,
            free_memory_mib=None,
            resident=self._loaded_then(),
        )

    def _loaded_then(self) -> tuple[bytes, ...]:
        """The models that are loaded when what is done now is over."""
        resident, loading = self._renderer.resident, self._loading
        return resident if loading is None or loading in resident else (*resident, loading)

    def statistics(self) -> dict[str, int]:
        return self._queue.statistics() | self._residents.statistics()

    def task(self, attempt: bytes) -> Task | None:
        """What it has of `attempt`: waiting, running, or with a result that is still kept."""
        return self._tasks.get(attempt)

    def quote_millionths(self, requester: str, statement: Statement) -> int:
        """What the whole picture costs `requester`, in credits x 10^-6."""
        return price_millionths(self._rate(requester), statement.pixels, statement.steps)

    def _rate(self, requester: str) -> int:
        return 0 if requester == self._own_peer else self._rate_millionths

    def wait_us(self, task: Task) -> int:
        """Until it starts, as is promised."""
        return self._queue.wait_of_us(task.attempt, now_us()) or 0

    def offer(self, requester: str, offer: Offer, heard_us: int, due_us: int | None = None) -> Task | Refused:
        """Takes the picture on, or finds it taken on before.  `due_us`: the offer's deadline on this machine's clock."""
        statement = offer.statement
        model = self.models[statement.model]
        resident, last = self._residents.expects(model.id, self._upcoming(), self._loading)
        load_us, step_us, fixed_us = predict_own(
            self._speeds.of(self._own_peer), statement, resident=resident, model_bytes=model.bytes
        )
        apply_us = None
        if statement.adapters:
            apply_us = adapters_us(self._speeds.of(self._own_peer), statement, model.bytes)
        cost_us = load_us + (apply_us or 0) + fixed_us + step_us * statement.steps
        max_wait_us = offer.max_wait_us
        if max_wait_us is not None and self._loading == model.id:
            # Who expects it to be loaded does not wait for that.
            max_wait_us += self._queue.own_work_us(now_us())
        verdict = self._queue.offer(
            offer.attempt, requester, cost_us, max_wait_us, now_us(), due_us=due_us, last=last
        )
        if not isinstance(verdict, Repeat):
            self._residents.on_offer(requester, model.id, taken=isinstance(verdict, Accepted))
        match verdict:
            case Refused():
                return verdict
            case Repeat():
                task = self._tasks.get(offer.attempt)
                if task is None or task.cancelled:
                    return Refused("duplicate", "This attempt is over and its result is no longer kept.")
            case Accepted():
                promised_us = promised_load_us(load_us, apply_us)
                task = Task(
                    offer.attempt,
                    requester,
                    statement,
                    heard_us,
                    promised_us,
                    step_us,
                    self._rate(requester),
                    offer.value_of_time_millionths,
                    dropped_at_us=heard_us,
                )
                self._tasks[offer.attempt] = task
                self._changed.notify()
                self._on_work()
                self._journal("task_accepted", peer=requester, attempt=offer.attempt.hex())
        return task

    def cancel(self, task: Task) -> None:
        """The requester no longer wants it: out of the queue, or stopped at the next step."""
        where = self._queue.cancel(task.attempt, now_us())
        if where == "running":
            task.cancelled = True
            self._renderer.cancel(task.attempt)
        elif where == "queued":
            task.cancelled = True
            self._changed.notify()
            self._on_work()

    def _upcoming(self) -> list[bytes]:
        """The models of the tasks that wait, the next first."""
        return [self._tasks[attempt].statement.model for attempt in self._queue.waiting]

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tidy)
            nursery.start_soon(self._sign_cancelled)
            task_status.started()
            while True:
                self._give_up_late()
                attempt = self._queue.next(now_us())
                if attempt is None:
                    await self._rest()
                    continue
                await self._run_one(self._tasks[attempt], nursery)
                await self._residents.watch()

    async def _rest(self) -> None:
        """Until there may be something to do; when it has been quiet for a while, a model is loaded ahead of demand."""
        with trio.move_on_after(QUIET_S) as quiet:
            await self._changed.wait()
        wanted = self._residents.wanted() if quiet.cancelled_caught and not self._queue.queued else None
        if wanted is not None:
            await self._load_ahead(wanted)

    async def _load_ahead(self, wanted: Ahead) -> None:
        """A task that comes meanwhile is told to wait for it (policy/residency.py says why it is not cut short)."""
        self._loading = wanted.model
        self._queue.on_own_work(self._residents.reload_us(wanted.model), now_us())
        self._on_work()
        try:
            await self._residents.load_ahead(wanted)
        finally:
            self._queue.on_own_work(None, now_us())
            self._loading = None
            self._on_work()

    def _give_up_late(self) -> None:
        """Says of tasks that they cannot be in time any more, rather than draw them in vain."""
        for attempt in self._queue.late(now_us()):
            task = self._tasks[attempt]
            task.late = True
            if attempt == self._queue.running:
                self._renderer.cancel(attempt)  # `_run_one` says it
            else:
                task.failed = TOO_LATE
                self._on_work()
                self._journal("task_finished", attempt=attempt.hex(), outcome="failed", steps=0)
                task.changed.notify()

    async def _sign_cancelled(self) -> None:
        """Receipts of what was cancelled in the queue, whatever runs meanwhile."""
        while True:
            task = next(filter(self._cancelled_in_queue, self._tasks.values()), None)
            if task is None:
                await self._changed.wait()
            else:
                began_us = now_us()
                await self._keep(task, self._sign(task, "cancelled", began_us=began_us))

    def _cancelled_in_queue(self, task: Task) -> bool:
        return not task.over and self._queue.state(task.attempt) is State.CANCELLED

    async def _run_one(self, task: Task, nursery: trio.Nursery) -> None:
        """Draws one; its receipt is stored while its bytes go and the next one is drawn."""
        statement, began_us = task.statement, now_us()
        task.spans.append(("wait", task.heard_us, began_us - task.heard_us))
        model = self.models[statement.model]
        outcome, failed, steps_done, load_us = "cancelled", None, 0, 0
        rendered: Rendered | None = None
        try:
            if model.id not in self._renderer.resident:
                task.phase = "weights"
                task.changed.notify()
            self._loading = model.id
            if spans := await self._residents.load(model.id, self._upcoming()):
                task.spans.extend(spans)
                load_us = now_us() - began_us
            if not task.cancelled and not task.late:
                if statement.adapters:
                    task.phase = "adapter"
                    task.changed.notify()
                rendered = await self._render(task, model.id)
                outcome, steps_done = "done", rendered.steps_done
                load_us += applied_us(rendered.spans)
                self._learn(statement, rendered)
        except RenderCancelled as exc:
            steps_done = exc.steps_done
        except RenderFailed as exc:
            failed = (exc.code, exc.fault, exc.sentence)
            if exc.code == "out_of_memory":
                self._residents.on_out_of_memory()
        except RendererDied as exc:
            failed = ("renderer_died", "provider", f"{exc}")
            self._on_capabilities()
        self._loading = None
        self._queue.on_finished(task.attempt, now_us())
        self._on_work()
        if task.late and rendered is None and failed is None:
            failed = TOO_LATE
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
            adapters=[(each.id, each.weights, each.weights_root) for each in self._adapters_of(task)],
            on_started=lambda: self._on_started(task),
        )
        back_us = now_us()
        first_us = min(start for _, start, _ in rendered.spans)
        last_us = max(start + us for _, start, us in rendered.spans)
        task.spans.append(("handoff", sent_us, first_us - sent_us))
        task.spans.extend(rendered.spans)
        task.spans.append(("handback", last_us, back_us - last_us))
        return rendered

    def lacks(self, statement: Statement) -> bytes | None:
        """The first of its adapters that this peer does not have for that model."""
        applied = self._adapters.get(statement.model, {})
        return next((adapter for adapter, _ in statement.adapters if adapter not in applied), None)

    def _adapters_of(self, task: Task) -> list[LocalAdapter]:
        """Of an offer that was taken: of what it names, `lacks` found none missing."""
        applied = self._adapters.get(task.statement.model, {})
        return [applied[adapter] for adapter in dict(task.statement.adapters)]

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
        end_us = now_us() + left
        if abs(end_us - self._end_us) > NEWS_US:  # not at every step: all who watch are looked at
            self._end_us = end_us
            self._on_work()
        self._give_up_late()
        task.changed.notify()

    def _learn(self, statement: Statement, rendered: Rendered) -> None:
        steps = sorted(us for name, _, us in rendered.spans if name == "step")
        fixed_us = sum(us for name, _, us in rendered.spans if name != "step" and name not in NOT_RENDERING)
        self._speeds.on_adapters(self._own_peer, statement, applied_us(rendered.spans))
        if steps:
            first = self._speeds.of(self._own_peer)
            new = (
                first is None or first.nearest(statement.model, statement.precision, statement.pixels) is None
            )
            self._speeds.on_render(
                self._own_peer, statement, step_us=max(1, steps[len(steps) // 2]), fixed_us=fixed_us
            )
            if new:
                # Once for each model; it follows what was told of its loading.
                self._on_capabilities(urgent=True)

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
        signed_us = now_us()
        latency = time_cost_millionths(signed_us - task.heard_us, task.value_of_time_millionths)
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
            render_us=signed_us - began_us - load_us,
            finished_us=wall_us(),
            retain_s=RETAIN_S if rendered else 0,
            price_millionths=price_millionths(task.rate_millionths, task.statement.pixels, steps_done),
            latency_millionths=latency if task.value_of_time_millionths else None,
        )
        return SignedReceipt.sign(receipt, network=self._network, private_key=self._private_key)

    async def _keep(self, task: Task, receipt: SignedReceipt) -> None:
        """On disk first: a receipt that was sent is never forgotten."""
        await self._on_receipt(task, receipt.envelope.to_bytes())
        task.receipt = receipt
        task.changed.notify()

    async def _tidy(self) -> None:
        """Lets go of results nobody can fetch any more, and stops work that nobody waits for."""
        while True:
            await trio.sleep(1)
            self._give_up_late()
            for attempt in self._queue.released(now_us()):
                self._tasks.pop(attempt, None)
            for attempt in [attempt for attempt in self._tasks if self._queue.state(attempt) is None]:
                del self._tasks[attempt]  # it was cancelled before it ran, and cannot come back
            for task in list(self._tasks.values()):
                gone_us = now_us() - (task.dropped_at_us or math.inf)
                if not task.over and gone_us > ORPHAN_AFTER_US:
                    self.cancel(task)
