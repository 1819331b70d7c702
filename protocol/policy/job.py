"""One picture from "asked" to "checked", over as many attempts as it takes: events and `now` in, actions out.

The shell carries the actions out and says what came of them; it decides nothing.  The simulation runs the same machine.
"""

import enum
from collections import Counter
from dataclasses import dataclass

from ..errors import LocalProtocolError

MAX_REDIRECTS = 3  # polite refusals before the next offer is forced (no max_wait): measured, see selection
MAX_ATTEMPTS = 8
REFUSED_AT_MOST = (
    2  # times by one peer in one job: its REFUSE told how busy it is, so it may still be the best known.
)
# In simulation at load .6 and .85, beside once: p95 over the oracle 1.34 for 1.38, 1.40 for 1.43.
MAX_RESUMES = 3  # of one attempt: a path that breaks more often is a lost peer
RESUME_WITHIN_US = 10_000_000  # for a connection to come back before the result is rendered elsewhere


class State(enum.Enum):
    PLANNING = "planning"
    OFFERED = "offered"
    RUNNING = "running"
    RECEIVING = "receiving"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Replan:
    """Ask selection for a plan without these peers; answer with `on_plan` or `on_no_candidate`."""

    excluded: frozenset[str]


@dataclass(frozen=True)
class MakeOffer:
    """Offer the picture to `peer`.  `forced`: without max_wait, it was refused often enough."""

    peer: str
    number: int  # of this attempt, from 1
    forced: bool


@dataclass(frozen=True)
class ResumeTransfer:
    """The connection broke after the result was announced: fetch the rest from the same peer."""

    peer: str
    number: int
    within_us: int


@dataclass(frozen=True)
class CancelAttempt:
    peer: str


@dataclass(frozen=True)
class Penalise:
    """It was lost or did not deliver: selection should avoid it for a while.  Not an accusation."""

    peer: str


@dataclass(frozen=True)
class Tell:
    """A sentence for the person."""

    sentence: str


@dataclass(frozen=True)
class Finish:
    """The picture is there and checked."""


@dataclass(frozen=True)
class GiveUp:
    sentence: str


Action = Replan | MakeOffer | ResumeTransfer | CancelAttempt | Penalise | Tell | Finish | GiveUp


class Job:
    """The attempts at one picture.  `names` turns a peer id into what a person reads."""

    def __init__(self) -> None:
        self.state = State.PLANNING
        self.attempts = 0
        self._peer: str | None = None
        self._tried: set[str] = set()  # never again in this job
        self._refused: Counter[str] = Counter()  # by how often it was busy
        self._asked_again = False  # those that were all busy
        self._redirects = 0
        self._resumes = 0
        self._last_sentence = ""

    @property
    def over(self) -> bool:
        return self.state in (State.DONE, State.FAILED, State.CANCELLED)

    def start(self) -> list[Action]:
        return [self._replan()]

    def on_plan(self, peer: str) -> list[Action]:
        """Selection chose `peer`."""
        self._expect(State.PLANNING)
        self.state, self._peer = State.OFFERED, peer
        self.attempts += 1
        self._resumes = 0
        return [MakeOffer(peer, self.attempts, forced=self._redirects >= MAX_REDIRECTS)]

    def on_no_candidate(self, sentence: str) -> list[Action]:
        """Selection found nobody.  Peers that were only busy are asked again, and then may not refuse for that."""
        self._expect(State.PLANNING)
        if self._refused and not self._asked_again:
            self._asked_again, self._redirects = True, MAX_REDIRECTS
            self._refused.clear()
            return [self._replan()]
        return self._give_up(self._last_sentence or sentence)

    def on_accepted(self) -> list[Action]:
        self._expect(State.OFFERED)
        self.state = State.RUNNING
        return []

    def on_result(self) -> list[Action]:
        """The picture is rendered and its bytes are on their way."""
        self.state = State.RECEIVING
        return []

    def on_refused(self, *, busy: bool, sentence: str) -> list[Action]:
        """`busy`: another time it might; otherwise it never will for this picture."""
        peer = self._current()
        self._last_sentence = sentence
        if not busy:
            self._tried.add(peer)
        else:
            self._refused[peer] += REFUSED_AT_MOST if self._redirects >= MAX_REDIRECTS else 1
            self._redirects += 1
        return self._again(f"refused: {sentence}")

    def on_failed(self, *, requesters_fault: bool, sentence: str) -> list[Action]:
        """The provider ended the work without a picture."""
        peer = self._current()
        self._last_sentence = sentence
        if requesters_fault:
            return self._give_up(sentence)
        self._tried.add(peer)
        return [Penalise(peer), *self._again(f"failed: {sentence}")]

    def on_lost(self, what: str, *, resumable: bool = True) -> list[Action]:
        """The connection broke, or nothing was heard for too long; `what` says which.  It is not known what ran.

        Not `resumable`: it had RESUME_WITHIN_US to come back, and did not.
        """
        peer = self._current()
        if resumable and self.state is State.RECEIVING and self._resumes < MAX_RESUMES:
            self._resumes += 1
            return [
                Tell("the connection broke while the picture was coming; fetching the rest"),
                ResumeTransfer(peer, self.attempts, RESUME_WITHIN_US),
            ]
        self._tried.add(peer)
        self._last_sentence = what
        return [Penalise(peer), *self._again(what)]

    def on_bad_result(self, sentence: str) -> list[Action]:
        """What came does not hold: a wrong signature, hash, size or format."""
        peer = self._current()
        self._tried.add(peer)
        self._last_sentence = sentence
        return [Penalise(peer), *self._again(sentence)]

    def on_checked(self) -> list[Action]:
        self._expect(State.RECEIVING)
        self.state = State.DONE
        return [Finish()]

    def cancel(self) -> list[Action]:
        """The person no longer wants it."""
        if self.over:
            return []
        working = self.state in (State.OFFERED, State.RUNNING, State.RECEIVING)
        self.state = State.CANCELLED
        return [CancelAttempt(self._current())] if working else []

    def _again(self, why: str) -> list[Action]:
        if self.attempts >= MAX_ATTEMPTS:
            return self._give_up(f"{MAX_ATTEMPTS} attempts did not give a picture; the last one {why}")
        self.state, self._peer = State.PLANNING, None
        return [Tell(f"{why.removesuffix('.')}; asking another peer"), self._replan()]

    def _give_up(self, sentence: str) -> list[Action]:
        self.state = State.FAILED
        return [GiveUp(sentence)]

    def _replan(self) -> Replan:
        busy = {peer for peer, times in self._refused.items() if times >= REFUSED_AT_MOST}
        return Replan(frozenset(self._tried | busy))

    def _current(self) -> str:
        if self._peer is None:
            raise LocalProtocolError("no attempt is under way")
        return self._peer

    def _expect(self, state: State) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"a job that is {self.state.value} was told of something {state.value}")
