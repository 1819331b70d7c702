"""One provider: a queue before one renderer with few warm models, that hiccups, leaves, keeps silent or lies."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

from protocol.policy.prediction import predict_own
from protocol.policy.queue import Accepted, Queue, Refused, Repeat
from protocol.policy.selection import Choice
from protocol.policy.speeds import SpeedBook
from protocol.policy.watching import Watchers
from protocol.wire.hello import LiveState
from protocol.wire.statement import Statement

from .clock import Clock
from .costs import Costs
from .world import World

FORGET_EVERY = 256  # finished tasks
LIE_FACTOR = 10


class Owner(Protocol):
    """Who gave the attempt; told at the provider's time: how it hears of it is its own affair."""

    def on_started(self, attempt: "Attempt") -> None: ...

    def on_finished(self, attempt: "Attempt") -> None: ...

    def on_gone(self, attempt: "Attempt") -> None:
        """The provider's process died."""


class Attempt:
    """One request given to one provider."""

    __slots__ = (
        "accepted", "accepted_us", "answered", "arrived_us", "arrives_us", "began_us", "choice", "ended", "heard_us",
        "id", "loaded_us", "max_wait_us", "model", "number", "offered_us", "owner", "peer", "promised_us", "provider",
        "request", "requester", "slip", "spent_us", "start_heard", "started_us", "statement", "steps", "stop_asked",
    )  # fmt: skip

    def __init__(
        self, identity: int, request: int, provider: int, world: World, owner: Owner, *, again: bool
    ) -> None:
        asked = world.requests
        self.id = identity.to_bytes(16, "big")
        self.number = 0  # of those of its request
        self.offered_us = 0
        self.choice: Choice  # for those that plan
        self.max_wait_us: int | None = None  # None: any wait will do
        self.request = request
        self.requester = asked.requester[request]
        self.provider = provider
        self.model = asked.model[request]
        self.steps = asked.steps[request]
        self.slip = asked.slip[request][again]  # a second run slips by chance of its own
        self.owner = owner
        self.peer = name_of(self.requester)  # the requester, to the queue
        self.statement: Statement | None = None
        self.heard_us = 0  # what the requester heard last; no message of a connection overtakes another
        self.arrives_us = 0  # when its offer is there
        self.arrived_us = 0
        self.answered = False
        self.began_us = -1  # it was taken from the queue
        self.loaded_us = 0
        self.started_us = -1
        self.accepted = False  # as far as the requester has heard
        self.accepted_us = 0  # when it heard that
        self.promised_us = 0  # to start within so long from then
        self.start_heard = False
        self.stop_asked = False
        self.ended = False
        self.spent_us = 0  # of the renderer


class Line(Protocol):
    """A queue before one renderer: `protocol.policy.queue.Queue`, or the plainest one."""

    @property
    def running(self) -> bytes | None: ...

    @property
    def queued(self) -> int: ...

    def offer(
        self, attempt: bytes, requester: str, cost_us: int, max_wait_us: int | None, now_us: int
    ) -> Accepted | Refused | Repeat: ...

    def next(self, now_us: int) -> bytes | None: ...

    def on_progress(self, attempt: bytes, left_us: int, now_us: int) -> None: ...

    def on_finished(self, attempt: bytes, now_us: int) -> None: ...

    def cancel(self, attempt: bytes, now_us: int) -> str: ...

    def wait_us(self, requester: str, now_us: int) -> int: ...


class Slots:
    """Models in memory; the one used longest ago goes first."""

    def __init__(self, models: list[int], most: int) -> None:
        self._most = most
        self._held: OrderedDict[int, None] = OrderedDict.fromkeys(models)

    def __contains__(self, model: int) -> bool:
        return model in self._held

    def __iter__(self) -> Iterator[int]:
        return iter(self._held)

    def use(self, model: int) -> None:
        self._held[model] = None
        self._held.move_to_end(model)
        if len(self._held) > self._most:
            self._held.popitem(last=False)

    def become(self, other: "Slots") -> None:
        self._held = OrderedDict(other._held)


