"""What a report is drawn from: plain JSON, as one peer's history or as the testnet hands it over.

Times are microseconds (``_us``), or seconds on the part's own clock (``_s``); bytes are bytes on the wire.
"""

import json
import math
import types
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

FORMAT = "nearlight report 1"
MAX_DOCUMENT_BYTES = 256 << 20  # 100 runs of 1,000 jobs

# In the order in which they happen.  What a span belongs to is said in `history.PHASE_OF`.
PHASES = ("plan", "connect", "lost", "wait", "load", "draw", "transfer", "check", "other", "unaccounted")

_T = TypeVar("_T")


class BadDocument(Exception):
    """The file is no document that a report can be drawn from: where it is wrong."""


@dataclass(frozen=True)
class Candidate:
    """A peer that was weighed for a job."""

    peer: str  # as people tell it from others in this document
    predicted_us: int | None
    rtt_us: int | None = None
    steps_us: int | None = None  # of the prediction: the steps
    p90_us: int | None = None


@dataclass(frozen=True)
class Attempt:
    peer: str
    outcome: str
    sentence: str | None = None


@dataclass(frozen=True)
class Job:
    """`phases_us` partition the wall time; `step_us` is the median of the steps that were drawn for it."""

    job: str
    by: str
    state: str  # done, failed, cancelled, unfinished
    at_s: float
    policy: str = "peers"
    ended_s: float | None = None
    provider: str | None = None
    wall_us: int | None = None
    predicted_us: int | None = None  # for the peer that was asked first
    unaccounted_us: int | None = None
    steps: int | None = None
    pixels: int | None = None
    step_us: int | None = None
    phases_us: dict[str, int] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    sentence: str | None = None
    p90_us: int | None = None  # for the peer that was asked first

    @property
    def done(self) -> bool:
        return self.state == "done" and self.wall_us is not None

    @property
    def at_once(self) -> bool:
        """Done by the peer that was asked first."""
        return self.done and len(self.attempts) <= 1

    @property
    def rtt_us(self) -> int | None:
        """To the peer that drew it, when it was asked for."""
        return next((each.rtt_us for each in self.candidates if each.peer == self.provider), None)


@dataclass(frozen=True)
class Bar:
    start_s: float
    end_s: float
    kind: str  # job, recovered, wait, draw, lost, stopped
    what: str


@dataclass(frozen=True)
class Mark:
    at_s: float
    kind: str  # good, bad, note
    what: str


@dataclass(frozen=True)
class Lane:
    """What one peer, or one role of it, did over time."""

    name: str
    bars: tuple[Bar, ...] = ()
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Happening:
    """What was done to the swarm, at a moment or over a time."""

    at_s: float
    what: str
    until_s: float | None = None
    kind: str = "bad"  # or good
    recovered_ms: float | None = None  # until another provider drew what was being drawn


@dataclass(frozen=True)
class Expectation:
    what: str
    bound: str
    outcome: str
    ok: bool | None  # None: not judged


@dataclass(frozen=True)
class PeerTraffic:
    peer: str
    control_bytes_per_s: float
    jobs_bytes_per_s: float


@dataclass(frozen=True)
class Traffic:
    """Packets on the wire: `jobs` are those between two peers while one draws for the other, `control` all others."""

    from_s: float
    bin_s: float
    control_bytes: tuple[int, ...]
    jobs_bytes: tuple[int, ...]
    by_peer: tuple[PeerTraffic, ...] = ()


@dataclass(frozen=True)
class Witnessed:
    """A phase of a job, by the requester's timeline and by a record of packets that no peer controls."""

    job: str
    phase: str
    told_us: int
    seen_us: int
    agrees: bool


@dataclass(frozen=True)
class NotWitnessed:
    """A job of which no phase could be compared."""

    job: str
    why: str  # the end of a sentence


@dataclass(frozen=True)
class Witness:
    """They agree where they differ by at most the larger of `within_us` and `within_share` of what was seen."""

    within_us: int
    within_share: float
    phases: tuple[Witnessed, ...]
    left_out: tuple[NotWitnessed, ...] = ()


@dataclass(frozen=True)
class Cdf:
    """Each `share` of the requests was answered within as many `seconds`; both rise."""

    share: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Policy:
    """A policy in virtual time; seconds.  The ratios are to the oracle."""

    name: str
    p50_s: float
    p95_s: float
    p99_s: float
    ratio_p50: float
    ratio_p95: float
    refusals_per_request: float
    messages_per_request: float
    wasted_fraction: float
    unfinished: int
    where_s: dict[str, float] = field(default_factory=dict)
    control: dict[str, float] = field(default_factory=dict)
    cdf: Cdf | None = None
    cdf_by_link: dict[str, Cdf] = field(default_factory=dict)  # by the round trip to the peer that drew


@dataclass(frozen=True)
class Part:
    """One run, or one peer's history."""

    name: str
    about: str
    facts: tuple[str, ...] = ()
    zero_us: int | None = None  # wall clock at 0 s, Unix microseconds; None where the clock is a run's own
    jobs: tuple[Job, ...] = ()
    lanes: tuple[Lane, ...] = ()
    happenings: tuple[Happening, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    traffic: Traffic | None = None
    witness: Witness | None = None
    policies: tuple[Policy, ...] = ()


@dataclass(frozen=True)
class Document:
    title: str
    parts: tuple[Part, ...]
    format: str = FORMAT

    def to_value(self) -> dict[str, Any]:
        return asdict(self)


def read(data: bytes) -> Document:
    """BadDocument."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise BadDocument(f"It is larger than {MAX_DOCUMENT_BYTES} bytes.")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise BadDocument(f"It is no JSON: {exc}.") from exc
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BadDocument(f"It is not in the format {FORMAT!r}.")
    return from_value(Document, value)


def from_value(kind: type[_T], value: object, where: str = "document") -> _T:
    """`value`, plain JSON, as a `kind` of this file; fields that it does not know are passed over; BadDocument."""
    read: _T = _from_value(kind, value, where)
    return read


def _from_value(kind: Any, value: Any, where: str) -> Any:
    if kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif kind in (int, str, bool):
        if type(value) is kind:
            return value
    elif isinstance(kind, types.UnionType):  # something or None
        return None if value is None else _from_value(get_args(kind)[0], value, where)
    elif get_origin(kind) is tuple and isinstance(value, list | tuple):
        item = get_args(kind)[0]
        return tuple(_from_value(item, each, f"{where}[{n}]") for n, each in enumerate(value))
    elif get_origin(kind) is dict and isinstance(value, dict):
        item = get_args(kind)[1]
        return {key: _from_value(item, each, f"{where}.{key}") for key, each in value.items()}
    elif is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        given = {each.name for each in fields(kind)} & value.keys()
        read = {name: _from_value(hints[name], value[name], f"{where}.{name}") for name in given}
        try:
            return kind(**read)  # type: ignore[operator]
        except TypeError as exc:
            raise BadDocument(f"In {where}, {exc}.") from None
    raise BadDocument(f"{where} is not what it must be.")
