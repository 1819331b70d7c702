"""One picture from "asked" to "checked", over as many attempts as it takes: events and `now` in, actions out.

The shell carries the actions out and says what came of them; it decides nothing.  The simulation runs the same machine.
Where a START is late, or the connection breaks while the picture is coming, another attempt is a hedge for the first;
where that is late as well, a third is asked, and so on.  Whichever starts first is the only one that draws from then on,
so what another has done is at most one round trip of work, to the end of a step.  A picture that is drawn may still come
back, and one whose line broke may break again: of such a one and of who draws beside it, whichever is here first is taken.
"""

import enum
from collections import Counter
from dataclasses import dataclass

from ..errors import LocalProtocolError
from .prediction import UNKNOWN_RTT_US
from .selection import BUSY_PERCENT, Choice

MAX_REDIRECTS = 3  # polite refusals before the next offer is forced (no max_wait): measured, see selection
MAX_ATTEMPTS = 8  # that were taken on, hedges not counted: a picture may be what breaks its renderers
# Offers that nobody took cost a round trip and no work: as many as a shortlist has peers.  Who gave up after 8 refusals
# gave up in a second where one of ten providers lied and had no room, though honest ones were idle.
MAX_UNTAKEN = 64
# Times by one peer in one job: its REFUSE told how busy it is, so it may still be the best known.
# In simulation at load .6 and .85, beside once: p95 over the oracle 1.34 for 1.38, 1.40 for 1.43.
REFUSED_AT_MOST = 2
ENOUGH_SAY = 2  # peers, that it is the requester's fault
MAX_RESUMES = 3  # of one attempt: a path that breaks more often is a lost peer
RESUME_WITHIN_US = 10_000_000  # for a connection to come back before the result is rendered elsewhere
MAX_HEDGES = (
    4  # of one job, the untaken not counted: what hedging may cost the swarm is bounded whatever peers do
)
HEDGE_SLACK_US = 50_000  # beyond the round trips: of the 50-250 ms that are usual, the least
# Of the peer's round trip: START is on its way for half of one, and jitter is no lateness.
HEDGE_RTT_PERCENT = 120
STALE_US = 5_000_000  # live state is meant to be 2-5 s old; at 10 s and load .85 hedges made waits longer


class State(enum.Enum):
    PLANNING = "planning"
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Stage(enum.IntEnum):
    """How far one attempt is known to be."""

    OFFERED = 1
    ACCEPTED = 2
    STARTED = 3
    RECEIVING = 4
    ENDED = 5


@dataclass(frozen=True)
class Prospect:
    """What selection expects of a peer, were it asked now."""

    peer: str
    rtt_us: int
    start_in_us: int  # until it starts: dial, offer, wait and loading
    rest_us: int  # from its start until the picture is here
    busy: bool  # it lets a task wait: as the best of those left, so do the others
    stale: bool  # of its live state nothing was heard for STALE_US

    @property
    def total_us(self) -> int:
        return self.start_in_us + self.rest_us

    @classmethod
    def of(cls, choice: Choice, *, heard_us: int | None, now_us: int) -> "Prospect":
        """`heard_us`: when its live state was; None: never."""
        predicted = choice.prediction
        return cls(
            choice.peer,
            UNKNOWN_RTT_US if choice.rtt_us is None else choice.rtt_us,
            predicted.start_in_us,
            predicted.total_us - predicted.start_in_us,
            busy=predicted.wait_us > predicted.busy_us * BUSY_PERCENT // 100,
            stale=heard_us is None or now_us - heard_us > STALE_US,
        )


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
    hedge: bool = False  # beside another


@dataclass(frozen=True)
class HedgeAt:
    """Call `on_hedge_due` with this attempt at `at_us`, at once if that has passed.

    A later one for the same attempt may replace it or not: what comes too early does nothing.
    """

    number: int
    at_us: int


