"""Who may say what, when, on one task stream, and until when.  (README section 9.)

This file does not know which side we are, so both are held to one rule.  Each speaker has its own state, because messages
cross on the wire: a CANCEL may pass a RECEIPT, and neither peer is at fault.

    requester   IDLE --offer|resume--> WAITING ==result==> RECEIVING --ack--> RECEIVING
                WAITING | RECEIVING --cancel--> CANCELLED          (==receipt==> SETTLING from any of the three)
                SETTLING --settled--> SETTLED
    provider    IDLE ==offer|resume==> OFFERED --accept--> ACCEPTED --start--> RUNNING --result--> SENDING
                OFFERED --refuse--> REFUSED          (loading: ACCEPTED; progress: RUNNING; chunk: SENDING)
                ACCEPTED --result--> SENDING         (resumed: it was rendered before)
                ACCEPTED | RUNNING | SENDING --receipt--> RECEIPTED, --failed--> FAILED

    ==message== is said by the one and moves the other speaker too.
"""

import enum
from dataclasses import dataclass

from ..errors import LocalProtocolError, RemoteProtocolError

ACCEPT_WITHIN_US = 1_000_000  # beyond the round trip: an honest provider answers an offer from memory
MIN_QUIET_US = 1_000_000
QUIET_STEPS = 4  # progress deadline = max(MIN_QUIET_US, QUIET_STEPS x predicted step)
HEARTBEAT_US = 250_000  # LOADING or PROGRESS at least this often: four fit into the shortest deadline
ACK_WITHIN_US = 20_000_000  # the slowest path still moves an ack in this time
# What START may be late beyond the wait that ACCEPT promised, and a step beyond the whole run: a peer that is heard of
# all the time is not lost, and whoever has another to ask need not wait for this; but a renderer may hang while its peer
# tells of it.
SLACK_US = 30_000_000
# A transfer that is slower moves, but goes nowhere: 80 kbit/s, a tenth of a poor mobile line.
LEAST_BYTES_PER_S = 10_000


class Role(enum.Enum):
    REQUESTER = "requester"
    PROVIDER = "provider"

    @property
    def other(self) -> "Role":
        return Role.PROVIDER if self is Role.REQUESTER else Role.REQUESTER


class State(enum.Enum):
    IDLE = "idle"
    # requester
    WAITING = "waiting"
    RECEIVING = "receiving"
    CANCELLED = "cancelled"
    SETTLING = "settling"
    SETTLED = "settled"
    # provider
    OFFERED = "offered"
    ACCEPTED = "accepted"
    RUNNING = "running"
    SENDING = "sending"
    RECEIPTED = "receipted"
    REFUSED = "refused"
    FAILED = "failed"


_R, _P, _S = Role.REQUESTER, Role.PROVIDER, State

TRANSITIONS: dict[tuple[Role, State, str], State] = {
    (_R, _S.IDLE, "offer"): _S.WAITING,
    (_R, _S.IDLE, "resume"): _S.WAITING,
    (_R, _S.WAITING, "cancel"): _S.CANCELLED,
    (_R, _S.RECEIVING, "cancel"): _S.CANCELLED,
    (_R, _S.SETTLING, "cancel"): _S.SETTLING,  # it crossed the receipt
    (_R, _S.RECEIVING, "ack"): _S.RECEIVING,
    (_R, _S.CANCELLED, "ack"): _S.CANCELLED,
    (_R, _S.SETTLING, "ack"): _S.SETTLING,
    (_R, _S.SETTLING, "settled"): _S.SETTLED,
    (_P, _S.OFFERED, "accept"): _S.ACCEPTED,
    (_P, _S.OFFERED, "refuse"): _S.REFUSED,
    (_P, _S.ACCEPTED, "loading"): _S.ACCEPTED,
    (_P, _S.ACCEPTED, "start"): _S.RUNNING,
    (_P, _S.ACCEPTED, "result"): _S.SENDING,
    (_P, _S.RUNNING, "progress"): _S.RUNNING,
    (_P, _S.RUNNING, "result"): _S.SENDING,
    (_P, _S.SENDING, "chunk"): _S.SENDING,
    **{(_P, state, "receipt"): _S.RECEIPTED for state in (_S.ACCEPTED, _S.RUNNING, _S.SENDING)},
    **{(_P, state, "failed"): _S.FAILED for state in (_S.ACCEPTED, _S.RUNNING, _S.SENDING)},
}

# What a message does to the speaker that hears it.  It may cross that speaker's own words: a state not named stays.
MOVES_THE_OTHER: dict[tuple[str, State], State] = {
    ("offer", _S.IDLE): _S.OFFERED,
    ("resume", _S.IDLE): _S.OFFERED,
    ("result", _S.WAITING): _S.RECEIVING,
    ("receipt", _S.WAITING): _S.SETTLING,
    ("receipt", _S.RECEIVING): _S.SETTLING,
    ("receipt", _S.CANCELLED): _S.SETTLING,
}

