"""What one picture will cost on one peer: each term measured, learned or claimed, or a default that is said to be one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

from ..wire.advert import Advert, OfferedModel, Speed
from ..wire.hello import LiveState
from ..wire.statement import Statement
from .calibration import FIRST_MULTIPLE
from .rtt import Rtt
from .speeds import (
    UNKNOWN_BYTES_PER_S,
    Learned,
    Measured,
    SpeedBook,
    device_of,
    distance_us,
    ratio,
    step_of,
)
from .waits import changed_share, expected_us

UNKNOWN_RTT_US = 200_000  # a far continent: pessimistic, so that a measured peer is preferred
CONNECT_ROUND_TRIPS = 5  # TCP, multistream, noise, multistream, yamux and the task stream: 4-5 measured
UNKNOWN_WAIT_US = 100_000  # nobody told how busy it is: not counted, but uncertain
UNKNOWN_LOAD_US = 10_000_000  # of a model of which not even the size is known
RENDERER_START_US = 3_000_000  # importing torch and diffusers: 2.5-3.5 s measured on two cores
UNKNOWN_LOAD_BYTES_PER_S = 200_000_000  # safetensors from a SATA disk into memory, checked: 150-400 MB/s
# Times what is expected, and at least: a load of 4 s on an idle machine took 18 s on a busy one, and over 30 s on a very
# busy one; it says that it lives meanwhile.
LOAD_PROMISE = 3
LEAST_LOAD_PROMISE_US = 60_000_000
UNKNOWN_FIXED_US = 1_000_000
# SD 1.5 on slow ones of each kind.
UNKNOWN_STEP_US_PER_MEGAPIXEL = {"cpu": 20_000_000, "mps": 2_000_000, "cuda": 500_000}
MEASURED_BYTES = 4_270_000_000  # of SD 1.5 in fp32: a step reads every weight, so its time goes with them
# Of the model's bytes, each adapter: 36 MB took 53 ms on one thread, first touched.
UNKNOWN_ADAPTER_BYTES_PER_S = 500_000_000
UNKNOWN_ADAPTER_US = 300_000  # for a model of which not even the size is known
# An adapter made ready before is ready at once: what is learned is a mean of both, so a promise has room for the other.
LEAST_ADAPTER_PROMISE_US = 1_000_000
SMALLEST_SHARE = 16  # a step has costs of its own: the 24 MB reference model takes a sixteenth, not a 178th
PNG_BYTES_PER_TEN_PIXELS = 19  # a photograph-like 512 px PNG is 489 kB
MAX_UTF8_BYTES = 4  # of one character

# Shares of a term that may be wrong, in percent.  Of a speed, whether observed or claimed: else the peer one knows would
# beat its equal who is nearer.
SPEED_UNCERTAIN_PERCENT = 10
SCALED_UNCERTAIN_PERCENT = 50  # for each doubling between the size measured and the size asked
DEVICE_UNCERTAIN_PERCENT = 50  # of another device of that name
WAIT_UNCERTAIN_PERCENT = 25

# What is added up to a prediction's spread, of which calibration.py learns a multiple: shares of terms, in percent.  Of
# those tried in simulation, these gave the least pinball loss.
JITTERS_SPREAD = 2  # times the jitter; and one round trip, for an offer that is refused
RUN_SPREAD_PERCENT = 25
WAIT_SPREAD_PERCENT = 33  # of the wait that is usual there
MAX_WAIT_SLACK_US = 100_000  # a provider may start so much later than predicted before it refuses

# A provider's claim is the mean of its own renders, so it counts as so many of one's own; unless those contradict it.
CLAIM_COUNTS = 2
# Times what is claimed: one render may hiccup by that, two in a row by this.
CONTRADICTS_ONCE, CONTRADICTS = 4, 2


class Candidate(NamedTuple):  # as are Prediction and Choice: a plan makes hundreds, in a third of the time
    """What is known of one peer at one moment."""

    peer: str
    advert: Advert
    rtt: Rtt | None
    state: LiveState | None
    state_age_us: int  # since `state` was heard; 0 without one
    silent_us: int  # for so long it may have become another without our having heard of it
    connected: bool
    own: bool = False  # this very peer: no dial, no round trip, no transfer
    speeds: Learned | None = None
    own_in_flight_us: int = 0  # work given to it that `state` cannot know of yet
    penalty_us: int = 0  # it was lost or froze lately: by how much to avoid it
    notes: tuple[str, ...] = ()
    mean_wait_us: int = 0  # that others make at the mean
    late_us: int = 0  # by how much it begins later than it promises
    multiple: float = FIRST_MULTIPLE  # of a prediction's spread, by which nine of ten are there
    devices: SpeedBook | None = None  # how fast devices are, by what they are called

    @property
    def rtt_us(self) -> int:
        if self.own:
            return 0
        return self.rtt.min_us if self.rtt else UNKNOWN_RTT_US


class Prediction(NamedTuple):
    """From "offered" to "the picture is here", us."""

    dial_us: int
    offer_us: int
    wait_us: int  # in its queue
    load_us: int  # of weights
    apply_us: int | None  # adapters; None: there are none
    fixed_us: int
    step_us: int  # one of `steps`
    steps: int
    transfer_us: int
    total_us: int  # of all of these
    busy_us: int  # how long its renderer is occupied
    uncertain_us: int  # by how much the total may be wrong for what is not known of this peer: chance decides
    spread_us: int  # how much such predictions differ from what came of them
    margin_us: int  # so much of it that nine of ten are there by then

    @property
    def spans(self) -> tuple[tuple[str, int], ...]:
        """What the total is made of, by name, in the order in which it passes."""
        return (
            ("dial", self.dial_us),
            ("offer", self.offer_us),
            ("wait", self.wait_us),
            ("load_weights", self.load_us),
            *(() if self.apply_us is None else (("load_adapter", self.apply_us),)),
            ("fixed", self.fixed_us),
            ("step", self.step_us * self.steps),
            ("transfer", self.transfer_us),
        )

    @property
    def start_in_us(self) -> int:
        """Until START: from there on it draws."""
        return self.dial_us + self.offer_us + self.wait_us + self.load_us + (self.apply_us or 0)

    @property
    def run_us(self) -> int:
        """From START to the picture, where it is drawn."""
        return self.fixed_us + self.step_us * self.steps

    @property
    def unclaimed_us(self) -> int:
        """Of what no provider tells."""
        return self.dial_us + self.offer_us + (self.apply_us or 0) + self.transfer_us

    @property
    def p90_us(self) -> int:
        """By then nine of ten are expected to be there."""
        return self.total_us + self.margin_us


class Constraint(IntEnum):
    """What ruled a peer out, in the order in which it is checked: a later one got further."""

    PROVIDING = 1
    KIND = 2
    MODEL = 3
    ADAPTERS = 4
    PRECISION = 5
    PIXELS = 6
    STEPS = 7
    PROMPT = 8
    EXCLUDED = 9
    DEADLINE = 10


@dataclass(frozen=True)
class Exclusion:
    constraint: Constraint
    reason: str  # a sentence


_NOT_THIS_MODEL = Exclusion(Constraint.MODEL, "It does not offer this model.")


def predict(
    candidate: Candidate, statement: Statement, now_us: int, names: Mapping[bytes, str] | None = None
) -> Prediction | Exclusion:
    """`now_us`: when the candidate was asked for; its `state_age_us` counts to then.  `names`: of adapters."""
    model = _capable(candidate.advert, statement, names)
    if isinstance(model, Exclusion):
        return model
    rtt_us, jitter_us = 0, 0
    if not candidate.own:
        rtt = candidate.rtt
        rtt_us, jitter_us = (rtt.min_us, rtt.jitter_us) if rtt else (UNKNOWN_RTT_US, UNKNOWN_RTT_US)
    dial_us = 0 if candidate.connected else CONNECT_ROUND_TRIPS * rtt_us
    wait_us, uncertain_wait_us = _wait(candidate)
    load_us, uncertain_load_us = _load(candidate, model)
    apply_us = adapters_us(candidate.speeds, statement, model.total_bytes) if statement.adapters else None
    step_us, fixed_us, percent = _speed(candidate, model, statement)
    transfer_us = _transfer(candidate, statement, rtt_us)
    offer_us = rtt_us // 2  # it draws while its ACCEPT is on the way
    applied_us = apply_us or 0
    run_us = fixed_us + step_us * statement.steps
    busy_us = load_us + applied_us + run_us
    # The wait that is usual there may have come since it was heard of last, or comes while the offer is on its way.
    unheard = changed_share(candidate.silent_us + rtt_us)
    mean_us = candidate.mean_wait_us
    spread_us = (
        JITTERS_SPREAD * jitter_us
        + rtt_us
        + (uncertain_wait_us if candidate.state is None else int(min(MAX_WAIT_SLACK_US, mean_us) * unheard))
        + int(mean_us * WAIT_SPREAD_PERCENT / 100 * unheard)
        + wait_us * WAIT_UNCERTAIN_PERCENT // 100
        + uncertain_load_us
        + applied_us
        + run_us * max(percent, RUN_SPREAD_PERCENT) // 100
    )
    return Prediction(  # by position: by name takes longer
        dial_us,
        offer_us,
        wait_us,
        load_us,
        apply_us,
        fixed_us,
        step_us,
        statement.steps,
        transfer_us,
        dial_us + offer_us + wait_us + busy_us + transfer_us,
        busy_us,
        jitter_us + uncertain_wait_us + uncertain_load_us + run_us * percent // 100,
        spread_us,
        int(spread_us * candidate.multiple),
    )


def claimed_us(candidate: Candidate, statement: Statement) -> int:
    """When the picture would be drawn by the provider's own word for its wait, its loading and its speed."""
    bare = candidate._replace(speeds=None, mean_wait_us=0, late_us=0, state_age_us=0)
    model = _offered(candidate, statement)
    step_us, fixed_us, _ = _speed(bare, model, statement)
    told_us = candidate.state.wait_us if candidate.state else 0
    load_us, _ = _load(bare, model)
    return told_us + load_us + fixed_us + step_us * statement.steps


