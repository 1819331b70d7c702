"""Runs a scenario with real peer processes that are driven by the `peer` command."""

import json
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import trio

from . import journals, processes
from . import scenario as stated
from .brokerage import Brokerage, open_brokerage
from .net import Network, open_network
from .outcome import Drawn, Happened, Judged, Outcome, Part, Task, judge
from .paces import Paces
from .run_folder import PEERS, run_folder, tidy
from .scenario import ACTIVE, Event, Job, Loaded, Scenario
from .swarm import Peer, PeerSettings, Swarm, SwarmConfig, SwarmError, swarm

PROMPTS = ("a gold spiral on navy", "a red circle on white", "a blue square on white", "a red heart on white")
RESULT = "result.json"
READY_WITHIN_S = 120.0
WARM_TRIES = 3
WARM_WITHIN_S = 60.0  # all load their weights at once
WARM_STEPS = 3
SPEEDS_WITHIN_S = 30.0
DRAWING_WITHIN_S = 60.0
WATCH_S = 0.02
LOOK_S = 1.0  # a look starts a command for each peer

Tell = Callable[[str], None]
OnClock = Callable[[float, int], None]  # seconds on the scenario's clock, jobs that have ended


@dataclass(frozen=True)
class Result:
    """`judged` says whether the scenario came out as expected."""

    scenario: str
    about: str
    topology: str
    seed: int
    emulated: bool
    up_us: int  # from the first start until everyone knew everyone
    started_us: int  # CLOCK_MONOTONIC at 0 s on the scenario's clock
    outcome: Outcome
    judged: tuple[Judged, ...]
    router: dict[str, Any] | None  # statistics of the emulated links
    hosts: tuple[str, ...]  # the peers in the order in which the record of packets counts them
    load_average: tuple[float, float]  # over one minute: when the clock started, and at the end
    paced_ms: dict[str, int]  # the peers whose renderer was held back to an emulated speed
    paced_on_time: float | None  # share of their steps that took at most paces.KEPT times that

    @property
    def ok(self) -> bool:
        return all(each.ok is not False for each in self.judged)

    def to_value(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


async def run(
    loaded: Loaded,
    *,
    seed: int,
    emulate: bool,
    out: Path | None,
    tell: Tell,
    on_clock: OnClock,
) -> Result:
    """SwarmError, CannotEmulate, BadScenario, BadFolder or AlreadyUp where it could not be run.  In the main thread.

    With `out`, that folder keeps everything: the result, pictures, journals and the record of packets.
    """
    if loaded.scenario.needs_links and not emulate:
        raise stated.BadScenario(f"{loaded.name} changes links, which plain loopback cannot do.")
    await tidy(tell)
    with run_folder(out) as folder:
        async with _network(loaded.scenario, seed, emulate, folder) as network:
            return await _Run(loaded, seed, folder, network, tell, on_clock).run()


@asynccontextmanager
async def _network(
    scenario: Scenario, seed: int, emulate: bool, folder: Path
) -> AsyncIterator[Network | None]:
    if not emulate:
        yield None
        return
    places = [peer.at for peer in scenario.peers] + ([scenario.broker] if scenario.broker else [])
    async with open_network(scenario.topology, places, folder=folder, seed=seed) as network:
        processes.record(folder, [network.router])
        try:
            yield network
        except* SwarmError:
            network.check_running()  # peers that cannot listen or dial say only that
            raise


class _Run:
    """One run of one scenario."""

    def __init__(
        self, loaded: Loaded, seed: int, folder: Path, network: Network | None, tell: Tell, on_clock: OnClock
    ) -> None:
        self._loaded = loaded
        self._on_clock = on_clock
        self._scenario = loaded.scenario
        self._seed = seed
        self._folder = folder
        self._network = network
        self._tell = tell
        self._peers: dict[str, Peer] = {}
        self._names: dict[str, str] = {}  # by peer id
        self._started_us = 0
        self._asked_s: dict[int, float] = {}  # by job number
        self._drawn: dict[int, Drawn] = {}
        self._happened: list[tuple[int, Happened]] = []
        self._tasks: dict[str, Task] = {}
        self._dead: set[str] = set()
        self._brokerage: Brokerage | None = None
        self._paces = Paces(folder, self._scenario.peers)

    async def run(self) -> Result:
        scenario = self._scenario
        config = SwarmConfig(
            peers=len(scenario.peers),
            home=self._folder / PEERS,
            ready_within_s=READY_WITHIN_S,
            on_progress=self._tell,
            each=tuple(self._settings(peer) for peer in scenario.peers),
            prepare=self._warm,
        )
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(swarm(config, self._network))
            self._peers = {peer.settings.name: peer for peer in running.peers}
            self._names = {peer.peer_id: name for name, peer in self._peers.items()}
            if self._scenario.broker is not None and self._network is not None:
                workers = [(self._peers[peer.name].index, peer.name) for peer in scenario.peers if peer.warm]
                variables = {peer.name: self._paces.variables(peer.name) for peer in scenario.peers}
                self._brokerage = await stack.enter_async_context(
                    open_brokerage(self._network, len(scenario.peers), workers, variables, self._folder)
                )
            await self._wait_speeds_known()
            load_before = os.getloadavg()[0]
            self._started_us = _now_us()
            self._tell(f"Everyone knows everyone; {len(scenario.jobs)} jobs, {len(scenario.events)} events.")
            outcome = await self._play(running)
            judged = self._judged(outcome)
            slowed = {event.action.peer for event in scenario.events if isinstance(event.action, stated.Slow)}
            router = await self._network.statistics() if self._network else None
            result = Result(
                scenario=self._loaded.name,
                about=scenario.about,
                topology=scenario.topology.name,
                seed=self._seed,
                emulated=self._network is not None,
                up_us=running.up_us,
                started_us=self._started_us,
                outcome=outcome,
                judged=judged,
                router=router,
                hosts=tuple(self._peers),
                load_average=(load_before, os.getloadavg()[0]),
                paced_ms=self._paces.ms,
                paced_on_time=self._paces.on_time(outcome.jobs, slowed),
            )
        (self._folder / RESULT).write_text(json.dumps(result.to_value()))
        return result

    def _judged(self, outcome: Outcome) -> tuple[Judged, ...]:
        """A measure may be anybody's function: BadScenario where it fails."""
        with self._loaded.blamed("A measure failed"):
            return judge(self._scenario.expects, outcome)

    # before the clock starts

    def _settings(self, peer: stated.Peer) -> PeerSettings:
        variables = self._paces.variables(peer.name)
        return PeerSettings(peer.name, peer.provides, peer.warm, peer.models, variables)

    async def _warm(self, peer: Peer) -> None:
        """Has it draw a picture of the first job's kind, so that its weights are resident and its speed is known."""
        job = self._scenario.jobs[0] if self._scenario.jobs else Job(peer.settings.name)
        image = self._folder / f"{peer.settings.name}-warm.png"
        words = [*_words(replace(job, steps=WARM_STEPS), 0, self._seed), "-o", str(image), "--force"]
        journal = journals.Follower(peer.journal.path)
        for _ in range(WARM_TRIES):
            done = await peer.run_cli(["render", "--json", *words])
            if done.returncode == 0:
                return
            with trio.move_on_after(
                WARM_WITHIN_S
            ):  # its patience is at its end, but the renderer goes on loading
                while not any(  # noqa: ASYNC110 - a journal tells no trio.Event
                    entry.get("event") == "task_finished" for entry in journal.new_entries()
                ):
                    await trio.sleep(WATCH_S)
        raise SwarmError(f"Peer {peer.settings.name} could not be warmed up. {done.stderr.strip()}")

    async def _wait_speeds_known(self) -> None:
        """Until everyone who will ask has learned how fast the warm peers are."""
        warm = {self._peers[peer.name].peer_id for peer in self._scenario.peers if peer.warm}
        asking = {job.by for job in self._scenario.jobs}

        async def wait(peer: Peer) -> None:
            while True:
                rows = await self._swarm_of(peer)
                known = {row["peer"] for row in rows if row["step_us"] is not None and row["connected"]}
                if warm - {peer.peer_id} <= known:
                    return

        with trio.move_on_after(SPEEDS_WITHIN_S) as scope:
            async with trio.open_nursery() as nursery:
                for name in asking:
                    nursery.start_soon(wait, self._peers[name])
        if scope.cancelled_caught:
            raise SwarmError(f"In {SPEEDS_WITHIN_S:g} s not everyone learned how fast the warm peers are.")

    async def _swarm_of(self, peer: Peer) -> list[dict[str, Any]]:
        told = await peer.run_cli(["swarm", "--json"])
        if told.returncode != 0:
            return []
        rows: list[dict[str, Any]] = json.loads(told.stdout.splitlines()[-1])["peers"]
        return rows

    # while it runs

    def _clock_s(self) -> float:
        return (_now_us() - self._started_us) / 1e6

    async def _play(self, running: Swarm) -> Outcome:
        async with trio.open_nursery() as watching:
            watching.start_soon(self._watch)
            async with trio.open_nursery() as nursery:
                for number, job in enumerate(self._scenario.jobs):
                    nursery.start_soon(self._ask, number, job)
                for number, event in enumerate(self._scenario.events):
                    nursery.start_soon(self._happen, number, event, running)
            outcome = await self._settle()
            watching.cancel_scope.cancel()
        return outcome

    async def _watch(self) -> None:
        """Follows the journals: who draws what for whom; and that nobody died who was not killed."""
        followers = {name: journals.Follower(peer.journal.path) for name, peer in self._peers.items()}
        while True:
            for name, follower in followers.items():
                for entry in follower.new_entries():
                    self._on_entry(name, entry)
                if name not in self._dead:
                    self._peers[name].check_running()
            if self._network:
                self._network.check_running()
            self._on_clock(self._clock_s(), len(self._drawn))
            await trio.sleep(WATCH_S)

    def _on_entry(self, name: str, entry: dict[str, Any]) -> None:
        match entry:
            case {"event": "task_accepted", "peer": str(peer), "attempt": str(attempt), "t_us": int(t_us)}:
                requester = self._names.get(peer, peer)
                self._tasks[attempt] = Task(attempt, name, requester, self._at_s(t_us))
            case {"event": "task_started", "attempt": str(attempt), "t_us": int(t_us)}:
                self._on_task(attempt, started_s=self._at_s(t_us))
            case {"event": "task_finished", "attempt": str(attempt), "t_us": int(t_us)}:
                self._on_task(attempt, finished_s=self._at_s(t_us), outcome=str(entry.get("outcome")))

    def _on_task(self, attempt: str, **changes: Any) -> None:
        if attempt in self._tasks:
            self._tasks[attempt] = replace(self._tasks[attempt], **changes)

    def _at_s(self, t_us: int) -> float:
        return (t_us - self._started_us) / 1e6

    async def _ask(self, number: int, job: Job) -> None:
        await trio.sleep(job.at_s - self._clock_s() if job.at_s > self._clock_s() else 0)
        if job.via != "peer":
            await self._ask_broker(number, job)
            return
        peer = self._peers[job.by]
        image = self._folder / f"job-{number}.png"
        asked_s = self._asked_s[number] = self._clock_s()
        done = None
        with trio.move_on_after(job.within_s):
            words = [*_words(job, number, self._seed), "-o", str(image), "--force"]
            words += ["--count", str(job.count)] if job.count > 1 else []
            done = await peer.run_cli(["render", "--remote", "--json", *words])
        drawn = self._drawn_of(number, job.by, asked_s, done)
        self._drawn[number] = drawn
        how = f"{drawn.provider} drew it in {(drawn.wall_us or 0) / 1e6:.2f} s" if drawn.done else "failed"
        tries = f", {len(drawn.attempts)} attempts" if len(drawn.attempts) > 1 else ""
        self._tell(f"[{drawn.ended_s:5.1f} s] job {number} of {job.by}: {how}{tries}. {drawn.error}".rstrip())

    def _drawn_of(self, number: int, by: str, asked_s: float, done: Any) -> Drawn:
        ended_s = self._clock_s()
        nothing = Drawn(number, by, asked_s, ended_s, None, None, None, None, None, (), "It took too long.")
        if done is None:
            return nothing
        if done.returncode != 0:
            error = "".join(done.stderr.strip().splitlines()[-1:])
            return replace(nothing, exit_code=done.returncode, error=error)
        summary = json.loads(done.stdout.splitlines()[-1])
        attempts = summary["attempts"]
        if "batch" in summary:
            summary |= {"wall_us": summary["batch"]["wall_us"], "unaccounted_us": None}
        return Drawn(
            number=number,
            by=by,
            asked_s=asked_s,
            ended_s=ended_s,
            exit_code=0,
            provider=self._names.get(summary["provider"], summary["provider"]),
            wall_us=summary["wall_us"],
            predicted_us=attempts[0]["predicted_us"] if attempts else None,
            unaccounted_us=summary["unaccounted_us"],
            attempts=tuple(
                (self._names.get(each["peer"], each["peer"]), each["outcome"]) for each in attempts
            ),
            job=summary["job"],
            timeline=tuple(summary["timeline"]),
            pictures=tuple(
                Part(self._names.get(each["provider"], each["provider"]), tuple(each["timeline"]))
                for each in summary.get("pictures") or ()
            ),
        )

    async def _ask_broker(self, number: int, job: Job) -> None:
        assert self._brokerage is not None
        asked_s = self._asked_s[number] = self._clock_s()
        answer = None
        with trio.move_on_after(job.within_s):
            answer = await self._brokerage.ask(
                self._peers[job.by].index,
                prompt=_prompt(number),
                steps=job.steps,
                size_px=job.size_px,
                seed=_seed(number, self._seed),
                returns=job.via,
                output=self._folder / f"job-{number}.png",
            )
        wall_us, worker = answer or (None, None)
        attempts = ((worker, "done"),) if worker else ()
        exit_code = None if answer is None else 0
        drawn = Drawn(
            number,
            job.by,
            asked_s,
            self._clock_s(),
            exit_code,
            worker,
            wall_us,
            None,
            None,
            attempts,
            via=job.via,
        )
        self._drawn[number] = drawn
        self._tell(
            f"[{drawn.ended_s:5.1f} s] job {number} of {job.by} via the broker, {job.via}: "
            f"{worker} drew it in {(wall_us or 0) / 1e6:.2f} s."
        )

    async def _happen(self, number: int, event: Event, running: Swarm) -> None:
        active = None
        if event.drawing is None:
            await trio.sleep(max(0.0, event.at_s - self._clock_s()))
        else:
            active = await self._drawing(event.drawing)
            await trio.sleep(event.after_s)
        peers = tuple(active if name == ACTIVE and active else name for name in _named(event.action))
        at_s = self._clock_s()
        await self._act(event.action, peers, running)
        what = type(event.action).__name__.lower()
        self._happened.append((number, Happened(at_s, what, peers)))
        self._tell(f"[{at_s:5.1f} s] {what} {', '.join(peers)}".rstrip())

    async def _drawing(self, number: int) -> str:
        """The provider that is seen drawing that job; SwarmError if nobody is for a long time."""
        by = self._scenario.jobs[number].by
        with trio.move_on_after(self._scenario.jobs[number].at_s + DRAWING_WITHIN_S):
            while True:
                asked_s = self._asked_s.get(number, math.inf)
                for task in self._tasks.values():
                    if task.requester == by and task.started_s is not None and task.started_s > asked_s:
                        return task.provider
                await trio.sleep(WATCH_S)
        raise SwarmError(f"Nobody was seen drawing job {number}, which an event waits for.")

    async def _act(self, action: stated.Action, peers: tuple[str, ...], running: Swarm) -> None:
        network = self._network
        match action:
            case stated.Kill():
                self._dead.add(peers[0])
                await processes.kill(self._peers[peers[0]].process)
            case stated.Restart():
                running.restart(self._peers[peers[0]])
                self._dead.discard(peers[0])
            case stated.Freeze():
                processes.signal_family(self._peers[peers[0]].pid, signal.SIGSTOP)
            case stated.Thaw():
                processes.signal_family(self._peers[peers[0]].pid, signal.SIGCONT)
            case stated.Slow(_, step_ms, claims_ms):
                self._paces.set(peers[0], step_ms, claims_ms)
            case stated.Partition(groups) if network:
                await network.partition([[self._peers[name].index for name in group] for group in groups])
            case stated.Heal() if network:
                await network.heal()
            case stated.Degrade() if network:
                await network.degrade(
                    [self._peers[name].index for name in peers],
                    to=[self._peers[name].index for name in action.to],
                    more_delay_us=action.more_delay_ms * 1000,
                    loss_millionths=action.loss_millionths,
                    up=action.up,
                    down=action.down,
                )

    # afterwards

    async def _settle(self) -> Outcome:
        """As soon as all expectations hold, or settle_s after the last job or event."""
        until_s = trio.current_time() + self._scenario.settle_s
        while True:
            outcome = await self._outcome()
            if trio.current_time() >= until_s or all(each.ok is not False for each in self._judged(outcome)):
                return outcome
            await trio.sleep(LOOK_S)

    async def _outcome(self) -> Outcome:
        for name in self._dead:
            if self._peers[name].process.poll() is None:
                raise SwarmError(f"Peer {name} was killed and is alive.")
        alive = [name for name in self._peers if name not in self._dead]
        knows: dict[str, tuple[str, ...]] = {}

        async def look(name: str) -> None:
            rows = await self._swarm_of(self._peers[name])
            known = (self._names.get(row["peer"]) for row in rows if row["connected"])
            knows[name] = tuple(each for each in known if each and each != name)

        with trio.move_on_after(SPEEDS_WITHIN_S):  # a frozen peer tells nothing
            async with trio.open_nursery() as nursery:
                for name in alive:
                    nursery.start_soon(look, name)
        return Outcome(
            jobs=tuple(self._drawn[number] for number in sorted(self._drawn)),
            tasks=tuple(self._tasks.values()),
            events=tuple(happened for _, happened in sorted(self._happened, key=lambda each: each[0])),
            alive=tuple(alive),
            knows=knows,
            emulated=self._network is not None,
        )


def _named(action: stated.Action) -> tuple[str, ...]:
    match action:
        case stated.Partition(groups):
            return tuple(name for group in groups for name in group)
        case stated.Degrade():
            return action.peers
        case stated.Heal():
            return ()
        case _:
            return (action.peer,)


def _words(job: Job, number: int, seed: int) -> list[str]:
    size = f"{job.size_px}x{job.size_px}"
    return [_prompt(number), "--steps", str(job.steps), "--size", size, "--seed", str(_seed(number, seed))]


def _prompt(number: int) -> str:
    return PROMPTS[number % len(PROMPTS)]


def _seed(number: int, seed: int) -> int:
    return (seed * 1000 + number) % (1 << 32)


def _now_us() -> int:
    return time.monotonic_ns() // 1000