ENDED = frozenset({_S.SETTLED, _S.REFUSED, _S.FAILED})
KINDS = frozenset(kind for _, _, kind in TRANSITIONS)


@dataclass(frozen=True)
class Deadline:
    """What we wait for, and until when."""

    waiting_for: str  # "accept", "start", "progress", "step", "bytes"; a provider: "ack"
    at_us: int


@dataclass(frozen=True)
class Patience:
    """What a requester believes of a provider's words at most, by what it expects itself."""

    start_us: int  # of ACCEPT's `wait_us` and `load_us` together
    step_us: int  # of START's
    run_us: int  # of the whole run: so long may it go without another step, SLACK_US not counted


class Conversation:
    """One task stream, as one side sees it.  `round_trip_us` is what the requester knows of the path.

    `patience` is to be set before ACCEPT is heard; with None, every word is believed.
    """

    def __init__(self, role: Role, *, round_trip_us: int = 0) -> None:
        self.role = role
        self.states = dict.fromkeys(Role, State.IDLE)
        self._round_trip_us = round_trip_us
        self.patience: Patience | None = None
        self._heard_us = 0
        self._by: dict[State, Deadline] = {}  # of a provider's states, however often it is heard
        self._step_us = self._steps_done = 0

    @property
    def over(self) -> bool:
        return any(state in ENDED for state in self.states.values())

    @property
    def deadline(self) -> Deadline | None:
        """When the other side's silence becomes loss.  None while it owes us nothing."""
        if self.role is Role.PROVIDER:
            owes = self.states[Role.PROVIDER] is State.SENDING and not self.over
            return Deadline("ack", self._heard_us + ACK_WITHIN_US) if owes else None
        state = self.states[Role.PROVIDER]
        match state:
            case State.OFFERED:
                quiet = Deadline("accept", self._heard_us + ACCEPT_WITHIN_US + self._round_trip_us)
            case State.ACCEPTED | State.RUNNING:
                quiet_us = max(MIN_QUIET_US, QUIET_STEPS * self._step_us)
                quiet = Deadline("progress", self._heard_us + quiet_us + self._round_trip_us)
            case State.SENDING:
                quiet = Deadline("bytes", self._heard_us + MIN_QUIET_US + 2 * self._round_trip_us)
            case _:
                return None
        return min(quiet, self._by.get(state, quiet), key=lambda each: each.at_us)

    def sent(self, kind: str, *, now_us: int) -> None:
        """We are about to send `kind`; LocalProtocolError if we may not."""
        if self.over or not self._legal(self.role, kind):
            raise LocalProtocolError(f"cannot send {kind} now: {self._where()}")
        self._advance(self.role, kind, now_us)

    def may_send(self, kind: str) -> bool:
        return not self.over and self._legal(self.role, kind)

    def received(self, kind: str, *, now_us: int) -> None:
        """The peer sent `kind`, perhaps before it heard our last word; RemoteProtocolError if it may not."""
        if not self._legal(self.role.other, kind):
            raise RemoteProtocolError(f"the peer may not send {kind} now: {self._where()}")
        self._advance(self.role.other, kind, now_us)

    def expect_start_within(self, us: int, *, now_us: int) -> None:
        """ACCEPT promised a start after `us`."""
        most_us = us if self.patience is None else min(us, self.patience.start_us)
        self._expect(State.ACCEPTED, "start", most_us, now_us)

    def expect_steps_of(self, us: int, *, now_us: int) -> None:
        """START predicted `us` a step."""
        self._step_us = us
        if self.patience is not None:
            self._step_us = min(us, self.patience.step_us)
        self._expect_step(now_us)

    def on_step(self, step: int, *, now_us: int) -> None:
        """PROGRESS told that so many are done."""
        if step > self._steps_done:
            self._steps_done = step
            self._expect_step(now_us)

    def expect_bytes(self, count: int, *, now_us: int) -> None:
        """RESULT announced so many."""
        self._expect(State.SENDING, "bytes", count * 1_000_000 // LEAST_BYTES_PER_S, now_us)

    def _expect_step(self, now_us: int) -> None:
        if self.patience is not None:
            self._expect(State.RUNNING, "step", self.patience.run_us, now_us)

    def _expect(self, state: State, what: str, within_us: int, now_us: int) -> None:
        self._by[state] = Deadline(what, now_us + within_us + SLACK_US + self._round_trip_us)

    def _legal(self, speaker: Role, kind: str) -> bool:
        return (speaker, self.states[speaker], kind) in TRANSITIONS

    def _advance(self, speaker: Role, kind: str, now_us: int) -> None:
        self.states[speaker] = TRANSITIONS[speaker, self.states[speaker], kind]
        other = self.states[speaker.other]
        self.states[speaker.other] = MOVES_THE_OTHER.get((kind, other), other)
        if speaker is not self.role or kind in ("offer", "resume", "result"):
            self._heard_us = now_us

    def _where(self) -> str:
        return ", ".join(f"{role.value} {state.value}" for role, state in self.states.items())
