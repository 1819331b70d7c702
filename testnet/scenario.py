"""What a scenario states: where peers are, how fast, what is asked of them, what happens, and what must come out.

A scenario is a Python file with a `SCENARIO`, or a function `scenario(seed)` that makes one.  Those that come with the
project are in `scenarios/`; the shortest of them is the example to start from.
"""

import random
import runpy
import traceback
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .link import MAX_DELAY_US, MILLION, Line
from .outcome import Expect
from .rtt_matrix import BadMatrix
from .topology import Topology

FOLDER = Path(__file__).with_name("scenarios")
ACTIVE = "*active*"  # as a peer's name: the provider that is drawing the event's job
STEPS = 8
SIZE_PX = 64
MAX_PEERS = 50
MAX_COUNT = 1000  # pictures of one job
MAX_STEP_MS = 1_500  # a paced step holds back a cancel, which a peer waits 2 s for


class BadScenario(Exception):
    """The scenario cannot be run: what is wrong in it."""


@dataclass(frozen=True)
class Peer:
    """A real peer process at a place of the topology.

    `step_ms`: its renderer is held back to that time a step (None: as fast as this machine is).  `claims_step_ms`: what
    it says a step took, where that is a lie.  `warm`: before the clock starts it has drawn a picture.
    """

    name: str
    at: str
    provides: bool = False
    step_ms: int | None = None
    claims_step_ms: int | None = None
    memory_mib: int | None = None
    models: tuple[Path, ...] = ()
    warm: bool = False


def provider(
    name: str, at: str, step_ms: int = 60, *, warm: bool = True, claims_step_ms: int | None = None
) -> Peer:
    return Peer(name, at, True, step_ms, claims_step_ms, warm=warm)


def client(name: str, at: str) -> Peer:
    return Peer(name, at)


Via = Literal["peer", "direct", "relayed"]  # the last two: how the broker's picture returns


@dataclass(frozen=True)
class Job:
    """One `peer render --remote` by the peer `by`; or the same asked of the broker, from the same host (`via`).

    `count`: of pictures, which peers alone can be asked for at once.
    """

    by: str
    at_s: float = 0.0  # since everybody knew everybody
    steps: int = STEPS
    size_px: int = SIZE_PX
    within_s: float = 60.0  # then it is ended, and counts as not done
    via: Via = "peer"
    count: int = 1


def every(
    period_s: float, by: str, count: int, *, start_s: float = 0.0, steps: int = STEPS
) -> tuple[Job, ...]:
    """`count` jobs of one peer, `period_s` apart."""
    return tuple(Job(by, start_s + number * period_s, steps) for number in range(count))


# what can happen


@dataclass(frozen=True)
class Kill:
    """SIGKILL: the process is gone, its kernel says so to whoever is connected."""

    peer: str


@dataclass(frozen=True)
class Freeze:
    """SIGSTOP to the peer and its renderer: connections stay, nobody answers."""

    peer: str


@dataclass(frozen=True)
class Thaw:
    peer: str


@dataclass(frozen=True)
class Restart:
    """Starts a killed peer again, with its key and its state on disk; its renderer is cold."""

    peer: str


@dataclass(frozen=True)
class Partition:
    """Nothing passes between the groups; peers that none names are one more group."""

    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Heal:
    """All links are as in the beginning."""


@dataclass(frozen=True)
class Degrade:
    """The links of these peers, or only those `to` some others, get worse until Heal; a second one comes on top.

    `more_delay_ms` is added to each way.  `up` and `down` are a peer's own lines, which all of its links share.
    """

    peers: tuple[str, ...]
    to: tuple[str, ...] = ()
    more_delay_ms: int = 0
    loss_millionths: int | None = None
    up: Line | None = None
    down: Line | None = None


@dataclass(frozen=True)
class Slow:
    """From now on a step takes `step_ms`; a peer that lies goes on telling `claims_step_ms`."""

    peer: str
    step_ms: int
    claims_step_ms: int | None = None


Action = Kill | Freeze | Thaw | Restart | Partition | Heal | Degrade | Slow
LINK_ACTIONS = (Partition, Heal, Degrade)


