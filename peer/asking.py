"""What asking for a picture deals in: what was asked, whom to tell, what was tried, and what came of it."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from protocol.policy.chain import Leg
from protocol.policy.cost import USUAL, Wishes
from protocol.policy.directory import Directory
from protocol.policy.job import Action, Job
from protocol.policy.selection import Choice, Plan
from protocol.policy.timeline import Timeline
from protocol.wire.offer import SignedOffer
from protocol.wire.receipt import SignedReceipt
from protocol.wire.statement import Statement
from protocol.wire.task import Progress, Result
from protocol.wire.transfer import Receiver

from .changed import Changed
from .link import Session
from .reach import Line, Reach


@dataclass
class Attempt:
    """One offer to one peer, and what came of it."""

    id: bytes
    number: int
    plan: Plan
    leg: Leg
    why: str | None = None  # it was asked beside another
    offer: SignedOffer | None = None
    offered_in: Session | None = None  # whose clock and boot the offer is for
    result: Result | None = None
    result_local_us: int = 0  # when it was made, by the provider's word and the clocks' offset
    left_us: int = 0  # when it left the provider's machine: as far as is known
    accepted_us: int | None = None  # ACCEPT was heard
    promised_us: int | None = None  # to START within so long from then
    loads_after_us: int | None = None  # so long from then it was to load its model; None: it was not
    started_us: int | None = None  # START was heard
    steps: int = 0  # that PROGRESS told of, the last time
    stepped_us: int = 0  # when that was heard
    ran_us: int | None = None  # from START until RESULT was heard
    receiver: Receiver | None = None
    data: bytearray = field(default_factory=bytearray)
    receipt: SignedReceipt | None = None
    step_us: int | None = None
    outcome: str = "offered"
    sentence: str | None = None
    final: bool = False  # it would end like that again
    last_byte_us: int = 0

    @property
    def choice(self) -> Choice:
        """The best of its plan: whom it asks."""
        return self.plan.ranked[0]


@dataclass(frozen=True)
class Tried:
    """How it came that there is no picture."""

    timeline: Timeline
    plan: Plan | None  # the first; None: there was nobody to ask
    attempts: tuple[Attempt, ...]


class JobFailed(Exception):
    """No picture: the sentence says which constraint binds, or what went wrong last."""

    def __init__(self, sentence: str, tried: Tried) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.tried = tried

    @property
    def nobody(self) -> bool:
        """There was nobody to ask, or nobody who would."""
        return all(attempt.outcome == "refused" for attempt in self.tried.attempts)


@dataclass(frozen=True)
class Picture:
    """A checked picture: the file with the receipt in it, and how it came to be."""

    statement: Statement
    file: bytes
    provider: str
    checked: tuple[str, ...]
    timeline: Timeline
    plan: Plan
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class Events:
    """Whom to tell what.  All are called from the event loop and must not block."""

    planned: Callable[[Plan], None]
    attempted: Callable[[Attempt], None]
    told: Callable[[str], None]
    progressed: Callable[[int, Progress], None]
    drawn: Callable[[Picture], None]  # before anything else is done about it


class Need:
    """Whether a picture is still wanted, by the word of whoever asked for it."""

    def __init__(self) -> None:
        self.withdrawn = False
        self.changed = Changed()

    def withdraw(self) -> None:
        """`render` raises JobFailed at once; what its providers still say is heard after that."""
        self.withdrawn = True
        self.changed.notify()


@dataclass(frozen=True)
class Asked:
    """When the person asked, and spans (name, start_us, us) of what was done about it before `render` was called.

    `wishes`: what they would pay for time, and until when it must be there.  `only`: no other peer than this one is to be
    asked, and it once only, however long it lets the picture wait; None: whom selection chooses.
    """

    at_us: int
    spans: tuple[tuple[str, int, int], ...] = ()
    wishes: Wishes = USUAL
    only: str | None = None
    need: Need = field(default_factory=Need)


@dataclass(frozen=True)
class Means:
    """What a requester has, whatever is asked of it."""

    peer: str  # this one
    private_key: bytes
    key: bytes  # public
    network: str
    directory: Directory
    reach: Reach
    lines: list[Line]  # open
    keep: Callable[[Attempt, bytes, str], Awaitable[None]]
    journal: Callable[..., None]


class Errand(Protocol):
    """The picture that attempts are made at.  Whoever holds it may use its job as long as nothing is awaited."""

    @property
    def statement(self) -> Statement: ...

    @property
    def job_id(self) -> str: ...

    @property
    def wishes(self) -> Wishes: ...

    @property
    def job(self) -> Job: ...

    def carry_out(self, actions: Iterable[Action]) -> None:
        """What the job wants done, now."""

    def on_accepted(self, attempt: Attempt) -> None:
        """Its peer is in use, and those that its plan would turn to next may be."""

    def on_progress(self, attempt: Attempt, progress: Progress) -> None: ...

    def on_drawn(self, attempt: Attempt, file: bytes, done_us: int) -> None:
        """The checked picture, with its receipt in it."""

    def on_leaving(self) -> None:
        """Whoever asked is leaving.  Said again, nothing changes."""