class Provider:
    """`model_ids[model]` is how live state names a model."""

    def __init__(
        self, index: int, world: World, clock: Clock, costs: Costs, line: Line, model_ids: list[bytes]
    ) -> None:
        self.index = index
        self.line = line
        self.gone = False
        self.silent = index in world.silent
        self.lying = index in world.lying
        self.warm = Slots(world.warm_at_first[index], world.config.warm_slots)
        self.warm_after = Slots(world.warm_at_first[index], world.config.warm_slots)  # once its queue has run
        self._world = world
        self._clock = clock
        self._costs = costs
        self._model_ids = model_ids
        self._attempts: dict[bytes, Attempt] = {}
        self._running: Attempt | None = None

    def offer(self, attempt: Attempt, max_wait_us: int | None) -> Accepted | Refused | None:
        """An offer arrived; None: no answer will come."""
        if self.gone or self.silent:
            return None
        now_us = attempt.arrived_us = self._clock.now_us
        load_us, run_us = self.expected_us(attempt)
        verdict = self.line.offer(attempt.id, attempt.peer, load_us + run_us, max_wait_us, now_us)
        if isinstance(verdict, Refused):
            return verdict
        assert isinstance(verdict, Accepted)  # an attempt is offered once
        self._attempts[attempt.id] = attempt
        self.warm_after.use(attempt.model)
        return verdict

    def expected_us(self, attempt: Attempt) -> tuple[int, int]:
        """(loading, the rest) of an attempt that is offered now: what the provider itself expects."""
        load_us = 0 if attempt.model in self.warm_after else self._world.cold_us[self.index][attempt.model]
        return load_us, int(self._world.run_us(self.index, attempt.steps))

    def go_on(self) -> None:
        """Takes the next task if the renderer is free."""
        now_us = self._clock.now_us
        taken = self.line.next(now_us)
        if taken is None:
            return
        attempt = self._running = self._attempts[taken]
        attempt.began_us = now_us
        model, index = attempt.model, self.index
        cold = model not in self.warm
        self.warm.use(model)
        if cold:
            self._costs.loads += 1
            attempt.loaded_us = self._world.cold_us[index][model]
            self._clock.at(now_us + attempt.loaded_us, self._start, attempt)
        else:
            self._start(attempt)

    def cancel(self, attempt: Attempt) -> None:
        """Out of the queue now, or off the renderer at the next step."""
        if self.gone or attempt.ended:
            return
        now_us = self._clock.now_us
        where = self.line.cancel(attempt.id, now_us)
        if where == "queued":
            self._end(attempt)
        elif where == "running" and not attempt.stop_asked:
            attempt.stop_asked = True
            if attempt.started_us >= 0:
                step_us = self._step_us(attempt)
                steps = (now_us - attempt.started_us) // step_us + 1
                self._clock.at(attempt.started_us + steps * step_us, self._stopped, attempt)

    def leave(self, line: Line) -> None:
        """Its process dies; when it comes back, it has the empty queue `line`, and nothing loaded."""
        attempts = list(self._attempts.values())
        if self._running is not None:
            self._spent(self._running)
        self.gone, self._running, self.line = True, None, line
        self._attempts.clear()
        self.warm = Slots([], self._world.config.warm_slots)
        self.warm_after = Slots([], self._world.config.warm_slots)
        for attempt in attempts:
            attempt.ended = True
            attempt.owner.on_gone(attempt)

    def live_state(self, requester: int) -> LiveState:
        """What it tells `requester` of itself now."""
        line = self.line
        if self.lying:
            return LiveState(0, 0, 0, None, tuple(self._model_ids))
        return LiveState(
            wait_us=line.wait_us(name_of(requester), self._clock.now_us),
            running=int(line.running is not None),
            queued=line.queued,
            free_memory_mib=None,
            resident=tuple(self._model_ids[model] for model in self.warm),
        )

    def _start(self, attempt: Attempt) -> None:
        if attempt.ended:
            return
        if attempt.loaded_us:
            self.on_loaded()
        if attempt.stop_asked:
            self._stopped(attempt)
            return
        now_us = attempt.started_us = self._clock.now_us
        attempt.owner.on_started(attempt)
        step_us = self._step_us(attempt)
        if attempt.steps > 1:
            self._clock.at(now_us + step_us, self._stepped, attempt, step_us)
        run_us = int(self._world.run_us(self.index, attempt.steps) * attempt.slip)
        self._clock.at(now_us + run_us, self._finish, attempt)

    def _step_us(self, attempt: Attempt) -> int:
        return max(1, int(self._world.step_us(self.index) * attempt.slip))

    def _stepped(self, attempt: Attempt, step_us: int) -> None:
        """One step shows how long the others will take."""
        if not attempt.ended:
            self.line.on_progress(attempt.id, (attempt.steps - 1) * step_us, self._clock.now_us)
            self.on_changed()

    def _finish(self, attempt: Attempt) -> None:
        if attempt.ended:
            return
        self.on_rendered(attempt)
        attempt.owner.on_finished(attempt)
        self._off(attempt)

    def _stopped(self, attempt: Attempt) -> None:
        if not attempt.ended:
            self._off(attempt)

    def _off(self, attempt: Attempt) -> None:
        self._spent(attempt)
        self.line.on_finished(attempt.id, self._clock.now_us)
        self._running = None
        self._end(attempt)
        self.go_on()
        self.on_changed()

    def _end(self, attempt: Attempt) -> None:
        attempt.ended = True
        del self._attempts[attempt.id]
        if not self._attempts:
            self.warm_after.become(self.warm)

    def _spent(self, attempt: Attempt) -> None:
        us = self._clock.now_us - attempt.began_us
        self._costs.busy_us += us
        attempt.spent_us = us

    def on_loaded(self) -> None:
        """For one that tells others."""

    def on_rendered(self, attempt: Attempt) -> None:
        """For one that learns from it."""

    def on_changed(self) -> None:
        """For one whose state is watched."""