def unclaimed_step_us(candidate: Candidate, statement: Statement) -> int:
    """One step, as it was seen of this peer or is usual of its devices' kind: nothing that it says of itself counts."""
    model = _offered(candidate, statement)
    return _speed(candidate, replace(model, speeds=(), total_bytes=None), statement)[0]


def _offered(candidate: Candidate, statement: Statement) -> OfferedModel:
    """Of one who is capable."""
    model = candidate.advert.offered(statement.model)
    assert model is not None
    return model


def _capable(
    advert: Advert, statement: Statement, names: Mapping[bytes, str] | None
) -> OfferedModel | Exclusion:
    limits = advert.limits
    if not advert.kinds or limits is None:
        return Exclusion(Constraint.PROVIDING, "It does not render for others.")
    if statement.kind not in advert.kinds:
        return Exclusion(Constraint.KIND, f"It does not offer {statement.kind}.")
    model = advert.offered(statement.model)
    if model is None:
        return _NOT_THIS_MODEL
    if statement.adapters:
        applied = {adapter.id for adapter in model.adapters}
        for adapter, _ in statement.adapters:
            if adapter not in applied:
                name = (names or {}).get(adapter, adapter.hex()[:8])
                return Exclusion(
                    Constraint.ADAPTERS, f"It does not offer the adapter {name} with this model."
                )
    precision = statement.precision
    for device in advert.devices:
        if precision in device.dtypes:
            break
    else:
        dtypes = {dtype for device in advert.devices for dtype in device.dtypes}
        offered = ", ".join(sorted(dtypes))
        if offered:
            return Exclusion(Constraint.PRECISION, f"Its devices compute in {offered}, not in {precision}.")
    pixels = statement.pixels
    if pixels > limits.pixels:
        sizes = f"{limits.pixels} pixels at most; {statement.width}x{statement.height} are {pixels}"
        return Exclusion(Constraint.PIXELS, f"It accepts {sizes}.")
    if statement.steps > limits.steps:
        return Exclusion(Constraint.STEPS, f"It accepts {limits.steps} steps at most, not {statement.steps}.")
    most_bytes = limits.prompt_bytes
    if most_bytes < MAX_UTF8_BYTES * max(len(statement.prompt), len(statement.negative)):
        size = prompt_bytes(statement)
        if size > most_bytes:
            return Exclusion(
                Constraint.PROMPT, f"It accepts prompts of {most_bytes} bytes at most, not {size}."
            )
    return model