@dataclass(frozen=True)
class PlanHedge:
    """Ask selection for the best without these peers; answer with `on_hedge_plan`."""

    number: int  # of the attempt whose START is late, or that is away
    excluded: frozenset[str]


@dataclass(frozen=True)
class ResumeTransfer:
    """The connection broke after the result was announced: fetch the rest from the same peer."""

    peer: str
    number: int
    within_us: int


@dataclass(frozen=True)
class CancelAttempt:
    """Its picture is not wanted.  Should it be found lost before it said that it stopped, say so with `on_lost`."""

    peer: str
    number: int


@dataclass(frozen=True)
class Penalise:
    """It was lost or did not deliver: selection should avoid it for a while.  Not an accusation."""

    peer: str


@dataclass(frozen=True)
class Excuse:
    """It took the picture on and ended it by nobody's fault, as it says: who says so again and again is avoided."""

    peer: str


@dataclass(frozen=True)
class Tell:
    """A sentence for the person, about the peer of this attempt."""

    sentence: str
    number: int


@dataclass(frozen=True)
class Finish:
    """The picture is there and checked."""


@dataclass(frozen=True)
class GiveUp:
    sentence: str


Action = (
    Replan
    | MakeOffer
    | HedgeAt
    | PlanHedge
    | ResumeTransfer
    | CancelAttempt
    | Penalise
    | Excuse
    | Tell
    | Finish
    | GiveUp
)


@dataclass
class _Attempt:
    number: int
    peer: str
    forced: bool
    start_us: int  # when it is expected to start
    rest_us: int
    hedge: bool
    grace_us: int  # by how much START may be late before that is taken for lateness
    stage: Stage = Stage.OFFERED
    outrun: bool = False  # another started first
    resumes: int = 0
    away: bool = False  # the connection broke while the picture was coming
    untaken: bool = False  # it ended before it was accepted
    hedge_us: int = 0  # not to be hedged before

    @property
    def waited_for(self) -> bool:
        return self.stage < Stage.STARTED or self.away

    def expect_start(self, start_us: int) -> None:
        self.start_us, self.hedge_us = start_us, start_us + self.grace_us