@dataclass(frozen=True)
class Event:
    """At `at_s`; or `after_s` after the job of that number is first seen being drawn."""

    action: Action
    at_s: float = 0.0
    drawing: int | None = None
    after_s: float = 0.0


def at(at_s: float, action: Action) -> Event:
    return Event(action, at_s=at_s)


def once_drawing(job: int, action: Action, *, after_s: float = 0.0) -> Event:
    return Event(action, drawing=job, after_s=after_s)


def churn(
    peers: Collection[str], *, seed: int, from_s: float, until_s: float, up_s: float, down_s: float
) -> tuple[Event, ...]:
    """Each of these peers is killed and started again, at times drawn from exponentials with these means."""
    events = []
    for name in peers:
        dice = random.Random(f"{seed}:{name}")
        now_s = from_s + dice.expovariate(1 / up_s)
        while now_s < until_s:
            events.append(at(now_s, Kill(name)))
            back_s = now_s + max(1.0, dice.expovariate(1 / down_s))
            events.append(at(back_s, Restart(name)))
            now_s = back_s + dice.expovariate(1 / up_s)
    return tuple(sorted(events, key=lambda event: event.at_s))


@dataclass(frozen=True)
class Scenario:
    """BadScenario from the constructor, with a sentence for the person who wrote it.

    The first peer that is not warm is the bootstrap peer: the others know only its address when they start.
    """

    about: str  # one sentence
    topology: Topology
    peers: tuple[Peer, ...]
    jobs: tuple[Job, ...]
    expects: tuple[Expect, ...]
    events: tuple[Event, ...] = ()
    settle_s: float = 0.0  # at most, after the last job and event, until what is expected holds
    broker: str | None = None  # place of a central broker; each warm peer is one of its workers too

    def __post_init__(self) -> None:
        names = [peer.name for peer in self.peers]
        if not 1 <= len(names) <= MAX_PEERS or len(set(names)) != len(names):
            raise BadScenario(f"A scenario has 1 to {MAX_PEERS} peers, each with a name of its own.")
        if all(peer.warm for peer in self.peers):
            raise BadScenario("One peer at least must not be warm: it brings the others together.")
        for peer in self.peers:
            self._check_peer(peer)
        if self.broker is not None:
            self._check_place(self.broker, "The broker")
        for job in self.jobs:
            self._check_name(job.by, "a job")
            if job.via != "peer" and self.broker is None:
                raise BadScenario(f"A job goes via the broker ({job.via}), and there is none.")
            if not 1 <= job.count <= (1 if job.via != "peer" else MAX_COUNT):
                raise BadScenario(
                    f"A job is 1 to {MAX_COUNT} pictures, and one via the broker, not {job.count}."
                )
        for event in self.events:
            self._check_event(event)
        self._check_delays()
        if not self.expects:
            raise BadScenario("A scenario expects something: otherwise it cannot fail.")

    @property
    def lasts_s(self) -> float:
        """On its clock, but for what the last picture takes."""
        at_s = [job.at_s for job in self.jobs] + [event.at_s for event in self.events]
        return max(at_s, default=0.0) + self.settle_s

    @property
    def needs_links(self) -> bool:
        """The broker too: its workers and askers share their peers' addresses."""
        return self.broker is not None or any(isinstance(event.action, LINK_ACTIONS) for event in self.events)

    def _check_peer(self, peer: Peer) -> None:
        self._check_place(peer.at, f"Peer {peer.name}")
        if not peer.name.replace("-", "").isalnum():
            raise BadScenario(f"A peer's name is letters, digits and dashes, not {peer.name!r}.")
        if peer.step_ms is not None:
            _check_step(peer.step_ms)
        elif peer.claims_step_ms is not None:
            raise BadScenario(f"Peer {peer.name} can only lie about a step time that is stated.")

    def _check_place(self, place: str, who: str) -> None:
        try:
            self.topology.place(place)
        except KeyError as exc:
            raise BadScenario(f"{who}: {exc.args[0]}") from None

    def _check_name(self, name: str, where: str) -> None:
        if name not in {peer.name for peer in self.peers}:
            raise BadScenario(f"There is no peer {name!r}, which {where} names.")

    def _check_event(self, event: Event) -> None:
        action = event.action
        if event.drawing is not None and not 0 <= event.drawing < len(self.jobs):
            raise BadScenario(f"An event waits for job {event.drawing}; there are {len(self.jobs)} jobs.")
        match action:
            case Partition(groups):
                named = [name for group in groups for name in group]
            case Degrade():
                named = [*action.peers, *action.to]
                _check_degrade(action)
            case Heal():
                named = []
            case _:
                named = [action.peer]
        for name in named:
            if name == ACTIVE:
                if event.drawing is None:
                    raise BadScenario("An event on the active provider says which job it is drawing.")
            else:
                self._check_name(name, "an event")
        if isinstance(action, Slow):
            _check_step(action.step_ms)
            for peer in self.peers:
                if peer.name == action.peer and peer.step_ms is None:
                    raise BadScenario(f"Peer {peer.name} is slowed down, but has no step_ms to begin with.")

    def _check_delays(self) -> None:
        """Degrades come on top of each other: none may make a way longer than a path can be."""
        more_us = sum(
            event.action.more_delay_ms * 1000 for event in self.events if isinstance(event.action, Degrade)
        )
        places = {peer.at for peer in self.peers}
        longest_us = max(self.topology.path(a, b).delay_us for a in places for b in places)
        if more_us and longest_us + more_us > MAX_DELAY_US:
            raise BadScenario(
                f"A way of {longest_us / 1e6:g} s is made {more_us / 1e6:g} s longer; "
                f"{MAX_DELAY_US / 1e6:g} s is the most."
            )