def prompt_bytes(statement: Statement) -> int:
    """The longer of the two prompts: a provider's limit holds for each."""
    return max(len(statement.prompt.encode()), len(statement.negative.encode()))


def _wait(candidate: Candidate) -> tuple[int, int]:
    """(wait, by how much it may be wrong).  Of a peer that said it is idle, nothing is uncertain: it answers if not."""
    mine_us, state = candidate.own_in_flight_us + candidate.late_us, candidate.state
    if state is None:
        return mine_us, UNKNOWN_WAIT_US + mine_us * WAIT_UNCERTAIN_PERCENT // 100
    theirs_us = expected_us(
        state.wait_us, candidate.state_age_us, candidate.silent_us, candidate.mean_wait_us
    )
    wait_us = theirs_us + mine_us
    return wait_us, max(state.wait_us, wait_us) * WAIT_UNCERTAIN_PERCENT // 100


def _load(candidate: Candidate, model: OfferedModel) -> tuple[int, int]:
    resident = model.id in candidate.state.resident if candidate.state else model.state == "resident"
    if resident:
        return 0, 0
    observed_us = candidate.speeds.load_us.get(model.id) if candidate.speeds else None
    load_us = model.load_us if observed_us is None else observed_us
    if load_us is None:
        guess_us = unknown_load_us(model.total_bytes)
        return guess_us, guess_us
    return load_us, load_us * SPEED_UNCERTAIN_PERCENT // 100