class Job:
    """The attempts at one picture.  Events name the attempt by its number; those of one that has ended change nothing.

    Raises LocalProtocolError for what cannot have happened: an attempt never made, or an event out of its order.
    """

    def __init__(self) -> None:
        self.state = State.PLANNING
        self._attempts: list[_Attempt] = []  # number n at n - 1
        self._tried: set[str] = set()  # never again in this job
        self._lost: set[str] = set()  # of these, who was lost after its start
        self._refused: Counter[str] = Counter()  # by how often it was busy
        self._asked_again = False  # those that were busy, or lost like that
        self._blaming: list[str] = []  # who said that the fault is the requester's; each is in _tried
        self._redirects = 0
        self._hedging: int | None = None  # the attempt for which PlanHedge was not answered yet
        self._last_sentence = ""

    @property
    def attempts(self) -> int:
        """Made so far."""
        return len(self._attempts)

    @property
    def hedges(self) -> int:
        """Made so far, but for those that nobody took."""
        return self._taken(hedge=True)

    @property
    def under_way(self) -> tuple[int, ...]:
        """The numbers of the attempts that have not ended."""
        return tuple(attempt.number for attempt in self._alive())

    @property
    def over(self) -> bool:
        return self.state in (State.DONE, State.FAILED, State.CANCELLED)

    def late_us(self, number: int, now_us: int) -> int:
        """By how much its START is later than it was promised, or predicted where nothing was."""
        return max(0, now_us - self._of(number).start_us)

    def is_away(self, number: int) -> bool:
        """Its connection broke while the picture was coming, so that `late_us` counts from then."""
        return self._of(number).away

    def start(self) -> list[Action]:
        return [self._replan()]

    def on_plan(self, prospect: Prospect, now_us: int) -> list[Action]:
        """Selection chose this peer."""
        self._expect(State.PLANNING)
        self.state = State.WORKING
        attempt = self._attempt(prospect, now_us, forced=self._redirects >= MAX_REDIRECTS, hedge=False)
        return [MakeOffer(attempt.peer, attempt.number, attempt.forced), *self._hedge_later()]

    def on_no_candidate(self, sentence: str) -> list[Action]:
        """Selection found nobody.  Peers that were busy are asked again, and then may not refuse for that.

        So are those that were lost after their start: who can draw, and was silent for a second, is not gone for that.
        """
        self._expect(State.PLANNING)
        if (self._refused or self._lost) and not self._asked_again:
            self._asked_again, self._redirects = True, MAX_REDIRECTS
            self._refused.clear()
            self._tried -= self._lost
            return [self._replan()]
        return self._give_up(self._last_sentence or sentence)

    def on_hedge_due(self, number: int, now_us: int) -> list[Action]:
        """`HedgeAt` came."""
        if self._of(number).stage is Stage.ENDED or not self._hedge_is_due(now_us):
            return []
        self._hedging = number
        asked = {attempt.peer for attempt in self._alive()}
        return [PlanHedge(number, self._excluded() | self._refused.keys() | asked)]

    def on_hedge_plan(self, prospect: Prospect | None, now_us: int) -> list[Action]:
        """The best of the others; None: there is none.

        Who is late by so much is expected to be late by as much again: the other is asked if it would be here sooner, than
        any of those under way.  If not, it is looked at again when it would be, or when one is twice as late: so seldom,
        and never much too late.
        """
        number, self._hedging = self._hedging, None
        if number is None:
            raise LocalProtocolError("no plan for a hedge was asked for")
        if self._of(number).stage is Stage.ENDED or not self._hedge_is_due(now_us):
            return self._hedge_later()  # something was heard meanwhile
        waiting = self._alive()
        for each in waiting:
            late_us = now_us - each.start_us
            # So late, it is as good as the other.
            worth_us = prospect.total_us - each.rest_us if prospect else 0
            if prospect is None or late_us <= worth_us or (prospect.busy and prospect.stale):
                each.hedge_us = each.start_us + max(2 * late_us, worth_us + 1)
        if prospect is None or not self._hedge_is_due(now_us):
            return self._hedge_later()
        hedge = self._attempt(prospect, now_us, forced=False, hedge=True)
        late = "it has not come back" if waiting[-1].away else "it has not started in time"
        return [
            Tell(f"{late}; asking another peer as well", waiting[-1].number),
            MakeOffer(hedge.peer, hedge.number, hedge.forced, hedge=True),
            *self._hedge_later(),
        ]

    def on_accepted(self, number: int, start_us: int) -> list[Action]:
        """It promised to start by `start_us`."""
        attempt = self._of(number)
        if attempt.stage is Stage.ENDED:
            return []
        self._expect_stage(attempt, Stage.OFFERED)
        attempt.stage = Stage.ACCEPTED
        attempt.expect_start(start_us)
        return self._hedge_later()

    def on_start(self, number: int) -> list[Action]:
        """It renders."""
        attempt = self._of(number)
        if attempt.stage is Stage.ENDED:
            return []
        self._expect_stage(attempt, Stage.ACCEPTED)
        attempt.stage = Stage.STARTED
        return self._outrun_waiting()

    def on_result(self, number: int) -> list[Action]:
        """The picture is rendered and its bytes are on their way; also said when a transfer is resumed."""
        attempt = self._of(number)
        if attempt.stage is Stage.ENDED:
            return []
        self._expect_stage(attempt, Stage.ACCEPTED, Stage.STARTED, Stage.RECEIVING)
        attempt.stage, attempt.away = Stage.RECEIVING, False
        return self._outrun_waiting()

    def on_refused(self, number: int, *, busy: bool, sentence: str) -> list[Action]:
        """`busy`: another time it might; otherwise it never will for this picture."""
        attempt = self._of(number)
        if not self._end(attempt, sentence, untaken=True):
            return []
        if not busy:
            self._tried.add(attempt.peer)
        else:
            self._refused[attempt.peer] += REFUSED_AT_MOST if attempt.forced else 1
            self._redirects += not attempt.hedge
        return self._again(attempt, f"refused: {sentence}")

    def on_failed(self, number: int, *, fault: str, sentence: str) -> list[Action]:
        """The provider ended the work without a picture.  `fault`: of FAILED, see wire README section 9.1.

        One provider's word does not end what others can do: that the fault is the requester's is believed when ENOUGH_SAY
        so, before their START; and whoever said so of what is drawn in the end said what is not true.
        """
        attempt = self._of(number)
        unable = fault == "requester" and attempt.stage <= Stage.ACCEPTED
        if not self._end(attempt, sentence):
            return []
        self._tried.add(attempt.peer)
        again = f"failed: {sentence}"
        if not unable:
            avoided = Excuse(attempt.peer) if fault == "nobody" else Penalise(attempt.peer)
            return [avoided, *self._again(attempt, again)]
        self._blaming.append(attempt.peer)
        return self._give_up(sentence) if len(self._blaming) >= ENOUGH_SAY else self._again(attempt, again)

    def on_lost(self, number: int, what: str, now_us: int, *, resumable: bool = True) -> list[Action]:
        """The connection broke, or nothing was heard for too long; `what` says which.  It is not known what ran.

        Not `resumable`: it had RESUME_WITHIN_US to come back and did not, or is known to have ended.

        Nobody knows when a path comes back: once that took as long as another peer would take for all of it, that one
        is asked as well, so that no loss costs more than twice what the best choice would have (ski rental).
        """
        attempt = self._of(number)
        if resumable and attempt.stage is Stage.RECEIVING and attempt.resumes < MAX_RESUMES:
            attempt.resumes += 1
            if not attempt.away:
                attempt.away, attempt.rest_us = True, 0
                attempt.expect_start(now_us)
            return [
                Tell("the connection broke while the picture was coming; fetching the rest", number),
                ResumeTransfer(attempt.peer, number, RESUME_WITHIN_US),
                *self._hedge_later(),
            ]
        if attempt.outrun:  # late is no fault, but gone is gone, whoever came first
            attempt.outrun = False
            return [Penalise(attempt.peer)]
        started = attempt.stage > Stage.ACCEPTED
        if not self._end(attempt, what, untaken=attempt.stage is Stage.OFFERED):
            return []
        self._tried.add(attempt.peer)
        if started:
            self._lost.add(attempt.peer)
        return [Penalise(attempt.peer), *self._again(attempt, what)]

    def on_bad_result(self, number: int, sentence: str) -> list[Action]:
        """What came does not hold: a wrong signature, hash, size or format."""
        attempt = self._of(number)
        if not self._end(attempt, sentence):
            return []
        self._tried.add(attempt.peer)
        return [Penalise(attempt.peer), *self._again(attempt, sentence)]

    def on_checked(self, number: int) -> list[Action]:
        attempt = self._of(number)
        if attempt.stage is Stage.ENDED:
            return []
        self._expect_stage(attempt, Stage.RECEIVING)
        attempt.stage = Stage.ENDED
        self.state = State.DONE
        return [*self._outrun(self._alive()), *map(Penalise, self._blaming), Finish()]

    def cancel(self) -> list[Action]:
        """The person no longer wants it."""
        if self.over:
            return []
        self.state = State.CANCELLED
        return self._cancel(self._alive())

    def _attempt(self, prospect: Prospect, now_us: int, *, forced: bool, hedge: bool) -> _Attempt:
        grace_us = HEDGE_SLACK_US + prospect.rtt_us * HEDGE_RTT_PERCENT // 100
        attempt = _Attempt(
            self.attempts + 1,
            prospect.peer,
            forced,
            start_us=0,
            rest_us=prospect.rest_us,
            hedge=hedge,
            grace_us=grace_us,
        )
        attempt.expect_start(now_us + prospect.start_in_us)
        self._attempts.append(attempt)
        return attempt

    def _alive(self) -> list[_Attempt]:
        return [attempt for attempt in self._attempts if attempt.stage is not Stage.ENDED]

    def _taken(self, *, hedge: bool) -> int:
        """Those that were not taken yet may be."""
        return sum(attempt.hedge is hedge and not attempt.untaken for attempt in self._attempts)

    @property
    def _untaken(self) -> int:
        return sum(attempt.untaken for attempt in self._attempts)

    def _next_hedge(self) -> HedgeAt | None:
        """When all that is under way will be late; None: it is at work, or is looked at now, or no hedge is left."""
        alive = self._alive()
        if (
            not alive
            or not all(attempt.waited_for for attempt in alive)
            or self._hedging is not None
            or self.hedges >= MAX_HEDGES
            or self._untaken >= MAX_UNTAKEN
        ):
            return None
        last = max(alive, key=lambda attempt: attempt.hedge_us)
        return HedgeAt(last.number, last.hedge_us)

    def _hedge_is_due(self, now_us: int) -> bool:
        following = self._next_hedge()
        return following is not None and now_us >= following.at_us

    def _hedge_later(self) -> list[Action]:
        following = self._next_hedge()
        return [] if following is None else [following]

    def _outrun(self, others: list[_Attempt]) -> list[Action]:
        for each in others:
            each.outrun = True
        return self._cancel(others)

    def _outrun_waiting(self) -> list[Action]:
        return self._outrun([each for each in self._alive() if each.stage < Stage.STARTED])

    def _cancel(self, attempts: list[_Attempt]) -> list[Action]:
        for attempt in attempts:
            attempt.stage = Stage.ENDED
        return [CancelAttempt(attempt.peer, attempt.number) for attempt in attempts]

    def _end(self, attempt: _Attempt, sentence: str, *, untaken: bool = False) -> bool:
        """Whether that is news: not of one that had ended, which is then known not to be lost."""
        attempt.outrun = False
        if attempt.stage is Stage.ENDED:
            return False
        attempt.stage, attempt.untaken = Stage.ENDED, untaken
        self._last_sentence = sentence
        return True

    def _again(self, ended: _Attempt, why: str) -> list[Action]:
        said = why.removesuffix(".")
        if self._alive():
            return [Tell(f"{said}; another peer is at it", ended.number), *self._hedge_later()]
        if self._taken(hedge=False) >= MAX_ATTEMPTS or self._untaken >= MAX_UNTAKEN:
            return self._give_up(f"{self.attempts} attempts did not give a picture; the last one {why}")
        self.state = State.PLANNING
        return [Tell(f"{said}; asking another peer", ended.number), self._replan()]

    def _give_up(self, sentence: str) -> list[Action]:
        self.state = State.FAILED
        return [*self._cancel(self._alive()), GiveUp(sentence)]

    def _replan(self) -> Replan:
        return Replan(self._excluded())

    def _excluded(self) -> frozenset[str]:
        busy = {peer for peer, times in self._refused.items() if times >= REFUSED_AT_MOST}
        return frozenset(self._tried | busy)

    def _of(self, number: int) -> _Attempt:
        if not 1 <= number <= self.attempts:
            raise LocalProtocolError(f"attempt {number} was not made")
        return self._attempts[number - 1]

    def _expect(self, state: State) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"a job that is {self.state.value} was told of something {state.value}")

    def _expect_stage(self, attempt: _Attempt, *stages: Stage) -> None:
        if attempt.stage not in stages:
            raise LocalProtocolError(
                f"attempt {attempt.number} is {attempt.stage.name.lower()} already, or not yet"
            )
