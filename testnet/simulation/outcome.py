"""What became of each request, and where its time went."""

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from protocol.policy.calibration import Calibration, Forecast

from .control import spent
from .costs import Costs
from .provider import Attempt
from .world import World

COUNTED = (0.2, 0.98)  # of the requests: neither those of a world that just began, nor those of one that ends
UNFINISHED_S = 1000.0  # what a request that nobody answered counts in percentiles
CDF_SHARES = (0.01, 0.02, 0.05, *(ten / 10 for ten in range(1, 10)), 0.95, 0.98, 0.99, 0.995, 0.999)
# Of round trip, each up to the next: a building, a city, a country, a continent, an ocean.
LINKS_MS = (0, 5, 20, 60, 150)
SPANS = ("before", "wait", "load", "render", "network")


class ConservationError(Exception):
    """A request ended twice."""


class Ledger:
    """One run of one policy in one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        count = len(world.requests)
        self.left = count
        self.latency_us: NDArray[np.int64] = np.full(count, -1, np.int64)
        self._over = bytearray(count)
        self._spans: NDArray[np.int64] = np.zeros((count, len(SPANS)), np.int64)
        self.chosen: NDArray[np.int64] = np.full(count, -1, np.int64)
        self._forecasts: dict[int, tuple[Forecast, int]] = {}
        self.refusals = 0
        self.hedges = 0
        self.losses: Counter[str] = Counter()

    def on_done(self, attempt: Attempt, offered_us: int, now_us: int) -> None:
        """Its picture is here.  `offered_us`: when the offer that led to it was sent."""
        request = attempt.request
        self._end(request)
        asked_us = self._world.requests.at_us[request]
        self.latency_us[request] = now_us - asked_us
        self.chosen[request] = attempt.provider
        arrived_us = min(attempt.began_us, attempt.arrived_us)
        finished_us = attempt.began_us + attempt.spent_us
        self._spans[request] = (
            offered_us - asked_us,
            attempt.began_us - arrived_us,
            attempt.loaded_us,
            attempt.spent_us - attempt.loaded_us,
            arrived_us - offered_us + now_us - finished_us,
        )

    def on_forecast(self, request: int, forecast: Forecast, took_us: int) -> None:
        """What was said of it when it was planned first, and how long it took from then."""
        self._forecasts[request] = forecast, took_us

    def on_given_up(self, request: int) -> None:
        self._end(request)

    def _end(self, request: int) -> None:
        if self._over[request]:
            raise ConservationError(f"request {request} ended twice")
        self._over[request] = True
        self.left -= 1

    def result(self, costs: Costs) -> "Result":
        count = len(self._world.requests)
        first, last = int(count * COUNTED[0]), max(int(count * COUNTED[1]), int(count * COUNTED[0]) + 1)
        counted = self.latency_us[first:last]
        done = counted >= 0
        latency_s = np.where(done, counted / 1e6, UNFINISHED_S)
        p50, p95, p99 = np.percentile(latency_s, [50, 95, 99])
        cdf_s = tuple(np.quantile(latency_s, CDF_SHARES).tolist())
        spans = self._spans[first:last][done]
        means = spans.mean(axis=0) / 1e6 if len(spans) else np.zeros(len(SPANS))
        world = self._world
        seconds = max(1.0, world.requests.at_us[-1] / 1e6)
        config = world.config
        return Result(
            p50_s=float(p50),
            p95_s=float(p95),
            p99_s=float(p99),
            mean_s=float(latency_s.mean()),
            refusals_per_request=self.refusals / count,
            hedges_per_request=self.hedges / count,
            losses_per_request=self.losses.total() / count,
            messages_per_request=costs.messages.total() / count,
            loads_per_request=costs.loads / count,
            wasted_fraction=max(0.0, 1 - costs.useful_us / costs.busy_us) if costs.busy_us else 0.0,
            unfinished=int((self.latency_us < 0).sum()),
            requests=count,
            cdf_s=cdf_s,
            cdf_by_link_s=self._by_link(first, last),
            where_s=dict(zip(SPANS, (round(float(mean), 6) for mean in means), strict=True)),
            calibration=self._calibration(first, last),
            control=spent(costs, seconds, config.peers, config.requesters),
        )

    def _calibration(self, first: int, last: int) -> dict[str, float]:
        """Of the requests from `first` to `last` of which something was said."""
        held = Calibration()
        for request in range(first, last):
            if request in self._forecasts:
                held.on_picture(*self._forecasts[request])
        found = held.held()
        if found is None:
            return {}
        return {
            "within_p50": found.within_p50,
            "within_p90": found.within_p90,
            "loss_s": found.loss_us / 1e6,
            "claims_loss_s": found.claims_loss_us / 1e6,
            "claims_and_ways_loss_s": found.claims_and_ways_loss_us / 1e6,
        }

    def _by_link(self, first: int, last: int) -> dict[str, tuple[float, ...]]:
        """Of the requests from `first` to `last` that were answered, by the round trip between the two."""
        took: dict[str, list[float]] = {name: [] for name in LINK_NAMES}
        requester = self._world.requests.requester
        for request in range(first, last):
            if (provider := int(self.chosen[request])) >= 0:
                rtt_ms = self._world.rtt_us[requester[request]][provider] / 1e3
                name = LINK_NAMES[bisect_right(LINKS_MS, rtt_ms) - 1]
                took[name].append(float(self.latency_us[request]) / 1e6)
        return {
            name: tuple(np.quantile(seconds, CDF_SHARES).tolist())
            for name, seconds in took.items()
            if seconds
        }


LINK_NAMES = [
    *(f"{low} to {high} ms away" for low, high in pairwise(LINKS_MS)),
    f"over {LINKS_MS[-1]} ms away",
]


@dataclass(frozen=True)
class Result:
    """Latencies from "asked" to "the whole picture is here", in seconds; means over the requests that count."""

    p50_s: float
    p95_s: float
    p99_s: float
    mean_s: float
    refusals_per_request: float
    hedges_per_request: float
    losses_per_request: float
    messages_per_request: float  # all but progress and picture bytes, of everyone, pings and adverts included
    loads_per_request: float
    wasted_fraction: float  # of what renderers were busy for
    unfinished: int
    requests: int
    cdf_s: tuple[float, ...]  # at CDF_SHARES
    cdf_by_link_s: dict[str, tuple[float, ...]]  # the same, by the round trip to the peer that drew
    where_s: dict[str, float]
    calibration: dict[str, float]  # as protocol/policy/calibration.py has it; empty for who predicts nothing
    control: dict[str, float]