def _check_degrade(action: Degrade) -> None:
    if not action.peers:
        raise BadScenario("A Degrade names the peers whose links get worse.")
    if action.more_delay_ms < 0:
        raise BadScenario(f"A Degrade makes ways longer by {action.more_delay_ms} ms: they get worse by it.")
    loss = action.loss_millionths
    if loss is not None and not 0 <= loss <= MILLION:
        raise BadScenario(f"A Degrade loses 0 to {MILLION} millionths of the packets, not {loss}.")
    narrows = action.up is not None or action.down is not None
    if not (action.more_delay_ms or narrows or loss is not None):
        raise BadScenario("A Degrade makes something worse: delay, loss, or a line.")
    if action.to and narrows:
        raise BadScenario("A line is shared by all links of its peer: a Degrade `to` some others leaves it.")


def _check_step(step_ms: int) -> None:
    if not 0 < step_ms <= MAX_STEP_MS:
        raise BadScenario(f"A step is paced to 1 to {MAX_STEP_MS} ms, not {step_ms}.")


@dataclass(frozen=True)
class Loaded:
    path: Path
    scenario: Scenario = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.stem

    def blamed(self, what: str) -> AbstractContextManager[None]:
        """As `_blamed`, for the scenario's file."""
        return _blamed(self.path, what)


def names() -> list[str]:
    """Those that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def load(name: str, seed: int) -> Loaded:
    """A scenario by its name in `scenarios/`, or by the path of its file; BadScenario."""
    path = FOLDER / f"{name}.py" if name in names() else Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise BadScenario(
            f"There is no scenario {name!r}; there are {', '.join(names())}, or give a .py file."
        )
    with _blamed(path, "It is no scenario"):
        found = runpy.run_path(str(path))
        made = found["scenario"](seed) if "scenario" in found else found.get("SCENARIO")
    if not isinstance(made, Scenario):
        raise BadScenario(f"{path} has neither a SCENARIO nor a function scenario(seed) that returns one.")
    return Loaded(path, made)


@contextmanager
def _blamed(path: Path, what: str) -> Iterator[None]:
    """Whatever the code of that file raises is a BadScenario, which says what and where."""
    try:
        yield
    except (BadScenario, BadMatrix) as exc:
        raise BadScenario(f"{path}: {exc}") from exc
    except (Exception, SystemExit) as exc:
        line = next(
            (
                f", line {frame.lineno}"
                for frame in reversed(traceback.extract_tb(exc.__traceback__))
                if frame.filename == str(path)
            ),
            "",
        )
        raise BadScenario(f"{path}{line}: {what}: {type(exc).__name__}: {exc}") from exc