def adapters_us(learned: Learned | None, statement: Statement, model_bytes: int | None) -> int:
    """Until they are applied, where they are not already."""
    unknown_us = UNKNOWN_ADAPTER_US
    if model_bytes is not None:
        unknown_us = model_bytes * 1_000_000 // UNKNOWN_ADAPTER_BYTES_PER_S
    measured = learned.load_us if learned else {}
    return sum(measured.get(adapter, unknown_us) for adapter, _ in statement.adapters)


def unknown_load_us(model_bytes: int | None) -> int:
    """What the first load of a model of that size may take, its renderer's start included."""
    if model_bytes is None:
        return UNKNOWN_LOAD_US
    return RENDERER_START_US + model_bytes * 1_000_000 // UNKNOWN_LOAD_BYTES_PER_S


def _speed(candidate: Candidate, model: OfferedModel, statement: Statement) -> tuple[int, int, int]:
    """(us of one step, us of the rest, percent of both that may be wrong).  What was observed overrides claims."""
    step_us, fixed_us, percent = _guided_speed(candidate, model, statement)
    return step_of(statement, step_us), fixed_us, percent


def _guided_speed(candidate: Candidate, model: OfferedModel, statement: Statement) -> tuple[int, int, int]:
    """As `_speed`, of a step with guidance."""
    pixels, precision = statement.pixels, statement.precision
    seen = candidate.speeds.nearest(model.id, precision, pixels) if candidate.speeds else None
    claim: Speed | None = None
    for speed in model.speeds:
        if speed.precision == precision:
            if speed.width * speed.height == pixels:
                claim = speed
                break
            found = ratio(speed.width * speed.height, pixels)
            if claim is None or found < ratio(claim.width * claim.height, pixels):
                claim = speed
    if seen is not None:
        step_us, fixed_us, percent = _scaled(seen.step_us, seen.fixed_us, seen.pixels, pixels)
        if claim is None:
            return step_us, fixed_us, percent
        told_us, told_fixed_us, told_percent = _scaled(
            claim.step_us, claim.fixed_us, claim.width * claim.height, pixels
        )
        contradicts = CONTRADICTS_ONCE if seen.count == 1 else CONTRADICTS
        if told_percent > percent or not told_us <= contradicts * step_us <= contradicts**2 * told_us:
            return step_us, fixed_us, percent
        count, of = seen.count, seen.count + CLAIM_COUNTS
        return (
            (step_us * count + told_us * CLAIM_COUNTS) // of,
            (fixed_us * count + told_fixed_us * CLAIM_COUNTS) // of,
            percent,
        )
    if claim is not None:
        return _scaled(claim.step_us, claim.fixed_us, claim.width * claim.height, pixels)
    kinds = {device.kind for device in candidate.advert.devices}
    slowest_us = max(UNKNOWN_STEP_US_PER_MEGAPIXEL.values())
    per_megapixel_us = min(
        (UNKNOWN_STEP_US_PER_MEGAPIXEL.get(kind, slowest_us) for kind in kinds), default=slowest_us
    )
    step_us = _of_size(per_megapixel_us * pixels // 1_000_000, model.total_bytes)
    usual = _usual(candidate, model, statement)
    if usual is not None:
        usual_us, fixed_us, percent = _scaled(usual.step_us, usual.fixed_us, usual.pixels, pixels)
        if usual_us <= step_us:  # one that was slow says little of others: they are tried all the same
            return usual_us, fixed_us, max(percent, DEVICE_UNCERTAIN_PERCENT)
    return step_us, _of_size(UNKNOWN_FIXED_US, model.total_bytes), 100


def _usual(candidate: Candidate, model: OfferedModel, statement: Statement) -> Measured | None:
    """Of devices that are called as its is."""
    learned = candidate.devices.of(device_of(candidate.advert)) if candidate.devices else None
    return learned.nearest(model.id, statement.precision, statement.pixels) if learned else None


def _scaled(step_us: int, fixed_us: int, measured: int, pixels: int) -> tuple[int, int, int]:
    """What was measured at `measured` pixels, at `pixels`; and the percent of it that may be wrong."""
    if measured == pixels:
        return step_us, fixed_us, SPEED_UNCERTAIN_PERCENT
    doublings = (ratio(measured, pixels) - 1).bit_length()
    percent = min(100, SPEED_UNCERTAIN_PERCENT + SCALED_UNCERTAIN_PERCENT * max(1, doublings))
    return max(1, step_us * pixels // measured), fixed_us * pixels // measured, percent


def _of_size(us: int, model_bytes: int | None) -> int:
    """`us` of a model of MEASURED_BYTES, for a model of another size."""
    if model_bytes is None:
        return us
    return max(1, us // SMALLEST_SHARE, us * model_bytes // MEASURED_BYTES)


def _transfer(candidate: Candidate, statement: Statement, rtt_us: int) -> int:
    if candidate.own:
        return 0
    data_bytes = statement.pixels * PNG_BYTES_PER_TEN_PIXELS // 10
    learned = candidate.speeds.bytes_per_s if candidate.speeds else None
    bytes_per_s = learned or UNKNOWN_BYTES_PER_S
    return distance_us(data_bytes, rtt_us, bytes_per_s) + data_bytes * 1_000_000 // bytes_per_s


def predict_own(
    learned: Learned | None, statement: Statement, *, resident: bool, model_bytes: int | None = None
) -> tuple[int, int, int]:
    """(load_us, step_us, fixed_us) that a provider expects of a task on its own renderer; of weights, not of adapters."""
    load_us = 0
    if not resident:
        measured_us = learned.load_us.get(statement.model) if learned else None
        load_us = measured_us or unknown_load_us(model_bytes)
    found = learned.nearest(statement.model, statement.precision, statement.pixels) if learned else None
    if found is None:
        slowest_us = max(UNKNOWN_STEP_US_PER_MEGAPIXEL.values())
        step_us = _of_size(slowest_us * statement.pixels // 1_000_000, model_bytes)
        fixed_us = _of_size(UNKNOWN_FIXED_US, model_bytes)
    else:
        step_us, fixed_us, _ = _scaled(found.step_us, found.fixed_us, found.pixels, statement.pixels)
    return load_us, max(1, step_of(statement, step_us)), fixed_us


def promised_load_us(expected_us: int, apply_us: int | None = None) -> int:
    """What a provider says in ACCEPT of a load: the requester's deadline for START, so on the safe side.

    `apply_us`: what is expected of adapters, where there are any.
    """
    promised_us = max(LEAST_LOAD_PROMISE_US, LOAD_PROMISE * expected_us) if expected_us else 0
    if apply_us is None:
        return promised_us
    return promised_us + max(LEAST_ADAPTER_PROMISE_US, LOAD_PROMISE * apply_us)
