"""A world: where the peers are, how fast they are, what they hold, and what will be asked.  The same for every policy."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from protocol.policy.prediction import PNG_BYTES_PER_TEN_PIXELS
from protocol.policy.speeds import TCP_WINDOW_BYTES

from ..rtt_matrix import RttMatrix

# Devices: how many times slower than the reference, and how common; StreamDiffusion and LCM-LoRA figures spread alike.
SLOWNESS = (1.0, 1.7, 2.0, 4.0, 6.7)
SLOWNESS_SHARE = (0.2, 0.15, 0.3, 0.2, 0.15)
SLOWNESS_SPREAD = 0.1  # log-normal, around each
POPULARITY_EXPONENT = 0.9  # Zipf, of the models
CAPABLE_SHARE = 0.6  # of the providers hold a given model
LEAST_HOLDERS = 3
WORK_MEDIAN_S, WORK_SPREAD = 0.25, 0.5  # on the reference device, log-normal
STEP_US, FIXED_US = 10_000, 20_000  # of it, on the reference device: one step, and what is not steps
UPLOAD_MEDIAN_BYTES_PER_S, UPLOAD_SPREAD = 7_500_000.0, 0.7  # 60 Mbit/s
RUN_SPREAD = 0.1  # log-normal, of one run around what the device takes at the mean
REQUESTER_SHAPE = 1.5  # Pareto, of how much each requester asks
RTT_GUESS_SPREAD = 0.1  # of a network coordinate, before the distance is measured
KNOWN_AT_RANDOM = 4  # one in so many that a requester knows is not among its best: else all know the same few
MAX_REQUESTS = 10_000_000
RESULT_PX = 144  # a side
RESULT_BYTES = RESULT_PX * RESULT_PX * PNG_BYTES_PER_TEN_PIXELS // 10  # 40 kB


class BadWorld(Exception):
    """This world cannot be; the sentence says which number is wrong."""


@dataclass(frozen=True)
class WorldConfig:
    """Shares are from 0 to 1."""

    peers: int = 100  # that provide
    requesters: int = 100
    load: float = 0.6  # of what all providers can render, warm
    duration_s: float = 150.0
    requests: int | None = None  # instead of a duration
    models: int = 8
    warm_slots: int = 2  # models that a provider holds in memory
    cold_s: tuple[float, float] = (2.0, 20.0)  # to load a model, log-uniform
    state_every_s: float = 2.0  # to those who are active
    known: int = 100  # providers that one requester of the baselines keeps measured
    jitter: float = 0.0  # of each round trip, exponential, beside that between the slices of the matrix
    hiccup_share: float = 0.02
    hiccup_factor: float = 3.0
    churn_per_min: float = 0.0  # of the providers leave within a minute, and come back
    away_s: float = 30.0  # at the mean
    silent: float = 0.0  # of the providers answer pings and never an offer
    lying: float = 0.0  # of the providers say they are ten times faster, idle, and hold everything
    # JSON lines: at_s; and, if the world is not to draw them, requester, model, steps.
    trace: Path | None = None

    def __post_init__(self) -> None:
        for name in ("peers", "requesters", "models", "warm_slots", "known"):
            if not 1 <= getattr(self, name) <= 100_000:
                raise BadWorld(f"{name} must be 1 to 100000, not {getattr(self, name)}.")
        for name in ("hiccup_share", "churn_per_min", "silent", "lying"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadWorld(f"{name} must be a share from 0 to 1, not {getattr(self, name)}.")
        for name, least, most in (
            ("load", 0.001, 10),
            ("duration_s", 1, 1e6),
            ("state_every_s", 0.1, 3600),
            ("jitter", 0, 10),
            ("hiccup_factor", 1, 1000),
            ("away_s", 0.1, 1e6),
        ):
            if not least <= getattr(self, name) <= most:
                raise BadWorld(f"{name} must be {least} to {most}, not {getattr(self, name)}.")
        low, high = self.cold_s
        if not 0.001 <= low <= high <= 3600:
            raise BadWorld(f"cold_s must be two rising times from 0.001 to 3600 s, not {low} and {high}.")
        if self.silent + self.lying > 1:
            raise BadWorld("silent and lying are more than all providers.")
        if self.requests is not None and not 1 <= self.requests <= MAX_REQUESTS:
            raise BadWorld(f"requests must be 1 to {MAX_REQUESTS}, not {self.requests}.")


@dataclass(frozen=True)
class Requests:
    """What is asked, in order of time; one list element a request."""

    at_us: list[int]
    requester: list[int]
    model: list[int]
    steps: list[int]
    slip: list[tuple[float, float]] = field(repr=False)  # of its run, and of a second run: a factor

    def __len__(self) -> int:
        return len(self.at_us)


class World:
    """Lists are indexed [requester][provider] and [provider][model]; times are us."""

    def __init__(self, config: WorldConfig, matrix: RttMatrix, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.result_px = RESULT_PX  # a side
        # Of work on an offer, at both ends, before its provider has it: nothing beside the way.
        self.offer_us = 0
        self.changes: list[tuple[int, Callable[[], None]]] = []  # what becomes of it, and when, us
        dice = [np.random.default_rng([seed, part]) for part in range(6)]
        self._place(matrix, dice[0])
        self._equip(dice[1])
        self.requests = _traced(config, self, dice[2]) if config.trace else self._ask(dice[2])
        self._bend(dice[3])
        self._introduce(dice[4])

    @property
    def result_bytes(self) -> int:
        return self.result_px**2 * PNG_BYTES_PER_TEN_PIXELS // 10

    @property
    def growing_round_trips(self) -> int:
        """In which TCP's window grows to what a picture is."""
        return (-(-self.result_bytes // TCP_WINDOW_BYTES)).bit_length() - 1

    def step_us(self, provider: int) -> float:
        """At the mean."""
        return STEP_US * self.slow[provider]

    def fixed_us(self, provider: int) -> float:
        """What of a warm render is not steps, at the mean."""
        return FIXED_US * self.slow[provider]

    def run_us(self, provider: int, steps: int) -> float:
        """At the mean, warm."""
        return self.fixed_us(provider) + self.step_us(provider) * steps

    def round_trip_us(self, requester: int, provider: int, dice: Random) -> int:
        """One round trip as it might go."""
        us = self.rtt_us[requester][provider] * self._ratio_of(requester, provider, dice)
        if self.config.jitter:
            us *= 1 + self.config.jitter * dice.expovariate(1.0)
        return int(us)

    def broker_slip(self, dice: Random) -> float:
        """By how much a way to or from the broker is longer now: as that of some pair."""
        return self._ratio_of(dice.randrange(self.config.requesters), dice.randrange(self.config.peers), dice)

    def _ratio_of(self, requester: int, provider: int, dice: Random) -> float:
        if self._ratio is None:
            return 1.0
        at = (requester * self.config.peers + provider) * self._slices
        return self._ratio[at + int(dice.random() * self._slices)]

    def _place(self, matrix: RttMatrix, dice: np.random.Generator) -> None:
        peers = self.config.peers
        places = self._places(matrix, dice)
        there, here = places[:peers], places[peers:]
        median = np.maximum(matrix.median_us, 300)
        between = median[np.ix_(here, there)]
        self.rtt_us: list[list[int]] = between.tolist()
        self.rtt_matrix_us: NDArray[np.int64] = between
        self._slices = 0
        self._ratio: list[float] | None = None
        if matrix.ratio is not None:
            self._slices = len(matrix.ratio)
            chosen = matrix.ratio[:, here][:, :, there]
            self._ratio = np.ascontiguousarray(chosen.transpose(1, 2, 0)).ravel().tolist()
        # The broker stands where it is nearest to everyone.
        hub = int(np.argmin(np.median(matrix.median_us, axis=1)))
        self.broker_to_requester_us: NDArray[np.int64] = median[here, hub]
        self.broker_to_provider_us: NDArray[np.int64] = median[hub, there]

    def _places(self, matrix: RttMatrix, dice: np.random.Generator) -> NDArray[np.int64]:
        """Where the providers are, then the requesters."""
        hosts = self.config.peers + self.config.requesters
        order = dice.permutation(matrix.places)
        # Several peers in one place.
        return np.resize(order, hosts) if hosts > matrix.places else order[:hosts]

    def _equip(self, dice: np.random.Generator) -> None:
        config = self.config
        peers, models = config.peers, config.models
        classes = dice.choice(np.array(SLOWNESS), peers, p=np.array(SLOWNESS_SHARE))
        self.slow: list[float] = (classes * np.exp(dice.normal(0, SLOWNESS_SPREAD, peers))).tolist()
        self.upload_bytes_per_s: list[float] = np.exp(
            dice.normal(np.log(UPLOAD_MEDIAN_BYTES_PER_S), UPLOAD_SPREAD, peers)
        ).tolist()
        popularity = 1 / np.arange(1, models + 1) ** POPULARITY_EXPONENT
        self.popularity: NDArray[np.float64] = popularity / popularity.sum()
        capable = dice.random((peers, models)) < CAPABLE_SHARE
        for model in range(models):
            capable[dice.integers(0, peers, LEAST_HOLDERS), model] = True
        for provider in range(peers):
            if capable[provider].sum() < config.warm_slots:
                capable[provider, dice.choice(models, min(config.warm_slots, models), replace=False)] = True
        self.capable: NDArray[np.bool_] = capable
        low, high = np.log(config.cold_s)
        self.cold_us: list[list[int]] = (
            (np.exp(dice.uniform(low, high, (peers, models))) * 1e6).astype(np.int64).tolist()
        )
        self.warm_at_first: list[list[int]] = []
        for provider in range(peers):
            holds = np.flatnonzero(capable[provider])
            share = self.popularity[holds] / self.popularity[holds].sum()
            slots = min(config.warm_slots, len(holds))
            self.warm_at_first.append(dice.choice(holds, slots, replace=False, p=share).tolist())

    def _ask(self, dice: np.random.Generator) -> Requests:
        mean_s = WORK_MEDIAN_S * np.exp(WORK_SPREAD**2 / 2)
        per_s = self.config.load * sum(1 / (mean_s * slow) for slow in self.slow)
        count = self.config.requests or max(1, min(MAX_REQUESTS, int(per_s * self.config.duration_s)))
        at_us = (np.cumsum(dice.exponential(1 / per_s, count)) * 1e6).astype(np.int64).tolist()
        return self._filled(at_us, dice)

    def _filled(self, at_us: list[int], dice: np.random.Generator) -> Requests:
        count, config = len(at_us), self.config
        weight = dice.pareto(REQUESTER_SHAPE, config.requesters) + 0.3
        work_us = np.exp(dice.normal(np.log(WORK_MEDIAN_S * 1e6), WORK_SPREAD, count))
        slips = np.exp(dice.normal(0, RUN_SPREAD, (count, 2)))
        slips[dice.random((count, 2)) < config.hiccup_share] *= config.hiccup_factor
        return Requests(
            at_us=at_us,
            requester=dice.choice(config.requesters, count, p=weight / weight.sum()).tolist(),
            model=dice.choice(config.models, count, p=self.popularity).tolist(),
            steps=np.maximum(1, np.rint((work_us - FIXED_US) / STEP_US)).astype(np.int64).tolist(),
            slip=[(first, second) for first, second in slips.tolist()],
        )

    def _bend(self, dice: np.random.Generator) -> None:
        """Who is silent, who lies, who leaves when."""
        config, peers = self.config, self.config.peers
        order = dice.permutation(peers).tolist()
        silent, lying = round(config.silent * peers), round(config.lying * peers)
        self.silent = frozenset(order[:silent])
        self.lying = frozenset(order[silent : silent + lying])
        self.leaves: list[tuple[int, int, int]] = []  # provider, from, to
        if not config.churn_per_min:
            return
        end_us = self.requests.at_us[-1]
        for provider in range(peers):
            at_us = 0.0
            while True:
                at_us += dice.exponential(60e6 / config.churn_per_min)
                if at_us >= end_us:
                    break
                away_us = dice.exponential(config.away_s * 1e6)
                self.leaves.append((provider, int(at_us), int(at_us + away_us)))
                at_us += away_us

    def _introduce(self, dice: np.random.Generator) -> None:
        """Whom each requester of the baselines knows: most by a guess of who is best, some by chance."""
        config = self.config
        peers, requesters = config.peers, config.requesters
        known = min(config.known, peers)
        guess = self.rtt_matrix_us * np.exp(dice.normal(0, RTT_GUESS_SPREAD, (requesters, peers)))
        cost = 2 * guess + np.array(self.slow)[None] * WORK_MEDIAN_S * 1e6
        self.known: list[list[int]] = []
        for requester in range(requesters):
            ranked = np.argsort(cost[requester], kind="stable")
            if known == peers:
                chosen = np.arange(peers)
            else:
                best = known - known // KNOWN_AT_RANDOM
                others = dice.choice(ranked[best:], known - best, replace=False)
                chosen = np.sort(np.concatenate([ranked[:best], others]))
            self.known.append(chosen.tolist())


def _traced(config: WorldConfig, world: World, dice: np.random.Generator) -> Requests:
    assert config.trace is not None
    try:
        lines = [line for line in config.trace.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as exc:
        raise BadWorld(f"{config.trace} cannot be read ({exc}).") from exc
    rows: list[tuple[int, dict[str, int]]] = []
    bounds = {"requester": config.requesters, "model": config.models, "steps": 1001}
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            at_s = float(entry["at_s"])
        except (ValueError, KeyError, TypeError) as exc:
            raise BadWorld(
                f"{config.trace}:{number} is not a JSON object with a time `at_s` in seconds."
            ) from exc
        if not 0 <= at_s <= 1e7:
            raise BadWorld(f"{config.trace}:{number}: at_s must be 0 to 10000000, not {at_s}.")
        told = {name: entry[name] for name in bounds if name in entry}
        for name, value in told.items():
            if not isinstance(value, int) or not (name == "steps") <= value < bounds[name]:
                raise BadWorld(
                    f"{config.trace}:{number}: {name} must be a whole number below {bounds[name]}, not {value}."
                )
        rows.append((int(at_s * 1e6), told))
    if not rows or len(rows) > MAX_REQUESTS:
        raise BadWorld(f"{config.trace} has {len(rows)} requests; 1 to {MAX_REQUESTS} can be simulated.")
    rows.sort(key=lambda row: row[0])
    drawn = world._filled([at_us for at_us, _ in rows], dice)
    for index, (_, told) in enumerate(rows):
        for name, value in told.items():
            getattr(drawn, name)[index] = value
    return drawn