class LearningProvider(Provider):
    """As `peer/provider.py`: expects what it learned of its own renderer, and runs the protocol's queue."""

    def __init__(
        self,
        index: int,
        world: World,
        clock: Clock,
        costs: Costs,
        model_ids: list[bytes],
        on_capabilities: Callable[[int], None],
        on_news: Callable[[int], None],
    ) -> None:
        super().__init__(index, world, clock, costs, Queue(), model_ids)
        self._on_capabilities = on_capabilities
        self._on_news = on_news
        self.watchers = Watchers()
        self._book = SpeedBook()
        self._finished = 0
        for model, identity in enumerate(model_ids):
            if world.capable[index, model]:  # it has rendered before
                self._book.on_load("", identity, world.cold_us[index][model])
                self._book.on_render(
                    "",
                    statement_of(identity, 1, world.result_px),
                    step_us=int(world.step_us(index)),
                    fixed_us=int(world.fixed_us(index)),
                )

    def expected_us(self, attempt: Attempt) -> tuple[int, int]:
        assert attempt.statement is not None
        load_us, step_us, fixed_us = predict_own(
            self._book.of(""), attempt.statement, resident=attempt.model in self.warm
        )
        return load_us, fixed_us + step_us * attempt.steps

    def on_changed(self) -> None:
        self._on_news(self.index)

    def on_loaded(self) -> None:
        self._on_capabilities(self.index)

    def on_rendered(self, attempt: Attempt) -> None:
        assert attempt.statement is not None
        fixed_us = int(self._world.fixed_us(self.index) * attempt.slip)
        self._book.on_render("", attempt.statement, step_us=self._step_us(attempt), fixed_us=fixed_us)
        self._finished += 1
        if isinstance(self.line, Queue) and self._finished % FORGET_EVERY == 0:
            self.line.released(self._clock.now_us)


def name_of(requester: int) -> str:
    """Of a requester, to a provider's queue."""
    return str(requester)


def statement_of(model: bytes, steps: int, side_px: int) -> Statement:
    """What a request of the world asks for."""
    return Statement(
        model=model,
        prompt="",
        width=side_px,
        height=side_px,
        steps=steps,
        guidance_millionths=5_000_000,
        sampler="euler",
        seed=0,
        salt=bytes(16),
        precision="fp16",
    )
