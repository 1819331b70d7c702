"""What asking for a picture deals in: what was asked, whom to tell, what was tried, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.policy.cost import USUAL, Wishes
from protocol.policy.selection import Choice, Plan
from protocol.policy.timeline import Timeline
from protocol.wire.offer import SignedOffer
from protocol.wire.receipt import SignedReceipt
from protocol.wire.statement import Statement
from protocol.wire.task import Progress, Result
from protocol.wire.transfer import Receiver

from .link import Session


@dataclass
class Attempt:
    """One offer to one peer, and what came of it."""

    id: bytes
    number: int
    choice: Choice
    offer: SignedOffer | None = None
    offered_in: Session | None = None  # whose clock and boot the offer is for
    result: Result | None = None
    result_local_us: int = 0  # when it was made, by the provider's word and the clocks' offset
    left_us: int = 0  # when it left the provider's machine: as far as is known
    accepted_us: int = 0  # ACCEPT was heard
    promised_us: int | None = None  # to START within so long from then
    started_us: int | None = None  # START was heard
    ran_us: int | None = None  # from then until RESULT was heard
    unspanned_us: int = 0  # until then, spans say where its time went
    receiver: Receiver | None = None
    data: bytearray = field(default_factory=bytearray)
    receipt: SignedReceipt | None = None
    step_us: int | None = None
    outcome: str = "offered"
    sentence: str | None = None
    last_byte_us: int = 0


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


@dataclass(frozen=True)
class Asked:
    """When the person asked, and spans (name, start_us, us) of what was done about it before `render` was called.

    `wishes`: what they would pay for time, and until when it must be there.
    """

    at_us: int
    spans: tuple[tuple[str, int, int], ...] = ()
    wishes: Wishes = USUAL
